"""Shards: Arrow files of pre-decoded pixels and labels, mapped into memory and read by row number.

A shard holds at most 4096 rows per record batch. ``pixels`` are uint8, row-major, ``height x width`` or
``height x width x channels``, without padding. ``target`` is what the ``pixels`` of a pair are to become, ``scale``
times as high and wide. A row whose ``text`` is empty has none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.text import Alphabet
from orchestrator.labels import Labels
from orchestrator.manifest import SCHEMA_VERSION, Manifest, ShardError, ShardFile, put, summary
from orchestrator.mapped import Mapped

__all__ = ["SCHEMA_VERSION", "Manifest", "ShardError", "ShardFile", "Shards", "encode_shard", "put", "summary"]

BATCH_ROWS = 4096
COLUMNS = pa.schema(
    [
        pa.field("pixels", pa.large_binary(), nullable=False),
        pa.field("target", pa.large_binary(), nullable=False),  # empty for what is no pair, or has only one half
        pa.field("width", pa.int32(), nullable=False),  # in pixels; all of them valid, none padding
        pa.field("box", pa.list_(pa.int16(), 4), nullable=False),  # of the picture in pixels: top, left, height, width
        pa.field("text", pa.string(), nullable=False),  # normalised by the alphabet
        pa.field("text_raw", pa.string(), nullable=False),  # as the source has it
        pa.field("id", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("flaw", pa.string(), nullable=False),  # empty, or why the label cannot be trained on
        pa.field("extras", pa.string(), nullable=False),  # JSON
        pa.field("digest", pa.binary(32), nullable=False),  # SHA-256 of the row
    ]
)


class Marks(TypedDict):
    """How a shard was made: what a folder's shards and its manifest must agree on."""

    source: str
    image_sha256: str
    alphabet_sha256: str
    frames: Mapping[str, object]


class Facts(TypedDict):
    """What a shard's schema says besides its rows, as JSON.

    Attributes:
        squeezed: rows narrowed to the spec's ``max_width``.
        missing: symbol -> labels, kept or rejected, that need it and found it lacking in the alphabet.
        rejects: ``id``, ``reason`` and ``detail`` of the rows that are not here.
    """

    marks: Marks
    squeezed: int
    missing: dict[str, int]
    rejects: list[dict[str, str]]


def row_digest(row: Mapping[str, object]) -> bytes:
    """SHA-256 of a row's pixels and words. The source's name is left out: it belongs to the recipe, not to the data.

    Nor is the box of a row without target said: it follows from the picture, and what was ingested before there were
    boxes keeps its digest.
    """
    words = [row[name] for name in ("width", "text", "text_raw", "id", "group", "split", "flaw", "extras")]
    digest = hashlib.sha256(json.dumps(words).encode())
    digest.update(row["pixels"])  # type: ignore[arg-type]
    if row["target"]:
        digest.update(json.dumps(row["box"]).encode())
        digest.update(row["target"])  # type: ignore[arg-type]
    return digest.digest()


def encode_shard(rows: Sequence[Mapping[str, object]], facts: Facts) -> pa.Buffer:
    """The bytes of a shard: the same for the same ``rows`` and ``facts``."""
    metadata = {"schema_version": str(SCHEMA_VERSION), "facts": json.dumps(facts)}
    table = pa.Table.from_pylist(rows, schema=COLUMNS.with_metadata(metadata))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=BATCH_ROWS)
    return sink.getvalue()


def read_shard(path: Path) -> tuple[pa.Table, Facts]:
    """A shard's rows, mapped, and its facts. Raises :class:`ShardError`."""
    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
            table = reader.read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise ShardError(
            f"shard {path} cannot be read ({error}); ingest again: only damaged shards are re-made"
        ) from error
    metadata = table.schema.metadata or {}
    version = metadata.get(b"schema_version", b"none").decode()
    if version != str(SCHEMA_VERSION) or not table.schema.equals(COLUMNS):
        raise ShardError(
            f"shard {path} has schema version {version}; this program reads {SCHEMA_VERSION}; ingest again"
        )
    return table, json.loads(metadata[b"facts"])


class Shards:
    """All rows of a folder of shards, numbered in the order of the manifest. Pixels stay on disk until they are read.

    Attributes:
        folder: where the shards lie.
        manifest: what they hold.
        scale: how many times higher and wider targets are; 0 where rows are single images.
        widths: ``(size,)`` int32 columns of each image.
        has_target: ``(size,)`` whether there is a target.
    """

    def __init__(self, folder: Path, manifest: Manifest, tables: Sequence[pa.Table]) -> None:
        self.folder = folder
        self.manifest = manifest
        self._height = int(manifest.image["height"])
        self.scale = int(manifest.image.get("scale", 0))
        self._channels = int(manifest.image.get("channels", 3))  # pairs of colour had no other once, and did not say so
        self._table = pa.concat_tables(tables) if tables else COLUMNS.empty_table()
        self._low, self._high = (Mapped(self._table.column(name)) for name in ("pixels", "target"))
        self.widths = self._table.column("width").to_numpy()
        sizes = self.widths.astype(np.int64) * self._height * self._channels
        self.has_target = self._high.sizes > 0
        if not np.array_equal(self._low.sizes, sizes):
            raise ShardError(
                f"{folder}: pixels do not fit {self._height} rows x width x {self._channels} channels; ingest again"
            )
        if not np.array_equal(self._high.sizes, self.has_target * sizes * self.scale**2):
            raise ShardError(f"{folder}: targets are not {self.scale} times as high and wide as pixels; ingest again")

    @classmethod
    def open(cls, folder: Path, *, verify: bool) -> Shards:
        """Map every shard of ``folder``; ``verify`` reads all of them first and compares their SHA-256.

        Raises :class:`ShardError` naming the shard, what was found, what was expected and the cure.
        """
        manifest = Manifest.read(folder)
        tables = []
        for shard in manifest.shards:
            shard.check(folder, contents=verify)
            table, facts = read_shard(folder / shard.file)
            if facts["marks"] != marks(manifest):
                raise ShardError(
                    f"shard {folder / shard.file} was made as {facts['marks']}, the manifest says {marks(manifest)}; "
                    "ingest again"
                )
            tables.append(table)
        return cls(folder, manifest, tables)

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self.folder,)

    @property
    def size(self) -> int:
        return len(self.widths)

    @property
    def read_widths(self) -> np.ndarray:
        """``(size,)`` columns that a recogniser sees of each row: those of the high resolution where rows are pairs."""
        return self.widths * max(self.scale, 1)

    @cached_property
    def boxes(self) -> np.ndarray:
        """``(size, 4)`` int16 top, left, height and width of the picture in ``pixels``; around it is padding."""
        boxes = [np.asarray(chunk.flatten()) for chunk in self._table.column("box").chunks]
        return np.concatenate([np.empty(0, np.int16), *boxes]).reshape(-1, 4)

    def pixels(self, i: int) -> np.ndarray:
        """``(height, width)`` or ``(height, width, channels)`` uint8 of row ``i``: a read-only view of the file."""
        self._check([i])
        shape = (self._height, int(self.widths[i]), self._channels)[: 2 if self._channels == 1 else 3]
        return self._low.row(i).reshape(shape)

    def target(self, i: int) -> np.ndarray | None:
        """What row ``i`` is to become, ``scale`` times as large as :meth:`pixels`: a view of the file; none without."""
        if not self.has_target[self._check([i])[0]]:
            return None
        shape = (self.scale * self._height, self.scale * int(self.widths[i]), self._channels)
        return self._high.row(i).reshape(shape[: 2 if self._channels == 1 else 3])

    def gather(self, indices: np.ndarray | Sequence[int], width: int) -> np.ndarray:
        """``(len(indices), height, width, channels)`` uint8, zero to the right of each image.

        Args:
            indices: row numbers, in any order and as often as wanted.
            width: columns of the result; no image among ``indices`` may be wider.
        """
        indices = self._check(indices)
        widths = self.widths[indices]
        if len(indices) and widths.max() > width:
            widest = int(widths.argmax())
            raise ValueError(
                f"row {indices[widest]} of {self.folder.name} is {widths[widest]} columns wide; the batch holds {width}"
            )
        out = np.zeros((len(indices), self._height, width * self._channels), np.uint8)
        _copy(self._low, indices, widths * self._channels, out)
        return out.reshape(len(indices), self._height, width, self._channels)

    def gather_targets(self, indices: np.ndarray | Sequence[int], width: int | None = None) -> np.ndarray:
        """``(len(indices), scale * height, scale * width, channels)`` uint8, zero to the right of each target.

        Args:
            width: as in :meth:`gather`; that of the widest of ``indices`` when omitted.

        Raises ``ValueError`` naming a row without target.
        """
        indices = self._check(indices)
        if not self.has_target[indices].all():
            row = int(indices[~self.has_target[indices]][0])
            raise ValueError(
                f"row {row} ({self.ids[row]!r}) of {self.folder.name} has no target; it can only be restored and read"
            )
        widths, height = self.widths[indices], self.scale * self._height
        columns = self.scale * (int(widths.max(initial=0)) if width is None else width)
        out = np.zeros((len(indices), height, columns * self._channels), np.uint8)
        _copy(self._high, indices, widths * self.scale * self._channels, out)
        return out.reshape(len(indices), height, columns, self._channels)

    def probe(self, indices: np.ndarray, count: int, *, target: bool = False) -> np.ndarray:
        """``(len(indices), count + 4)`` uint8: each row's width, and ``count`` bytes spread evenly over its pixels.

        Equal pictures have equal probes; different ones nearly always have different ones.

        Args:
            target: look at the high resolution, which all of ``indices`` must have.
        """
        out = np.empty((len(indices), count + 4), np.uint8)
        out[:, :4] = self.widths[indices].astype("<i4")[:, None].view(np.uint8)
        out[:, 4:] = (self._high if target else self._low).probe(indices, count)
        return out

    def _check(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        indices = np.asarray(indices, np.int64)
        if len(indices) and not 0 <= indices.min() <= indices.max() < self.size:
            raise IndexError(f"rows {indices.min()} to {indices.max()} of {self.folder.name}; there are {self.size}")
        return indices

    @cached_property
    def texts(self) -> list[str]:
        return self._table.column("text").to_pylist()

    def labels(self, rows: np.ndarray, alphabet: Alphabet) -> Labels:
        """The labels of ``rows`` in the classes of ``alphabet``."""
        texts = self._table.column("text").take(rows)
        if self.manifest.alphabet_sha256 != alphabet.sha256:  # normalised, but not as this alphabet would
            texts = pa.chunked_array([pa.array([alphabet.normalize(text) for text in texts.to_pylist()], pa.string())])
        return Labels.of(texts, alphabet)

    @property
    def textless(self) -> np.ndarray:
        """``(size,)`` whether the source has no text for a row."""
        return pc.equal(self._table.column("text"), "").to_numpy()

    @cached_property
    def texts_raw(self) -> list[str]:
        return self._table.column("text_raw").to_pylist()

    @cached_property
    def ids(self) -> list[str]:
        return self._table.column("id").to_pylist()

    @cached_property
    def groups(self) -> list[str]:
        return self._table.column("group").to_pylist()

    @cached_property
    def splits(self) -> np.ndarray:
        """``(size,)`` strings."""
        return np.array(self._table.column("split").to_pylist(), dtype="U5")

    @cached_property
    def flaws(self) -> list[str]:
        return self._table.column("flaw").to_pylist()

    def extras(self, i: int) -> dict[str, object]:
        """What else the source knows of row ``i``."""
        return json.loads(self._table.column("extras")[i].as_py())

    def rows_of(self, split: str) -> np.ndarray:
        """``(k,)`` int64 numbers of the rows of ``split``, ascending."""
        return np.flatnonzero(pc.equal(self._table.column("split"), split).to_numpy())


def marks(manifest: Manifest) -> Marks:
    """What every shard of ``manifest`` must say of how it was made."""
    return {
        "source": manifest.name,
        "image_sha256": manifest.image_sha256,
        "alphabet_sha256": manifest.alphabet_sha256,
        "frames": manifest.frames,
    }


def _copy(column: Mapped, rows: np.ndarray, across: np.ndarray, out: np.ndarray) -> None:
    """Copy ``rows`` into ``out``, ``(n, height, bytes)``; columns and channels lie side by side: one copy moves both.

    Args:
        across: ``(n,)`` bytes in each line of an image.
    """
    values, height = column.values, out.shape[1]
    lots = zip(column.batches_of(rows).tolist(), column.starts[rows].tolist(), across.tolist(), strict=True)
    for image, (batch, start, line) in zip(out, lots, strict=True):
        image[:, :line] = values[batch][start : start + height * line].reshape(height, line)


def _reopen(folder: Path) -> Shards:
    return Shards.open(folder, verify=False)
