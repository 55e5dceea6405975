"""Lines that hold nothing but a number, and a task that reads in them what a test wants it to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from models.batch import Batch, Judged, Pair, Read, Restored
from models.text import Alphabet

ALPHABET = Alphabet(symbols=" abcdefghijklmnopqrstuvwxyz", case="keep")
LOWEST, APART = -0.9, 0.1  # grey of target 0; between a target and what is restored (10 numbers on); twice to degraded
KINDS = ("_target", "", "_degraded")
WIDTH, FRAMES = 32, 24


class Lines:
    """What :class:`orchestrator.batches.Samples` offers of at most ten lines; ``order`` numbers them otherwise.

    A line whose label is empty has no text; the last one is narrower than the others.
    """

    multiple, scale, height = 4, 1, 12

    def __init__(
        self, labels: Sequence[str], *, groups: Sequence[str] = (), blind: Sequence[int] = (),
        order: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        self.labels, self.groups = labels, groups or ["page"] * len(labels)
        self.order = list(order) if order is not None else list(range(len(labels)))
        self.blind = np.isin(self.order, list(blind))
        self.textless = np.array([not labels[each] for each in self.order])
        self.widths = np.array([20 if each == len(labels) - 1 else 32 for each in self.order], np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    def text(self, sample: int) -> str:
        return self.labels[self.order[sample]]

    def group(self, sample: int) -> str:
        return self.groups[self.order[sample]]

    def batch(self, step: Any, *, device: torch.device) -> Batch:
        ids = tuple(step.samples.tolist())
        widths = torch.from_numpy(self.widths[step.samples].astype(np.int64))
        inside = torch.arange(WIDTH) < widths[:, None, None, None]
        grey = torch.tensor([LOWEST + 0.01 * self.order[sample] for sample in ids])[:, None, None, None]
        target = torch.where(inside, grey.expand(-1, 1, 12, WIDTH), -1.0)
        labels = [torch.tensor(ALPHABET.encode(self.text(sample)), dtype=torch.long) for sample in ids]
        lengths = torch.tensor([len(label) for label in labels])
        tokens = nn.utils.rnn.pad_sequence(labels, batch_first=True) if lengths.any() else torch.zeros(len(ids), 0)
        common: dict[str, Any] = {
            "image": torch.where(inside, target + 2 * APART, -1.0), "widths": widths, "tokens": tokens.long(),
            "lengths": lengths, "counted": lengths > 0, "ids": ids,
        }  # fmt: skip
        return Batch(**common) if self.blind[step.samples].any() else Pair(**common, target=target)


class Reads(nn.Module):
    """A recogniser that reads in line ``n`` of each kind of picture the text it was given, with such a margin."""

    def __init__(self, texts: Mapping[str, Sequence[str]], sure: float = 50.0) -> None:
        super().__init__()
        self.texts, self.sure = texts, sure

    def forward(self, image: Tensor, widths: Tensor) -> Read:
        logits = torch.zeros(len(image), FRAMES, ALPHABET.classes)
        for row, grey in zip(logits, image[:, 0, 0, 0].tolist(), strict=True):
            kind, number = divmod(round((grey - LOWEST) * 100), 10)
            path = torch.zeros(FRAMES, dtype=torch.long)
            label = ALPHABET.encode(self.texts[KINDS[kind]][number])
            path[: 2 * len(label) : 2] = torch.tensor(label, dtype=torch.long)
            row[torch.arange(FRAMES), path] = self.sure
        return Read(logits=logits, frames=torch.full((len(image),), FRAMES))


class Repaints(nn.Module):
    """Restores half of what a line is off: 26.02 dB instead of 20. Nobody asks a discriminator."""

    measures: ClassVar[str] = "documents"
    before: ClassVar[str] = "degraded"
    reader: ClassVar[str] = "eyes"
    scale = 1

    def __init__(self, eyes: Reads) -> None:
        super().__init__()
        self.eyes = eyes

    def forward(self, batch: Batch) -> Restored:
        image = (batch.image - APART).clamp(min=-1)
        if not isinstance(batch, Pair):
            return Restored(image=image, read=self._read(image, batch))
        read, clean = self._read(image, batch), self._read(batch.target, batch)
        return Judged(image=image, read=read, clean=clean)

    def _read(self, image: Tensor, batch: Batch) -> Read:
        if batch.tokens.shape[1] == 0:
            return Read(logits=image.new_zeros(len(image), 0, ALPHABET.classes), frames=torch.zeros_like(batch.widths))
        return self.eyes(image, batch.widths)

    def enlarged(self, batch: Batch) -> Tensor:
        return batch.image
