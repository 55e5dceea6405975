"""Whether a recogniser says the same of every image, or nothing at all."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.batch import Read
from models.decoding import BLANK


@torch.no_grad()
def frame_counts(out: Read) -> Tensor:
    """``(3,)`` float64: valid frames, those whose likeliest class is blank, and the sum of their entropies in nats."""
    valid = torch.arange(out.logits.shape[1], device=out.logits.device) < out.frames[:, None]  # (B, T)
    blank = (out.logits.argmax(dim=2) == BLANK) & valid
    nats = torch.special.entr(out.logits.softmax(dim=2)).sum(dim=2).masked_fill(~valid, 0)
    return torch.stack([valid.sum(), blank.sum(), nats.double().sum()]).double()


def shares(frames: float, blank: float, nats: float, *, classes: int) -> dict[str, float]:
    """``blank_share`` of the frames, and their ``entropy`` as a share of the most it can be, from summed counts.

    Args:
        classes: of the network, blank included.
    """
    return {"blank_share": blank / max(frames, 1), "entropy": nats / max(frames, 1) / math.log(classes)}
