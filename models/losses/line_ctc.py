"""CTC of whole lines as guidance of a generator: first in a unit that lines of any length share, then softened.

A line of 100 characters that is read badly costs hundreds of nats, one of 15 costs few: a ceiling in nats takes the
long lines out. And a clamp takes out just those that have most to teach. So the ceilings here come after
normalisation, act on each line alone, and all but ``"hard"`` leave a gradient in the direction of the raw one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from models.batch import Batch, Read, Restored
from models.losses.clip import nats_of, reading, softened
from models.losses.text import frames_needed, spelled
from models.mean import Mean, mean_of

UNITS = {
    "none": "nats per line",
    "per_char": "nats per character",
    "per_frame": "nats per frame",
    "per_uniform": "of what a uniform guess costs",
}
ROUNDING = 1e-4  # relative, of CTC in float32 over a few hundred frames
MODES = ("none", "log_tail", "root_tail", "grad_norm", "hard")


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """What becomes of a line's loss ``x`` above ``value`` ``c``; below it nothing changes.

    Attributes:
        mode: ``"log_tail"``: ``c (1 + ln(x / c))``, its gradient ``c / x`` of the raw one; ``"root_tail"``:
            ``c sqrt(2 x / c - 1)``, milder; ``"grad_norm"``: ``x`` itself, but its gradient by the line's restored
            image is scaled down to a 2-norm of ``c``, which costs one more backward pass through the recogniser;
            ``"hard"``: ``c``, WITHOUT gradient.
        value: where it begins, in the unit of :attr:`LineCTC.unit`, by pixel value for ``"grad_norm"``.
        accept_dead_gradient: must be set for ``"hard"``, and for nothing else: lines above the ceiling teach nothing.
    """

    mode: Literal["none", "log_tail", "root_tail", "grad_norm", "hard"] = "none"
    value: float = 10.0
    accept_dead_gradient: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"Ceiling.mode: {self.mode!r}; allowed: {', '.join(MODES)}")
        if not (self.value > 0 and math.isfinite(self.value)):
            raise ValueError(f"Ceiling.value: must be a finite number above 0, got {self.value!r}")
        if self.mode == "hard" and not self.accept_dead_gradient:
            raise ValueError(
                "Ceiling.mode: 'hard' takes all gradient from every line above the ceiling; take 'log_tail', or set "
                "accept_dead_gradient if that is what you want to see"
            )
        if self.accept_dead_gradient and self.mode != "hard":
            raise ValueError(f"Ceiling.accept_dead_gradient: {self.mode!r} leaves gradient alive; unset it")


@dataclass(frozen=True, kw_only=True)
class LineCTC:
    """CTC, macro over the lines that can be spelled, each line's value normalised and then held below a ceiling.

    Attributes:
        normalize: ``"none"``: ``-log p(label)``; ``"per_char"``, ``"per_frame"``: divided by the label's length or
            the line's valid frames; ``"per_uniform"``: by :func:`uniform_nats`, so that 1 is knowing nothing.
    """

    normalize: Literal["none", "per_char", "per_frame", "per_uniform"] = "per_char"
    ceiling: Ceiling = field(default_factory=Ceiling)

    def __post_init__(self) -> None:
        if self.normalize not in UNITS:
            raise ValueError(f"LineCTC.normalize: {self.normalize!r}; allowed: {', '.join(UNITS)}")

    @property
    def unit(self) -> str:
        """What the value, and the ceiling on it, are in."""
        return UNITS[self.normalize]

    def __call__(self, batch: Batch, out: Read | Restored) -> Mean:
        read, counted = reading(out), spelled(batch, reading(out))
        raw = self.values(batch, read)
        if self.ceiling.mode == "grad_norm":
            return mean_of(_bounded(raw, gradient_norms(raw, out), self.ceiling.value), counted)
        return mean_of(softened(raw, self.ceiling.mode, self.ceiling.value), counted)

    def values(self, batch: Batch, read: Read) -> Tensor:
        """``(B,)`` in :attr:`unit`, before the ceiling; 0 for lines that cannot be spelled."""
        nats = nats_of(batch, read)
        if self.normalize == "none":
            return nats
        if self.normalize == "per_uniform":
            return nats / uniform_nats(batch, read).clamp(min=1e-6).to(nats.dtype)  # 0 for a line without frames
        return nats / (batch.lengths if self.normalize == "per_char" else read.frames).clamp(min=1)

    def clipped(self, batch: Batch, out: Read | Restored) -> Tensor:
        """``(B,)`` true where the line counts and its loss, or its gradient, was cut: a fact to watch.

        For ``"grad_norm"`` before the step's backward pass, and at the cost of another one through the recogniser.
        """
        steep = self.ceiling.mode == "grad_norm"
        with torch.set_grad_enabled(steep):
            raw = self.values(batch, reading(out))
            above = (gradient_norms(raw, out) if steep else raw) > self.ceiling.value
        return above & spelled(batch, reading(out)) & (self.ceiling.mode != "none")


def gradient_norms(values: Tensor, out: Read | Restored) -> Tensor:
    """``(B,)`` the 2-norm of each value's gradient by its own restored image; 0 where there is none.

    Exact where images do not meet on the way, as in a frozen recogniser, and so the same however a batch is divided
    among ranks. The graph is kept for the step's own backward pass.
    """
    if not (isinstance(out, Restored) and out.image.requires_grad and values.requires_grad):
        return values.new_zeros(len(values))
    (found,) = torch.autograd.grad(values.sum(), out.image, retain_graph=True, allow_unused=True)
    if found is None:
        return values.new_zeros(len(values))
    return torch.linalg.vector_norm(found.flatten(1), dim=1, dtype=values.dtype)


def uniform_nats(batch: Batch, read: Read) -> Tensor:
    """``(B,)`` float64: ``-log p(label)`` of a reader that finds all classes equally likely in every frame.

    ``T ln K - ln C(T + L - R, 2 L)``: of ``K^T`` paths over ``T`` frames, those that spell a label of ``L`` characters
    with ``R`` equal neighbours. They divide the frames into ``L`` runs of characters, ``R`` blanks between equal ones
    that must be there, and ``L + 1 - R`` blanks that may be. ``T ln K`` for a label that cannot be spelled.
    """
    frames, lengths = read.frames.double(), batch.lengths.double()
    needed = frames_needed(batch.tokens, batch.lengths).double()  # L + R
    left_over = (frames - needed).clamp(min=0)
    paths = torch.lgamma(left_over + 2 * lengths + 1) - torch.lgamma(2 * lengths + 1) - torch.lgamma(left_over + 1)
    guess = frames * math.log(read.logits.shape[2])
    return torch.where(needed <= frames, guess - paths, guess)


def worse_than_guessing(batch: Batch, out: Read | Restored) -> Tensor:
    """``(B,)`` true where the line counts and costs more than a uniform guess: a fact to watch."""
    read = reading(out)
    with torch.no_grad():
        return (nats_of(batch, read) > (1 + ROUNDING) * uniform_nats(batch, read)) & spelled(batch, read)


def _bounded(values: Tensor, norms: Tensor, most: float) -> Tensor:
    """``values`` as they are, their gradient scaled down where its norm is above ``most``."""
    kept = torch.where(norms > most, most / norms, 1.0)
    return values * kept + (values * (1 - kept)).detach()
