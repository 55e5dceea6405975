"""Word error rates of lines. Sums, not averages, so that ranks add up exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rapidfuzz.distance import Levenshtein

from models.metrics.text import Ratio


def wer(predictions: Sequence[str], labels: Sequence[str], *, normalize: Callable[[str], str]) -> Ratio:
    """Word error rate, micro: edits of all lines' words over the words of all labels. May exceed 1.

    Words are what whitespace separates once ``normalize`` has been applied to both sides; case and punctuation count as
    it leaves them. Lines whose label is empty are skipped, and counted as such.
    """
    pairs = _words(predictions, labels, normalize)
    total = sum(Levenshtein.distance(read, true) for read, true in pairs)
    count = sum(len(true) for _, true in pairs)
    return Ratio(total=float(total), count=count, words=count, skipped=len(labels) - len(pairs))


def wer_macro(predictions: Sequence[str], labels: Sequence[str], *, normalize: Callable[[str], str]) -> Ratio:
    """The average over lines of each line's own word error rate: short lines weigh as much as long ones."""
    pairs = _words(predictions, labels, normalize)
    rates = math.fsum(Levenshtein.distance(read, true) / len(true) for read, true in pairs)
    return Ratio(total=rates, count=len(pairs), words=len(pairs), skipped=len(labels) - len(pairs))


def cer_macro(predictions: Sequence[str], labels: Sequence[str], *, normalize: Callable[[str], str]) -> Ratio:
    """The average over lines of each line's own character error rate; see :func:`models.metrics.text.cer` for micro."""
    texts = [(normalize(read), normalize(true)) for read, true in zip(predictions, labels, strict=True)]
    pairs = [(read, true) for read, true in texts if true]
    rates = math.fsum(Levenshtein.distance(read, true) / len(true) for read, true in pairs)
    return Ratio(total=rates, count=len(pairs), words=len(pairs), skipped=len(labels) - len(pairs))


def _words(
    predictions: Sequence[str], labels: Sequence[str], normalize: Callable[[str], str]
) -> list[tuple[list[str], list[str]]]:
    """The words of every line whose label has any."""
    lines = zip(predictions, labels, strict=True)
    pairs = [(normalize(read).split(), normalize(true).split()) for read, true in lines]
    return [(read, true) for read, true in pairs if true]
