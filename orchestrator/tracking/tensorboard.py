"""TensorBoard event files: STORE/tensorboard/RECIPE/LAST-STAGE'S-FINGERPRINT/, one file for each stage.

The tag of a point is ``stage{n}_{name}/{train|val}_{metric}``: of `points`' names, ``val/SET/METRIC`` becomes
``stage0_pretrain/val_SET/METRIC``, ``train/loss/TERM`` becomes ``stage0_pretrain/train_loss/TERM``, and any other name
follows ``train_`` whole, as in ``stage0_pretrain/train_speed/samples_per_s``. The x axis is the optimiser's step.

Beside them stand the names that plate recipes are known by: ``learning_rate``, ``train_loss`` (the weighted sum of the
terms), ``train_TERM``, and of the stage's first validation set ``val_METRIC``, with ``val_word_acc`` for the
recognition rate and ``val_char_acc`` for the character accuracy; ``train_lcofl`` is the weighted sum of the terms
``characters``, ``layout`` and ``ssim``, ``train_embed`` and ``embedding_loss`` the term ``embedding``.

Pictures that the report leaves in ``pictures/`` of a stage's folder are shown as images, ``comparison.png`` as
``stage1_warmup/comparison``, at the stage's last step.

A SummaryWriter would put this machine's name into the file's, and could only begin a new file. Here the length of the
file belongs to the place that was reached, so that what a kill left beyond it is cut off and no point is there twice.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.plan import Recipe
from orchestrator.store import Record, Store
from orchestrator.tracking.points import PICTURES, Point, StageAt, safe

TERM_NAMES = {"embedding": ("train_embed", "embedding_loss")}
METRIC_NAMES = {"recognition_rate": ("val_word_acc",), "character_accuracy": ("val_char_acc",)}
LCOFL = {"characters", "layout", "ssim"}


class EventFiles:
    """Implements :class:`orchestrator.tracking.Sink`."""

    name = key = "tensorboard"

    def __init__(self, recipe: Recipe, store: Store, stages: Sequence[StageAt]) -> None:
        self._store, self._root = store, store.root
        self._folder = store.root / "tensorboard" / recipe.name / stages[-1].fingerprint

    @property
    def where(self) -> str:
        return f"tensorboard --logdir {self._folder.parent.parent}"

    def mask(self, text: str) -> str:
        return text

    def open(self, at: StageAt, place: dict[str, Any], *, done: bool) -> None:
        """Make sure that ``place`` is that of a file which is there, or else the beginning."""
        file = self._root / place.get("file", "")
        if not place or not file.is_file() or file.stat().st_size < place["bytes"]:
            place.clear()
            new = self._file(at)
            place.update({"file": str(new.relative_to(self._root)), "bytes": 0})

    def _file(self, at: StageAt) -> Path:
        return self._folder / f"events.out.tfevents.{at.number:010d}.{at.title}"  # readers go by the files' order

    def mirror(self, at: StageAt, place: dict[str, Any], points: Sequence[Point], record: Record | None) -> None:
        path: Path = self._root / place["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        began = (at.folder / "plan.json").stat().st_mtime
        with path.open("r+b" if path.exists() else "wb") as file:
            file.truncate(place["bytes"])
            file.seek(place["bytes"])
            if not place["bytes"]:
                file.write(_framed(_version(began)))
            for point in points:
                file.write(_framed(_scalar(tag(at, point.name), point, began)))
            for point in aliases(at, points):
                file.write(_framed(_scalar(f"{at.title}/{point.name}", point, began)))
            file.flush()
            os.fsync(file.fileno())
            place["bytes"] = file.tell()

    def close(self, stages: Sequence[tuple[StageAt, dict[str, Any], bool]], *, error: str, done: bool) -> None:
        """Add the pictures that are new since they were last added; nothing else is open between two calls."""
        for at, place, _ in stages:
            path = self._root / place.get("file", "")
            found = {each.name: each for each in sorted((at.folder / PICTURES).glob("*.png"))}
            stamps = {name: [each.stat().st_size, each.stat().st_mtime_ns] for name, each in found.items()}
            new = [found[name] for name, stamp in stamps.items() if place.get("pictures", {}).get(name) != stamp]
            if new and path.is_file():
                self._add_pictures(at, place, path, new)
                place["pictures"] = stamps

    def _add_pictures(self, at: StageAt, place: dict[str, Any], path: Path, new: Sequence[Path]) -> None:
        record = self._store.read(at.folder)
        began = (at.folder / "plan.json").stat().st_mtime
        with path.open("r+b") as file:
            file.truncate(place["bytes"])
            file.seek(place["bytes"])
            for picture in new:
                name = f"{at.title}/{safe(picture.stem)}"
                file.write(_framed(_image(name, picture.read_bytes(), record.steps if record else 0, began)))
            file.flush()
            os.fsync(file.fileno())
            place["bytes"] = file.tell()


def tag(at: StageAt, name: str) -> str:
    side, _, metric = name.partition("/")
    return f"{at.title}/{side}_{metric}" if side in ("train", "val") and metric else f"{at.title}/train_{name}"


def aliases(at: StageAt, points: Sequence[Point]) -> list[Point]:
    """The points that have a second name, under that name without the stage's."""
    lines: dict[tuple[str, int], list[Point]] = {}
    for point in points:
        lines.setdefault((point.file, point.end), []).append(point)
    return [alias for line in lines.values() for alias in _of_line(at, line)]


def _of_line(at: StageAt, line: Sequence[Point]) -> Iterator[Point]:
    """Those of the points that one line of a journal gave."""
    first = next(iter(at.stage.validate), "")
    terms: dict[str, float] = {}
    weights = {name: term.weight for name, term in at.stage.terms.items()}
    for point in line:
        side, _, metric = point.name.partition("/")
        kind, _, name = metric.partition("/")
        names: tuple[str, ...] = ()
        if (side, metric) == ("train", "lr"):
            names = ("learning_rate",)
        elif (side, kind) == ("train", "loss"):
            terms[name] = point.value
            names = (f"train_{name}", *TERM_NAMES.get(name, ()))
        elif (side, kind) == ("train", "weight"):
            weights[name] = point.value  # of a term that ramps, as it was in this epoch
        elif (side, kind) == ("val", first):
            names = (f"val_{name}", *METRIC_NAMES.get(name, ()))
        yield from (replace(point, name=name) for name in names)
    for total, parts in (("train_loss", set(terms)), ("train_lcofl", LCOFL & set(terms))):
        if terms and (total == "train_loss" or "characters" in parts):
            yield replace(
                line[0], name=total, value=sum(weights.get(name, 1.0) * terms[name] for name in sorted(parts))
            )


def _version(time: float) -> bytes:
    from tensorboardX.proto.event_pb2 import Event

    return Event(wall_time=time, file_version="brain.Event:2").SerializeToString()


def _scalar(name: str, point: Point, began: float) -> bytes:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    summary = Summary(value=[Summary.Value(tag=name, simple_value=point.value)])
    return Event(wall_time=point.time or began, step=point.step, summary=summary).SerializeToString()


def _image(name: str, png: bytes, step: int, began: float) -> bytes:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    width, height = struct.unpack(">II", png[16:24])  # of its first chunk
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
    return Event(
        wall_time=began, step=step, summary=Summary(value=[Summary.Value(tag=name, image=image)])
    ).SerializeToString()


def _framed(data: bytes) -> bytes:
    """A record of a TFRecord file: length, checksum of the length, data, checksum of the data."""
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))
