"""Which samples make up step ``k`` of an epoch: a pure function, so resuming needs no iterator state.

An epoch's list depends on (seed, stage, epoch) and the data alone: not on ranks, shards, threads or what ran before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Step:
    """The samples of one optimiser update over all ranks.

    Attributes:
        samples: ``(n,)`` positions in the concatenated data.
        width: columns every image of the step is padded to.
    """

    samples: np.ndarray
    width: int


def stream(*, size: int, start: int, count: int, seed: tuple[int, ...]) -> np.ndarray:
    """``(count,)`` samples from place ``start`` of an endless walk through ``size``, each pass a fresh permutation."""
    end = start + count
    walked = [
        np.random.default_rng((*seed, each)).permutation(size)[max(start - each * size, 0) : end - each * size]
        for each in range(start // size, -(-end // size))
    ]
    return np.concatenate([np.zeros(0, np.int64), *walked])


def epoch_samples(sizes: Sequence[int], counts: Sequence[int], *, epoch: int, seed: tuple[int, ...]) -> np.ndarray:
    """``(sum(counts),)`` shuffled positions of one epoch in the concatenation of sources of ``sizes`` samples.

    Source ``j`` gives its next ``counts[j]`` samples of an endless walk, so that with ``counts[j] == sizes[j]``
    every sample comes exactly once per epoch.
    """
    starts = np.cumsum([0, *sizes[:-1]])
    drawn = [
        start + stream(size=size, start=epoch * count, count=count, seed=(*seed, source))
        for source, (start, size, count) in enumerate(zip(starts, sizes, counts, strict=True))
    ]
    together = np.concatenate(drawn)
    return together[np.random.default_rng((*seed, 0xB1E2D, epoch)).permutation(len(together))]


def draws_per_epoch(sizes: Sequence[int], shares: Sequence[float], epoch_samples: int) -> list[int]:
    """How many samples each source gives to an epoch; ``epoch_samples == 0`` means one pass over the first."""
    total = epoch_samples or round(sizes[0] / shares[0])
    return [
        sizes[0] if j == 0 and not epoch_samples else max(round(total * share), 1) for j, share in enumerate(shares)
    ]


def steps_of(samples: np.ndarray, widths: np.ndarray, buckets: Sequence[int], batch_size: int) -> list[Step]:
    """Cut an epoch's ``samples`` into steps of one width bucket each, in the order in which the buckets fill.

    What is left over at the end of the epoch is merged over buckets, by width, into steps of at least half
    ``batch_size`` wherever the epoch holds that many samples. Every sample comes exactly once.

    Args:
        samples: ``(n,)`` positions, in the epoch's order.
        widths: ``(n,)`` valid columns of each.
        buckets: ascending widths; the last holds the widest image.
    """
    edges = np.asarray(buckets)
    if widths.max(initial=0) > edges.max(initial=0):
        raise ValueError(f"an image of {widths.max()} columns is wider than every bucket {tuple(buckets)}")
    bucket = np.searchsorted(edges, widths)  # smallest bucket that holds the image
    filled: list[np.ndarray] = []
    left: list[np.ndarray] = []
    for index in range(len(edges)):
        places = np.flatnonzero(bucket == index)
        whole = len(places) // batch_size * batch_size
        filled.extend(places[:whole].reshape(-1, batch_size))
        left.append(places[whole:])
    filled.sort(key=lambda places: int(places[-1]))
    chosen = filled + _leftovers(np.concatenate(left), filled, widths, batch_size)
    return [Step(samples[places], int(edges[bucket[places].max()])) for places in chosen]


def _leftovers(left: np.ndarray, filled: list[np.ndarray], widths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """The places that filled no bucket, as steps of like widths; takes the last full step back if they are too few."""
    if 0 < len(left) < batch_size / 2 and filled:
        left = np.concatenate([left, filled.pop()])
    by_width = left[np.argsort(widths[left], kind="stable")]
    return np.array_split(by_width, -(-len(left) // batch_size)) if len(left) else []


def of_rank(step: Step, *, rank: int, ranks: int) -> Step:
    """One rank's share of a step: every ``ranks``-th sample. The ranks' shares make up the step."""
    return Step(step.samples[rank::ranks], step.width)


def bucket_widths(histogram: np.ndarray, buckets: int, *, multiple: int = 4) -> tuple[int, ...]:
    """Ascending widths that pad least: the exact optimum over all choices of at most ``buckets`` widths.

    Args:
        histogram: ``(max_width + 1,)`` how many images have each width.
        multiple: widths are multiples of this.

    Dynamic programming over the distinct rounded widths: ``cost[i, j]`` is the fewest columns that hold the ``j``
    narrowest widths in ``i`` buckets.
    """
    rounded = -(-np.arange(len(histogram)) // multiple) * multiple
    counts = np.bincount(rounded, weights=histogram)
    edges = np.flatnonzero(counts)
    below = np.concatenate([[0], np.cumsum(counts[edges])])  # images among the j narrowest widths
    best = np.full(len(edges) + 1, np.inf)
    best[0] = 0
    choices: list[np.ndarray] = []
    for _ in range(min(buckets, len(edges))):
        cost = best[:, None] + (below[None, 1:] - below[:, None]) * edges[None, :]  # cut before i, bucket ends at j
        cost[np.arange(len(edges) + 1)[:, None] > np.arange(len(edges))[None, :]] = np.inf
        choices.append(cost.argmin(0))
        best = np.concatenate([[np.inf], cost.min(0)])
    chosen, end = [], len(edges)
    for choice in reversed(choices):
        if end == 0:
            break
        chosen.append(int(edges[end - 1]))
        end = int(choice[end - 1])
    return tuple(sorted(chosen))
