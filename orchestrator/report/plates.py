"""What a restoring stage's result makes of its first validation set: each plate in four pictures, read in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from datasets.plate_text import folded
from models.batch import Pair, Read
from models.decoding import greedy_confidences
from models.metrics.confusions import Confusions, aligned, confusions
from models.metrics.plates import Frame, breakdown, interval
from orchestrator.batches import Samples, in_order
from orchestrator.evaluate import read_of
from orchestrator.ranks import Ranks
from orchestrator.reader import Reader
from orchestrator.report.blocks import Plate, View, number, percent
from orchestrator.report.pixels import picture

SHOWN = 6
BATCH_SIZE = 64
VIEWS = ("low resolution", "bicubic", "restored", "high resolution")
RESTORED = VIEWS.index("restored")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One plate: what was read in each of :data:`VIEWS`, and how sure the reading of the restored one is."""

    sample: int
    frame: Frame
    texts: tuple[str, ...]
    confidence: float

    @property
    def right(self) -> tuple[bool, ...]:
        return tuple(text == self.frame.label for text in self.texts)

    @property
    def edits(self) -> int:
        return int(Levenshtein.distance(self.texts[RESTORED], self.frame.label))


@dataclass(frozen=True, kw_only=True)
class Plates:
    """A whole validation set, restored and read once more.

    Attributes:
        rows: title, what it shows, and the plates.
        right: of each of :data:`VIEWS`, how many are read without a mistake.
        parts: layout or scenario -> recognition rate and how many plates it is over.
    """

    where: str
    how: str
    plates: int
    right: Sequence[int]
    between: tuple[float, float]
    parts: Sequence[tuple[str, float, int]]
    confusions: Confusions
    rows: Sequence[tuple[str, str, Sequence[Plate]]]


def plates_of(reader: Reader, samples: Samples, *, where: str) -> Plates:
    """Restore and read every sample of a set that has a high resolution."""
    seen = see_all(reader, samples)
    frames = [each.frame for each in seen]
    sure = interval(frames)
    machine = reader.machine
    parts = [(name, ratio.value, ratio.count) for name, ratio in breakdown(frames).items()]
    return Plates(
        where=where, how=f"{reader.checkpoint.name} on {machine.device.type} in {machine.precision}", plates=len(seen),
        right=[sum(each.right[view] for each in seen) for view in range(len(VIEWS))], between=(sure.low, sure.high),
        parts=parts, confusions=confusions([each.texts[RESTORED] for each in seen], [frame.label for frame in frames]),
        rows=[(title, says, _pictured(reader, samples, some)) for title, says, some in chosen(seen)],
    )  # fmt: skip


def chosen(seen: Sequence[Seen], most: int = SHOWN) -> list[tuple[str, str, list[Seen]]]:
    """Which plates are shown: the best, the worst, what restoring gained and lost, and some at random."""
    wrong = sorted((each for each in seen if each.edits), key=lambda each: (-each.edits, -each.confidence, each.sample))
    best = sorted((each for each in seen if not each.edits), key=lambda each: (-each.confidence, each.sample))
    floor = VIEWS.index("bicubic")
    gained = [each for each in best if not each.right[floor]]
    lost = [each for each in wrong if each.right[floor]]
    drawn = np.random.default_rng(0).permutation(len(seen))[:most]
    return [
        ("At random", "Drawn once and for all, so that two reports show the same plates.", [seen[i] for i in drawn]),
        ("Best", "Read right in the restored picture, the most probable first.", best[:most]),
        ("Worst", "Most edits in the restored picture first, and of as many edits the surest first.", wrong[:most]),
        ("Gained", "Read right in the restored picture, and wrong in the bicubic one.", gained[:most]),
        ("Lost", "Read right in the bicubic picture, and wrong in the restored one.", lost[:most]),
    ]  # fmt: skip


@torch.inference_mode()
def see_all(reader: Reader, samples: Samples) -> list[Seen]:
    """Every sample with a high resolution, in the order of the samples."""
    seen: list[Seen] = []
    for step in in_order(samples, batch_size=BATCH_SIZE, ranks=Ranks()):
        batch = samples.batch(step, device=reader.machine.device)
        if isinstance(batch, Pair):
            seen += _seen(reader, samples, batch)
    return sorted(seen, key=lambda each: each.sample)


def _seen(reader: Reader, samples: Samples, batch: Pair) -> list[Seen]:
    reads = [read for _, read in _views(reader, batch)]
    texts = [[reading.text for reading in read_of(batch, read, reader.alphabet)] for read in reads]
    sure = [reading.confidence for reading in read_of(batch, reads[RESTORED], reader.alphabet)]
    by_symbol = greedy_confidences(reads[RESTORED].logits, reads[RESTORED].frames)
    seen = []
    for row, sample in enumerate(batch.ids):
        extras = samples.extras(sample)
        alike = _alike(extras)
        frame = Frame(
            track=str(extras.get("track", f"#{sample}")), number=int(str(extras.get("frame", 0))),
            label=folded(reader.alphabet.normalize(samples.text(sample)), alike),
            text=folded(texts[RESTORED][row], alike),
            confidences=by_symbol[row], layout=str(extras.get("layout", "")), scenario=str(extras.get("scenario", "")),
        )  # fmt: skip
        seen.append(
            Seen(
                sample=sample, frame=frame, texts=tuple(folded(each[row], alike) for each in texts),
                confidence=sure[row],
            )
        )  # fmt: skip
    return seen


def _alike(extras: Mapping[str, object]) -> tuple[str, ...]:
    """The sets of symbols that this row's labels do not tell apart."""
    sets = extras.get("alike", ())
    return tuple(map(str, sets)) if isinstance(sets, list | tuple) else ()


def _views(reader: Reader, batch: Pair) -> list[tuple[Tensor, Read]]:
    """Each of :data:`VIEWS` ``(B, C, H, W)`` and what is read in it; the low resolution with its pixels repeated."""
    task: Any = reader.task
    widths = task.scale * batch.widths
    with reader.machine.autocast():
        out = task(batch)
        images = [F.interpolate(batch.image, scale_factor=task.scale), task.enlarged(batch), out.image, batch.target]
        reads = [out.read if image is out.image else task.ocr(image, widths) for image in images]
    return [
        (image.float(), replace(read, logits=read.logits.float())) for image, read in zip(images, reads, strict=True)
    ]


@torch.inference_mode()
def _pictured(reader: Reader, samples: Samples, some: Sequence[Seen]) -> list[Plate]:
    if not some:
        return []
    steps = next(iter(in_order(samples, batch_size=1, ranks=Ranks())))
    numbers = np.array([each.sample for each in some])
    batch = samples.batch(replace(steps, samples=numbers), device=reader.machine.device)
    assert isinstance(batch, Pair)
    images = [image for image, _ in _views(reader, batch)]
    images[0] = batch.image
    return [_plate(each, samples, [image[row] for image in images]) for row, each in enumerate(some)]


def _plate(each: Seen, samples: Samples, images: Sequence[Tensor]) -> Plate:
    shards, row = samples.located(each.sample)
    views = [
        View(name=name, image=picture(pixels_of(image)), reading=text, pairs=aligned(text, each.frame.label))
        for name, image, text in zip(VIEWS, images, each.texts, strict=True)
    ]
    edits = f"{each.edits} edit{'s' if each.edits > 1 else ''}" if each.edits else "right"
    facts = f"restored: {edits}, probability {each.confidence:.3g}"
    return Plate(sample=shards.ids[row], truth=each.frame.label, views=views, facts=facts)


def pixels_of(image: Tensor) -> np.ndarray:
    """``(C, H, W)`` in ``[-1, 1]`` as ``(H, W, C)`` uint8."""
    return image.add(1).mul(127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()


def told(plates: Plates) -> str:
    """In one sentence: how many are read right in each of the four."""
    shares = ", ".join(
        f"{number(right)} in {name} ({percent(right / max(plates.plates, 1))})"
        for name, right in zip(VIEWS, plates.right, strict=True)
    )
    low, high = plates.between
    return (
        f"{plates.where} was restored and read again with {plates.how}. Of {plates.plates:,} plates are read without a "
        f"mistake: {shares}; of the restored ones the 95\u00a0% interval over tracks is {low:.3f} to {high:.3f}."
    )
