"""The records every term may read: what came in and what the task made of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

BLACK = -1.0  # what padding holds, in the range of Batch.image


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One collated mini-batch of ``B`` labelled images, padded to the bucket's width ``W``.

    Attributes:
        image: ``(B, C, H, W)`` float32 in ``[-1, 1]``; columns past ``widths`` are black (-1).
        widths: ``(B,)`` int64 valid columns of each image, ``1 <= width <= W``.
        tokens: ``(B, L)`` int64 label classes, right-padded with 0 (padding is never read).
        lengths: ``(B,)`` int64 label lengths.
        counted: ``(B,)`` bool; false for labels CTC cannot spell here, which no loss may average over.
        ids: position of each sample in the whole data set, for events and difficulty tables.
    """

    image: Tensor
    widths: Tensor
    tokens: Tensor
    lengths: Tensor
    counted: Tensor
    ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Pair(Batch):
    """Images of low resolution and what each should become, ``s`` times as large on both sides.

    ``image`` is the low resolution ``(B, C, h, w)``, and ``widths`` are its valid columns; the target has ``s`` times
    as many.

    Attributes:
        target: ``(B, C, s * h, s * w)`` float32 in ``[-1, 1]``; columns past ``s * widths`` are black (-1).
        again: how many samples there are, if each comes again with the very same target; 0 where that is not said.
    """

    target: Tensor
    again: int = 0


@dataclass(frozen=True, kw_only=True)
class Read:
    """What a reading task makes of a :class:`Batch`.

    Attributes:
        logits: ``(B, T, K)`` scores per frame; class 0 is the CTC blank.
        frames: ``(B,)`` int64 valid frames of each image, ``<= T``.
    """

    logits: Tensor
    frames: Tensor


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a restoring task makes of a :class:`Pair`.

    Attributes:
        image: ``(B, C, H, W)`` restored, in ``[-1, 1]``, as large as ``Pair.target``.
        read: what the recogniser reads in ``image``; gradient flows through it into ``image``.
        clean: what it reads in the target, without gradient; None where there is none or no term asks for it.
        monitor: what a second recogniser reads in the target, while it learns to; None otherwise.
    """

    image: Tensor
    read: Read
    clean: Read | None = None
    monitor: Read | None = None


@dataclass(frozen=True, kw_only=True)
class Judged(Restored):
    """A restoration that others looked at too. Whatever nobody made is None; a term that needs it says so.

    Attributes:
        features: ``(B, T, D)`` what the recogniser made of ``image`` at the frames of ``read``, with gradient.
        clean_features: the same of the target, without gradient.
        fake: ``(B, 1, h, w)`` or ``(B, 1)`` the discriminator's logits for ``image``; above 0 means taken for a target.
        real: its logits for the target.
    """

    features: Tensor | None = None
    clean_features: Tensor | None = None
    fake: Tensor | None = None
    real: Tensor | None = None
