"""How well ink and paper of a page were told apart: the scores of the DIBCO competitions, each page counting once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

NAMES = ("f_measure", "pseudo_f_measure", "drd", "psnr")
MOST_DB = 100.0  # of pages that are equal: without a ceiling one of them would make any average infinite


@dataclass(frozen=True, kw_only=True)
class BinaryScores:
    """Sums over ``pages``; ``undefined`` pages had no ink in the truth and count in ``psnr`` alone."""

    totals: Mapping[str, float]
    pages: int
    undefined: int = 0

    def __add__(self, other: BinaryScores) -> BinaryScores:
        return BinaryScores(
            totals={name: self.totals[name] + other.totals[name] for name in NAMES},
            pages=self.pages + other.pages, undefined=self.undefined + other.undefined,
        )  # fmt: skip

    def values(self) -> dict[str, float]:
        """The averages over pages; NaN where nothing was measured. F-measures lie in ``[0, 1]``; papers print 100 x."""
        counts = {name: self.pages - (self.undefined if name != "psnr" else 0) for name in NAMES}
        return {name: self.totals[name] / counts[name] if counts[name] else math.nan for name in NAMES}

    def counts(self) -> dict[str, int]:
        """``N`` of every score."""
        return {f"{name}_n": self.pages - (self.undefined if name != "psnr" else 0) for name in NAMES}


def binary_scores(found: np.ndarray, truth: np.ndarray) -> BinaryScores:
    """All scores of one page.

    Args:
        found: ``(H, W)`` bool, true for ink.
        truth: likewise.
    """
    _same(found, truth)
    if not truth.any():
        totals = dict.fromkeys(NAMES, 0.0) | {"psnr": binary_psnr(found, truth)}
        return BinaryScores(totals=totals, pages=1, undefined=1)
    totals = {
        "f_measure": f_measure(found, truth), "pseudo_f_measure": pseudo_f_measure(found, truth),
        "drd": drd(found, truth), "psnr": binary_psnr(found, truth),
    }  # fmt: skip
    return BinaryScores(totals=totals, pages=1)


def f_measure(found: np.ndarray, truth: np.ndarray) -> float:
    """Harmonic mean of precision and recall of ink pixels, 0 to 1; NaN where ``truth`` has no ink."""
    _same(found, truth)
    if not truth.any():
        return math.nan
    return 2 * float((found & truth).sum()) / float(found.sum() + truth.sum())


def pseudo_f_measure(found: np.ndarray, truth: np.ndarray) -> float:
    """F-measure whose recall counts the skeleton of the truth alone, so that thin strokes are not punished.

    As in H-DIBCO 2010 (Pratikakis, Gatos and Ntirogiannis); later contests also weigh pixels by their distance from
    the contour (Ntirogiannis, Gatos and Pratikakis, 2013), which gives other numbers: name the form beside the figure.
    NaN where ``truth`` has no ink.
    """
    _same(found, truth)
    if not truth.any():
        return math.nan
    bones = skeleton(truth)
    recall = float((found & bones).sum() / bones.sum())
    precision = float((found & truth).sum()) / float(found.sum()) if found.any() else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def drd(found: np.ndarray, truth: np.ndarray) -> float:
    """Distance-reciprocal distortion (Lu, Kot and Shi, 2004): how much wrong pixels stand out; 0 is perfect.

    Each wrong pixel costs the weight of those truth pixels in the 5 x 5 around it that differ from what was found
    there, nearer ones more. The sum is divided by the number of whole 8 x 8 blocks of the truth that hold both ink and
    paper. Outside the page nothing differs. Where no block is mixed, by 1.
    """
    _same(found, truth)
    wrong = found != truth
    cost = np.zeros(truth.shape)
    weights = _weights()
    height, width = truth.shape
    around = np.pad(truth.astype(np.int8), 2, constant_values=-1)
    for down, across in np.ndindex(5, 5):
        there = around[down : down + height, across : across + width]
        cost += weights[down, across] * ((there >= 0) & (there != found))
    return float(cost[wrong].sum()) / max(mixed_blocks(truth), 1)


def binary_psnr(found: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two pages of 0 and 1, at most :data:`MOST_DB`."""
    _same(found, truth)
    share = float((found != truth).mean())
    return min(-10 * math.log10(share), MOST_DB) if share else MOST_DB


def mixed_blocks(truth: np.ndarray) -> int:
    """How many whole 8 x 8 blocks, from the top left, hold both ink and paper."""
    rows, columns = truth.shape[0] // 8, truth.shape[1] // 8
    ink = truth[: 8 * rows, : 8 * columns].reshape(rows, 8, columns, 8).sum((1, 3))
    return int(((ink > 0) & (ink < 64)).sum())


def skeleton(ink: np.ndarray) -> np.ndarray:
    """``(H, W)`` bool: ``ink`` thinned to lines of one pixel (Zhang and Suen, 1984).

    A component that the method would erase, such as a square of two by two pixels, keeps one pixel of its last round.
    """
    thin = np.pad(ink, 1)
    while True:
        before = thin
        for half in (0, 1):
            thin = thin & ~_removable(thin, half)
        if np.array_equal(thin, before):
            return thin[1:-1, 1:-1]


def _removable(ink: np.ndarray, half: int) -> np.ndarray:
    """Pixels of a padded page that one half-round of Zhang and Suen takes away."""
    ring = _ring(ink)
    neighbours = sum(place.astype(np.int8) for place in ring)
    changes = sum((~ring[i] & ring[(i + 1) % 8]).astype(np.int8) for i in range(8))
    north, east, south, west = ring[0], ring[2], ring[4], ring[6]
    sides = (~(north & east & south), ~(east & south & west)) if half == 0 else (
        ~(north & east & west), ~(north & south & west))  # fmt: skip
    taken = ink & (neighbours >= 2) & (neighbours <= 6) & (changes == 1) & sides[0] & sides[1]
    return taken & ~_square_corner(ink)


def _square_corner(ink: np.ndarray) -> np.ndarray:
    """The top left pixels of squares of two by two with nothing around: all four would go in one round."""
    ring = _ring(ink)
    square = ink & ring[2] & ring[3] & ring[4]
    down = sum(np.roll(ink, -step, 0).astype(np.int8) for step in (-1, 0, 1, 2))
    around = sum(np.roll(down, -step, 1) for step in (-1, 0, 1, 2))  # the four by four with the square in its middle
    return square & (around == 4)


def _ring(ink: np.ndarray) -> list[np.ndarray]:
    """The eight neighbours of every pixel, clockwise from the one above; the padding makes the wrap harmless."""
    steps = ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))
    return [np.roll(ink, step, (0, 1)) for step in steps]


def _weights() -> np.ndarray:
    """``(5, 5)`` that sum to 1: the reciprocal distance from the middle, which itself weighs nothing."""
    down, across = np.mgrid[-2:3, -2:3]
    distance = np.hypot(down, across)
    weights = np.divide(1.0, distance, out=np.zeros((5, 5)), where=distance > 0)
    return weights / weights.sum()


def _same(found: np.ndarray, truth: np.ndarray) -> None:
    if found.dtype != bool or truth.dtype != bool or found.shape != truth.shape or found.ndim != 2:
        raise ValueError(
            f"binary scores: found is {found.dtype} {found.shape}, truth {truth.dtype} {truth.shape}; "
            "two (H, W) bool arrays of one size are needed, true for ink: compare with a threshold first"
        )
