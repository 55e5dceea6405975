"""Which frames spell which character of a known reading, and how sure the network is of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BLANK = 0


def align(log_probs: NDArray[np.floating], label: Sequence[int]) -> NDArray[np.int64]:
    """``(T,)`` for each frame the place in ``label`` that it spells on CTC's single best path, or -1 for blank.

    Args:
        log_probs: ``(T, K)`` of one image's valid frames. Raises :class:`ValueError` where they cannot spell the label.
    """
    states = np.full(2 * len(label) + 1, BLANK)  # blank, symbol, blank, symbol ..., blank
    states[1::2] = label
    skips = np.zeros(len(states), dtype=bool)  # from one symbol straight to the next, if it is another
    skips[3::2] = states[3::2] != states[1:-2:2]
    score = np.where(np.arange(len(states)) < 2, 0.0, -np.inf)
    steps = []
    for number, frame in enumerate(np.asarray(log_probs, dtype=np.float64)):
        if number:
            one, two = np.full_like(score, -np.inf), np.full_like(score, -np.inf)
            one[1:], two[2:] = score[:-1], np.where(skips[2:], score[:-2], -np.inf)
            ways = np.stack([score, one, two])
            steps.append(ways.argmax(axis=0))
            score = ways.max(axis=0)
        score = score + frame[states]
    place = len(states) - 1 if len(states) == 1 or score[-1] >= score[-2] else len(states) - 2
    if not len(log_probs) or not np.isfinite(score[place]):
        raise ValueError(f"align: {len(log_probs)} frames cannot spell a label of {len(label)} symbols")
    path = [place]
    for back in reversed(steps):
        path.append(path[-1] - int(back[path[-1]]))
    path.reverse()
    return np.array([state // 2 if state % 2 else -1 for state in path])


def symbol_confidences(log_probs: NDArray[np.floating], label: Sequence[int]) -> list[float]:
    """One number for each symbol of ``label``: the highest probability it has in the frames that spell it.

    Args:
        log_probs: ``(T, K)`` of one image's valid frames, normalised over ``K``.
    """
    if not len(label):
        return []
    places = align(log_probs, label)
    return [float(np.exp(log_probs[places == place, symbol].max())) for place, symbol in enumerate(label)]
