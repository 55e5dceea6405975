"""Labels of many samples as arrays: encoded all at once, so that the labels of a batch are a lookup."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.text import Alphabet


@dataclass(frozen=True, kw_only=True)
class Labels:
    """``n`` labels, one after the other.

    Attributes:
        classes: ``(symbols of all,)`` int16; 0 for a symbol that the alphabet lacks.
        starts: ``(n,)`` int64 place of each label's first class.
        lengths: ``(n,)`` int32 classes of each; 0 where a symbol is lacking, so that the label cannot be spelled.
        needed: ``(n,)`` int32 frames that CTC needs: one a symbol, one more between equal neighbours.
    """

    classes: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    needed: np.ndarray

    @classmethod
    def of(cls, texts: pa.ChunkedArray, alphabet: Alphabet) -> Labels:
        """What :meth:`models.text.Alphabet.encode` says of each of ``texts``, which are normalised already."""
        lengths = np.asarray(pc.utf8_length(texts).to_numpy(), np.int64)
        points = np.frombuffer(_joined(texts).decode().encode("utf-32-le"), np.uint32)
        by_point = np.argsort([ord(symbol) for symbol in alphabet.symbols])
        known = np.array([ord(alphabet.symbols[place]) for place in by_point], np.uint32)
        place = np.searchsorted(known, points).clip(max=len(known) - 1)
        classes = np.where(known[place] == points, by_point[place] + 1, 0).astype(np.int16)
        ends = np.cumsum(lengths)
        starts = ends - lengths
        doubled = np.zeros(len(points), bool)
        doubled[1:] = classes[1:] == classes[:-1]
        doubled[starts[lengths > 0]] = False  # the end of one label and the start of the next are no neighbours
        spelt = _sums(classes == 0, starts, ends) == 0
        return cls(
            classes=classes, starts=starts, lengths=np.where(spelt, lengths, 0).astype(np.int32),
            needed=np.where(spelt, lengths + _sums(doubled, starts, ends), 0).astype(np.int32),
        )  # fmt: skip

    @classmethod
    def together(cls, parts: list[Labels]) -> Labels:
        """The labels of all ``parts``, in that order."""
        sizes = np.cumsum([0, *(len(part.classes) for part in parts)])
        return cls(
            classes=np.concatenate([part.classes for part in parts]),
            starts=np.concatenate([part.starts + size for part, size in zip(parts, sizes, strict=False)]),
            lengths=np.concatenate([part.lengths for part in parts]),
            needed=np.concatenate([part.needed for part in parts]),
        )

    def tokens(self, samples: np.ndarray) -> np.ndarray:
        """``(B, L)`` int64 classes of ``samples``, zero past each label, ``L`` at least 1."""
        lengths = self.lengths[samples]
        places = np.arange(max(int(lengths.max(initial=0)), 1))
        inside = places < lengths[:, None]
        tokens = np.zeros(inside.shape, np.int64)
        tokens[inside] = self.classes[(self.starts[samples][:, None] + places)[inside]]
        return tokens


def _joined(texts: pa.ChunkedArray) -> bytes:
    """The UTF-8 bytes of all ``texts``, one after the other."""
    parts = []
    for chunk in texts.chunks:
        _, offsets, data = chunk.buffers()
        ends = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        parts.append(memoryview(data)[ends[0] : ends[-1]] if data is not None else b"")
    return b"".join(parts)


def _sums(marks: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """``(n,)`` how many of ``marks`` lie in each span."""
    total = np.concatenate([[0], np.cumsum(marks)])
    return total[ends] - total[starts]
