"""CTC whose largest values are softened, so that a plate nobody can read yet does not drown all others.

Clamping a loss at a ceiling also clamps its gradient to zero: exactly the samples that have most to learn then teach
nothing. The tails here go on rising, slower and slower, in the direction of the raw gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.batch import Batch, Read, Restored
from models.losses.text import BLANK, spelled
from models.mean import Mean, mean_of
from models.tensors import wide


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What becomes of a sample's loss ``x`` above ``value`` ``c``; below it nothing changes.

    Attributes:
        mode: ``"none"``; ``"log_tail"``: ``c (1 + ln(x / c))``, its gradient ``c / x`` of the raw one; ``"root_tail"``:
            ``c sqrt(2 x / c - 1)``, milder; ``"hard"``: ``c``, WITHOUT gradient, for comparisons only.
        value: where it begins.
        unit: what ``value`` is in: nats per character of the label, or nats of the whole label.
    """

    mode: Literal["none", "log_tail", "root_tail", "hard"] = "none"
    value: float = 10.0
    unit: Literal["character", "label"] = "character"

    def __post_init__(self) -> None:
        if self.mode not in ("none", "log_tail", "root_tail", "hard") or self.unit not in ("character", "label"):
            raise ValueError(f"{self}: mode is none, log_tail, root_tail or hard, unit is character or label")
        if not (self.value > 0 and math.isfinite(self.value)):
            raise ValueError(f"Clip.value: must be a finite number above 0, got {self.value!r}")

    def __call__(self, nats: Tensor, lengths: Tensor) -> Tensor:
        """``(B,)`` nats per character after clipping.

        Args:
            nats: ``(B,)`` ``-log p(label)``.
            lengths: ``(B,)`` of the labels.
        """
        characters = lengths.clamp(min=1)
        inner = nats / characters if self.unit == "character" else nats
        soft = softened(inner, self.mode, self.value)
        return soft if self.unit == "character" else soft / characters

    def above(self, nats: Tensor, lengths: Tensor) -> Tensor:
        """``(B,)`` true where clipping changes the loss."""
        if self.mode == "none":
            return torch.zeros_like(nats, dtype=torch.bool)
        return (nats / lengths.clamp(min=1) if self.unit == "character" else nats) > self.value


@dataclass(frozen=True, kw_only=True)
class ClippedCTC:
    """CTC in nats per character, macro over plates, as :func:`models.losses.text.ctc`, each plate's value clipped."""

    clip: Clip = Clip()

    def __call__(self, batch: Batch, out: Read | Restored) -> Mean:
        read = reading(out)
        return mean_of(self.clip(nats_of(batch, read), batch.lengths), spelled(batch, read))

    def clipped(self, batch: Batch, out: Read | Restored) -> Tensor:
        """``(B,)`` true where the plate counts and its loss was clipped: a fact to watch."""
        read = reading(out)
        with torch.no_grad():
            return self.clip.above(nats_of(batch, read), batch.lengths) & spelled(batch, read)


def softened(x: Tensor, mode: str, value: float) -> Tensor:
    """``x`` with what is above ``value`` softened as :class:`Clip` says; a mode it does not have changes nothing."""
    if mode == "hard":
        return x.clamp(max=value)
    if mode not in ("log_tail", "root_tail"):
        return x
    over = (x / value).clamp(min=1)  # 1 where nothing is to be clipped: both tails are then exactly c
    tail = 1 + over.log() if mode == "log_tail" else (2 * over - 1).sqrt()
    return torch.where(x > value, value * tail, x)


def reading(out: Read | Restored) -> Read:
    """What was read: by a reader, or in a restored image."""
    return out.read if isinstance(out, Restored) else out


def nats_of(batch: Batch, read: Read) -> Tensor:
    """``(B,)`` ``-log p(label)``; 0 with zero gradient for labels the frames cannot spell. Float32 or wider."""
    with torch.autocast(read.logits.device.type, enabled=False):
        return nats_given(wide(read.logits).log_softmax(dim=2), batch.tokens, read.frames, batch.lengths)


def nats_given(log_probs: Tensor, tokens: Tensor, frames: Tensor, lengths: Tensor) -> Tensor:
    """:func:`nats_of` from ``(B, T, K)`` log-probabilities that are at hand already; 0 where there are no frames."""
    if log_probs.shape[1] == 0:
        return log_probs.sum(dim=(1, 2))
    return F.ctc_loss(
        log_probs.transpose(0, 1),  # (T, B, K)
        tokens,
        frames,
        lengths,
        blank=BLANK,
        reduction="none",
        zero_infinity=True,  # masking an infinite loss afterwards would still leave NaN gradients
    )
