"""One shard from a source's rows: decode, fit to the ImageSpec, judge the label. Runs in every ingest worker."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

import datasets.image
import models.text
import orchestrator.shards
from datasets.image import ImageSpec
from datasets.row import BadImage, Reject, Row
from models.text import Alphabet, Frames, frames_needed
from orchestrator.identity import digest, plain
from orchestrator.manifest import SCHEMA_VERSION, ShardFile, put
from orchestrator.shards import Facts, Marks, encode_shard, row_digest


class IngestError(RuntimeError):
    """A row that failed for a reason its source does not know: a fault to repair, not a row to reject."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What turns a source's row into a stored row."""

    name: str
    image: ImageSpec
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


@dataclass(frozen=True, kw_only=True)
class ShardSpec:
    """One shard to be made: small enough to travel, and all that its bytes depend on."""

    key: str
    how: Preparation
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, rows: list[Row], how: Preparation) -> ShardSpec:
        """The shard of ``rows``; its key changes with any setting, label, image's stamp, and with the code itself."""
        words = [[row.id, row.text, row.split, row.group, extras_of(row, how), row.image.stamp()] for row in rows]
        return cls(key=digest([SCHEMA_VERSION, _code(), how.marks, words]), how=how, rows=tuple(rows))

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
    """
    text = how.alphabet.normalize(row.text)
    if not text:
        return Reject(id=row.id, reason="unlabelled", detail=f"the label is {row.text!r}")
    try:
        original = row.image.load()
        pixels = fitted(original, how.image)
    except BadImage as error:
        return Reject(id=row.id, reason=error.reason, detail=error.detail)
    except Exception as error:
        raise IngestError(f"{how.name}: row {row.id!r}: {type(error).__name__}: {error}") from error
    flaw, detail = flaw_of(text, pixels.shape[1], how)
    if flaw and row.split == "train":
        return Reject(id=row.id, reason=flaw, detail=detail)
    return {
        "pixels": pixels.tobytes(),
        "width": pixels.shape[1],
        "text": text,
        "text_raw": row.text,
        "id": row.id,
        "group": row.group,
        "split": row.split,
        "source": how.name,
        "flaw": flaw,
        "extras": extras_of(row, how),
        "squeezed": how.image.natural_width(*original.shape[:2]) > how.image.max_width,
    }


def fitted(original: np.ndarray, image: ImageSpec) -> np.ndarray:
    """``original`` as ``image`` wants it. Raises :class:`BadImage`, or ``TypeError`` for what is no image at all."""
    if original.dtype != np.uint8 or original.ndim not in (2, 3):
        raise TypeError(f"load() gave {original.dtype} of shape {original.shape}; uint8 (h, w) or (h, w, 3) expected")
    return image.prepare(original)


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


def extras_of(row: Row, how: Preparation) -> str:
    """The row's extras as JSON. Raises :class:`IngestError` for what is none."""
    try:
        return json.dumps(dict(row.extras), sort_keys=True, ensure_ascii=False)
    except TypeError as error:
        raise IngestError(f"{how.name}: row {row.id!r}: extras must be JSON data: {error}") from error


@cache
def _code() -> str:
    """Changes with what turns a row into bytes: a repaired decoder must not find its old shards and call them sound."""
    modules = [datasets.image, models.text, orchestrator.shards, sys.modules[__name__]]
    return digest([*map(inspect.getsource, modules), cv2.__version__, pa.__version__])


def _missing(spec: ShardSpec) -> dict[str, int]:
    counts = Counter(
        symbol
        for row in spec.rows
        for symbol in missing_symbols(spec.how.alphabet.normalize(row.text), spec.how.alphabet)
    )
    return dict(sorted(counts.items()))
