import math

import pytest
import torch
from torch.testing import assert_close

from models.losses.image import l1, pixel_bce, ssim
from models.ssim import similarity
from tests.models.pairs import images, pair_of, restored


def test_l1_by_hand():
    # 3 channels of 2 x 4, half a unit too dark everywhere, but only two columns of four are valid.
    batch = pair_of(["A"], torch.full((1, 3, 2, 4), 0.5), widths=[1])
    mean = l1(batch, restored(torch.zeros(1, 3, 2, 4)))
    assert mean.value == 0.5 and mean.count == 3 * 2 * 2


def test_pixel_bce_by_hand():
    # Said 0.75 white, which is right of a white pixel; of a black one; and of one in the middle.
    for target, cost in ((1.0, -math.log(0.75)), (-1.0, -math.log(0.25)), (0.0, -math.log(0.75 * 0.25) / 2)):
        batch = pair_of(["A"], torch.full((1, 3, 2, 4), target), widths=[1])
        mean = pixel_bce(batch, restored(torch.full((1, 3, 2, 4), 0.5)))
        assert_close(mean.value, torch.tensor(cost), rtol=1e-3, atol=0)
        assert mean.count == 3 * 2 * 2


def test_pixel_bce_is_finite_and_alive_where_the_image_is_black_or_white_for_certain():
    target = torch.tensor([1.0, -1.0, 1.0, -1.0]).expand(1, 1, 2, 4)
    image = torch.tensor([1.0, -1.0, -1.0, 1.0]).repeat(1, 1, 2, 1).requires_grad_()
    value = pixel_bce(pair_of(["A"], target), restored(image)).value
    (gradient,) = torch.autograd.grad(value, image)
    assert 4 < value < 5.5 and gradient.isfinite().all()  # a right pixel costs 0, a wrong one ln 20,000 = 9.9
    assert (gradient[..., 2] < 0).all() and (gradient[..., 3] > 0).all()


@pytest.mark.parametrize("term", [l1, pixel_bce, ssim])
def test_padding_counts_for_nothing_in_value_and_gradient(term):
    target, image = images(2, 1, 12, 32), images(2, 1, 12, 32, seed=1).requires_grad_()
    term(pair_of(["A", "B"], target, widths=[16, 9]), restored(image)).value.backward()
    assert image.grad[0].any() and image.grad[1, :, :, :18].any() and not image.grad[1, :, :, 18:].any()
    other = image.detach().clone()
    other[1, :, :, 18:] = 5
    batch = pair_of(["A", "B"], target, widths=[16, 9])
    assert term(batch, restored(other)).total == term(batch, restored(image)).total


@pytest.mark.parametrize("term", [l1, ssim])
def test_a_perfect_image_costs_nothing(term):
    target = images(2, 3, 16, 24)
    assert_close(
        term(pair_of(["A", "B"], target), restored(target.clone())).value, torch.tensor(0.0), rtol=0, atol=1e-6
    )


def test_ssim_is_macro_over_images_and_leaves_out_what_is_too_narrow():
    target, image = images(3, 1, 16, 40), images(3, 1, 16, 40, seed=1)
    mean = ssim(pair_of(["A", "B", "C"], target, widths=[20, 15, 5]), restored(image))
    wide = [similarity(image[i : i + 1, ..., :w], target[i : i + 1, ..., :w]) for i, w in ((0, 40), (1, 30))]
    assert mean.count == 2
    assert_close(mean.value, 1 - torch.cat(wide).mean())


@pytest.mark.parametrize("term", [l1, pixel_bce, ssim])
def test_uneven_parts_add_up_to_the_whole(term):
    target, image, widths = images(3, 1, 12, 32), images(3, 1, 12, 32, seed=1), [16, 9, 12]
    whole = term(pair_of(["A", "B", "C"], target, widths=widths), restored(image))
    first = term(pair_of(["A"], target[:1], widths=widths[:1]), restored(image[:1]))
    second = term(pair_of(["B", "C"], target[1:], widths=widths[1:]), restored(image[1:]))
    assert_close((first + second).value, whole.value)


@pytest.mark.parametrize("term", [l1, pixel_bce, ssim])
def test_the_gradient_is_the_numerical_one(term):
    target = images(2, 1, 12, 14, dtype=torch.float64)
    batch = pair_of(["A", "B"], target, widths=[7, 6])
    image = images(2, 1, 12, 14, seed=1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda image: term(batch, restored(image)).total, image)


@pytest.mark.parametrize("term", [l1, pixel_bce, ssim])
def test_images_of_other_sizes_are_not_broadcast(term):
    with pytest.raises(ValueError, match="but the target is"):
        term(pair_of(["A"], images(1, 3, 12, 14)), restored(images(1, 1, 12, 14)))
