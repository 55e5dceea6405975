"""Terms that ask for the right text."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.batch import Batch, Read
from models.mean import Mean, mean_of

BLANK = 0


def ctc(batch: Batch, out: Read) -> Mean:
    """Connectionist temporal classification in nats per character, macro over words.

    Every word counts the same: its ``-log p(label)`` divided by its length, then averaged over the
    words that can be spelled, as ``nn.CTCLoss(reduction="mean")`` does. Words that cannot be
    spelled, by :func:`spelled`, are in neither half of the mean. Always float32 or wider.
    """
    counted = spelled(batch, out)
    if out.logits.shape[1] == 0:  # nothing was read, as there is no text
        return mean_of(out.logits.float().sum(dim=(1, 2)), counted)
    with torch.autocast(out.logits.device.type, enabled=False):
        logits = out.logits if out.logits.dtype == torch.float64 else out.logits.float()
        nats = F.ctc_loss(
            logits.log_softmax(dim=2).transpose(0, 1),  # (T, B, K)
            batch.tokens,
            out.frames,
            batch.lengths,
            blank=BLANK,
            reduction="none",
            zero_infinity=True,  # masking an infinite loss afterwards would still leave NaN gradients
        )
        return mean_of(nats / batch.lengths.clamp(min=1), counted)


def infeasible(batch: Batch, out: Read) -> Mean:
    """Share of the batch's words that :func:`ctc` leaves out: watch it, it should be 0."""
    return mean_of(not_spelled(batch, out).float())


def not_spelled(batch: Batch, out: Read) -> Tensor:
    """``(B,)`` true for the words that :func:`ctc` leaves out."""
    return ~spelled(batch, out)


def not_finite(batch: Batch, out: Read) -> Tensor:
    """``(B,)`` true where any of an image's logits is NaN or infinite."""
    return ~out.logits.isfinite().flatten(1).all(dim=1)


def spelled(batch: Batch, out: Read) -> Tensor:
    """``(B,)`` true where the word is counted and its frames suffice for CTC to spell it."""
    return batch.counted & (frames_needed(batch.tokens, batch.lengths) <= out.frames)


def frames_needed(tokens: Tensor, lengths: Tensor) -> Tensor:
    """``(B,)`` frames to spell each label: one a symbol, one more between equal neighbours.

    Args:
        tokens: ``(B, L)`` padded after ``lengths``.
        lengths: ``(B,)``.
    """
    second = torch.arange(tokens.shape[1], device=tokens.device)[1:]
    doubled = (tokens[:, 1:] == tokens[:, :-1]) & (second < lengths[:, None])
    return lengths + doubled.sum(dim=1)
