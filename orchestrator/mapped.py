"""The values of a binary column, row by row, as they lie in the mapped file: nothing is copied before it is read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


class Mapped:
    """A column of ``large_binary``.

    Attributes:
        sizes: ``(n,)`` int64 bytes of each row.
        starts: ``(n,)`` int64 place of each row's first byte in the values of its record batch.
        values: of each record batch, uint8.
    """

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._bounds = np.cumsum([0, *map(len, column.chunks)])  # of the record batches, in rows
        mapped = [_mapped(chunk) for chunk in column.chunks]
        self.values = [values for _, values in mapped]
        empty = [np.empty(0, np.int64)]
        self.starts = np.concatenate([offsets[:-1] for offsets, _ in mapped] or empty)
        self.sizes = np.concatenate([np.diff(offsets) for offsets, _ in mapped] or empty)

    def batches_of(self, rows: np.ndarray) -> np.ndarray:
        """``(len(rows),)`` int64 record batch of each row."""
        return np.searchsorted(self._bounds, rows, side="right") - 1

    def row(self, i: int) -> np.ndarray:
        """``(size,)`` uint8: a read-only view of the file."""
        start = int(self.starts[i])
        return self.values[int(self.batches_of(np.array(i)))][start : start + int(self.sizes[i])]

    def probe(self, rows: np.ndarray, count: int) -> np.ndarray:
        """``(len(rows), count)`` uint8 spread evenly over each row's bytes, both ends included; no row may be empty."""
        spread = np.linspace(0, 1, count)
        places = (spread[None, :] * (self.sizes[rows][:, None] - 1)).astype(np.int64) + self.starts[rows][:, None]
        out = np.empty((len(rows), count), np.uint8)
        batches = self.batches_of(rows)
        for batch in np.unique(batches):
            here = batches == batch
            out[here] = self.values[batch][places[here]]
        return out


def _mapped(chunk: pa.LargeBinaryArray) -> tuple[np.ndarray, np.ndarray]:
    """``(n + 1,)`` int64 offsets and the uint8 values they point into, both without a copy."""
    _, offsets, values = chunk.buffers()
    first = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
    return first, np.frombuffer(values, np.uint8) if values is not None else np.empty(0, np.uint8)
