"""One shard from a source's rows: decode, fit to the recipe's spec of images, judge the label. Runs in every worker."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

import datasets.clean_line
import datasets.degrade
import datasets.degrade_ops
import datasets.degraded
import datasets.image
import datasets.line_image
import datasets.pair_image
import datasets.paper_light
import datasets.paper_ops
import datasets.rectify
import datasets.register
import datasets.ssim
import datasets.worn_line
import datasets.worn_paper
import models.text
import orchestrator.shards
from datasets.degraded import Told
from datasets.image import ImageSpec
from datasets.line_image import LineSpec
from datasets.pair_image import Box, PairSpec
from datasets.row import BadImage, ImageRef, Reject, Row
from models.text import Alphabet, Frames, frames_needed
from orchestrator.identity import digest, plain
from orchestrator.manifest import SCHEMA_VERSION, ShardFile, put
from orchestrator.shards import Facts, Marks, encode_shard, row_digest

Pairs = PairSpec | LineSpec  # specs of two pictures of one thing: what is there, and what it is to become


class IngestError(RuntimeError):
    """A row that failed for a reason its source does not know: a fault to repair, not a row to reject."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What turns a source's row into a stored row."""

    name: str
    image: ImageSpec | Pairs
    alphabet: Alphabet
    frames: Frames

    @property
    def marks(self) -> Marks:
        """What every shard's schema says of how it was made."""
        return {
            "source": self.name,
            "image_sha256": self.image.sha256,
            "alphabet_sha256": self.alphabet.sha256,
            "frames": plain(self.frames),
        }

    def read_width(self, width: int) -> int:
        """Columns that the recogniser sees of an image of ``width``: it reads a pair in high resolution."""
        return width * self.image.scale if isinstance(self.image, Pairs) else width


@dataclass(frozen=True, kw_only=True)
class ShardSpec:
    """One shard to be made: small enough to travel, and all that its bytes depend on."""

    key: str
    how: Preparation
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, rows: list[Row], how: Preparation) -> ShardSpec:
        """The shard of ``rows``; its key changes with any setting, label, image's stamp, and with the code itself."""
        pairs = isinstance(how.image, Pairs)
        words = [
            [row.id, row.text, row.split, row.group, extras_of(row.extras, row.id, how), *_stamps(row, pairs)]
            + (["textless"] if row.textless else [])
            for row in rows
        ]
        key = digest([SCHEMA_VERSION, _code(isinstance(how.image, LineSpec), pairs), how.marks, words])
        return cls(key=key, how=how, rows=tuple(rows))

    @property
    def file(self) -> str:
        return f"{self.key[:20]}.arrow"


def make_shard(spec: ShardSpec, folder: Path) -> ShardFile:
    """Put the shard of ``spec`` into ``folder``: the same bytes in any process on any day.

    Raises :class:`IngestError` naming the row where anything fails that is not the image's fault.
    """
    made = [make_row(row, spec.how) for row in spec.rows]
    kept = [row for row in made if not isinstance(row, Reject)]
    facts: Facts = {
        "marks": spec.how.marks,
        "squeezed": sum(row.pop("squeezed") for row in kept),
        "missing": _missing(spec),
        "rejects": [asdict(row) for row in made if isinstance(row, Reject)],
    }
    data = encode_shard([row | {"digest": row_digest(row)} for row in kept], facts)
    put(folder / spec.file, data)
    sha256 = hashlib.sha256(data).hexdigest()
    return ShardFile(file=spec.file, sha256=sha256, bytes=data.size, rows=len(kept), key=spec.key)


def make_row(row: Row, how: Preparation) -> dict[str, Any] | Reject:
    """The stored row (and ``squeezed``), or why there is none.

    A label that CTC cannot be trained on is rejected in train; elsewhere it is kept as a flaw and counts as an error.
    A pair without its high resolution can only be restored and read: it is rejected everywhere but in test. A row
    without text is kept where its source says that there is none, and is no use without a target.
    """
    text = how.alphabet.normalize(row.text)
    if row.textless and (row.target is None or not isinstance(how.image, Pairs)):
        return Reject(id=row.id, reason="nothing_to_learn", detail="it has neither a text nor a target")
    if not text and not row.textless:
        return Reject(id=row.id, reason="unlabelled", detail=f"the label is {row.text!r}")
    if isinstance(how.image, Pairs) and row.target is None and row.split != "test":
        lacking = "high resolution" if isinstance(how.image, PairSpec) else "clean line"
        return Reject(id=row.id, reason="no_target", detail=f"split {row.split!r} needs its {lacking}, too")
    try:
        fitted = fit(row, how.image)
    except BadImage as error:
        return Reject(id=row.id, reason=error.reason, detail=error.detail)
    except Exception as error:
        raise IngestError(f"{how.name}: row {row.id!r}: {type(error).__name__}: {error}") from error
    flaw, detail = flaw_of(text, how.read_width(fitted.pixels.shape[1]), how)
    if flaw and row.split == "train":
        return Reject(id=row.id, reason=flaw, detail=detail)
    return {
        "pixels": fitted.pixels.tobytes(),
        "target": b"" if fitted.target is None else fitted.target.tobytes(),
        "width": fitted.pixels.shape[1],
        "box": list(fitted.box),
        "text": text,
        "text_raw": row.text,
        "id": row.id,
        "group": row.group,
        "split": row.split,
        "source": how.name,
        "flaw": flaw,
        "extras": extras_of({**row.extras, **fitted.told}, row.id, how),
        "squeezed": fitted.squeezed,
    }


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A row's pictures as they are stored.

    Attributes:
        pixels: ``(height, width)`` or ``(height, width, 3)`` uint8; of a pair the low resolution.
        target: what a pair that has both is to become: ``scale`` times as high and wide, with as many channels.
        box: where in ``pixels`` the picture lies.
        told: what the pictures say of themselves, for the row's extras.
        squeezed: whether it was narrowed to the spec's ``max_width``.
    """

    pixels: np.ndarray
    target: np.ndarray | None = None
    box: Box
    told: Mapping[str, object]
    squeezed: bool = False


def fit(row: Row, image: ImageSpec | Pairs) -> Fitted:
    """The pictures of ``row`` as ``image`` wants them. Raises :class:`BadImage`, ``TypeError`` for what is none."""
    original, told = loaded(row.image)
    height, width = original.shape[:2]
    squeezed = not isinstance(image, PairSpec) and image.natural_width(height, width) > image.max_width
    if isinstance(image, Pairs):
        target, more = loaded(row.target) if row.target is not None else (None, {})
        low, high = image.prepare(original, target)
        told = {**told, **more}
        return Fitted(pixels=low, target=high, box=image.box(height, width), told=told, squeezed=squeezed)
    pixels = image.prepare(original)
    return Fitted(pixels=pixels, box=(0, 0, *pixels.shape[:2]), told=told, squeezed=squeezed)


def loaded(image: ImageRef) -> tuple[np.ndarray, Mapping[str, object]]:
    """The pixels of ``image``, and what it tells of how they came about."""
    original, told = image.load_told() if isinstance(image, Told) else (image.load(), {})
    if original.dtype != np.uint8 or original.ndim not in (2, 3):
        raise TypeError(f"load() gave {original.dtype} of shape {original.shape}; uint8 (h, w) or (h, w, 3) expected")
    return original, told


def flaw_of(text: str, width: int, how: Preparation) -> tuple[str, str]:
    """Reason and detail of why CTC cannot be trained on the normalised ``text`` over ``width`` columns, else empty."""
    missing = missing_symbols(text, how.alphabet)
    if missing:
        return "unencodable", f"{text!r} needs {', '.join(map(repr, missing))}, which the alphabet lacks"
    needed, there = frames_needed(how.alphabet.encode(text)), how.frames.of(width)
    if needed > there:
        return "infeasible", f"{text!r} needs {needed} frames; its {width} columns give {there}"
    return "", ""


def missing_symbols(text: str, alphabet: Alphabet) -> list[str]:
    """The symbols of the normalised ``text`` that ``alphabet`` lacks, each once."""
    return sorted(set(text) - set(alphabet.symbols))


def extras_of(extras: Mapping[str, object], id: str, how: Preparation) -> str:
    """The extras of the row ``id`` as JSON. Raises :class:`IngestError` for what is none."""
    try:
        return json.dumps(dict(extras), sort_keys=True, ensure_ascii=False)
    except TypeError as error:
        raise IngestError(f"{how.name}: row {id!r}: extras must be JSON data: {error}") from error


def _stamps(row: Row, pairs: bool) -> list[str]:
    """What changes with the pixels of ``row``; of a target only where it is stored."""
    return [row.image.stamp(), *([row.target.stamp() if row.target is not None else ""] if pairs else [])]


@cache
def _code(lines: bool, pairs: bool) -> str:
    """Changes with what turns a row into bytes: a repaired decoder must not find its old shards and call them sound."""
    modules = [datasets.image, models.text, orchestrator.shards, sys.modules[__name__]]
    if lines:
        modules += [datasets.line_image, datasets.clean_line, datasets.paper_light, datasets.paper_ops]
        modules += [datasets.worn_line, datasets.worn_paper]
    elif pairs:
        modules += [datasets.pair_image, datasets.rectify, datasets.degraded, datasets.degrade, datasets.degrade_ops]
        modules += [datasets.ssim, datasets.register]
    return digest([*map(inspect.getsource, modules), cv2.__version__, pa.__version__])


def _missing(spec: ShardSpec) -> dict[str, int]:
    counts = Counter(
        symbol
        for row in spec.rows
        for symbol in missing_symbols(spec.how.alphabet.normalize(row.text), spec.how.alphabet)
    )
    return dict(sorted(counts.items()))
