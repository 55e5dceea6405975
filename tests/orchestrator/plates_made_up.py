"""Plates that hold nothing but a number, and a task that reads in them what a test wants it to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.batch import Batch, Pair, Read, Restored
from orchestrator.recipes.plates import PLATES36

LOWEST, APART = -0.9, 0.1  # grey of target 0; between a target, what is restored (10 numbers on) and bicubic (20)
KINDS = ("_target", "", "_bicubic")


class Plates:
    """What :class:`orchestrator.batches.Samples` offers of at most ten plates; ``order`` numbers them otherwise."""

    multiple, scale = 1, 2

    def __init__(
        self, labels: Sequence[str], extras: Sequence[Mapping[str, object]] | None = None, *,
        blind: Sequence[int] = (), order: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        self.labels, self.known = labels, extras or [{}] * len(labels)
        self.order = list(order) if order is not None else list(range(len(labels)))
        self.blind = np.isin(self.order, list(blind))
        self.textless = np.zeros(len(labels), bool)
        self.widths = np.full(len(labels), 24, np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    def text(self, sample: int) -> str:
        return self.labels[self.order[sample]]

    def extras(self, sample: int) -> Mapping[str, object]:
        return self.known[self.order[sample]]

    def batch(self, step: Any, *, device: torch.device) -> Batch:
        ids = tuple(step.samples.tolist())
        grey = torch.tensor([LOWEST + 0.01 * self.order[sample] for sample in ids])[:, None, None, None]
        labels = [PLATES36.encode(self.text(sample)) for sample in ids]
        common: dict[str, Any] = {
            "image": grey.expand(-1, 3, 8, 24), "widths": torch.full((len(ids),), 24),
            "tokens": nn.utils.rnn.pad_sequence([torch.tensor(label) for label in labels], batch_first=True),
            "lengths": torch.tensor([len(label) for label in labels]),
            "counted": torch.ones(len(ids), dtype=torch.bool), "ids": ids,
        }  # fmt: skip
        if self.blind[step.samples].any():
            return Batch(**common)
        return Pair(**common, target=grey.expand(-1, 3, 16, 48))


class Told(nn.Module):
    """A recogniser that reads in plate ``n`` of each kind of image the text it was given, with such a margin."""

    def __init__(self, texts: Mapping[str, Sequence[str]], sure: float | Sequence[float] = 50.0) -> None:
        super().__init__()
        self.texts, self.sure = texts, sure

    def forward(self, image: Tensor, widths: Tensor) -> Read:
        logits = torch.zeros(len(image), 24, PLATES36.classes)
        for row, grey in zip(logits, image[:, 0, 0, 0].tolist(), strict=True):
            kind, plate = divmod(round((grey - LOWEST) * 100), 10)
            path = torch.zeros(24, dtype=torch.long)
            label = PLATES36.encode(self.texts[KINDS[kind]][plate])
            path[: 2 * len(label) : 2] = torch.tensor(label, dtype=torch.long)
            margin = self.sure if isinstance(self.sure, float) else self.sure[plate]
            row[torch.arange(24), path] = margin
        return Read(logits=logits, frames=torch.full((len(image),), 24))


class Brightens(nn.Module):
    """Restores a plate, but for a tenth of its range: 26.02 dB. Bicubic is twice as far off: 20 dB."""

    measures: ClassVar[str] = "restoration"
    scale = 2

    def __init__(self, ocr: Told, monitor: Told | None = None) -> None:
        super().__init__()
        self.ocr, self.monitor = ocr, monitor

    def forward(self, batch: Batch) -> Restored:
        widths = self.scale * batch.widths
        image = F.interpolate(batch.image, scale_factor=2) + APART
        if not isinstance(batch, Pair):
            return Restored(image=image, read=self.ocr(image, widths))
        monitor = self.monitor(batch.target, widths) if self.monitor is not None else None
        clean = self.ocr(batch.target, widths)
        return Restored(image=image, read=self.ocr(image, widths), clean=clean, monitor=monitor)

    def enlarged(self, batch: Batch) -> Tensor:
        return F.interpolate(batch.image, scale_factor=2) + 2 * APART
