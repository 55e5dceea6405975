"""Terms that ask for the right pixels. Images are in ``[-1, 1]``; padding counts for nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from models.batch import Pair, Restored
from models.mean import Mean, mean_of
from models.ssim import fits, similarity
from models.tensors import wide

INNER = 1 - 1e-4  # a generator that ends in tanh says -1 and 1 exactly, whose logarithms would be infinite


def l1(batch: Pair, out: Restored) -> Mean:
    """Mean absolute difference over all valid numbers; twice what it is on ``[0, 1]``."""
    same_size(batch, out)
    return _over_valid(batch, (wide(out.image) - batch.target).abs())


def pixel_bce(batch: Pair, out: Restored) -> Mean:
    """Binary cross-entropy of brightness, 0 for black and 1 for white, over all valid numbers.

    For images in ``[-1, 1]`` and targets that are nearly black and white; a grey target costs its own entropy even
    where it is met, 0.69 in the middle. Gradient stays alive at -1 and 1: numbers are drawn in a little, not clamped.
    """
    same_size(batch, out)
    with torch.autocast(out.image.device.type, enabled=False):
        said, white = INNER * wide(out.image), (1 + wide(batch.target)) / 2
        cost = -(white * ((1 + said) / 2).log() + (1 - white) * ((1 - said) / 2).log())
        return _over_valid(batch, cost)


def _over_valid(batch: Pair, cost: Tensor) -> Mean:
    """The mean of ``(B, C, H, W)`` numbers over the valid columns."""
    valid = torch.arange(cost.shape[3], device=cost.device) < target_widths(batch)[:, None]  # (B, W)
    rows = cost.shape[1] * cost.shape[2]
    return Mean(cost.where(valid[:, None, None, :], 0).sum(), valid.sum().to(cost.dtype) * rows)


def ssim(batch: Pair, out: Restored) -> Mean:
    """One minus the structural similarity, macro over images; those narrower than a window are not counted."""
    same_size(batch, out)
    widths = target_widths(batch)
    return mean_of(1 - similarity(out.image, batch.target, widths), fits(widths))


def target_widths(batch: Pair) -> Tensor:
    """``(B,)`` valid columns of the target."""
    return batch.widths * (batch.target.shape[3] // batch.image.shape[3])


def same_size(batch: Pair, out: Restored) -> None:
    """Refuse what would otherwise be broadcast."""
    if out.image.shape != batch.target.shape:
        raise ValueError(f"restored {tuple(out.image.shape)} but the target is {tuple(batch.target.shape)}")
