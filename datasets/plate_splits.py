"""Which plates are held out: whole plates, in the same proportion from every stratum, never single frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from datasets.row import SourceError


def stratified_splits(
    plates: Iterable[tuple[str, str]], *, valid_share: float, test_share: float, seed: int
) -> dict[str, str]:
    """The split of every group: of each stratum about ``test_share`` of the groups test, ``valid_share`` valid.

    Groups stand in line stratum by stratum, shuffled inside each, and every 1/share-th is taken: each stratum gets its
    share to within one group, and so does the whole, however small the strata.

    Args:
        plates: group and stratum of each row; a group in several strata counts as a stratum of such groups.
        seed: same seed, same splits, whatever the order of the rows.

    Raises :class:`SourceError` where a share above 0 leaves some split, or train, without any group.
    """
    found: dict[str, set[str]] = {}
    for group, stratum in plates:
        found.setdefault(group, set()).add(stratum)
    line = _in_line(found, seed)
    splits = dict.fromkeys(line, "train")
    test = _taken(line, test_share, split="test", seed=seed)
    splits |= dict.fromkeys(test, "test")
    rest = [group for group in line if splits[group] == "train"]
    valid = _taken(rest, valid_share / (1 - test_share), split="valid", seed=seed + 1)
    return splits | dict.fromkeys(valid, "valid")


def _in_line(found: dict[str, set[str]], seed: int) -> list[str]:
    names = sorted(found)
    place = np.random.default_rng(seed).permutation(len(names))
    order = sorted(range(len(names)), key=lambda index: (sorted(found[names[index]]), place[index]))
    return [names[index] for index in order]


def _taken(line: Sequence[str], share: float, *, split: str, seed: int) -> list[str]:
    """Every 1/``share``-th of ``line``, from a seeded start on; one at least."""
    if share <= 0 or not line:
        return []
    if len(line) < 2:
        raise SourceError(
            f"{split} is to get a share of {share:g}, but only {len(line)} plate is left, which train needs; "
            "set the share to 0 or bring more plates"
        )
    start = np.random.default_rng((seed, 1)).random()
    steps = np.floor(np.arange(len(line) + 1) * share + start)
    taken = [group for group, here, there in zip(line, steps, steps[1:], strict=False) if there > here]
    return taken or [line[int(start * len(line))]]
