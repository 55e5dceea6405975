"""Terms on what the recogniser makes of an image before it decides: the restored one should look to it as the clean.

Both take ``features`` and ``clean_features`` at the valid frames alone, so that padding counts for nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.batch import Judged, Pair
from models.mean import Mean, mean_of
from models.tensors import wide

LEAST = 1e-6  # of the clean features' mean size, where all of them are 0


def feature_distance(batch: Pair, out: Judged) -> Mean:
    """Mean squared distance of the recogniser's features, over all numbers of the valid frames of all images.

    Its scale is that of the recogniser's layer, so its weight does not carry over to another one.
    """
    with torch.autocast(out.image.device.type, enabled=False):
        apart, valid = _apart("feature_distance", out)
        return Mean(apart.square().sum(), valid.sum().to(apart.dtype) * apart.shape[2])


def feature_perceptual(batch: Pair, out: Judged) -> Mean:
    """Mean absolute distance of the recogniser's features in units of the clean ones' mean size, macro over images.

    The perceptual loss of those who have no weights of VGG. 0 for equal features; 1 where the restored image has
    none at all, whatever recogniser it is.
    """
    with torch.autocast(out.image.device.type, enabled=False):
        apart, valid = _apart("feature_perceptual", out)
        assert out.clean_features is not None
        size = wide(out.clean_features).detach().abs().where(valid[:, :, None], 0).sum(dim=(1, 2))
        numbers = valid.sum(dim=1) * apart.shape[2]
        return mean_of(apart.abs().sum(dim=(1, 2)) / size.maximum(LEAST * numbers), valid.any(dim=1))


def _apart(where: str, out: Judged) -> tuple[Tensor, Tensor]:
    """``(B, T, D)`` features minus clean ones, 0 past the valid frames; ``(B, T)`` true in those."""
    found, clean = out.features, out.clean_features
    if found is None or clean is None:
        raise ValueError(f"{where}: needs features of the restored and of the clean image; the task made none")
    if found.shape != clean.shape or found.shape[1] != out.read.logits.shape[1]:
        raise ValueError(
            f"{where}: features {tuple(found.shape)}, clean {tuple(clean.shape)}, but the reader has "
            f"{out.read.logits.shape[1]} frames; all must be (B, T, D) of the same frames"
        )
    valid = torch.arange(found.shape[1], device=found.device) < out.read.frames[:, None]
    return (wide(found) - wide(clean).detach()).where(valid[:, :, None], 0), valid
