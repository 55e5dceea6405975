"""A folder at a URL, copied into this node's cache: files of a source, or an export."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cache import Cache
from orchestrator.identity import digest
from orchestrator.manifest import put
from orchestrator.remote import Found, Remote, below, in_turns
from orchestrator.store import StoreError

MARK = ".fetched"  # beside a folder: which files it holds


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A copy of ``url`` at ``path``. ``files`` is a hash of what there was, so that other nodes fetch the same."""

    url: str
    path: Path
    files: str


def fetch_folder(url: str, *, progress: Callable[[int, int], None] = lambda done, total: None) -> Fetched:
    """Copy every file below ``url`` that is not here yet. Raises :class:`StoreError` where there are none.

    Args:
        progress: called with (files done, files in all).
    """
    remote, cache = Remote(url.rstrip("/")), Cache.of_this_node()
    there = remote.list()
    if not there:
        raise StoreError(f"{remote}: there are no files; name the folder that the source reads")
    path = _path(remote, cache)
    fetched = Fetched(url=url, path=path, files=_hash(there))
    cache.hold(path)
    with cache.alone(path, "fill"):
        _fill(remote, cache, path, there, progress)
        put(_mark(path), fetched.files.encode())
    return fetched


def fetch_again(fetched: Fetched) -> None:
    """What another node fetched, fetched on this one. Raises :class:`StoreError` where it would lie elsewhere."""
    remote, cache = Remote(fetched.url.rstrip("/")), Cache.of_this_node()
    if _path(remote, cache) != fetched.path:
        raise StoreError(
            f"{remote} is at {fetched.path} on the launching node, at {_path(remote, cache)} on this one; give all "
            "nodes the same PLUMBLINE_CACHE"
        )
    with suppress(FileNotFoundError):
        if _mark(fetched.path).read_text(encoding="utf-8") == fetched.files:
            return
    found = fetch_folder(fetched.url)
    if found.files != fetched.files:
        raise StoreError(f"{remote}: its files have changed since the launch; run the same command again")


def _fill(
    remote: Remote, cache: Cache, path: Path, there: Mapping[str, Found], progress: Callable[[int, int], None]
) -> None:
    wanted = [name for name, found in there.items() if _look(below(path, name)) != (found.bytes, found.changed_ns)]
    path.mkdir(parents=True, exist_ok=True)
    if wanted:
        cache.make_room(sum(there[name].bytes for name in wanted), entry=path)
    done = len(there) - len(wanted)
    progress(done, len(there))

    def fetch(name: str) -> None:
        nonlocal done
        remote.download(name, below(path, name), changed_ns=there[name].changed_ns)
        done += 1
        progress(done, len(there))

    in_turns(fetch, wanted)
    for parent, folders, files in os.walk(path, topdown=False):
        for file in files:
            if Path(parent, file).relative_to(path).as_posix() not in there:
                Path(parent, file).unlink()
        for folder in folders:
            if not any(Path(parent, folder).iterdir()):
                shutil.rmtree(Path(parent, folder))


def _look(path: Path) -> tuple[int, int] | None:
    with suppress(FileNotFoundError, NotADirectoryError):
        look = path.stat()
        return look.st_size, look.st_mtime_ns
    return None


def _path(remote: Remote, cache: Cache) -> Path:
    return cache.folder / "data" / digest(remote.identity)[:16]


def _mark(path: Path) -> Path:
    return path.with_name(f"{path.name}{MARK}")


def _hash(there: Mapping[str, Found]) -> str:
    return digest(sorted((name, found.bytes, found.changed_ns) for name, found in there.items()))
