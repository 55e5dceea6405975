"""The alphabet as an artefact, and what CTC can spell with it. Plain Python: ingest workers import it without Torch."""

from __future__ import annotations

import hashlib
import json
import string
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Literal


class LabelError(ValueError):
    """A label that the alphabet cannot spell."""


@dataclass(frozen=True, kw_only=True)
class Alphabet:
    """An ordered, declared set of symbols. Never collected from data, never changed by a later stage.

    Attributes:
        symbols: one character each, in index order; ``symbols[0]`` has class ``1``.
        blank: class of the CTC blank; fixed at 0 so that no two checkpoints can differ in it.
        case: applied to labels and predictions alike.
        unicode: normal form applied before anything else.
        whitespace: ``"strip"`` removes it at both ends and folds runs to one blank; ``"keep"`` leaves it.
    """

    symbols: str
    blank: Literal[0] = 0
    case: Literal["keep", "lower", "upper"] = "keep"
    unicode: Literal["NFC", "NFKC"] = "NFC"
    whitespace: Literal["strip", "keep"] = "strip"

    def __post_init__(self) -> None:
        if self.blank != 0:
            raise ValueError(f"Alphabet: blank is {self.blank!r}; it is class 0 here, in every checkpoint and loss")
        doubled = sorted({symbol for symbol in self.symbols if self.symbols.count(symbol) > 1})
        if doubled or not self.symbols:
            raise ValueError(f"Alphabet: symbols must be distinct and at least one; doubled: {doubled or 'none'}")
        changed = [symbol for symbol in self.symbols if self.normalize(symbol) != symbol and not symbol.isspace()]
        if changed:
            raise ValueError(
                f"Alphabet: {changed} cannot occur after case={self.case!r} and unicode={self.unicode!r}; remove them"
            )

    @property
    def classes(self) -> int:
        """Width of the recogniser's last layer: the symbols and the blank."""
        return len(self.symbols) + 1

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def normalize(self, text: str) -> str:
        """The one place where case, Unicode form and whitespace of labels and predictions are decided."""
        text = unicodedata.normalize(self.unicode, text)
        if self.whitespace == "strip":
            text = " ".join(text.split())
        return {"keep": text, "lower": text.lower(), "upper": text.upper()}[self.case]

    def encode(self, text: str) -> list[int]:
        """Classes of the normalised ``text``, each in ``1 .. len(symbols)``. Raises :class:`LabelError`."""
        text = self.normalize(text)
        missing = sorted(set(text) - set(self.symbols))
        if missing:
            raise LabelError(f"{text!r} needs {missing}, which the alphabet of {len(self.symbols)} symbols lacks")
        return [self.symbols.index(symbol) + 1 for symbol in text]

    def decode(self, classes: Iterable[int]) -> str:
        """The text of ``classes`` (no blanks among them)."""
        return "".join(self.symbols[index - 1] for index in classes)


def frames_needed(classes: Sequence[int]) -> int:
    """Frames CTC needs to spell a label: one a symbol, one more between equal neighbours."""
    return len(classes) + sum(a == b for a, b in pairwise(classes))


@dataclass(frozen=True, kw_only=True)
class Frames:
    """How many CTC frames a recogniser makes of a width: ``width // stride + offset``.

    Checked against the real network by a dry forward for every bucket width before training.
    """

    stride: int
    offset: int

    def of(self, width: int) -> int:
        return max(width // self.stride + self.offset, 0)


ALNUM36 = Alphabet(symbols=string.digits + string.ascii_lowercase, case="lower")
ALNUM62 = Alphabet(symbols=string.digits + string.ascii_lowercase + string.ascii_uppercase)
PRINTABLE94 = Alphabet(symbols=string.digits + string.ascii_letters + string.punctuation)
