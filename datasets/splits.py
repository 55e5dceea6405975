"""Cutting a validation set without cutting a group in two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np


def held_out_groups(groups: Sequence[str], *, rows: int, seed: int) -> frozenset[str]:
    """Whole groups that together hold at most ``rows`` rows: as many as a seeded order allows.

    Args:
        groups: the group of each row.
        rows: how many rows to hold out. Exact whenever groups of one row are among them.
        seed: same seed, same groups, whatever the order of the rows.
    """
    sizes = Counter(groups)
    names = sorted(sizes)
    chosen: list[str] = []
    left = rows
    for index in np.random.default_rng(seed).permutation(len(names)):
        if sizes[names[index]] <= left:
            chosen.append(names[index])
            left -= sizes[names[index]]
    return frozenset(chosen)
