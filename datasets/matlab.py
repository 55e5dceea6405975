"""Reads struct and cell arrays of MATLAB 5 files (``.mat``) with SciPy, in a child process.

A damaged file may crash ``scipy.io.loadmat`` (1.17: up to one changed byte in twenty) or make it ask for any amount of
memory. The child has a limit, holds everything (1.8 GB for the 3 million words of IIIT-5K's 20 MB ``testdata.mat``) and
writes a line of JSON per entry to a temporary file (31 MB there), of which this process holds one line at a time.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from datasets.row import SourceError

Value: TypeAlias = "str | float | list[Any]"  # text, a number, or a list of values
CURE = "expected is a whole MATLAB 5 file: fetch it again, or in MATLAB save it again with '-v7'"


def entries_of(
    path: Path, *names: str, fields: Sequence[str] = (), entries: int | None = None, timeout_s: float | None = None
) -> Iterator[list[Value]]:
    """The fields of each struct of a variable or, without ``fields``, the next cell of every variable in ``names``.

    Arrays of one element come as that element, others as lists (of lists); blanks around text are stripped.

    Args:
        fields: exactly those that the structs have, in their order.
        entries: how many every variable must have; any number, but the same for all, when omitted.
        timeout_s: 50 s per MB and two minutes when omitted, a hundred times what is usual.

    Raises :class:`SourceError`, always before the first entry.
    """
    try:
        with path.open("rb") as file:
            timeout_s = timeout_s or 120 + file.seek(0, os.SEEK_END) / 20_000
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); the source needs this file") from error
    request = json.dumps([str(path), names, fields, entries])
    command = [sys.executable, "-W", "ignore", "-m", "datasets.matlab", request]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}  # threads take memory
    with tempfile.TemporaryFile("w+", encoding="utf-8") as lines:
        try:
            child = subprocess.run(
                command, stdout=lines, stderr=subprocess.PIPE, env=env, text=True, errors="replace", timeout=timeout_s
            )
        except subprocess.TimeoutExpired as error:
            raise SourceError(f"{path}: not read after {timeout_s:.0f} s: is it damaged? {CURE}") from error
        if child.returncode < 0:
            how = signal.Signals(-child.returncode).name + (", memory ran out" if child.returncode == -9 else "")
            raise SourceError(f"{path}: reading it crashed SciPy's MATLAB reader ({how}): the file is damaged; {CURE}")
        if child.returncode:
            raise SourceError(child.stderr.strip())
        lines.seek(0)
        yield from map(json.loads, lines)


def text_of(value: Value, *, where: str) -> str:
    """``value``, which must be one string."""
    if value == []:  # how MATLAB writes the empty string
        return ""
    if not isinstance(value, str):
        raise SourceError(f"{where}: must be one string, found {str(value)[:60]}")
    return value


def texts_of(value: Value, *, where: str) -> list[str]:
    """The strings of a cell array, be it of one cell."""
    return [text_of(text, where=where) for text in (value if isinstance(value, list) else [value])]


def _write_entries(path: str, names: list[str], fields: list[str], entries: int | None) -> None:
    """What the child does. Its messages get the path put before them."""
    import scipy.io

    for limit, most in ((resource.RLIMIT_AS, (8 << 30) + 16 * os.path.getsize(path)), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    try:
        there = [name for name, _, _ in scipy.io.whosmat(path)]
        found = scipy.io.loadmat(path, variable_names=names)
    except Exception as error:  # on damaged bytes SciPy raises anything
        raise SourceError(f"SciPy cannot read it ({type(error).__name__}: {error}); {CURE}") from error
    wanted = f"a struct array with the fields {fields}" if fields else "a cell array"
    for name in names:
        if name not in found:
            raise SourceError(f"no variable {name!r}; it holds {there}: is it another set's file?")
        if list(found[name].dtype.names or ()) != fields or found[name].dtype.kind != "OV"[bool(fields)]:
            raise SourceError(f"{name} must be {wanted}, found {found[name].dtype}")
    counts = {name: found[name].size for name in names}
    if set(counts.values()) != {counts[names[0]] if entries is None else entries}:
        expected = "as many entries each" if entries is None else f"{entries:,} entries"
        raise SourceError(f"{' and '.join(names)} must have {expected}, found {counts}; is the set complete?")
    columns = [found[names[0]][field] for field in fields] or [found[name] for name in names]
    for entry in zip(*[column.ravel("F") for column in columns], strict=True):
        print(json.dumps([_plain(value) for value in entry]))


def _plain(value: object) -> Value:
    while isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "OU":  # cells, or rows of text
        return [_plain(each) for each in value.ravel("F").tolist()]
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return value.tolist()
    if isinstance(value, str | int | float):
        return value.strip() if isinstance(value, str) else value
    raise SourceError(f"text, numbers and cells are expected, found {type(value).__name__} {str(value)[:60]}")


if __name__ == "__main__":
    try:
        _write_entries(*json.loads(sys.argv[1]))
    except SourceError as error:
        sys.exit(f"{json.loads(sys.argv[1])[0]}: {error}")
