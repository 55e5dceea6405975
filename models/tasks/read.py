"""Reading: an image of a text line in, CTC logits out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from models.batch import Batch, Read
from models.losses.text import not_finite, not_spelled
from models.recognizers.crnn import CRNNConfig
from models.text import Frames


@dataclass(frozen=True, kw_only=True)
class ReadTask:
    """Reads with one recogniser.

    Attributes:
        parts: names a stage may train, freeze, save and load on its own.
        head: the layer that has a row for every class, as ``PART.LAYER``.
    """

    recognizer: CRNNConfig
    parts: ClassVar[tuple[str, ...]] = ("cnn", "rnn")
    head: ClassVar[str] = "rnn.head"

    @property
    def classes(self) -> int:
        return self.recognizer.classes

    @property
    def frames(self) -> Frames:
        return self.recognizer.frames

    def build(self) -> Reader:
        return Reader(self)


class Reader(nn.Module):
    """The recogniser, with its two halves as parts ``cnn`` and ``rnn``.

    Attributes:
        watched: facts about single samples that should never be true, by the name they are reported under.
    """

    watched: ClassVar[Mapping[str, Callable[[Batch, Read], Tensor]]] = {
        "infeasible": not_spelled,
        "nonfinite": not_finite,
    }

    def __init__(self, task: ReadTask) -> None:
        super().__init__()
        recognizer = task.recognizer.build()
        self.cnn, self.rnn = recognizer.cnn, recognizer.rnn

    def forward(self, batch: Batch) -> Read:
        """``(B, C, 32, W)`` images in, logits ``(B, T, K)`` and valid frames ``(B,)`` out."""
        features, frames = self.cnn(batch.image, batch.widths)
        return Read(logits=self.rnn(features, frames), frames=frames)
