"""The banded products against a window moved by hand, and what the similarity of some images must be."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from models.ssim import banded, blurred, gaussian, similarity
from tests.models.pairs import images


def plain_similarity(a, b, peak):
    """Every window one by one, in float64, with all five moments and centred variances; black is 0."""
    side = [math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)]
    window = np.outer(side, side) / sum(side) ** 2
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    found = []
    for plane in zip(a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:]), strict=True):
        for top in range(a.shape[-2] - 10):
            for left in range(a.shape[-1] - 10):
                x, y = (each[top : top + 11, left : left + 11] for each in plane)
                mx, my = (window * x).sum(), (window * y).sum()
                vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
                cov = (window * (x - mx) * (y - my)).sum()
                found.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(found))


@pytest.mark.parametrize("shape", [(1, 3, 17, 23), (1, 1, 11, 11), (1, 1, 32, 12)])
@pytest.mark.parametrize("peak", [1.0, 2.0, 255.0])
def test_it_is_the_plain_similarity(shape, peak):
    a = (images(*shape, dtype=torch.float64) + 1) * peak / 2
    b = (a + 0.3 * peak * images(*shape, seed=1, dtype=torch.float64)).clamp(0, peak)
    plain = plain_similarity(a.numpy(), b.numpy(), peak)
    assert similarity(a, b, low=0, high=peak).item() == pytest.approx(plain, abs=1e-12)
    assert similarity(2 * a / peak - 1, 2 * b / peak - 1).item() == pytest.approx(plain, abs=1e-12)


def test_float32_is_close_to_float64():
    a, b = images(2, 3, 32, 96), images(2, 3, 32, 96, seed=1)
    b = 0.8 * a + 0.2 * b
    assert_close(similarity(a, b).double(), similarity(a.double(), b.double()), rtol=0, atol=1e-5)


def test_an_image_is_wholly_similar_to_itself_and_opposite_to_its_negative():
    image = images(1, 3, 20, 30)
    assert_close(similarity(image, image), torch.ones(1), rtol=0, atol=1e-6)
    assert similarity(image, -image) < -0.8
    half = torch.zeros(1, 1, 12, 12)  # mid-grey, where ratios of values in [-1, 1] would mean nothing
    assert similarity(half + 0.01, half - 0.01) > 0.99


def test_flat_images_are_compared_by_their_brightness():
    # No variance: structure is 1; 0.25 and 0.75 of white give (2 a b + c1) / (a^2 + b^2 + c1) with c1 = 0.01^2.
    a, b = torch.full((1, 1, 12, 12), -0.5), torch.full((1, 1, 12, 12), 0.5)
    assert_close(similarity(a, b), torch.tensor([(0.375 + 1e-4) / (0.625 + 1e-4)]))


def test_the_similarity_is_that_of_the_valid_columns_alone():
    a, b = images(2, 1, 16, 40), images(2, 1, 16, 40, seed=1)
    found = similarity(a, b, torch.tensor([25, 40]))
    assert_close(found[0], similarity(a[:1, :, :, :25], b[:1, :, :, :25])[0])
    assert_close(found[1], similarity(a[1:], b[1:])[0])


def test_a_narrow_image_has_no_window_and_no_gradient():
    a, b = images(2, 1, 16, 40).requires_grad_(), images(2, 1, 16, 40, seed=1)
    found = similarity(a, b, torch.tensor([10, 11]))
    found.sum().backward()
    assert found[0] == 0 and not a.grad[0].any() and a.grad[1, :, :, :11].any() and not a.grad[1, :, :, 11:].any()


def test_the_gradient_is_the_numerical_one():
    a, b = images(2, 1, 13, 14, dtype=torch.float64).requires_grad_(), images(2, 1, 13, 14, seed=1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: similarity(a, b, torch.tensor([14, 12])), (a, b.requires_grad_()))


def test_the_window_is_that_of_the_paper():
    assert sum(gaussian()) == pytest.approx(1)
    assert gaussian()[5] / gaussian()[4] == pytest.approx(math.exp(1 / 4.5))
    matrix = banded(13, torch.device("cpu"), torch.float64)
    assert matrix.shape == (3, 13) and matrix.sum(dim=1).tolist() == pytest.approx([1, 1, 1])
    assert matrix[2].nonzero().flatten().tolist() == list(range(2, 13))


def test_a_blurred_impulse_is_the_window():
    impulse = torch.zeros(1, 21, 21, dtype=torch.float64)
    impulse[0, 10, 10] = 1
    side = torch.tensor(gaussian(), dtype=torch.float64)
    assert_close(blurred(impulse)[0], torch.outer(side, side))


def test_it_stays_in_float32_under_autocast():
    a, b = images(1, 1, 16, 16), images(1, 1, 16, 16, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(similarity(a, b), similarity(a.clone(), b.clone()))
        found = similarity(a, b)
    assert found.dtype == torch.float32 and found == similarity(a, b)


def test_what_was_made_in_inference_mode_can_still_be_trained_with():
    a, b = images(1, 1, 29, 31), images(1, 1, 29, 31, seed=1)
    with torch.inference_mode():
        similarity(a, b)
    similarity(a.requires_grad_(), b).sum().backward()
    assert a.grad.any()


@pytest.mark.parametrize(
    ("a", "b", "says"), [((1, 3, 16, 16), (1, 1, 16, 16), "equally large"), ((1, 1, 10, 40),) * 2 + ("no window",)]
)
def test_sizes_that_cannot_be_compared_are_refused(a, b, says):
    with pytest.raises(ValueError, match=says):
        similarity(torch.zeros(a), torch.zeros(b))
