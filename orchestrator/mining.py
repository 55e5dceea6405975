"""Hard examples: how difficult each sample has been, and an epoch's list that shows the difficult ones more often.

Pure functions over arrays by sample number, the position in the whole data set, which never changes. An epoch's list
depends on (state, rule, epoch, seed) alone: not on ranks, batch size or what a data loader did before. Weights are
taken every few epochs and then held, so that a list can be made again in the middle of an epoch.

Accuracies must be those of raw readings, without any correction by a layout, and of all ranks together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from orchestrator.curriculum import Mining

SOFTENING = 0.1  # added to the difficulty, so that a sample read perfectly still comes now and then
MEMORY = 0.9  # share of the old accuracy in the moving average
ARRAYS = ("accuracy", "visits", "misses", "weights", "weighed")


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """What is known of each of ``N`` samples. Change it with the functions below, never in place.

    Attributes:
        accuracy: ``(N,)`` moving average of the character accuracy, 0 to 1; 0 before the first visit.
        visits: ``(N,)`` how often it was read.
        misses: ``(N,)`` visits in a row, up to the last, at which no character was right.
        weights: ``(N,)`` of the present lists, before the uniform part and the cap.
        weighed: epoch at whose start the weights were taken; -1 before the first time.
    """

    accuracy: NDArray[np.float64]
    visits: NDArray[np.int64]
    misses: NDArray[np.int64]
    weights: NDArray[np.float64]
    weighed: int

    def __len__(self) -> int:
        return len(self.accuracy)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, for a checkpoint."""
        return {name: np.asarray(getattr(self, name)) for name in ARRAYS}

    @staticmethod
    def of(arrays: Mapping[str, ArrayLike], size: int) -> Difficulty:
        """What :meth:`arrays` gave. Raises :class:`ValueError` where it is not of ``size`` samples."""
        if set(arrays) != set(ARRAYS):
            raise ValueError(f"Difficulty: expected the arrays {', '.join(ARRAYS)}, found {', '.join(sorted(arrays))}")
        wrong = {name: np.shape(arrays[name]) for name in ARRAYS[:-1] if np.shape(arrays[name]) != (size,)}
        if wrong:
            raise ValueError(f"Difficulty: the data has {size} samples, but the checkpoint has {wrong}; same data?")
        return Difficulty(
            accuracy=np.array(arrays["accuracy"], dtype=np.float64),
            visits=np.array(arrays["visits"], dtype=np.int64),
            misses=np.array(arrays["misses"], dtype=np.int64),
            weights=np.array(arrays["weights"], dtype=np.float64),
            weighed=int(np.asarray(arrays["weighed"])),
        )


def unknown(size: int) -> Difficulty:
    """Nothing known yet of ``size`` samples. Raises :class:`ValueError` where there are none."""
    if size < 1:
        raise ValueError("mining: the training set has no samples; look at the splits and at what was rejected")
    zeros = np.zeros(size, dtype=np.int64)
    return Difficulty(accuracy=np.zeros(size), visits=zeros, misses=zeros, weights=np.full(size, 1 / size), weighed=-1)


def visited(known: Difficulty, samples: ArrayLike, accuracies: ArrayLike) -> Difficulty:
    """``known`` after one step in which ``samples``, of all ranks, were read with these character accuracies.

    The first visit sets a sample's accuracy, later ones move it by a tenth of the way. A sample that a step holds
    several times counts once, with its mean; so the order within a step does not matter.
    """
    numbers, shares = np.asarray(samples, dtype=np.int64), np.asarray(accuracies, dtype=np.float64)
    if numbers.shape != shares.shape or numbers.ndim != 1:
        raise ValueError(f"mining: {numbers.shape} samples but {shares.shape} accuracies; give one each")
    if not len(numbers):
        return known
    if numbers.min() < 0 or numbers.max() >= len(known):
        raise ValueError(f"mining: samples {numbers.min()} to {numbers.max()}; the data has 0 to {len(known) - 1}")
    if not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError("mining: an accuracy is outside 0 .. 1, or not a number")
    order = np.lexsort((shares, numbers))  # a sum of floats depends on its order
    each, places = np.unique(numbers[order], return_inverse=True)
    mean = np.bincount(places, weights=shares[order]) / np.bincount(places)
    accuracy, visits, misses = known.accuracy.copy(), known.visits.copy(), known.misses.copy()
    moved = MEMORY * accuracy[each] + (1 - MEMORY) * mean
    accuracy[each] = np.where(visits[each] == 0, mean, moved)
    misses[each] = np.where(mean == 0, misses[each] + 1, 0)
    visits[each] += 1
    return replace(known, accuracy=accuracy, visits=visits, misses=misses)


def begun(known: Difficulty, rule: Mining, epoch: int) -> Difficulty:
    """``known`` at the start of ``epoch``: with new weights where they are due. Doing it twice changes nothing."""
    if epoch % rule.reweigh_every or known.weighed == epoch:
        return known
    raw = raw_weights(known, rule)
    return replace(known, weights=raw / raw.sum(), weighed=epoch)


def raw_weights(known: Difficulty, rule: Mining) -> NDArray[np.float64]:
    """``(N,)`` above 0: 1.21 for the hardest and 0.01 for the easiest sample at ``alpha`` 2."""
    hard = (1 - known.accuracy + SOFTENING) ** rule.alpha
    raw = np.where(known.visits >= rule.least_visits, hard, 1.0)
    return np.where(known.misses >= rule.suspect_after, SOFTENING**rule.alpha, raw)


def chances(known: Difficulty, rule: Mining, epoch: int) -> NDArray[np.float64]:
    """``(N,)`` the share of each sample in the draws of ``epoch``; they sum to 1, and none exceeds ``cap / N``."""
    share = rule.curriculum.share(epoch)
    return capped(share * known.weights + (1 - share) / len(known), rule.cap / len(known))


def capped(chance: NDArray[np.float64], most: float) -> NDArray[np.float64]:
    """``chance`` with no entry above ``most``: what is cut off goes to the others, in proportion."""
    free = np.ones(len(chance), dtype=bool)
    while (over := free & (chance > most)).any():
        free &= ~over
        chance = np.where(free, chance, most)
        left = 1 - most * (~free).sum()
        if not free.any() or left <= 0:
            return np.full(len(chance), 1 / len(chance))
        chance = np.where(free, chance * (left / chance[free].sum()), chance)
    return chance


def epoch_list(known: Difficulty, rule: Mining, *, epoch: int, count: int, seed: Sequence[int]) -> NDArray[np.int64]:
    """``(count,)`` shuffled samples of ``epoch``, by :func:`chances`; ``known`` is what :func:`begun` returned.

    Each sample comes ``count * chance`` times, rounded up or down at random, so that a uniform epoch of ``N`` draws
    is every sample once.
    """
    rng = np.random.default_rng((*seed, 0x4A2D, known.weighed + 1, epoch))
    order = rng.permutation(len(known))
    edges = np.cumsum(chances(known, rule, epoch)[order]) * count
    drawn = np.searchsorted(edges, rng.random() + np.arange(count), side="right")
    return rng.permutation(order[np.minimum(drawn, len(known) - 1)])


def suspects(known: Difficulty, rule: Mining) -> list[int]:
    """The samples whose label is to be looked at: none of its characters was ever right of late. Longest first."""
    found = np.flatnonzero(known.misses >= rule.suspect_after)
    return found[np.argsort(-known.misses[found], kind="stable")].tolist()


def hardest(known: Difficulty, rule: Mining, count: int) -> list[int]:
    """The ``count`` samples read worst, suspects aside, of those visited often enough to tell."""
    told = np.flatnonzero((known.visits >= rule.least_visits) & (known.misses < rule.suspect_after))
    return told[np.argsort(known.accuracy[told], kind="stable")][:count].tolist()
