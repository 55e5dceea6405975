"""Reads MATLAB 5 files (``.mat``): nested cells and structs of strings and numbers, one entry at a time.

``scipy.io.loadmat`` does not do: one changed byte in twenty of a struct array of strings ends the process with a
segmentation fault (scipy 1.17), and IIIT-5K's ``testdata.mat`` takes it 2 GB. Here nothing outside an array's own bytes
is read, and what is no MATLAB 5 file ends in a :class:`SourceError` that says so.

Values come out as ``str`` (one row of characters), ``list[str]`` (several rows), numbers (``numpy`` array in MATLAB's
shape) or :class:`Nested` (a cell or struct array).
"""

from __future__ import annotations

import math
import mmap
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from datasets.row import SourceError

HEADER_BYTES = 128
HDF5_MAGIC = b"\x89HDF"
ORDERS = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}  # version 1 as each byte order writes it
DEEPEST = 16  # a cell in a cell in ...; damaged files pretend more
INT8, INT32, UINT32, MATRIX, COMPRESSED = 1, 5, 6, 14, 15
CELL, STRUCT, CHAR = 1, 2, 4
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}  # by element
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}  # by array
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
TEXT_HEAD = struct.Struct("<5I4x8I")  # array and size, flags (a reserved word skipped), shape, name, type and length
SHORT_TEXT = [UINT32, 8, CHAR, INT32, 8, 1]  # what it holds for one row of characters, up to their number

Buffer: TypeAlias = "bytes | mmap.mmap"
Value: TypeAlias = "str | list[str] | np.ndarray | Nested"


class DamagedError(ValueError):
    """Bytes that cannot be what a MATLAB 5 file has in that place."""


@dataclass(frozen=True, kw_only=True)
class Nested:
    """A cell or struct array, read while it is gone through.

    Attributes:
        where: file and variable, for messages.
        fields: of a struct; a cell has none.
        entries: how many structs or cells.
    """

    where: str
    fields: tuple[str, ...]
    entries: int
    buffer: Buffer
    span: tuple[int, int]
    order: str
    depth: int

    def structs(self) -> Iterator[tuple[Value, ...]]:
        """The fields of every struct in turn."""
        yield from zip(*[self._values()] * len(self.fields), strict=True)

    def cells(self) -> Iterator[Value]:
        """The content of every cell in turn."""
        return self._values()

    def _values(self) -> Iterator[Value]:
        at, end = self.span
        for _ in range(self.entries * max(len(self.fields), 1)):
            short, after = _short_text(self.buffer, at, end) if self.order == "<" else (None, at)
            if short is not None:
                at = after
                yield short
                continue
            try:
                kind, start, stop, at = _element(self.buffer, at, end, self.order)
                value = _matrix(self, kind, start, stop)
            except DamagedError as error:
                raise damaged(self.where, error) from error
            yield value


def variable(path: Path, name: str) -> Value:
    """The variable ``name`` of the file. Raises :class:`SourceError`."""
    try:
        with path.open("rb") as file:
            order = _byte_order(path, file.read(HEADER_BYTES))
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); the source needs this file") from error
    try:
        return _find(buffer, name, path=path, order=order)
    except (DamagedError, zlib.error) as error:
        raise damaged(str(path), error) from error


def nested(path: Path, name: str, *, fields: Sequence[str] = (), entries: int | None = None) -> Nested:
    """The struct array ``name`` with exactly ``fields``, or the cell array where there are none.

    Args:
        entries: how many there must be; any number when omitted.
    """
    array = variable(path, name)
    wanted = f"a struct array with the fields {list(fields)}" if fields else "a cell array"
    if not isinstance(array, Nested) or list(array.fields) != list(fields):
        raise SourceError(f"{path}: {name} must be {wanted}, found {kind_of(array)}")
    if entries is not None and array.entries != entries:
        raise SourceError(
            f"{path}: {name} must have {entries:,} entries, found {array.entries:,}; is the set complete?"
        )
    return array


def text_of(value: Value, *, where: str) -> str:
    """The string in ``value``, be it in cells of its own; MATLAB's padding blanks are stripped."""
    while isinstance(value, Nested) and not value.fields and value.entries == 1:
        value = next(value.cells())
    if isinstance(value, np.ndarray) and value.size == 0:  # MATLAB writes '' as an empty array of numbers
        return ""
    if not isinstance(value, str):
        raise SourceError(f"{where}: must be one string, found {kind_of(value)}")
    return value.strip()


def texts_of(value: Value, *, where: str) -> list[str]:
    """The strings of a cell array of strings."""
    if not isinstance(value, Nested) or value.fields:
        raise SourceError(f"{where}: must be a cell array of strings, found {kind_of(value)}")
    return [text_of(word, where=where) for word in value.cells()]


def kind_of(value: Value) -> str:
    """What ``value`` is, in words for a message."""
    if isinstance(value, Nested):
        return f"a struct array with the fields {list(value.fields)}" if value.fields else f"{value.entries} cells"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} numbers of shape {value.shape}"
    return f"the text {value[:40]!r}" if isinstance(value, str) else f"{len(value)} rows of text"


def damaged(where: str, error: Exception) -> SourceError:
    cure = "it is damaged or cut short: fetch it again and compare its checksum"
    return SourceError(f"{where}: not a readable MATLAB 5 file ({error}); {cure}")


def _byte_order(path: Path, header: bytes) -> str:
    if header.startswith((HDF5_MAGIC, b"MATLAB 7.3")):
        raise SourceError(f"{path}: MATLAB 7.3 (HDF5), only version 5 is read; in MATLAB save it again with '-v7'")
    if header[124:] not in ORDERS:
        raise SourceError(f"{path}: not a MATLAB 5 file: its first {len(header)} bytes are no MATLAB 5 header")
    return ORDERS[header[124:]]


def _find(buffer: Buffer, name: str, *, path: Path, order: str) -> Value:
    at, there = HEADER_BYTES, []
    while at < len(buffer):
        kind, start, stop, _ = _element(buffer, at, len(buffer), order)
        inner, at = (buffer, start, stop), stop  # nothing pads a variable
        if kind == COMPRESSED:
            inner = _unpacked(buffer[start:stop], order, most=1024)  # its name is near its start
        there.append(_name(*inner, order))
        if there[-1] == name:
            inner = _unpacked(buffer[start:stop], order) if kind == COMPRESSED else inner
            whole = Nested(
                where=f"{path}: {name}", fields=(), entries=1, buffer=inner[0], span=inner[1:], order=order, depth=0
            )
            return _matrix(whole, MATRIX, *inner[1:])
    raise SourceError(f"{path}: no variable {name!r}; it holds {there}: is it another set's file?")


def _unpacked(packed: bytes, order: str, most: int = 0) -> tuple[Buffer, int, int]:
    """The matrix in a compressed element, or its first ``most`` bytes, and where its content starts and stops."""
    unpacker = zlib.decompressobj()
    head = unpacker.decompress(packed, 8)
    if len(head) < 8 or struct.unpack(f"{order}I", head[:4]) != (MATRIX,):
        raise DamagedError("a compressed element that is no array")
    (size,) = struct.unpack(f"{order}I", head[4:])
    body = unpacker.decompress(unpacker.unconsumed_tail, min(size, most) if most else size) if size else b""
    if len(body) < size and not most:
        raise DamagedError(f"a compressed array of {len(body):,} bytes instead of {size:,}")
    return body, 0, len(body)


def _element(buffer: Buffer, at: int, end: int, order: str) -> tuple[int, int, int, int]:
    """Type, start and stop of the element at ``at``, and where the next one is."""
    if at + 8 > end:
        raise DamagedError(f"an element at byte {at} of {end}")
    kind, size = struct.unpack_from(f"{order}II", buffer, at)
    if kind >> 16:  # up to 4 bytes of data share the 8 bytes with their type and size
        if kind >> 16 > 4:
            raise DamagedError(f"a small element of {kind >> 16} bytes at byte {at}")
        return kind & 0xFFFF, at + 4, at + 4 + (kind >> 16), at + 8
    if at + 8 + size > end:
        raise DamagedError(f"an element of {size:,} bytes at byte {at} of {end}")
    return kind, at + 8, at + 8 + size, min(at + 8 + (size + 7) // 8 * 8, end)


def _expect(buffer: Buffer, at: int, end: int, order: str, *kinds: int) -> tuple[int, int, int]:
    """Start and stop of the element at ``at``, which is of one of ``kinds``, and where the next one is."""
    kind, start, stop, after = _element(buffer, at, end, order)
    if kind not in kinds:
        raise DamagedError(f"an element of type {kind} at byte {at}, where type {kinds[0]} belongs")
    return start, stop, after


def _name(buffer: Buffer, start: int, stop: int, order: str) -> str:
    """The name of the variable whose content starts at ``start``."""
    _, _, at = _expect(buffer, start, stop, order, UINT32)
    _, _, at = _expect(buffer, at, stop, order, INT32)
    first, last, _ = _expect(buffer, at, stop, order, INT8)
    return buffer[first:last].decode("latin-1")


def _matrix(parent: Nested, kind: int, start: int, stop: int) -> Value:
    """The array whose content is ``buffer[start:stop]``."""
    buffer, order = parent.buffer, parent.order
    if kind != MATRIX or parent.depth > DEEPEST:
        raise DamagedError(
            f"an element of type {kind} at byte {start}, {parent.depth} levels deep, where an array belongs"
        )
    if start == stop:
        return np.empty((0, 0))
    first, last, at = _expect(buffer, start, stop, order, UINT32)
    flags = int.from_bytes(buffer[first:last][:4], "little" if order == "<" else "big")
    first, last, at = _expect(buffer, at, stop, order, INT32)
    shape = tuple(np.frombuffer(buffer[first : last - (last - first) % 4], f"{order}i4").tolist())
    _, _, at = _expect(buffer, at, stop, order, INT8)
    entries = math.prod(shape)
    if not 2 <= len(shape) <= 32 or min(shape) < 0 or flags & 0x800:
        raise DamagedError(f"an array of shape {shape}, flags {flags:#x} at byte {start}")
    if flags & 0xFF == CHAR:
        return _characters(buffer, at, stop, order, shape)
    if flags & 0xFF in CLASSES:
        return _numbers(buffer, at, stop, order, shape).astype(CLASSES[flags & 0xFF])
    if flags & 0xFF not in (CELL, STRUCT):
        raise DamagedError(
            f"an array of class {flags & 0xFF} at byte {start}; only cells, structs, text and numbers are read"
        )
    fields, at = _fields(buffer, at, stop, order) if flags & 0xFF == STRUCT else ((), at)
    if entries * max(len(fields), 1) * 8 > stop - at:
        raise DamagedError(f"{entries:,} entries at byte {start}, more than its {stop - at:,} bytes can hold")
    return replace(parent, fields=fields, entries=entries, span=(at, stop), depth=parent.depth + 1)


def _characters(buffer: Buffer, at: int, end: int, order: str, shape: tuple[int, ...]) -> str | list[str]:
    kind, start, stop, _ = _element(buffer, at, end, order) if at < end else (16, at, at, at)
    if kind not in TEXTS:
        raise DamagedError(f"text in an element of type {kind} at byte {at}")
    codec = TEXTS[kind] + {"<": "-le", ">": "-be"}[order] * (kind in (4, 17, 18))
    try:
        text = buffer[start:stop].decode(codec)
    except UnicodeDecodeError as error:
        raise DamagedError(f"text at byte {start}: {error.reason}") from error
    if len(text) != math.prod(shape):
        raise DamagedError(f"{len(text)} characters at byte {start} for the shape {shape}")
    return text if shape[0] <= 1 or not text else [text[row :: shape[0]] for row in range(shape[0])]


def _short_text(buffer: Buffer, at: int, end: int) -> tuple[str | None, int]:
    """The string at ``at`` in one step, and where the next entry is; none where it is not one row of plain ASCII.

    :func:`_matrix` reads the same in seven steps, too many for the 3 million words of IIIT-5K's lexicons.
    """
    if at + TEXT_HEAD.size > end:
        return None, at
    kind, size, *head, entries, name, name_size, stored, length = TEXT_HEAD.unpack_from(buffer, at)
    start, after, room = at + TEXT_HEAD.size, at + 8 + size, size - TEXT_HEAD.size + 8
    if stored >> 16:
        stored, length, start, room = stored & 0xFFFF, stored >> 16, start - 4, min(room, 0) + 4
    plain = kind == MATRIX and head == SHORT_TEXT and (name, name_size, stored, length) == (INT8, 0, 16, entries)
    if not plain or size % 8 or room < 0 or length > room or after > end:
        return None, at
    text = buffer[start : start + length]
    return (text.decode("ascii"), after) if text.isascii() else (None, at)


def _numbers(buffer: Buffer, at: int, end: int, order: str, shape: tuple[int, ...]) -> np.ndarray:
    start, stop, _ = _expect(buffer, at, end, order, *NUMBERS) if at < end else (at, at, at)
    kind = _element(buffer, at, end, order)[0] if at < end else 9
    stored = np.dtype(order + NUMBERS[kind])
    if stop - start != math.prod(shape) * stored.itemsize:
        raise DamagedError(f"{stop - start} bytes of {stored} at byte {start} for the shape {shape}")
    return np.frombuffer(buffer[start:stop], stored).reshape(shape if start < stop else (0, 0), order="F")


def _fields(buffer: Buffer, at: int, end: int, order: str) -> tuple[tuple[str, ...], int]:
    """The field names of a struct array, and where its values start."""
    first, last, at = _expect(buffer, at, end, order, INT32)
    length = int.from_bytes(buffer[first:last], "little" if order == "<" else "big")
    first, last, at = _expect(buffer, at, end, order, INT8)
    if not 0 < length <= 64 or (last - first) % length or first == last:
        raise DamagedError(f"field names of {last - first} bytes in steps of {length} at byte {first}")
    names = [buffer[start : start + length].partition(b"\0")[0] for start in range(first, last, length)]
    return tuple(name.decode("latin-1") for name in names), at
