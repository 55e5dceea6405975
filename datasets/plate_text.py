"""What the text of a number plate may be: its symbols, its length, and the layouts of its country as plain patterns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from datasets.on_disk import storable
from datasets.row import Reject

DIGITS = "0123456789"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
KINDS = {"L": LETTERS, "N": DIGITS, "X": DIGITS + LETTERS}  # what a character of a pattern stands for
BRAZIL: Mapping[str, tuple[str, ...]] = {"Brazilian": ("LLLNNNN",), "Mercosur": ("LLLNLNN",)}
SAME = {"mercosul": "mercosur"}  # one layout, written in two ways


class BadLabel(ValueError):
    """A plate's text that cannot be right.

    Attributes:
        reason: short machine-readable reason, which ends up in ``rejects``.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def reject(self, id: str) -> Reject:
        """The row of that id, refused for this reason."""
        return Reject(id=storable(id), reason=self.reason, detail=storable(self.detail))


@dataclass(frozen=True, kw_only=True)
class PlateLabels:
    """Judges what a data set says a plate reads.

    Attributes:
        symbols: every character a plate may hold.
        layouts: name of a layout -> its patterns, of ``L`` (letter), ``N`` (digit) and ``X`` (either), of any length;
            no pattern at all allows any text. Without layouts, whatever layout a data set names is taken as it is.
        shortest: characters of the shortest plate of a layout without patterns.
        longest: likewise of the longest.
        ignored: characters that stand on plates without being read.
    """

    symbols: str = DIGITS + LETTERS
    layouts: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict(BRAZIL))
    shortest: int = 1
    longest: int = 10
    ignored: str = "- .·"

    def __post_init__(self) -> None:
        for name, patterns in self.layouts.items():
            strange = sorted({kind for pattern in patterns for kind in pattern} - KINDS.keys())
            if strange or "" in patterns:
                raise ValueError(
                    f"PlateLabels: layout {name!r} has the patterns {patterns}; each is a text of L (letter), "
                    "N (digit) and X (either)"
                )
        if not 1 <= self.shortest <= self.longest:
            raise ValueError(
                f"PlateLabels: shortest {self.shortest}, longest {self.longest}; 1 <= shortest <= longest is needed"
            )

    def read(self, text: str, layout: str = "") -> tuple[str, str]:
        """The plate's text as it is learnt, and its layout.

        An empty ``layout`` is found from the text where one layout alone has such texts.
        Raises :class:`BadLabel` (unlabelled, outside_charset, unknown_layout, wrong_length, contradicts_layout).
        """
        # Outside ASCII upper() would turn one symbol into another: a sharp s into SS, a dotless i into I.
        upper = "".join(symbol.upper() if symbol.isascii() else symbol for symbol in text)
        plate = "".join(symbol for symbol in upper if symbol not in self.ignored and not symbol.isspace())
        if not plate:
            raise BadLabel("unlabelled", f"its label is {text!r}")
        outside = sorted(set(plate) - set(self.symbols))
        if outside:
            raise BadLabel("outside_charset", f"{text!r} holds {', '.join(map(repr, outside))}, which no plate has")
        if not self.layouts or layout:
            known = self.layout(layout)
            self._check(plate, known, self.layouts.get(known, ()))
            return plate, known
        fitting = [name for name, patterns in self.layouts.items() if self._fits(plate, patterns)]
        if not fitting:
            self._check_length(plate, "any layout", [p for patterns in self.layouts.values() for p in patterns])
            raise BadLabel("contradicts_layout", f"{plate!r} fits none of {', '.join(self.layouts)}")
        return plate, fitting[0] if len(fitting) == 1 else ""

    def layout(self, name: str) -> str:
        """The known layout of that name, however it is spelled. Raises :class:`BadLabel` (unknown_layout)."""
        if not self.layouts:
            return name
        wanted = SAME.get(name.strip().lower(), name.strip().lower())
        for known in self.layouts:
            if SAME.get(known.lower(), known.lower()) == wanted:
                return known
        raise BadLabel("unknown_layout", f"{name!r}; known layouts: {', '.join(self.layouts)}")

    def _check(self, plate: str, layout: str, patterns: tuple[str, ...]) -> None:
        self._check_length(plate, layout, patterns)
        if patterns and not any(matches(plate, pattern) for pattern in patterns):
            raise BadLabel("contradicts_layout", f"{plate!r} is no {layout} plate: those read {' or '.join(patterns)}")

    def _check_length(self, plate: str, layout: str, patterns: tuple[str, ...] | list[str]) -> None:
        lengths = sorted({len(pattern) for pattern in patterns})
        if len(plate) in lengths if lengths else self.shortest <= len(plate) <= self.longest:
            return
        allowed = " or ".join(map(str, lengths)) if lengths else f"{self.shortest} to {self.longest}"
        raise BadLabel("wrong_length", f"{plate!r} has {len(plate)} characters; {layout or 'a plate'} has {allowed}")

    def _fits(self, plate: str, patterns: tuple[str, ...]) -> bool:
        if not patterns:
            return self.shortest <= len(plate) <= self.longest
        return any(matches(plate, pattern) for pattern in patterns)


def matches(plate: str, pattern: str) -> bool:
    """Whether each character is of the kind that ``pattern`` has in its place."""
    return len(plate) == len(pattern) and all(
        symbol in KINDS[kind] for symbol, kind in zip(plate, pattern, strict=True)
    )


def folded(plate: str, alike: tuple[str, ...]) -> str:
    """``plate`` with every character of a set of look-alikes replaced by the set's first, as ``("0O",)`` asks."""
    for same in alike:
        plate = plate.translate({ord(other): same[0] for other in same[1:]})
    return plate
