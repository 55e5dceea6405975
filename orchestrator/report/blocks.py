"""What a report is made of, whatever it is written as: sections of texts, tables, figures and words that were read."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

NOTHING = "-"
SAID_ANYWAY = ("Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn")  # categories that show nothing, or turn the line around
NUMBER = re.compile(r"[+-]?[\d,]*\.?\d+(e[+-]?\d+)?(\u00a0%)?")


@dataclass(frozen=True, kw_only=True)
class Text:
    says: str
    tone: Literal["plain", "warning", "quiet"] = "plain"
    kind: Literal["text"] = "text"


@dataclass(frozen=True)
class Link:
    """A cell of a table that leads to ``to``, relative to the report's folder."""

    says: str
    to: str

    @property
    def address(self) -> str:
        return quote(self.to)


Cell: TypeAlias = str | Link


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells below ``columns``; ``folded`` ones are opened by a click where the page allows it."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False
    kind: Literal["table"] = "table"

    @property
    def numeric(self) -> list[bool]:
        """Of each column: whether it holds numbers and nothing else, so that it is set to the right."""
        columns = zip(*self.rows, strict=True) if self.rows else iter([()] * len(self.columns))
        return [all(_is_numeric(cell) for cell in column) for column in columns]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A plot: ``svg`` is our own drawing, its texts escaped; ``caption`` says what to see.

    A ``tall`` one is as high as its width makes it.
    """

    title: str
    caption: str
    svg: str
    tall: bool = False
    kind: Literal["figure"] = "figure"


@dataclass(frozen=True, kw_only=True)
class Word:
    """One word that was read.

    Attributes:
        pairs: ``(true, read)`` characters side by side, empty where one of them has none.
        image: the picture as a ``data:`` address.
        facts: confidence, edits and so on, in one line.
    """

    sample: str
    truth: str
    reading: str
    pairs: Sequence[tuple[str, str]]
    confidence: float
    image: str
    facts: str


@dataclass(frozen=True, kw_only=True)
class Words:
    title: str
    caption: str
    words: Sequence[Word]
    kind: Literal["words"] = "words"


@dataclass(frozen=True, kw_only=True)
class View:
    """One picture of a plate or line, as a ``data:`` address, with what is read in it; pairs as in :class:`Word`.

    Attributes:
        read: whether there is anything to read in it.
    """

    name: str
    image: str
    reading: str
    pairs: Sequence[tuple[str, str]]
    read: bool = True

    @property
    def right(self) -> bool:
        return all(true == read for true, read in self.pairs)


@dataclass(frozen=True, kw_only=True)
class Plate:
    """One plate, line or tile of a page in several pictures, and in one line what is to be said of it."""

    sample: str
    truth: str
    views: Sequence[View]
    facts: str


@dataclass(frozen=True, kw_only=True)
class PlateRows:
    """Plates in several pictures each; ``wide`` ones, as lines of text, have their pictures below each other."""

    title: str
    caption: str
    plates: Sequence[Plate]
    wide: bool = False
    kind: Literal["plates"] = "plates"


@dataclass(frozen=True, kw_only=True)
class Folded:
    """Long text as it is, behind a click."""

    title: str
    text: str
    kind: Literal["folded"] = "folded"


Block: TypeAlias = Text | Table | Figure | Words | PlateRows | Folded


@dataclass(frozen=True, kw_only=True)
class Section:
    title: str
    blocks: Sequence[Block]
    anchor: str = ""
    sections: Sequence[Section] = ()


def visible(text: str) -> str:
    """``text`` with characters that print nothing, or change the direction of what follows, written out."""
    return "".join(_spelled(symbol) if _is_hidden(symbol) else symbol for symbol in text)


def number(value: Any) -> str:
    """A measured number to four places, a count as it is."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NOTHING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 10):
        return f"{value:,.0f}"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"


def percent(share: float) -> str:
    return f"{share:.1%}".replace("%", "\u00a0%") if math.isfinite(share) else NOTHING


def spoken(seconds: float) -> str:
    """``3 min 20 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def said(value: Any) -> str:
    """Plain JSON data in one line: ``Cosine(warmup 0.03, floor 0.01)``."""
    if isinstance(value, Mapping):
        name = str(value.get("is", "")).rpartition(".")[2]
        inner = ", ".join(f"{key} {said(item)}" for key, item in value.items() if key != "is")
        return f"{name}({inner})" if name else inner or NOTHING
    if isinstance(value, list | tuple):
        return ", ".join(map(said, value)) or NOTHING
    if isinstance(value, float):
        return f"{value:.6g}"
    return NOTHING if value is None or value == "" else str(value)


def flattened(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """``(path, value)`` of everything in nested mappings, in their order."""
    for key, value in data.items():
        if isinstance(value, Mapping) and value and "is" not in value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", said(value)


def thinned(rows: Sequence[Any], most: int) -> Sequence[Any]:
    """At most about ``most`` of ``rows``, evenly, always with the first and the last."""
    if len(rows) <= most:
        return rows
    places = sorted({round(place * (len(rows) - 1) / (most - 1)) for place in range(most)})
    return [rows[place] for place in places]


def _is_numeric(cell: Cell) -> bool:
    text = cell if isinstance(cell, str) else cell.says
    return text == NOTHING or bool(NUMBER.fullmatch(text))


def _is_hidden(symbol: str) -> bool:
    return symbol not in "\n\t" and unicodedata.category(symbol) in SAID_ANYWAY


def _spelled(symbol: str) -> str:
    return f"\\u{{{ord(symbol):x}}}"
