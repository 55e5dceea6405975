"""The contract every source keeps: a source yields rows, and says of each row it cannot give why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np


class SourceError(ValueError):
    """A source that cannot be read at all: missing folder, broken index, unexpected layout."""


class BadImage(ValueError):
    """One image that cannot be used. Its message is the reason that ends up in ``rejects``.

    Attributes:
        reason: short machine-readable reason, such as ``"unreadable"`` or ``"too_small"``.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[BadImage], tuple[str, str]]:
        return BadImage, (self.reason, self.detail)


class ImageRef(Protocol):
    """Where the pixels of a row are: small, picklable, loaded only in the worker that needs them."""

    def load(self) -> np.ndarray:
        """``(h, w)`` or ``(h, w, 3)`` RGB uint8. Raises :class:`BadImage`."""

    def stamp(self) -> str:
        """A short text that changes whenever the pixels may have changed (size and time of a file)."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One labelled image, before it is decoded.

    Attributes:
        id: unique within the source and stable over time; never a position in a shuffled list.
        image: where the pixels are.
        text: the label as the source has it, untouched.
        group: rows of one group (photo, page, track, writer) never fall into different splits.
        split: ``"train"``, ``"valid"`` or ``"test"``.
        extras: anything else evaluation needs, as JSON data (lexicons, other labels).
        target: where the clean picture of the same thing is, when ``image`` is to be restored to it.
        textless: the source knows of no text here: the row is restored and compared, and never read. ``text`` is empty.
    """

    id: str
    image: ImageRef
    text: str
    group: str
    split: str
    extras: Mapping[str, object] = field(default_factory=dict)
    target: ImageRef | None = None
    textless: bool = False

    def __post_init__(self) -> None:
        if self.textless and self.text:
            raise ValueError(f"row {self.id!r} is textless, but its text is {self.text!r}; it must be one or the other")


@dataclass(frozen=True, kw_only=True)
class Reject:
    """A row that could not be given, and why: counted and kept, never dropped in silence."""

    id: str
    reason: str
    detail: str


class Source(Protocol):
    """A frozen dataclass whose fields say which data it is; ``root`` says where it lies."""

    def rows(self, root: Path | None) -> Iterator[Row | Reject]:
        """Every row in a fixed order. Raises :class:`SourceError`."""

    def describe(self, root: Path | None) -> Mapping[str, object]:
        """Facts for the manifest (licence, citation, fonts used ...), as JSON data."""


@runtime_checkable
class Stamped(Protocol):
    """A source that reads more, or less, than the files below its root, and so says itself when they changed."""

    def stamp(self, root: Path | None) -> str:
        """A text that changes whenever the rows may have changed, from names, sizes and times of files alone."""
