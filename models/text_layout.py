"""Which texts a plate can bear, as data: patterns such as ``LLLNNNN``. Plain Python, without Torch.

A pattern is read from left to right:

    L  N  A        a letter A-Z, a digit, either of them
    [ABC] [2-9]    one of the symbols listed
    anything else  itself, such as a hyphen
    ?              what stands before it may be missing
    {3} {2,4}      what stands before it so many times, the rest of them optional

``LLLNNNN`` and ``LLLNLNN`` are the plates of Brazil and Mercosur, ``L{1,3}L{1,2}N{1,4}[EH]?`` those of Germany,
``A{2,8}`` any plate of two to eight symbols.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from models.text import LabelError

KINDS: Mapping[str, str] = {
    "L": string.ascii_uppercase,
    "N": string.digits,
    "A": string.digits + string.ascii_uppercase,
}
PART = re.compile(r"(?P<set>\[[^\[\]]+\])|(?P<one>[^\[\]{}?])")
TIMES = re.compile(r"\?|\{(?P<least>\d+)(,(?P<most>\d+))?\}")
LONGEST = 64

State = frozenset[tuple[int, int]]  # (layout, slots that are filled or passed over): where a text may stand


@dataclass(frozen=True)
class Slot:
    """One place of a layout: the symbols it may hold, upper case, and whether it may be missing."""

    symbols: frozenset[str]
    optional: bool = False


@dataclass(frozen=True)
class Layout:
    """A pattern, checked when it is made. Letters are compared in upper case.

    Attributes:
        pattern: as the module describes it.
    """

    pattern: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.slots) <= LONGEST:
            raise ValueError(f"Layout {self.pattern!r}: has {len(self.slots)} places; allowed: 1 to {LONGEST}")

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """The places of the longest text. Raises :class:`ValueError` where the pattern cannot be read."""
        slots: list[Slot] = []
        place = 0
        while place < len(self.pattern):
            part = PART.match(self.pattern, place)
            if part is None:
                raise ValueError(
                    f"Layout {self.pattern!r}: cannot read {self.pattern[place:]!r}; allowed are L, N, A, [SYMBOLS] "
                    "or a symbol itself, each with ? or {LEAST,MOST} after it"
                )
            times = TIMES.match(self.pattern, part.end())
            least, most = _times(times, self.pattern)
            symbols = _listed(part["set"][1:-1], self.pattern) if part["set"] else KINDS.get(part["one"], part["one"])
            kept = frozenset(symbols.upper())
            slots += [Slot(kept)] * least + [Slot(kept, optional=True)] * (most - least)
            place = times.end() if times else part.end()
        return tuple(slots)

    @property
    def lengths(self) -> tuple[int, int]:
        """The fewest and the most symbols of a text."""
        return sum(not slot.optional for slot in self.slots), len(self.slots)

    def allows(self, text: str) -> bool:
        return Layouts((self,)).allows(text)


def _times(found: re.Match[str] | None, pattern: str) -> tuple[int, int]:
    """How often at least and at most, from what stands behind a part."""
    if found is None:
        return 1, 1
    if found[0] == "?":
        return 0, 1
    least, most = int(found["least"]), int(found["most"] or found["least"])
    if not least <= most <= LONGEST:
        raise ValueError(f"Layout {pattern!r}: {found[0]} should be {{LEAST,MOST}} of at most {LONGEST}")
    return least, most


def _listed(inner: str, pattern: str) -> str:
    """The symbols of ``ABC`` or ``2-9``."""
    for first, last in re.findall(r"(.)-(.)", inner):
        if not first < last:
            raise ValueError(f"Layout {pattern!r}: [{inner}] goes from {first!r} back to {last!r}")
        inner = inner.replace(f"{first}-{last}", "".join(map(chr, range(ord(first), ord(last) + 1))))
    return inner


@dataclass(frozen=True)
class Layouts:
    """Several layouts together, as one machine that reads a text symbol by symbol: allowed is what any of them is."""

    each: tuple[Layout, ...]

    def __post_init__(self) -> None:
        if not self.each:
            raise ValueError("Layouts: none given; to allow any text, decode without layouts")

    @staticmethod
    def of(*patterns: str) -> Layouts:
        return Layouts(tuple(map(Layout, patterns)))

    @property
    def start(self) -> State:
        return frozenset((number, 0) for number in range(len(self.each)))

    def after(self, state: State, symbol: str) -> State:
        """Where ``symbol`` leads from ``state``; empty where no layout goes on like that."""
        symbol, onwards = symbol.upper(), set()
        for number, filled in state:
            for place in self._reach(number, filled):
                if symbol in self.each[number].slots[place].symbols:
                    onwards.add((number, place + 1))
        return frozenset(onwards)

    def next(self, state: State) -> frozenset[str]:
        """The symbols that may follow, upper case."""
        slots = (self.each[number].slots[place] for number, filled in state for place in self._reach(number, filled))
        return frozenset().union(*(slot.symbols for slot in slots))

    def needed(self, state: State) -> int:
        """The fewest symbols that complete a text from here; 0 where it is complete. ``state`` is not empty."""
        return min(sum(not slot.optional for slot in self.each[number].slots[filled:]) for number, filled in state)

    def allows(self, text: str) -> bool:
        state = self.start
        for symbol in text:
            state = self.after(state, symbol)
        return bool(state) and self.needed(state) == 0

    def at(self, place: int) -> frozenset[str]:
        """The symbols that may stand at ``place`` (from 0) of any text, upper case."""
        states = self.start
        for _ in range(place):
            states = frozenset().union(*(self.after(states, symbol) for symbol in self.next(states)))
        return self.next(states)

    def _reach(self, number: int, filled: int) -> range:
        """The slots that the next symbol may fill: up to the first that must not be missing."""
        slots = self.each[number].slots
        last = next((place for place in range(filled, len(slots)) if not slots[place].optional), len(slots) - 1)
        return range(filled, last + 1)


def layouts_of(text: str, layouts: Mapping[str, Layout]) -> tuple[str, ...]:
    """The names of all layouts that allow ``text``."""
    return tuple(name for name, layout in layouts.items() if layout.allows(text))


def check_label(text: str, layouts: Mapping[str, Layout], layout: str = "") -> None:
    """Raise :class:`LabelError` for a label that its own layout, or any where it names none, does not allow."""
    if layout and layout not in layouts:
        raise LabelError(f"{text!r} has the layout {layout!r}; known: {', '.join(layouts)}")
    asked = {layout: layouts[layout]} if layout else layouts
    if not layouts_of(text, asked):
        told = ", ".join(f"{name} ({each.pattern})" for name, each in asked.items())
        raise LabelError(f"{text!r} does not fit {told}")
