"""A stage's metric lines: JSON, in order, each exactly once however often the run was killed.

Everything in ``metrics.jsonl`` is a function of the plan and the data, so two runs write the same bytes. What depends
on the clock goes to ``speed.jsonl``, which is only appended to.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """Append-only lines whose length a checkpoint remembers, so that resuming cuts off what it will write again."""

    def __init__(self, path: Path, *, length: int) -> None:
        """Open ``path`` cut to its first ``length`` bytes. Raises ``ValueError`` when it is shorter than that."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        if self._file.tell() < length:
            raise ValueError(
                f"{path}: {self._file.tell()} bytes, but the checkpoint was written after {length}; lines are missing. "
                "Restore the file, or delete the stage's folder to train it anew."
            )
        self._file.truncate(length)
        self._file.seek(length)

    def write(self, kind: str, line: Mapping[str, Any]) -> None:
        self._file.write((json.dumps({"kind": kind, **line}, ensure_ascii=False) + "\n").encode())

    def sync(self) -> int:
        """Bring every line to disk and return the length in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self.sync()
        self._file.close()


def lines(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The lines of a journal, or only those of one kind. An unfinished last line is left out."""
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    rows = [json.loads(line) for line in whole.splitlines()]
    return [row for row in rows if kind in (None, row["kind"])]
