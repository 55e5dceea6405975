"""Which characters are read as which: readings aligned to their labels by edit distance, counted pair by pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rapidfuzz.distance import Levenshtein

NONE = ""  # stands where one side has no character: (NONE, read) was inserted, (true, NONE) was left out


@dataclass(frozen=True, kw_only=True)
class Confusions:
    """How often each true character was read as each other one. Sums, so that parts of a set add up.

    Attributes:
        counts: ``(true, read)`` -> times; pairs of equal characters are right, pairs with :data:`NONE` are insertions
            and omissions.
    """

    counts: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def __add__(self, other: Confusions) -> Confusions:
        return Confusions(counts=Counter(self.counts) + Counter(other.counts))

    @property
    def edits(self) -> int:
        """Characters read wrong, left out or added: the sum of all edit distances."""
        return sum(times for (true, read), times in self.counts.items() if true != read)

    @property
    def characters(self) -> int:
        """Characters of all labels."""
        return sum(times for (true, _), times in self.counts.items() if true != NONE)

    def mistakes(self) -> list[tuple[str, str, int]]:
        """``(true, read, times)`` of every pair that differs, most frequent first."""
        wrong = [(true, read, times) for (true, read), times in self.counts.items() if true != read]
        return sorted(wrong, key=lambda pair: (-pair[2], pair[0], pair[1]))

    def seen(self) -> dict[str, int]:
        """Symbol -> how often the labels have it."""
        seen: Counter[str] = Counter()
        for (true, _), times in self.counts.items():
            if true != NONE:
                seen[true] += times
        return dict(seen)

    def accuracy(self) -> dict[str, float]:
        """Symbol -> share of its occurrences in the labels that were read as itself."""
        return {symbol: self.counts.get((symbol, symbol), 0) / times for symbol, times in self.seen().items()}

    def shares(self, symbol: str) -> dict[str, float]:
        """What ``symbol`` was read as -> share of its occurrences, itself and :data:`NONE` included.

        Empty for a symbol that no label has. For :data:`NONE` itself: shares of all insertions.
        """
        row = {read: times for (true, read), times in self.counts.items() if true == symbol}
        total = sum(row.values())
        return {read: times / total for read, times in row.items()}


def confusions(predictions: Sequence[str], labels: Sequence[str]) -> Confusions:
    """The pairs of all readings and labels, both normalised alike beforehand."""
    if len(predictions) != len(labels):
        raise ValueError(f"confusions: {len(predictions)} predictions for {len(labels)} labels; give one each")
    counts: Counter[tuple[str, str]] = Counter()
    for read, true in zip(predictions, labels, strict=True):
        counts.update(aligned(read, true))
    return Confusions(counts=counts)


def aligned(prediction: str, label: str) -> list[tuple[str, str]]:
    """``(true, read)`` of every place of one shortest way from ``label`` to ``prediction``, from left to right.

    Where several ways are equally short the choice is arbitrary, but always the same.
    """
    pairs: list[tuple[str, str]] = []
    for step in Levenshtein.opcodes(label, prediction):
        true, read = label[step.src_start : step.src_end], prediction[step.dest_start : step.dest_end]
        pairs += _paired(true, read)
    return pairs


def _paired(true: str, read: str) -> Iterable[tuple[str, str]]:
    """Character beside character; one of both texts is empty, or both are equally long."""
    if not read:
        return [(symbol, NONE) for symbol in true]
    if not true:
        return [(NONE, symbol) for symbol in read]
    return zip(true, read, strict=True)
