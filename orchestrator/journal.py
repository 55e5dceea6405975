"""A stage's metric lines: JSON, in order, each exactly once however often the run was killed.

Everything in ``metrics.jsonl`` is a function of the plan and the data, so two runs write the same bytes. What depends
on the clock goes to ``speed.jsonl``, which is only appended to.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO


class JournalError(ValueError):
    """A journal that lost lines which its checkpoint had counted."""


class Journal:
    """Append-only lines whose length a checkpoint remembers, so that resuming cuts off what it will write again."""

    def __init__(self, path: Path, *, length: int, writes: bool = True) -> None:
        """Open a copy of the first ``length`` bytes of ``path`` in its place. Raises :class:`JournalError`.

        What a process that lost its lease on the stage may still write goes to the file that was there before.

        Args:
            writes: only one rank keeps the journal; the others' lines go nowhere.
        """
        self._length = length
        self._file: BinaryIO | None = None
        if not writes:
            return
        there = path.stat().st_size if path.exists() else 0
        if there < length:
            raise JournalError(
                f"{path}: {there} bytes, but the checkpoint was written after {length}; lines are missing. "
                "Restore the file, or delete the stage's folder to train it anew."
            )
        draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
        with draft.open("wb") as copy:
            if length:
                with path.open("rb") as file:
                    copy.write(file.read(length))
        os.replace(draft, path)
        self._file = path.open("ab")

    def write(self, kind: str, line: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(_encoded({"kind": kind, **line}))

    def sync(self) -> int:
        """Bring every line to disk and return the length in bytes."""
        if self._file is None:
            return self._length
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self.sync()
        if self._file is not None:
            self._file.close()


class Log:
    """Lines with the time they were written, each on disk at once; never cut, so a repeated run adds to them."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self._path, self._writes = path, writes

    def write(self, kind: str, line: Mapping[str, Any]) -> None:
        if self._writes:
            with self._path.open("ab") as file:
                file.write(_encoded({"kind": kind, "time": time.time(), **line}))


def lines(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The lines of a journal, or only those of one kind. An unfinished last line is left out."""
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    rows = [json.loads(line) for line in whole.splitlines()]
    return [row for row in rows if kind in (None, row["kind"])]


def _encoded(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False) + "\n").encode()
