"""What a plan asks of the things it is made of, whoever wrote them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class Fingerprinted(Protocol):
    @property
    def sha256(self) -> str: ...


class AlphabetLike(Fingerprinted, Protocol):
    @property
    def classes(self) -> int: ...


class FramesLike(Protocol):
    def of(self, width: int) -> int: ...


class TaskLike(Protocol):
    """The config of a task: which parts it has, how many classes it reads, how it is built."""

    @property
    def parts(self) -> tuple[str, ...]: ...
    @property
    def classes(self) -> int: ...
    @property
    def frames(self) -> FramesLike: ...
    def build(self) -> object: ...


class SourceLike(Protocol):
    def rows(self, root: Path | None) -> Iterator[object]: ...


class ScheduleLike(Protocol):
    def factor(self, step: int, steps: int) -> float: ...
