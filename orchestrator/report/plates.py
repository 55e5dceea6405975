"""What a restoring stage's result makes of a validation set: each picture beside its target, read in each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from datasets.plate_text import folded
from models.batch import Pair, Read
from models.decoding import greedy_texts
from models.metrics.confusions import Confusions, aligned, confusions
from models.metrics.plates import Frame, breakdown, interval
from orchestrator.batches import Samples, in_order
from orchestrator.evaluate import read_of
from orchestrator.order import Step
from orchestrator.ranks import Ranks
from orchestrator.reader import Reader
from orchestrator.report.blocks import Plate, View, number, percent
from orchestrator.report.pixels import picture

SHOWN = 6
BATCH_SIZE, FEW = 64, 8
MOST_LINES = 96  # lines and tiles are large: so many are looked at, plates all
PLATE_VIEWS = ("low resolution", "bicubic", "restored", "high resolution")
LINE_VIEWS = ("degraded", "restored", "clean")
FLOOR, RESTORED, TARGET = -3, -2, -1  # in both


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One picture: what was read in each view, and how sure the reading of the restored one is.

    Attributes:
        psnr: in dB, of the floor (bicubic or degraded) and of what is restored.
        read: whether there is a text to read.
    """

    sample: int
    frame: Frame
    texts: tuple[str, ...]
    confidence: float
    psnr: tuple[float, float] = (0.0, 0.0)
    read: bool = True

    @property
    def right(self) -> tuple[bool, ...]:
        return tuple(text == self.frame.label for text in self.texts)

    @property
    def errors(self) -> tuple[int, ...]:
        """Edits from the label to each reading."""
        return tuple(Levenshtein.distance(text, self.frame.label) for text in self.texts)

    @property
    def edits(self) -> int:
        return self.errors[RESTORED]

    @property
    def gain(self) -> float:
        """Fewer edits in what is restored than in the floor; dB where there is no text."""
        return float(self.errors[FLOOR] - self.edits) if self.read else self.psnr[1] - self.psnr[0]


@dataclass(frozen=True, kw_only=True)
class Plates:
    """A validation set, restored and read once more.

    Attributes:
        of: how many pictures the set has; ``plates`` of them were looked at.
        views: what each picture is shown as.
        lines: they are lines or tiles of documents, not plates.
        rows: title, what it shows, and the plates.
        right: of each view, how many are read without a mistake; ``cer``: edits per true character.
        between: 95 % interval of the recognition rate of what is restored.
        psnr: mean in dB, of the floor and of what is restored.
        parts: layout or scenario -> recognition rate and how many plates it is over.
    """

    where: str
    how: str
    plates: int
    of: int
    views: Sequence[str]
    lines: bool
    read: bool
    right: Sequence[int]
    cer: Sequence[float]
    between: tuple[float, float]
    psnr: tuple[float, float]
    parts: Sequence[tuple[str, float, int]]
    confusions: Confusions
    rows: Sequence[tuple[str, str, Sequence[Plate]]]


def plates_of(reader: Reader, samples: Samples, *, where: str) -> Plates:
    """Restore and read the samples of a set that have a target."""
    seen = see_all(reader, samples)
    views, readable = views_of(reader), [each for each in seen if each.read]
    frames = [each.frame for each in readable]
    sure, characters = interval(frames) if frames else None, sum(len(frame.label) for frame in frames)
    machine = reader.machine
    parts = [(name, ratio.value, ratio.count) for name, ratio in breakdown(frames).items()]
    rows = chosen_lines(seen) if lines_in(reader) else chosen(seen)
    return Plates(
        where=where, how=f"{reader.checkpoint.name} on {machine.device.type} in {machine.precision}", plates=len(seen),
        of=len(samples), views=views, lines=lines_in(reader), read=bool(readable),
        right=[sum(each.right[view] for each in readable) for view in range(len(views))],
        cer=[sum(each.errors[view] for each in readable) / max(characters, 1) for view in range(len(views))],
        between=(sure.low, sure.high) if sure else (0.0, 0.0), parts=parts,
        psnr=tuple(float(np.mean([each.psnr[of] for each in seen] or [0.0])) for of in (0, 1)),  # type: ignore[arg-type]
        confusions=confusions([each.texts[RESTORED] for each in readable], [frame.label for frame in frames]),
        rows=[(title, says, _pictured(reader, samples, some)) for title, says, some in rows],
    )  # fmt: skip


def lines_in(reader: Reader) -> bool:
    """Whether what is restored is as large as it came: lines and pages, not plates."""
    return bool(reader.task.scale == 1)


def views_of(reader: Reader) -> tuple[str, ...]:
    return LINE_VIEWS if lines_in(reader) else PLATE_VIEWS


def chosen(seen: Sequence[Seen], most: int = SHOWN) -> list[tuple[str, str, list[Seen]]]:
    """Which plates are shown: the best, the worst, what restoring gained and lost, and some at random."""
    wrong = sorted((each for each in seen if each.edits), key=lambda each: (-each.edits, -each.confidence, each.sample))
    best = sorted((each for each in seen if not each.edits), key=lambda each: (-each.confidence, each.sample))
    gained = [each for each in best if not each.right[FLOOR]]
    lost = [each for each in wrong if each.right[FLOOR]]
    return [
        _at_random(seen, most),
        ("Best", "Read right in the restored picture, the most probable first.", best[:most]),
        ("Worst", "Most edits in the restored picture first, and of as many edits the surest first.", wrong[:most]),
        ("Gained", "Read right in the restored picture, and wrong in the bicubic one.", gained[:most]),
        ("Lost", "Read right in the bicubic picture, and wrong in the restored one.", lost[:most]),
    ]  # fmt: skip


def chosen_lines(seen: Sequence[Seen], most: int = SHOWN) -> list[tuple[str, str, list[Seen]]]:
    """Likewise of lines, by edits, and of tiles without text by PSNR."""
    read = all(each.read for each in seen)
    unit = "edits" if read else "dB"
    gained = sorted((each for each in seen if each.gain > 0), key=lambda each: (-each.gain, each.sample))
    lost = sorted((each for each in seen if each.gain < 0), key=lambda each: (each.gain, each.sample))
    rows = [
        _at_random(seen, most),
        ("Gained", f"Where the restored picture is better than the degraded one by most {unit}.", gained[:most]),
        ("Lost", f"Where it is worse by most {unit}.", lost[:most]),
    ]
    if not read:
        return rows
    worst = sorted((each for each in seen if each.edits), key=lambda each: (-each.edits, each.sample))
    return [*rows, ("Worst", "Most edits in the restored picture first.", worst[:most])]


def _at_random(seen: Sequence[Seen], most: int) -> tuple[str, str, list[Seen]]:
    drawn = np.random.default_rng(0).permutation(len(seen))[:most]
    return "At random", "Drawn once and for all, so that two reports show the same ones.", [seen[i] for i in drawn]


@torch.inference_mode()
def see_all(reader: Reader, samples: Samples) -> list[Seen]:
    """Every sample with a target, in the order of the samples; of lines and tiles some, drawn once and for all."""
    seen: list[Seen] = []
    for step in _steps(samples, few=lines_in(reader)):
        batch = samples.batch(step, device=reader.machine.device)
        if isinstance(batch, Pair):
            seen += _seen(reader, samples, batch)
    return sorted(seen, key=lambda each: each.sample)


def _steps(samples: Samples, *, few: bool) -> Iterator[Step]:
    some = np.random.default_rng(0).permutation(len(samples))[: MOST_LINES if few else len(samples)]
    for step in in_order(samples, batch_size=FEW if few else BATCH_SIZE, ranks=Ranks()):
        mine = step.samples[np.isin(step.samples, some)]
        if len(mine):
            yield replace(step, samples=mine)


def _seen(reader: Reader, samples: Samples, batch: Pair) -> list[Seen]:
    views = _views(reader, batch)
    reads = [read for _, read in views]
    readable = batch.tokens.shape[1] > 0
    texts, sure, by_symbol = [[""] * len(batch.ids)] * len(views), [0.0] * len(batch.ids), [()] * len(batch.ids)
    if readable:
        readings = [read_of(batch, read, reader.alphabet) for read in reads]
        texts, sure = [[each.text for each in of] for of in readings], [each.confidence for each in readings[RESTORED]]
        spelled = greedy_texts(reads[RESTORED].logits, reads[RESTORED].frames, reader.alphabet)
        by_symbol = [each for _, each in spelled]  # type: ignore[misc]
    decibels = [_decibels(views[view][0], batch, reader.task.scale) for view in (FLOOR, RESTORED)]  # type: ignore[arg-type]
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
                confidence=sure[row], psnr=(decibels[0][row], decibels[1][row]),
                read=readable and bool(frame.label),
            )
        )  # fmt: skip
    return seen


def _decibels(image: Tensor, batch: Pair, scale: int) -> list[float]:
    """PSNR of each image over its valid columns."""
    found = []
    for row, width in enumerate((scale * batch.widths).tolist()):
        error = (image[row, :, :, :width] - batch.target[row, :, :, :width]).div(2).square().mean().clamp(min=1e-10)
        found.append(float(-10 * error.log10()))
    return found


def _alike(extras: Mapping[str, object]) -> tuple[str, ...]:
    """The sets of symbols that this row's labels do not tell apart."""
    sets = extras.get("alike", ())
    return tuple(map(str, sets)) if isinstance(sets, list | tuple) else ()


def _views(reader: Reader, batch: Pair) -> list[tuple[Tensor, Read]]:
    """Each view ``(B, C, H, W)`` and what is read in it; a low resolution has its pixels repeated."""
    task: Any = reader.task
    with reader.machine.autocast():
        out = task(batch)
        images = [task.enlarged(batch), out.image, batch.target]
        if not lines_in(reader):
            images = [F.interpolate(batch.image, scale_factor=task.scale), *images]
        reads = [out.read if image is out.image else _read(task, image, batch) for image in images]
    return [
        (image.float(), replace(read, logits=read.logits.float())) for image, read in zip(images, reads, strict=True)
    ]


def _read(task: Any, image: Tensor, batch: Pair) -> Read:
    """What the task's recogniser reads in an image as large as the targets."""
    if hasattr(task, "ocr"):
        read: Read = task.ocr(image, task.scale * batch.widths)
        return read
    read, _ = task.read(image, batch)
    return read


@torch.inference_mode()
def _pictured(reader: Reader, samples: Samples, some: Sequence[Seen]) -> list[Plate]:
    return [_plate(reader, samples, each) for each in some]


def _plate(reader: Reader, samples: Samples, each: Seen) -> Plate:
    shards, row = samples.located(each.sample)
    number_of, scale = np.array([each.sample]), reader.task.scale
    width = -(-int(samples.widths[each.sample]) // samples.multiple) * samples.multiple
    batch = samples.batch(Step(number_of, width), device=reader.machine.device)
    assert isinstance(batch, Pair)
    images = [image[0] for image, _ in _views(reader, batch)]
    if not lines_in(reader):
        images[0] = batch.image[0]
    box = samples.boxes(number_of)[0]
    views = [
        View(
            name=name, image=picture(_cut(pixels_of(image), box, 1 if image is images[0] else scale)), reading=text,  # type: ignore[arg-type]
            pairs=aligned(text, each.frame.label), read=each.read,
        )
        for name, image, text in zip(views_of(reader), images, each.texts, strict=True)
    ]  # fmt: skip
    decibels = f"PSNR {each.psnr[0]:.2f} to {each.psnr[1]:.2f} dB"
    edits = f"{each.edits} edit{'s' if each.edits > 1 else ''}" if each.edits else "right"
    facts = f"restored: {edits}, probability {each.confidence:.3g}, {decibels}" if each.read else decibels
    return Plate(sample=shards.ids[row], truth=each.frame.label, views=views, facts=facts)


def _cut(array: np.ndarray, box: Sequence[int], times: int) -> np.ndarray:
    """What of ``(H, W, C)`` is picture, not padding."""
    top, left, height, width = (times * int(value) for value in box)
    return array[top : top + height, left : left + width]


def pixels_of(image: Tensor) -> np.ndarray:
    """``(C, H, W)`` in ``[-1, 1]`` as ``(H, W, C)`` uint8."""
    return image.add(1).mul(127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()


def told(plates: Plates) -> str:
    """In one or two sentences: how well each view is read, and how far it is from the target."""
    some = f"{plates.plates:,} of {plates.of:,} pictures of {plates.where}, drawn once and for all, were"
    whole = f"{plates.where} was"
    begins = f"{whole if plates.plates == plates.of else some} restored and read again with {plates.how}."
    decibels = f"PSNR rose from {plates.psnr[0]:.2f} dB in {plates.views[FLOOR]} to {plates.psnr[1]:.2f} dB."
    if plates.psnr[1] < plates.psnr[0]:
        decibels = decibels.replace("rose", "fell")
    if not plates.read:
        return f"{begins} They have no text to read. {decibels}"
    if plates.lines:
        shares = ", ".join(f"{number(cer)} in {name}" for name, cer in zip(plates.views, plates.cer, strict=True))
        return f"{begins} Edits per true character: {shares}. {decibels}"
    shares = ", ".join(
        f"{number(right)} in {name} ({percent(right / max(plates.plates, 1))})"
        for name, right in zip(plates.views, plates.right, strict=True)
    )
    low, high = plates.between
    return (
        f"{begins} Of {plates.plates:,} plates are read without a mistake: {shares}; of the restored ones the "
        f"95\u00a0% interval over tracks is {low:.3f} to {high:.3f}. {decibels}"
    )
