"""What a stage reads while it learns, kept for what follows from it: how hard samples are, and which symbols weigh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.batch import Batch, Restored
from orchestrator.plan import Stage


@dataclass(frozen=True)
class Heard:
    """The raw reading of one micro-batch, still on the device.

    Attributes:
        ids: of the samples.
        best: ``(B, T)`` the likeliest class of each frame; the blank past the valid ones.
        tokens: ``(B, L)`` the labels, of ``lengths`` ``(B,)``.
        classes: of the network, blank included.
    """

    ids: Sequence[int]
    best: Tensor
    tokens: Tensor
    lengths: Tensor
    classes: int

    def texts(self) -> list[tuple[int, str, str]]:
        """``(sample, reading, label)``: class ``k`` as the character of that number, see :func:`symbols_of`."""
        best, tokens, lengths = self.best.tolist(), self.tokens.tolist(), self.lengths.tolist()
        return [
            (sample, spelled(path), "".join(map(_symbol, label[:length])))
            for sample, path, label, length in zip(self.ids, best, tokens, lengths, strict=True)
        ]


def hears(stage: Stage) -> bool:
    """Whether anything of ``stage`` follows from what it reads in training."""
    return stage.weigh is not None or stage.mining is not None


@torch.no_grad()
def listened(batch: Batch, outputs: Any) -> Heard:
    read = outputs.read if isinstance(outputs, Restored) else outputs
    best = read.logits.argmax(dim=2)  # (B, T)
    valid = torch.arange(best.shape[1], device=best.device) < read.frames[:, None]
    return Heard(batch.ids, best.where(valid, 0), batch.tokens, batch.lengths, read.logits.shape[2])


def spelled(path: Sequence[int]) -> str:
    """The text of a path of classes: runs are one symbol, blanks (class 0) none."""
    return "".join(_symbol(k) for k, before in zip(path, [0, *path], strict=False) if k not in (0, before))


def symbols_of(classes: int) -> str:
    """The stand-ins of an alphabet's symbols, in order. Which ones they really are does not matter here."""
    return "".join(map(_symbol, range(1, classes)))


def _symbol(number: int) -> str:
    return chr(0x4E00 + number)  # a block of 20,000 characters none of which means anything else to Unicode
