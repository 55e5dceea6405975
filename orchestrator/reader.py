"""A trained recogniser with all that reading needs: the same from a record, a checkpoint or an export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from datasets.image import ImageFile
from datasets.line_image import LineSpec
from datasets.pair_image import PairSpec
from datasets.row import BadImage
from models.batch import Batch, Read, Restored
from models.decoding import confidence, greedy_texts
from models.text import Alphabet, Frames
from orchestrator.constrained import BEAM, Constrained, layouts_of_plan
from orchestrator.evaluate import Reading, read_of
from orchestrator.pipeline import Machine
from orchestrator.plan import Recipe
from orchestrator.trained import Trained, find_trained

AT_ONCE = 32  # plates restored in one pass
LINES_AT_ONCE = 8  # lines are large


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A recipe, its task with the weights of ``checkpoint``, and the machine it runs on."""

    recipe: Recipe
    task: nn.Module
    checkpoint: Path
    machine: Machine

    @property
    def restores(self) -> bool:
        """Whether images come out of it, too."""
        return isinstance(self.recipe.image, PairSpec | LineSpec)

    @property
    def alphabet(self) -> Alphabet:
        return self.recipe.alphabet  # type: ignore[return-value]

    @property
    def frames(self) -> Frames:
        return self.recipe.task.frames  # type: ignore[return-value]

    @cached_property
    def constrained(self) -> Constrained | None:
        """What the layouts of the plan's own plates allow; none where its sources tell no layouts."""
        layouts = layouts_of_plan(self.recipe)
        return Constrained.by(layouts, self.alphabet, beam=BEAM) if layouts else None


def open_reader(place: Path, machine: Machine) -> Reader:
    """The reader at ``place``: a stage's folder, its record.json, one of its checkpoints, or an export anywhere.

    Raises :class:`orchestrator.store.StoreError` or :class:`orchestrator.checkpoint.CheckpointError`.
    """
    return reader_of(find_trained(place), machine)


def reader_of(trained: Trained, machine: Machine) -> Reader:
    task = machine.place(trained.task()).eval()
    return Reader(recipe=trained.recipe, task=task, checkpoint=trained.place, machine=machine)


def read_images(reader: Reader, paths: Sequence[Path]) -> Iterator[tuple[Path, Reading | BadImage]]:
    """What is read in each image file, or why it cannot be; prepared as at ingest."""
    for path in paths:
        try:
            batch, out = look_at(reader, path)
        except BadImage as error:
            yield path, error
        else:
            yield path, read_of(batch, out, reader.alphabet)[0]


@dataclass(frozen=True, kw_only=True)
class Restoration:
    """What a restoring task made of one image.

    Attributes:
        size: height and width of the image as it came.
        picture: ``(h, w, 3)`` RGB or ``(h, w, 1)`` grey uint8, without what was padding.
        reading: what was really read.
        confidences: one for each character of it, 0 to 1.
        allowed: the likeliest reading that the plan's layouts allow, empty where none is possible; none without
            layouts.
    """

    size: tuple[int, int]
    picture: np.ndarray
    reading: Reading
    confidences: tuple[float, ...]
    allowed: Allowed | None = None


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """A reading that a layout allows: its probability as a whole, and of each character."""

    text: str
    confidence: float
    confidences: tuple[float, ...]


def restore_images(reader: Reader, paths: Sequence[Path]) -> Iterator[tuple[Path, Restoration | BadImage]]:
    """Each image file restored, and what is read in it, or why it cannot be used; some at once, in order."""
    at_once = AT_ONCE if isinstance(reader.recipe.image, PairSpec) else LINES_AT_ONCE
    for first in range(0, len(paths), at_once):
        some = paths[first : first + at_once]
        loaded = [_loaded(reader, path) for path in some]
        good = [each for each in loaded if not isinstance(each, BadImage)]
        restored = iter(restorations_of(reader, good, *_answer(reader, good))) if good else iter(())
        for path, each in zip(some, loaded, strict=True):
            yield path, each if isinstance(each, BadImage) else next(restored)


def restorations_of(reader: Reader, originals: Sequence[np.ndarray], batch: Batch, out: Restored) -> list[Restoration]:
    """The restored pictures of ``out``, which ``originals`` came from, and their readings."""
    arrays = out.image.float().add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    spec: PairSpec | LineSpec = reader.recipe.image  # type: ignore[assignment]
    read = _read(out)
    sure = [each for _, each in greedy_texts(read.logits, read.frames, reader.alphabet)]
    readings = read_of(batch, read, reader.alphabet)
    return [
        Restoration(
            size=(original.shape[0], original.shape[1]), reading=reading, confidences=confidences, allowed=allowed,
            picture=np.ascontiguousarray(_cut(spec, array, *original.shape[:2])),
        )
        for original, array, reading, confidences, allowed in zip(
            originals, arrays, readings, sure, _allowed(reader, read), strict=True
        )
    ]  # fmt: skip


def _allowed(reader: Reader, read: Read) -> Sequence[Allowed | None]:
    """What the layouts allow of each image; no image says which of them it has."""
    if reader.constrained is None:
        return [None] * len(read.logits)
    found = reader.constrained.readings(read, [{}] * len(read.logits))
    exact = confidence(read.logits, read.frames, [reader.alphabet.encode(each.text) for each in found]).tolist()
    return [
        Allowed(text=each.text, confidence=sure if each.text else 0.0, confidences=each.confidences)
        for each, sure in zip(found, exact, strict=True)
    ]


def _cut(spec: PairSpec | LineSpec, array: np.ndarray, height: int, width: int) -> np.ndarray:
    """The picture alone, without padding, from an array that an original of ``height`` x ``width`` became."""
    times = array.shape[0] // spec.height
    top, left, rows, columns = (times * value for value in spec.box(height, width))
    return array[top : top + rows, left : left + columns]


def look_at(reader: Reader, path: Path) -> tuple[Batch, Read]:
    """One image file as a batch, and what the task reads in it. Raises :class:`datasets.row.BadImage`."""
    batch, out = _answer(reader, [ImageFile(str(path)).load()])
    return batch, _read(out)


def _loaded(reader: Reader, path: Path) -> np.ndarray | BadImage:
    """A picture that can be prepared, or why it cannot."""
    try:
        original = ImageFile(str(path)).load()
        _prepared(reader, original)
    except BadImage as error:
        return error
    return original


def _prepared(reader: Reader, original: np.ndarray) -> np.ndarray:
    image: Any = reader.recipe.image
    pixels: np.ndarray = image.prepare(original, None)[0] if reader.restores else image.prepare(original)
    return pixels


def _answer(reader: Reader, originals: Sequence[np.ndarray]) -> tuple[Batch, Any]:
    """Pictures as a batch, and what the task makes of it. Raises :class:`datasets.row.BadImage`."""
    pixels = [_prepared(reader, original) for original in originals]
    batch = _batch_of(pixels, reader.machine.device, multiple=1 if isinstance(reader.recipe.image, PairSpec) else 4)
    with torch.inference_mode(), reader.machine.autocast():
        return batch, reader.task(batch)


def _read(out: Read | Restored) -> Read:
    read = out.read if isinstance(out, Restored) else out
    return Read(logits=read.logits.float(), frames=read.frames)


def _batch_of(images: Sequence[np.ndarray], device: torch.device, *, multiple: int) -> Batch:
    """Prepared images ``(H, w)`` or ``(H, w, C)``, padded with black to a multiple of so many columns."""
    shaped = [pixels if pixels.ndim == 3 else pixels[:, :, None] for pixels in images]
    widths = [pixels.shape[1] for pixels in shaped]
    wide = -(-max(widths) // multiple) * multiple
    padded = np.stack([np.pad(pixels, ((0, 0), (0, wide - pixels.shape[1]), (0, 0))) for pixels in shaped])
    image = torch.from_numpy(padded).to(device).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)
    one = torch.ones(len(images), dtype=torch.long, device=device)
    return Batch(
        image=image, widths=torch.tensor(widths, device=device), tokens=one[:, None], lengths=one, counted=one.bool(),
        ids=tuple(range(len(images))),
    )  # fmt: skip
