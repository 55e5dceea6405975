"""Words in an LMDB database, as CRNN, deep-text-recognition-benchmark (clovaai) and PARSeq keep them.

The licence is that of the images inside. The root is the folder of one database::

    data.mdb                 num-samples, and from 1 on image-000000001 (an encoded image), label-000000001 (UTF-8)

Needs the extra ``plumbline[lmdb]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from datasets.image import ImageFile, decode
from datasets.on_disk import existing_folder, labelled
from datasets.row import BadImage, Reject, Row, SourceError

if TYPE_CHECKING:
    import lmdb

COUNT_KEY = "num-samples"


@dataclass(frozen=True)
class LmdbImage:
    """An encoded image in a database. Each process opens the database once, when it loads its first image.

    Attributes:
        path: the database's folder.
        key: such as ``"image-000000001"``.
    """

    path: str
    key: str

    def load(self) -> np.ndarray:
        try:
            data = _value(self.path, self.key)
        except SourceError as error:
            raise BadImage("missing", f"{self.path}: {error}") from error
        if data is None:
            raise BadImage("missing", f"{self.path} has no {self.key}")
        return decode(data, name=f"{self.path}:{self.key}")

    def stamp(self) -> str:
        return ImageFile(str(Path(self.path) / "data.mdb")).stamp()


@dataclass(frozen=True, kw_only=True)
class LmdbWords:
    """The words of one database. It does not say which came from one photo, so each is its own group.

    Attributes:
        split: the split all of them are.
    """

    split: Literal["train", "valid", "test"] = "train"

    def __post_init__(self) -> None:
        if self.split not in ("train", "valid", "test"):
            raise ValueError(f"LmdbWords: split is {self.split!r}; it must be 'train', 'valid' or 'test'")

    def rows(self, root: Path | None) -> Iterator[Row | Reject]:
        path = str(existing_folder(root, source="LmdbWords"))
        for number in range(1, _count(path) + 1):
            yield self._row(path, f"{number:09d}")

    def describe(self, root: Path | None) -> Mapping[str, object]:
        return {
            "name": "LMDB words",
            "licence": "that of the images inside",
            "labels": "as stored",
            "group": "image",
            "num_samples": _count(str(existing_folder(root, source="LmdbWords"))),
        }

    def _row(self, path: str, number: str) -> Row | Reject:
        image, label = f"image-{number}", f"label-{number}"
        data = _value(path, label)
        missing = [label] if data is None else [] if _holds(path, image) else [image]
        if data is None or missing:
            return Reject(id=image, reason="missing", detail=f"{path} has no {missing[0]}")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            return Reject(id=image, reason="bad_text", detail=f"{label} is not UTF-8: {error.reason}")
        return labelled(LmdbImage(path, image), text, id=image, group=image, split=self.split)


def _count(path: str) -> int:
    data = _value(path, COUNT_KEY)
    if data is None or not data.isdigit():
        raise SourceError(f"{path}: {COUNT_KEY} must be a number, found {data!r}; is it a database of words?")
    entries = _environment(path).stat()["entries"]
    if len(data) > 18 or int(data) > entries:
        raise SourceError(
            f"{path}: {COUNT_KEY} is {data[:20].decode()} but the database has {entries:,} entries; "
            "it was cut short while it was written: build or fetch it again"
        )
    return int(data)


def _value(path: str, key: str) -> bytes | None:
    with _reading(path) as transaction:
        found = transaction.get(key.encode())
        return None if found is None else bytes(found)


def _holds(path: str, key: str) -> bool:
    with _reading(path) as transaction:
        return transaction.get(key.encode()) is not None


@contextmanager
def _reading(path: str) -> Iterator[lmdb.Transaction]:
    environment = _environment(path)
    try:
        with environment.begin(buffers=True) as transaction:  # buffers: a value is found without being copied
            yield transaction
    except _lmdb().Error as error:
        raise SourceError(f"{path}: {error}; the database is damaged: fetch it again") from error


@cache
def _environment(path: str) -> lmdb.Environment:
    """The database, opened once per process; LMDB refuses to open one twice.

    A forked process keeps its parent's: read-only and without locks it is nothing but a shared map of the file.
    """
    try:
        environment = _lmdb().open(path, readonly=True, create=False, lock=False, readahead=False, max_dbs=0)
    except (_lmdb().Error, OSError) as error:
        raise SourceError(f"{path}: not an LMDB database with a data.mdb ({error}); name the folder of one") from error
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    found = (Path(path) / "data.mdb").stat().st_size
    if found < needed:  # reading past the end of the file would kill the process (SIGBUS), not raise
        environment.close()
        raise SourceError(f"{path}: data.mdb has {found:,} of {needed:,} bytes; it was cut short: fetch it again")
    return environment


def _lmdb():  # type: ignore[no-untyped-def]  # a module whose import is optional
    try:
        import lmdb
    except ImportError as error:
        raise SourceError("LmdbWords needs lmdb, which is not installed: pip install 'plumbline[lmdb]'") from error
    return lmdb
