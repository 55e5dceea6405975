"""Restoring documents: a degraded line or page in, a clean one out, guided by a recogniser, judged by an adversary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.batch import Batch, Judged, Pair, Read, Restored
from models.discriminators.dual import DualConfig
from models.discriminators.patch import PatchConfig
from models.discriminators.spelled import collapsed, text_of_clean
from models.kept import KeptReadings, fits
from models.losses.line_ctc import worse_than_guessing
from models.losses.text import not_finite, not_spelled
from models.recognizers.crnn import CRNNConfig
from models.recognizers.simple import SimpleCRNNConfig
from models.recognizers.transformer import TransformerReaderConfig
from models.restorers.documents import EnhancedConfig, UNetConfig
from models.text import Frames


@dataclass(frozen=True, kw_only=True)
class DocumentTask:
    """Restores with one generator what one recogniser is to read and one discriminator is to take for clean.

    Attributes:
        parts: names a stage may train, freeze, save and load on its own.
        sound_untrained: parts that do something sensible with the weights they begin with: the generator changes
            nothing, and a discriminator is asked only while it learns.
    """

    generator: UNetConfig | EnhancedConfig
    discriminator: PatchConfig | DualConfig
    recognizer: TransformerReaderConfig | SimpleCRNNConfig | CRNNConfig
    parts: ClassVar[tuple[str, ...]] = ("generator", "discriminator", "recognizer")
    sound_untrained: ClassVar[tuple[str, ...]] = ("generator", "discriminator")
    scale: ClassVar[int] = 1

    def __post_init__(self) -> None:
        channels = {name: getattr(self, name).channels for name in self.parts}
        if len(set(channels.values())) > 1:
            told = ", ".join(f"{name} {found}" for name, found in channels.items())
            raise ValueError(f"DocumentTask: channels differ ({told}); all parts look at the same images")
        if isinstance(self.discriminator, DualConfig) and self.discriminator.classes != self.classes:
            raise ValueError(
                f"DocumentTask: the discriminator reads {self.discriminator.classes} classes, the recognizer "
                f"{self.classes}; make them equal"
            )

    @property
    def classes(self) -> int:
        return self.recognizer.classes

    @property
    def head(self) -> str:
        """The layer that has a row for every class, as ``PART.LAYER``."""
        return (
            "recognizer.encoder.head" if isinstance(self.recognizer, TransformerReaderConfig) else "recognizer.rnn.head"
        )

    @property
    def frames(self) -> Frames:
        return self.recognizer.frames

    def build(self) -> DocumentRestoration:
        return DocumentRestoration(self)


def _infeasible(batch: Batch, out: Restored) -> Tensor:
    return not_spelled(batch, out.read) & (batch.lengths > 0)


def _nonfinite(batch: Batch, out: Restored) -> Tensor:
    return not_finite(batch, out.read) | ~out.image.isfinite().flatten(1).all(dim=1)


class DocumentRestoration(nn.Module):
    """The generator, with gradient from what is read and from what is judged into what is restored.

    Which parts are in training mode says what is computed. A recogniser that learns alone learns from clean images:
    the generator is passed over, and what is "restored" is the target itself. The discriminator is asked only while it
    learns; clean and restored images are judged one after the other, because batch norm would mix them. A batch
    without any text, as of pages, is restored and not read.

    What a frozen recogniser reads in clean images that come again and again is read once and kept, where there is room.

    Attributes:
        watched: facts about single samples that should never be true, by the name they are reported under; a few may
            be read worse than by a guess.
        measures: which metrics :func:`orchestrator.evaluate.evaluate` takes of it.
        before: what the metrics call images that nobody restored yet.
        reader: the part that reads.
    """

    watched: ClassVar[Mapping[str, Callable[[Batch, Restored], Tensor]]] = {
        "infeasible": _infeasible,
        "nonfinite": _nonfinite,
        "worse_than_guessing": worse_than_guessing,
    }
    measures: ClassVar[str] = "documents"
    before: ClassVar[str] = "degraded"
    reader: ClassVar[str] = "recognizer"
    scale: ClassVar[int] = 1

    def __init__(self, task: DocumentTask) -> None:
        super().__init__()
        self.classes = task.classes
        self.source = task.discriminator.source if isinstance(task.discriminator, DualConfig) else None
        self.generator = task.generator.build()
        self.discriminator = task.discriminator.build()
        self.recognizer = task.recognizer.build()
        self.kept = KeptReadings(self.recognizer)

    def forward(self, batch: Batch) -> Restored:
        """``(B, C, H, W)`` degraded images and, where there are targets, all that is said of them."""
        if not isinstance(batch, Pair):
            image = self.generator(batch.image, batch.widths)
            return Restored(image=image, read=self.read(image, batch)[0])
        if self.recognizer.training and not self.generator.training:
            clean, _ = self.read(batch.target, batch)
            return Restored(image=batch.target, read=clean, clean=clean)
        image = self.generator(batch.image, batch.widths)
        read, features = self.read(image, batch)
        clean, clean_features = self._read_clean(batch, read, features)
        real, fake = self._judged(batch, image, read, clean)
        return Judged(
            image=image, read=read, clean=clean, features=features, clean_features=clean_features, real=real, fake=fake
        )

    def read(self, image: Tensor, batch: Batch) -> tuple[Read, Tensor]:
        """What the recogniser reads, and its features ``(B, T, D)``; no frames where no sample has a text."""
        if batch.tokens.shape[1] == 0:
            none = image.new_zeros((len(image), 0, self.classes))
            return Read(logits=none, frames=batch.widths.new_zeros(len(image))), none
        features, frames = self.recognizer.features(image, batch.widths)
        return self.recognizer.read(features, frames), features

    def enlarged(self, batch: Batch) -> Tensor:
        """The degraded image as it is: the floor that restoring has to beat."""
        return batch.image

    def _read_clean(self, batch: Pair, read: Read, features: Tensor) -> tuple[Read, Tensor]:
        """With gradient into the recogniser while it learns: its anchor.

        Args:
            read: of the restored image, as wide; ``features`` likewise.
        """
        frames, numbers = features.shape[1], (features.shape[2], self.classes)
        if self._constant() and fits(batch.again, frames, sum(numbers)):
            made = self.kept.of(batch.target, batch.widths, batch.ids, self._look, sizes=numbers, frames=frames)
            return Read(logits=made[1], frames=read.frames), made[0]
        with torch.set_grad_enabled(self.recognizer.training and torch.is_grad_enabled()):
            return self.read(batch.target, batch)

    def _constant(self) -> bool:
        """Whether the recogniser will say of clean images what it said of them before."""
        return self.generator.training and not (self.recognizer.training or torch.compiler.is_compiling())

    def _look(self, image: Tensor, widths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, frames = self.recognizer.features(image, widths)
        return features, self.recognizer.read(features, frames).logits, frames

    def _judged(self, batch: Pair, image: Tensor, read: Read, clean: Read) -> tuple[Tensor | None, Tensor | None]:
        """Logits of the clean and of the restored image."""
        if not self.discriminator.training:
            return None, None
        judge = self.discriminator
        if self.source is None:
            return judge(batch.image, batch.target, batch.widths), judge(batch.image, image, batch.widths)
        right = text_of_clean(self.source, batch, clean)
        real = judge(batch.image, batch.target, right, batch.widths)
        return real, judge(batch.image, image, collapsed(read), batch.widths)
