"""LCOFL for a recogniser with CTC: the right characters, confused ones first, and no digit where a letter belongs.

``LCOFL = CharacterTerm + 0.5 LayoutTerm + 0.2 ssim``: three terms of a plan, so that each has its own weight, its own
count and its own gradient in the records. Nothing here takes an argmax, and nothing is computed without gradient but
the alignment, so every term reaches the restored image through the recogniser.

Class 0 is the CTC blank and the i-th symbol has class ``i + 1``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from models.batch import Batch, Read, Restored
from models.losses.clip import Clip, nats_given, reading
from models.losses.text import spelled
from models.mean import Mean, mean_of
from models.tensors import constant, wide


@dataclass(frozen=True, kw_only=True)
class CharacterTerm:
    """CTC in nats per character, macro over plates, in which confused characters weigh more.

    Attributes:
        weights: one for each symbol, as :meth:`models.losses.symbol_weights.SymbolErrors.weights` makes them; all 1
            when empty. Between epochs whoever trains may put a term with other weights in this one's place.
        most: the largest weight there may be.
        by: ``"plate"`` multiplies the plate's loss by the mean weight of its characters. ``"character"`` multiplies
            the part of each: the cross-entropy of its own frames, by CTC's posterior, counts ``w - 1`` times more.
        clip: of each plate's loss before it is weighted.
    """

    weights: tuple[float, ...] = ()
    most: float = 3.0
    by: Literal["plate", "character"] = "plate"
    clip: Clip = field(default_factory=Clip)

    def __post_init__(self) -> None:
        if self.by not in ("plate", "character"):
            raise ValueError(f"CharacterTerm.by: {self.by!r}; allowed: 'plate' or 'character'")
        if not (self.most >= 1 and math.isfinite(self.most)):
            raise ValueError(f"CharacterTerm.most: must be a finite number of at least 1, got {self.most!r}")
        wrong = [weight for weight in self.weights if not 0 < weight <= self.most]
        if wrong:
            raise ValueError(f"CharacterTerm.weights: {wrong[:3]} lie outside 0 .. {self.most:g} (most)")

    def __call__(self, batch: Batch, out: Read | Restored) -> Mean:
        read = reading(out)
        with torch.autocast(read.logits.device.type, enabled=False):
            log_probs = wide(read.logits).log_softmax(dim=2)
            nats = self.clip(nats_given(log_probs, batch.tokens, read.frames, batch.lengths), batch.lengths)
            if not self.weights:
                return mean_of(nats, spelled(batch, read))
            by_class = self._by_class(read.logits)
            if self.by == "plate":
                return mean_of(nats * weight_of_plates(batch, by_class), spelled(batch, read))
            energy = (occupancy(log_probs, batch, read) * -log_probs * (by_class - 1)).sum(dim=(1, 2))
            return mean_of(nats + energy / batch.lengths.clamp(min=1), spelled(batch, read))

    def _by_class(self, logits: Tensor) -> Tensor:
        """``(K,)`` the weight of each class; the blank has 1."""
        if len(self.weights) != logits.shape[2] - 1:
            told = f"{len(self.weights)} weights for {logits.shape[2] - 1} symbols"
            raise ValueError(f"CharacterTerm: {told}; give one each")
        return constant((1.0, *self.weights), logits.device, wide(logits[:0]).dtype)


@dataclass(frozen=True, kw_only=True)
class LayoutTerm:
    """How much of a plate's characters is read as a digit where its label has a letter, or the other way round.

    ``beta / L sum_t sum_k gamma[t, k] p[t](wrong kind)``: ``gamma`` is CTC's posterior that frame ``t`` spells
    character ``k``, without gradient; ``p`` is the distribution over symbols, the blank aside. Macro over plates. A
    character that takes several frames counts in each. Symbols that are neither digits nor letters are never wrong.

    Attributes:
        symbols: of the alphabet, in order.
        beta: the cost of one certain mistake in one frame.
    """

    symbols: str
    beta: float = 1.0

    def __post_init__(self) -> None:
        if not any(map(str.isdigit, self.symbols)) or not any(map(str.isalpha, self.symbols)):
            raise ValueError(f"LayoutTerm.symbols: needs digits and letters to tell them apart, got {self.symbols!r}")
        if not (self.beta > 0 and math.isfinite(self.beta)):
            raise ValueError(f"LayoutTerm.beta: must be a finite number above 0, got {self.beta!r}")

    def __call__(self, batch: Batch, out: Read | Restored) -> Mean:
        read = reading(out)
        if len(self.symbols) != read.logits.shape[2] - 1:
            raise ValueError(f"LayoutTerm: {len(self.symbols)} symbols, but the reader has {read.logits.shape[2] - 1}")
        with torch.autocast(read.logits.device.type, enabled=False):
            logits = wide(read.logits)
            spent = occupancy(logits.log_softmax(dim=2), batch, read)[:, :, 1:]  # (B, T, symbols)
            found = logits[:, :, 1:].softmax(dim=2)
            digits, letters = (
                constant(tuple(map(float, map(kind, self.symbols))), logits.device, logits.dtype)
                for kind in (str.isdigit, str.isalpha)
            )
            wrong = (spent @ digits) * (found @ letters) + (spent @ letters) * (found @ digits)  # (B, T)
            cost = self.beta * wrong.sum(dim=1) / batch.lengths.clamp(min=1)
            return mean_of(cost, spelled(batch, read))


def weight_of_plates(batch: Batch, by_class: Tensor) -> Tensor:
    """``(B,)`` the mean weight of each label's characters; 1 for an empty label.

    Args:
        by_class: ``(K,)``.
    """
    inside = torch.arange(batch.tokens.shape[1], device=batch.tokens.device) < batch.lengths[:, None]
    total = by_class[batch.tokens].where(inside, 0).sum(dim=1)
    return torch.where(batch.lengths > 0, total / batch.lengths.clamp(min=1), 1.0)


def occupancy(log_probs: Tensor, batch: Batch, read: Read) -> Tensor:
    """``(B, T, K)`` CTC's posterior that a frame spells a class, given the label; no gradient.

    0 past the valid frames and for labels that cannot be spelled. CTC's derivative by the logits is the difference
    between what the reader says, ``p``, and this posterior: one call gives it, without a loop over frames.

    Args:
        log_probs: ``(B, T, K)`` normalised over ``K``.
    """
    with torch.inference_mode(False), torch.enable_grad():
        # Copies, for in inference mode nothing that is at hand may take part in a derivative.
        tokens, frames, lengths = batch.tokens.clone(), read.frames.clone(), batch.lengths.clone()
        given = log_probs.detach().clone().requires_grad_()
        (difference,) = torch.autograd.grad(nats_given(given, tokens, frames, lengths).sum(), given)
    valid = torch.arange(given.shape[1], device=given.device) < read.frames[:, None]  # (B, T)
    known = (valid & spelled(batch, read)[:, None])[:, :, None]
    return (given.detach().exp() - difference).clamp(min=0, max=1).where(known, 0)
