"""Restoring: a plate of low resolution in, one of high resolution out that a recogniser can read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.batch import Batch, Pair, Restored
from models.layers.upscale import bicubic
from models.losses.text import not_finite, not_spelled
from models.recognizers.crnn import CRNNConfig
from models.recognizers.simple import SimpleCRNNConfig
from models.restorers.plates import PlateRestorerConfig
from models.text import Frames


@dataclass(frozen=True, kw_only=True)
class RestoreTask:
    """Restores with one generator what one recogniser is to read.

    Attributes:
        monitor: a second recogniser, which no generator ever learns from: what pleases the first one alone is not
            restored but made up, and the second one tells.
        sound_untrained: parts that do something sensible with the weights they begin with: the generator is bicubic.
        head: the layer that has a row for every class, as ``PART.LAYER``.
    """

    generator: PlateRestorerConfig
    ocr: SimpleCRNNConfig | CRNNConfig
    monitor: SimpleCRNNConfig | CRNNConfig | None = None
    sound_untrained: ClassVar[tuple[str, ...]] = ("generator",)
    head: ClassVar[str] = "ocr.rnn.head"

    def __post_init__(self) -> None:
        if self.generator.channels != self.ocr.channels:
            raise ValueError(
                f"RestoreTask: the generator makes {self.generator.channels} channels, the ocr reads "
                f"{self.ocr.channels}; make them equal"
            )
        if self.monitor is not None:
            first, second = ((each.classes, each.channels) for each in (self.ocr, self.monitor))
            if first != second:
                raise ValueError(
                    f"RestoreTask: the ocr reads {first[0]} classes in {first[1]} channels, the monitor {second[0]} in "
                    f"{second[1]}; make them equal"
                )

    @property
    def parts(self) -> tuple[str, ...]:
        """Names a stage may train, freeze, save and load on its own."""
        return ("generator", "ocr", "monitor") if self.monitor is not None else ("generator", "ocr")

    @property
    def classes(self) -> int:
        return self.ocr.classes

    @property
    def frames(self) -> Frames:
        """Of the width of the high resolution, which is what is read."""
        return self.ocr.frames

    @property
    def scale(self) -> int:
        return self.generator.scale

    def build(self) -> Restorer:
        return Restorer(self)


def _infeasible(batch: Batch, out: Restored) -> Tensor:
    return not_spelled(batch, out.read)


def _bad_image(batch: Batch, out: Restored) -> Tensor:
    """The generator mixes no samples, so that these are the ones to blame: a recogniser that learns does mix them."""
    images = [batch.image, out.image, *([batch.target] if isinstance(batch, Pair) else [])]
    return torch.stack([~each.isfinite().flatten(1).all(dim=1) for each in images]).any(dim=0)


def _nonfinite(batch: Batch, out: Restored) -> Tensor:
    return not_finite(batch, out.read) | _bad_image(batch, out)


class Restorer(nn.Module):
    """The generator and the recogniser, with gradient from what is read into what is restored.

    Which parts are in training mode says what is computed. Recognisers that learn alone learn from clean images: the
    generator is passed over, and what is "restored" is the target itself. One that learns beside the generator reads
    restored and clean images one after the other: in one batch, batch norm would lead the gradient of clean readings
    into the generator. A frozen one reads clean images without gradient. The monitor reads clean images
    while it learns, and where nothing does.

    Attributes:
        watched: facts about single samples that should never be true, by the name they are reported under.
        measures: which metrics :func:`orchestrator.evaluate.evaluate` takes of it.
    """

    watched: ClassVar[Mapping[str, Callable[[Batch, Restored], Tensor]]] = {
        "infeasible": _infeasible,
        "nonfinite_image": _bad_image,
        "nonfinite": _nonfinite,
    }
    measures: ClassVar[str] = "restoration"

    def __init__(self, task: RestoreTask) -> None:
        super().__init__()
        self.scale = task.scale
        self.generator = task.generator.build()
        self.ocr = task.ocr.build()
        self.monitor = task.monitor.build() if task.monitor is not None else None

    def forward(self, batch: Batch) -> Restored:
        """``(B, C, h, w)`` images and ``(B, C, s * h, s * w)`` targets in; restored images and both readings out.

        Images without targets are restored and read.
        """
        widths = self.scale * batch.widths
        if not isinstance(batch, Pair):
            image = self.generator(batch.image)
            return Restored(image=image, read=self.ocr(image, widths))
        second, judged = self.monitor, not (self.generator.training or self.ocr.training)
        monitor = second(batch.target, widths) if second is not None and (second.training or judged) else None
        if self.ocr.training and not self.generator.training:
            clean = self.ocr(batch.target, widths)
            return Restored(image=batch.target, read=clean, clean=clean, monitor=monitor)
        image = self.generator(batch.image)
        if self.ocr.training:
            clean = self.ocr(batch.target, widths)
        else:
            with torch.no_grad():
                clean = self.ocr(batch.target, widths)
        return Restored(image=image, read=self.ocr(image, widths), clean=clean, monitor=monitor)

    def enlarged(self, batch: Batch) -> Tensor:
        """``(B, C, s * h, s * w)`` the bicubic enlargement: the floor that restoring has to beat."""
        return bicubic(batch.image, self.scale).clamp(-1, 1)
