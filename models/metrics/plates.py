"""How well plates are read: per image, per track by a vote over its frames, by layout and scenario, with intervals.

Pure functions over a list of readings. Ranks gather their lists; the order of a list never matters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from models.metrics.text import Ratio

Group = TypeVar("Group", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One image of a plate, and what was read in it. Texts are normalised alike.

    Attributes:
        track: images of one track show the same plate on the same vehicle.
        confidences: one for each character of ``text``, 0 to 1.
        layout: what the data set calls it; so is ``scenario``.
    """

    track: str
    number: int
    label: str
    text: str
    confidences: tuple[float, ...]
    layout: str = ""
    scenario: str = ""

    def __post_init__(self) -> None:
        if len(self.confidences) != len(self.text):
            raise ValueError(
                f"Frame {self.number} of {self.track!r}: {len(self.confidences)} confidences for the "
                f"{len(self.text)} characters of {self.text!r}; give one each"
            )


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A share, and where it may lie for other tracks of the same kind."""

    value: float
    low: float
    high: float


def recognition_rate(frames: Iterable[Frame]) -> Ratio:
    """Share of images whose plate is read without a mistake; an image without a label is skipped."""
    frames = list(frames)
    hits = [frame.text == frame.label for frame in frames if frame.label]
    return Ratio(total=float(sum(hits)), count=len(hits), words=len(hits), skipped=len(frames) - len(hits))


def track_recognition_rate(frames: Iterable[Frame]) -> Ratio:
    """Share of tracks whose plate is read without a mistake, by :func:`vote` over the frames of each."""
    return recognition_rate(voted(frames))


def character_accuracy(prediction: str, label: str) -> float:
    """``1 - min(edits / len(label), 1)``: 0 for an empty prediction, never less for a long one."""
    if not label:
        raise ValueError("character_accuracy: the label is empty; only plates with a text can be read right or wrong")
    return 1 - min(Levenshtein.distance(prediction, label) / len(label), 1.0)


def mean_character_accuracy(frames: Iterable[Frame]) -> Ratio:
    """:func:`character_accuracy` averaged over the images that have a label."""
    frames = list(frames)
    shares = [character_accuracy(frame.text, frame.label) for frame in frames if frame.label]
    # Sorted, so that the sum does not depend on the order of the frames.
    return Ratio(
        total=float(sum(sorted(shares))), count=len(shares), words=len(shares), skipped=len(frames) - len(shares)
    )


def voted(frames: Iterable[Frame]) -> list[Frame]:
    """One frame for each track, by name: its label, and the text that its frames agree on."""
    tracks = []
    for name, own in sorted(grouped(frames, lambda frame: frame.track).items()):
        first = own[0]
        if any(frame.label != first.label for frame in own):
            told = sorted({frame.label for frame in own})
            raise ValueError(f"track {name!r} has the labels {told}; a track shows one plate: split it or correct them")
        text, confidences = vote([(frame.text, frame.confidences) for frame in own])
        tracks.append(replace(first, number=0, text=text, confidences=confidences))
    return tracks


def vote(readings: Sequence[tuple[str, Sequence[float]]]) -> tuple[str, tuple[float, ...]]:
    """The text that several readings of one plate make together, and its confidences.

    First its length: each reading votes with its mean confidence. Then each character: readings of that length vote
    with the confidence of theirs. A confidence of the result is the winner's share of all votes there times the mean
    confidence of those that voted for it. Equal votes go to the text that comes first in the alphabet.

    Args:
        readings: text and one confidence for each of its characters; empty texts have no vote.
    """
    readings = sorted((text, tuple(sure)) for text, sure in readings if text)
    if not readings:
        return "", ()
    long = _winner([(len(text), float(np.mean(sure))) for text, sure in readings])[0]
    same = [(text, sure) for text, sure in readings if len(text) == long]
    places = [_winner([(text[place], sure[place]) for text, sure in same]) for place in range(long)]
    return "".join(symbol for symbol, _ in places), tuple(sure for _, sure in places)


def _winner(votes: Sequence[tuple[Group, float]]) -> tuple[Group, float]:
    """What most confidence is given to, and how sure that makes us of it."""
    given: dict[Group, list[float]] = defaultdict(list)
    for choice, sure in votes:
        given[choice].append(sure)
    winner = max(given, key=lambda choice: sum(given[choice]))
    total = sum(sure for _, sure in votes)
    return winner, sum(given[winner]) / total * float(np.mean(given[winner])) if total else 0.0


def grouped(frames: Iterable[Frame], by: Callable[[Frame], Group]) -> dict[Group, list[Frame]]:
    """Frames by what ``by`` says of each, in the order of track and number within a group."""
    groups: dict[Group, list[Frame]] = defaultdict(list)
    for frame in sorted(frames, key=lambda frame: (frame.track, frame.number, frame.text)):
        groups[by(frame)].append(frame)
    return dict(groups)


def breakdown(frames: Iterable[Frame]) -> dict[str, Ratio]:
    """Recognition rate of each layout and scenario alone, as ``layout/NAME`` and ``scenario/NAME``."""
    frames = list(frames)
    parts: dict[str, Ratio] = {}
    for kind in ("layout", "scenario"):
        named: Mapping[str, list[Frame]] = grouped(frames, lambda frame, kind=kind: getattr(frame, kind))  # type: ignore[misc]
        parts |= {f"{kind}/{name}": recognition_rate(own) for name, own in sorted(named.items()) if name}
    return parts


def interval(frames: Iterable[Frame], *, level: float = 0.95, draws: int = 1000, seed: int = 0) -> Interval:
    """The recognition rate per image and its bootstrap interval over tracks.

    Whole tracks are drawn with replacement, because frames of one track succeed and fail together. For the rate per
    track pass what :func:`voted` returns. NaN throughout where nothing has a label.

    Args:
        level: share of the draws that lie within the interval.
    """
    _check_level(level, draws)
    return interval_of(_by_track(frames), level=level, draws=draws, seed=seed)


def gain(
    frames: Sequence[Frame], over: Sequence[Frame], *, level: float = 0.95, draws: int = 1000, seed: int = 0
) -> Interval:
    """How much higher the recognition rate of ``frames`` is than that ``over`` which it should be, and its interval.

    Both are readings of the same images, and each draw takes the same tracks of both: images that both read right, or
    both wrong, do not widen it. Arguments as in :func:`interval`. Raises ``ValueError`` for other images.
    """
    _check_level(level, draws)
    one, other = ([(f.track, f.number, f.label) for f in each] for each in (frames, over))
    if sorted(one) != sorted(other):
        raise ValueError(
            f"gain: {len(one)} readings and {len(other)} of other images; to be paired, both must be of the same ones"
        )
    sums, less = _by_track(frames), _by_track(over)
    if len(sums):
        sums[:, 0] -= less[:, 0]
    return interval_of(sums, level=level, draws=draws, seed=seed)


def _check_level(level: float, draws: int) -> None:
    if not 0 < level < 1 or draws < 1:
        raise ValueError(f"interval: level {level!r} (between 0 and 1), draws {draws!r} (at least 1)")


def _by_track(frames: Iterable[Frame]) -> NDArray[np.float64]:
    """``(tracks, 2)`` hits and images of each track that has a label, by name."""
    ratios = [recognition_rate(own) for _, own in sorted(grouped(frames, lambda frame: frame.track).items())]
    return np.array([(ratio.total, ratio.count) for ratio in ratios if ratio.count], dtype=np.float64)


def interval_of(
    sums: NDArray[np.float64], *, level: float = 0.95, draws: int = 1000, seed: int = 0
) -> Interval:  # fmt: skip
    """The share that ``sums`` make, and its bootstrap interval; NaN throughout where there are none.

    Args:
        sums: ``(tracks, 2)`` hits and images of each track, or another pair of which the first is a part.
    """
    if not len(sums):
        return Interval(value=np.nan, low=np.nan, high=np.nan)
    low, high = np.quantile(resampled(sums, draws=draws, seed=seed), [(1 - level) / 2, (1 + level) / 2])
    hits, count = sums.sum(axis=0)
    return Interval(value=float(hits / count), low=float(low), high=float(high))


def resampled(sums: NDArray[np.float64], *, draws: int, seed: int) -> NDArray[np.float64]:
    """``(draws,)`` the share that each draw of as many tracks gives.

    Args:
        sums: ``(tracks, 2)`` hits and images of each track.
    """
    tracks = len(sums)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(tracks, np.full(tracks, 1 / tracks), size=draws)  # (draws, tracks)
    drawn = times @ sums
    return drawn[:, 0] / drawn[:, 1]
