"""Cutting a validation set without cutting a group in two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from datasets.row import SourceError


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


def split_by_share(groups: Sequence[str], *, valid_share: float, test_share: float, seed: int) -> dict[str, str]:
    """The split of every group: at most ``test_share`` of the rows test, at most ``valid_share`` valid, the rest train.

    Args:
        groups: the group of each row.
        valid_share: between 0 and 1; 0 cuts no validation set.
        test_share: likewise.
        seed: same seed, same splits, whatever the order of the rows.

    Raises :class:`SourceError` where a share above 0 is smaller than every group.
    """
    splits = dict.fromkeys(groups, "train")
    for split, share in (("test", test_share), ("valid", valid_share)):
        left = [group for group in groups if splits[group] == "train"]
        if share > 0 and groups:
            splits |= dict.fromkeys(_share_of(left, split=split, share=share, total=len(groups), seed=seed), split)
    return splits


def check_shares(owner: str, *, valid_share: float, test_share: float = 0.0) -> None:
    """Raises ``ValueError`` unless both shares and their sum lie in ``[0, 1)``."""
    if not (0 <= valid_share < 1 and 0 <= test_share < 1 and valid_share + test_share < 1):
        raise ValueError(
            f"{owner}: valid_share {valid_share}, test_share {test_share}; "
            "each must be at least 0 and together under 1, so that some rows are left to train on"
        )


def _share_of(groups: Sequence[str], *, split: str, share: float, total: int, seed: int) -> frozenset[str]:
    """The groups held out for one split; ``total`` is the number of rows before any split was cut."""
    rows = max(1, round(share * total))
    chosen = held_out_groups(groups, rows=rows, seed=seed)
    if not chosen:
        smallest = min(Counter(groups).values(), default=0)
        raise SourceError(
            f"{split}_share={share} of {total} rows asks for {rows}, but the smallest of {len(set(groups))} groups "
            f"left has {smallest} rows and groups are never cut in two; raise the share, set it to 0, or split groups"
        )
    return chosen
