"""Terms that ask for the right pixels. Images are in ``[-1, 1]``; padding counts for nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from models.batch import Pair, Restored
from models.mean import Mean, mean_of
from models.ssim import fits, similarity
from models.tensors import wide


def l1(batch: Pair, out: Restored) -> Mean:
    """Mean absolute difference over all valid numbers; twice what it is on ``[0, 1]``."""
    same_size(batch, out)
    valid = torch.arange(out.image.shape[3], device=out.image.device) < target_widths(batch)[:, None]  # (B, W)
    apart = (wide(out.image) - batch.target).abs()
    rows = out.image.shape[1] * out.image.shape[2]
    return Mean(apart.where(valid[:, None, None, :], 0).sum(), valid.sum().to(apart.dtype) * rows)


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
