"""How well predicted texts match the true ones. Sums, not averages, so that ranks add up exactly."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cpdist

from models.text import Alphabet

Protocol = Literal["36", "62", "94"]
OUTSIDE: Mapping[Protocol, re.Pattern[str]] = {
    "36": re.compile(r"[^0-9a-z]"),
    "62": re.compile(r"[^0-9a-zA-Z]"),
    "94": re.compile(r"[^!-~]"),
}


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """``value == total / count``, over ``words`` words; ``skipped`` more had no ground truth left.

    ``count`` equals ``words`` except for ``cer``, which counts characters.
    """

    total: float
    count: int
    words: int
    skipped: int

    def __add__(self, other: Ratio) -> Ratio:
        return Ratio(
            total=self.total + other.total,
            count=self.count + other.count,
            words=self.words + other.words,
            skipped=self.skipped + other.skipped,
        )

    @property
    def value(self) -> float:
        """The average, or NaN when nothing was measured: an accuracy of 0 would be a claim."""
        return self.total / self.count if self.count else math.nan


@dataclass(frozen=True, kw_only=True)
class TextScores:
    """Every text metric by name, as sums over the words seen so far."""

    ratios: Mapping[str, Ratio]

    def __add__(self, other: TextScores) -> TextScores:
        if self.ratios.keys() != other.ratios.keys():
            raise ValueError(f"TextScores: cannot add {sorted(other.ratios)} to {sorted(self.ratios)}: score alike")
        return TextScores(ratios={name: ratio + other.ratios[name] for name, ratio in self.ratios.items()})

    def values(self) -> dict[str, float]:
        return {name: ratio.value for name, ratio in self.ratios.items()}

    def counts(self) -> dict[str, int]:
        """``N`` of every metric, and how many words it skipped for want of ground truth."""
        words = {f"{name}_n": ratio.words for name, ratio in self.ratios.items()}
        return words | {f"{name}_skipped": ratio.skipped for name, ratio in self.ratios.items()}

    def flat(self) -> list[float]:
        """The sums in a row, four a metric, to be added across ranks; see :meth:`unflat`."""
        return [number for r in self.ratios.values() for number in (r.total, r.count, r.words, r.skipped)]

    def unflat(self, numbers: Sequence[float]) -> TextScores:
        """These metrics with the sums ``numbers`` (in the order of :meth:`flat`, exact below 2**53)."""
        rows = zip(*[iter(numbers)] * 4, strict=True)
        ratios = {
            name: Ratio(total=total, count=round(count), words=round(words), skipped=round(skipped))
            for name, (total, count, words, skipped) in zip(self.ratios, rows, strict=True)
        }
        return TextScores(ratios=ratios)


def text_scores(
    predictions: Sequence[str],
    labels: Sequence[str],
    *,
    normalize: Callable[[str], str],
    protocols: Iterable[Protocol] = ("36",),
) -> TextScores:
    """``word_accuracy_36`` and others by ``protocols``, ``cer`` and ``ned``.

    Args:
        labels: ground-truth texts as the data set gives them, never another network's reading.
        normalize: applied to both sides before ``cer`` and ``ned``; ``alphabet.normalize``.
        protocols: those that both the labels and the alphabet support, see :func:`protocols_of`;
            IIIT5K's labels are all upper-case, so there ``"62"`` would measure the wrong thing.
    """
    if len(predictions) != len(labels):
        raise ValueError(f"text_scores: {len(predictions)} predictions for {len(labels)} labels; give one each")
    ratios = {f"word_accuracy_{protocol}": word_accuracy(predictions, labels, protocol) for protocol in protocols}
    read, true = [normalize(text) for text in predictions], [normalize(text) for text in labels]
    return TextScores(ratios=ratios | {"cer": cer(read, true), "ned": ned(read, true)})


def protocols_of(alphabet: Alphabet) -> tuple[Protocol, ...]:
    """``"36"``, and the protocols all of whose characters the alphabet has."""
    stricter: tuple[Protocol, ...] = ("62", "94")
    return ("36", *(name for name in stricter if len(set(fold(alphabet.symbols, name))) == int(name)))


def fold(text: str, protocol: Protocol) -> str:
    """``text`` as ``protocol`` compares it: NFC, lower-cased for ``"36"``, without what is not its characters."""
    text = unicodedata.normalize("NFC", text)
    return OUTSIDE[protocol].sub("", text.lower() if protocol == "36" else text)


def word_accuracy(predictions: Sequence[str], labels: Sequence[str], protocol: Protocol) -> Ratio:
    """Share of words read without a mistake under ``protocol``.

    ``"36"`` compares lower-cased digits and letters, ``"62"`` digits and letters with case, ``"94"`` printable ASCII
    without the blank; everything else is deleted from BOTH sides. Words with nothing left are skipped.
    """
    pairs = [(fold(read, protocol), fold(true, protocol)) for read, true in zip(predictions, labels, strict=True)]
    asked = [read == true for read, true in pairs if true]
    return Ratio(total=float(sum(asked)), count=len(asked), words=len(asked), skipped=len(pairs) - len(asked))


def cer(predictions: Sequence[str], labels: Sequence[str]) -> Ratio:
    """Character error rate, micro: edits of all words over characters of all labels. May exceed 1."""
    read, true = with_truth(predictions, labels)
    characters = sum(map(len, true))
    return Ratio(
        total=float(sum(edits(read, true))), count=characters, words=len(true), skipped=len(labels) - len(true)
    )


def ned(predictions: Sequence[str], labels: Sequence[str]) -> Ratio:
    """ICDAR19's "1 - NED": the average of ``1 - edits / max(len(prediction), len(label))``. 1 is perfect."""
    read, true = with_truth(predictions, labels)
    shares = (1 - e / max(len(r), len(t)) for e, r, t in zip(edits(read, true), read, true, strict=True))
    return Ratio(total=math.fsum(shares), count=len(true), words=len(true), skipped=len(labels) - len(true))


def with_truth(predictions: Sequence[str], labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """The pairs whose label is not empty."""
    pairs = [(read, true) for read, true in zip(predictions, labels, strict=True) if true]
    return [read for read, _ in pairs], [true for _, true in pairs]


def edits(predictions: Sequence[str], labels: Sequence[str]) -> list[int]:
    """Levenshtein distance of every pair."""
    return cpdist(predictions, labels, scorer=Levenshtein.distance).tolist()
