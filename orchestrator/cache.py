"""A node's cache of what lies at URLs: bounded, shared by all its processes, emptied of what was unused for longest.

``PLUMBLINE_CACHE`` is its folder (``~/.cache/plumbline``), ``PLUMBLINE_CACHE_GB`` what it may hold (100). An entry is a
folder: the shards of a source, a stage, the files of a source. What a process holds is never taken from it: locks are
files of the operating system, which forgets them when a process dies.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from orchestrator.environment import number_from
from orchestrator.identity import digest
from orchestrator.store import StoreError

ENTRIES = ("stores/*/shards/*", "stores/*/runs/*/*", "data/*")
GB = 10**9


@dataclass(frozen=True)
class Cache:
    """The cache in ``folder``."""

    folder: Path

    @staticmethod
    def of_this_node() -> Cache:
        named = os.environ.get("PLUMBLINE_CACHE", "")
        return Cache((Path(named) if named else Path("~/.cache/plumbline")).expanduser().resolve())

    @property
    def limit(self) -> int:
        """Bytes that all entries together may have."""
        return int(number_from("PLUMBLINE_CACHE_GB", 100.0, least=0.0) * GB)

    def hold(self, entry: Path) -> None:
        """Keep ``entry`` from being evicted until this process ends; to be called once for each entry."""
        with self._lock(entry, "use") as lock:
            kept = os.dup(lock.fileno())  # never closed: the lock goes with the process
        fcntl.flock(kept, fcntl.LOCK_SH)
        os.utime(kept)  # when it was last used

    @contextmanager
    def alone(self, entry: Path, purpose: str) -> Iterator[None]:
        """One process of this node at a time."""
        with self._lock(entry, purpose) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def alone_or_not(self, entry: Path, purpose: str) -> Iterator[bool]:
        """Whether no other process is in :meth:`alone` now; if so none gets there until this ends."""
        with self._lock(entry, purpose) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def make_room(self, wanted: int, *, entry: Path) -> None:
        """Evict what was unused for longest until ``wanted`` bytes more fit. Raises :class:`StoreError`."""
        with self.alone(self.folder, "evict"):
            sizes = {path: _bytes_of(path) for path in self._entries()}
            over = sum(sizes.values()) + wanted - self.limit
            for path in sorted(sizes, key=self._used_at):
                if over <= 0:
                    return
                if path != entry and self._evicted(path):
                    over -= sizes[path]
        if over > 0:
            raise StoreError(
                f"{self.folder}: {wanted / GB:.3f} GB more are needed for {entry.name}, the cache may hold "
                f"{self.limit / GB:.3f} GB, and all that is left in it is in use; allow more with PLUMBLINE_CACHE_GB"
            )

    def _entries(self) -> list[Path]:
        return [path for pattern in ENTRIES for path in self.folder.glob(pattern) if path.is_dir()]

    def _evicted(self, entry: Path) -> bool:
        with self.alone_or_not(entry, "use") as free:
            if not free:
                return False
            gone = entry.with_name(f".{entry.name}.{secrets.token_hex(4)}.gone")
            os.replace(entry, gone)
            shutil.rmtree(gone)
            return True

    def _used_at(self, entry: Path) -> float:
        with suppress(FileNotFoundError):
            return self._lock_path(entry, "use").stat().st_mtime
        return 0.0

    def _lock(self, entry: Path, purpose: str) -> IO[str]:
        path = self._lock_path(entry, purpose)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a")

    def _lock_path(self, entry: Path, purpose: str) -> Path:
        """Beside the entries, for a lock must outlive what it guards."""
        return self.folder / "locks" / f"{digest(str(entry))[:32]}.{purpose}"


def _bytes_of(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # another process has just renamed it
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
