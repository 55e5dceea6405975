import math

import pytest
import torch
from torch.testing import assert_close

from models.metrics.image import decibels, psnr, ssim
from models.ssim import similarity
from tests.models.pairs import images, pair_of, restored


def test_a_mean_square_error_of_a_hundredth_is_26_decibels():
    target = images(2, 3, 12, 16) * 0.8
    found = psnr(pair_of(["A", "B"], target), restored(target + 0.1))
    assert found.value.item() == pytest.approx(10 * math.log10(4 / 0.01), abs=1e-4) and found.count == 2
    assert round(found.value.item(), 2) == 26.02


def test_images_are_averaged_not_their_errors():
    target = torch.zeros(2, 1, 12, 16)
    image = torch.zeros(2, 1, 12, 16)
    image[0], image[1] = 0.1, 1.0  # 26.02 and 6.02 dB
    assert psnr(pair_of(["A", "B"], target), restored(image)).value.item() == pytest.approx(16.0206, abs=1e-3)


def test_padding_counts_for_nothing():
    target, image = images(1, 1, 12, 32), images(1, 1, 12, 32, seed=1)
    alone = pair_of(["A"], target[..., :24]), restored(image[..., :24])
    padded = pair_of(["A"], target, widths=[12]), restored(image)
    assert_close(psnr(*padded).value, psnr(*alone).value)
    assert_close(ssim(*padded).value, ssim(*alone).value)


def test_equal_images_are_perfect_and_finite():
    target = images(1, 3, 12, 16)
    assert psnr(pair_of(["A"], target), restored(target)).value == 100
    assert_close(ssim(pair_of(["A"], target), restored(target)).value.float(), torch.tensor(1.0))
    assert decibels(torch.tensor([4.0], dtype=torch.float64)).item() == pytest.approx(0)


def test_parts_of_a_set_add_up_and_narrow_images_have_no_ssim():
    target, image = images(3, 1, 16, 40), images(3, 1, 16, 40, seed=1)
    batch = pair_of(["A", "B", "C"], target, widths=[20, 15, 5])
    parts = [
        (pair_of(["A"], target[i : i + 1], widths=[w]), restored(image[i : i + 1])) for i, w in enumerate([20, 15, 5])
    ]
    for metric, count in ((psnr, 3), (ssim, 2)):
        whole, first, second, third = metric(batch, restored(image)), *(metric(*part) for part in parts)
        assert whole.count == count
        assert_close((first + second + third).value, whole.value, rtol=1e-6, atol=0)
    assert_close(ssim(*parts[0]).value, similarity(image[:1], target[:1]).mean().double())


def test_metrics_leave_no_graph_behind():
    image = images(1, 1, 12, 16).requires_grad_()
    assert not psnr(pair_of(["A"], image.detach()), restored(image)).total.requires_grad
    assert not ssim(pair_of(["A"], image.detach()), restored(image)).total.requires_grad
