"""The text a discriminator reads: one row per symbol, in one format whether it was read or transcribed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.batch import Batch, Read
from models.tensors import wide

BLANK = 0
Source = Literal["predicted", "ground_truth"]


@dataclass(frozen=True, kw_only=True)
class Spelled:
    """Texts as packed one-hot rows.

    Attributes:
        rows: ``(B, L, K)`` one row per symbol, all 0 past the text. Every row is exactly one-hot, of a class that is
            not the blank: where the text came from cannot be told from its format.
        lengths: ``(B,)`` int64 symbols of each text; it may have none.
    """

    rows: Tensor
    lengths: Tensor


def transcribed(tokens: Tensor, lengths: Tensor, classes: int) -> Spelled:
    """The labels ``(B, L)`` of ``(B,)`` lengths as rows of ``classes``."""
    inside = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
    return Spelled(rows=(_one_hot(tokens, classes) & inside[:, :, None]).float(), lengths=lengths)


def collapsed(read: Read) -> Spelled:
    """What a greedy CTC decoding reads: repeats are one symbol, blanks none. Has room for as many symbols as frames.

    A row is the one-hot class of its run of frames; its gradient is that of the frames' mean posteriors (the
    straight-through estimator, Bengio et al. 2013), so that a discriminator can say which symbol it would rather see.
    Nothing waits for the device.
    """
    with torch.autocast(read.logits.device.type, enabled=False):
        posteriors = wide(read.logits).softmax(dim=2)
        best = read.logits.argmax(dim=2)  # (B, T)
        frames = torch.arange(best.shape[1], device=best.device)
        spoken = (best != BLANK) & (frames < read.frames[:, None])
        begins = spoken.clone()
        begins[:, 1:] &= best[:, 1:] != best[:, :-1]
        run = begins.cumsum(dim=1) - 1  # (B, T) the place in the text of each spoken frame
        belongs = ((run[:, None, :] == frames[:, None]) & spoken[:, None, :]).to(posteriors.dtype)  # (B, L, T)
        share = belongs / belongs.sum(dim=2, keepdim=True).clamp(min=1)
        soft = share @ posteriors  # (B, L, K)
        hard = (belongs @ _one_hot(best, posteriors.shape[2]).to(posteriors.dtype)) > 0
        return Spelled(rows=hard.to(posteriors.dtype) + (soft - soft.detach()), lengths=begins.sum(dim=1))


def text_of_clean(source: Source, batch: Batch, clean: Read) -> Spelled:
    """The text that goes with a clean image: what the recogniser reads in it, or its transcription.

    The restored image goes with ``collapsed(out.read)`` in both modes. No gradient is needed here: the clean image
    is given.
    """
    if source == "predicted":
        return collapsed(Read(logits=clean.logits.detach(), frames=clean.frames))
    return transcribed(batch.tokens, batch.lengths, clean.logits.shape[2])


def _one_hot(classes_of: Tensor, classes: int) -> Tensor:
    """``(B, L, classes)`` bool; unlike ``F.one_hot`` it never asks the device for the largest class."""
    return classes_of[:, :, None] == torch.arange(classes, device=classes_of.device)
