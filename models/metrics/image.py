"""How close a restored image is to its target: averages over images, kept as sums so that ranks add up exactly."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.batch import Pair, Restored
from models.losses.image import same_size, target_widths
from models.mean import Mean, mean_of
from models.ssim import fits, similarity

PEAK = 2.0  # the largest difference there can be in [-1, 1]
MOST_DB = 100.0  # of images that are equal, or nearly: without a ceiling one of them would make any average infinite


@torch.no_grad()
def psnr(batch: Pair, out: Restored) -> Mean:
    """Peak signal-to-noise ratio in dB, averaged over images, at most :data:`MOST_DB` each; valid columns only."""
    same_size(batch, out)
    return mean_of(decibels(square_errors(out.image, batch.target, target_widths(batch))))


@torch.no_grad()
def ssim(batch: Pair, out: Restored) -> Mean:
    """Structural similarity, averaged over the images that hold at least one window; 1 is perfect."""
    same_size(batch, out)
    widths = target_widths(batch)
    return mean_of(similarity(out.image, batch.target, widths).double(), fits(widths))


def square_errors(image: Tensor, target: Tensor, widths: Tensor) -> Tensor:
    """``(B,)`` float64 mean square difference over each image's valid columns.

    Args:
        image: ``(B, C, H, W)`` in ``[-1, 1]``.
        target: as ``image``.
        widths: ``(B,)`` valid columns.
    """
    valid = torch.arange(image.shape[3], device=image.device) < widths[:, None]  # (B, W)
    square = (image.double() - target.double()).square().mean(dim=(1, 2))  # (B, W)
    return square.where(valid, 0).sum(dim=1) / valid.sum(dim=1).clamp(min=1)


def decibels(mse: Tensor) -> Tensor:
    """``(B,)`` PSNR of mean square errors of images in ``[-1, 1]``: 0.01 is 26.02 dB."""
    least = PEAK**2 * 10 ** (-MOST_DB / 10)
    return 20 * math.log10(PEAK) - 10 * mse.clamp(min=least).log10()
