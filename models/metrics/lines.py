"""How well lines are read in each picture of them: error rates, intervals over pages, and what restoring changed.

Pure functions over a list of readings. Ranks gather their lists; the order of a list never matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.metrics.plates import Interval, interval_of
from models.metrics.text import Ratio, cer, edits
from models.metrics.words import cer_macro, wer, wer_macro


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line, and what was read in each picture of it. Texts are normalised alike.

    Attributes:
        group: lines of one group, as of a page, are read well or badly together.
        label: the transcription.
        texts: kind of picture -> what was read in it: ``""`` the restored one, ``"_target"`` the clean one, where
            there is one, and the one as it was before.
    """

    group: str
    number: int
    label: str
    texts: Mapping[str, str]


def error_rates(lines: Iterable[Line], kind: str = "") -> dict[str, Ratio]:
    """``cer`` and ``wer`` (micro) against the transcription, and both with ``_macro``; each with ``kind`` after it."""
    there = [line for line in lines if kind in line.texts]
    read, true = [line.texts[kind] for line in there], [line.label for line in there]
    found = {
        "cer": cer(read, true), "cer_macro": cer_macro(read, true, normalize=str),
        "wer": wer(read, true, normalize=str), "wer_macro": wer_macro(read, true, normalize=str),
    }  # fmt: skip
    return {f"{name}{kind}": ratio for name, ratio in found.items()}


def consistency(lines: Iterable[Line]) -> Ratio:
    """Edits from what is read in clean lines to what is read in restored ones, by characters read in clean ones.

    It is no error rate: a reader that is wrong about both alike makes it 0. What is read where nothing is read in the
    clean line counts as edits.
    """
    there = [line for line in lines if "_target" in line.texts]
    clean = [line.texts["_target"] for line in there]
    total = float(sum(edits([line.texts[""] for line in there], clean)))
    return Ratio(total=total, count=sum(map(len, clean)), words=len(there), skipped=0)


def interval(lines: Iterable[Line], kind: str = "") -> Interval:
    """The micro CER of one kind of picture and its 95 % bootstrap interval, whole groups drawn with replacement."""
    sums = _by_group([line for line in lines if kind in line.texts], kind)
    return interval_of(sums)


def gain(lines: Iterable[Line], over: str, kind: str = "") -> Interval:
    """By how much the CER of ``kind`` is lower than that of ``over``, and its 95 % interval; above 0 is better.

    Paired: only lines with both are looked at, and each draw takes the same groups of both.
    """
    both = [line for line in lines if kind in line.texts and over in line.texts]
    sums, more = _by_group(both, kind), _by_group(both, over)
    if len(sums):
        sums[:, 0] = more[:, 0] - sums[:, 0]
    return interval_of(sums)


def _by_group(lines: Sequence[Line], kind: str) -> NDArray[np.float64]:
    """``(groups, 2)`` edits and characters of each group whose labels are not empty, by name."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line.group, []).append(line)
    ratios = [
        cer([line.texts[kind] for line in own], [line.label for line in own]) for _, own in sorted(groups.items())
    ]  # fmt: skip
    return np.array([(ratio.total, ratio.count) for ratio in ratios if ratio.count], dtype=np.float64)
