"""What sources of plates do the same way: bad pictures made from good ones, and no plate on both sides of a split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from datasets.degrade import Chain
from datasets.degraded import Degraded
from datasets.on_disk import storable
from datasets.row import Reject, Row

ORDER = ("train", "valid", "test")


def versions(row: Row, chain: Chain, *, seed: int, count: int) -> Iterator[Row]:
    """``row``, whose image is a good picture, as pairs of a bad one and that good one.

    Args:
        count: pairs in train, each with other damage; the first keeps the row's id, the others add ``#2``, ``#3`` ...
            Validation and test have one each, so that no plate counts more than another.
    """
    for number in range(1, (count if row.split == "train" else 1) + 1):
        id = row.id if number == 1 else f"{row.id}#{number}"
        yield replace(row, id=id, image=Degraded(row.image, chain, seed, id), target=row.image)


def without_leaks(rows: Iterable[Row | Reject]) -> Iterator[Row | Reject]:
    """``rows`` with each whose plate an official list also has in a later split (train, valid, test) refused.

    Official lists are made by picture, and one vehicle passes a camera twice.
    """
    listed = list(rows)
    held: dict[str, set[str]] = {split: set() for split in ORDER}
    for row in listed:
        if isinstance(row, Row):
            held[row.split].add(row.group)
    for row in listed:
        later = _later(row.split, row.group, held) if isinstance(row, Row) else ""
        if later:
            yield Reject(id=row.id, reason="plate_held_out", detail=storable(f"its plate is in {later} too"))
        else:
            yield row


def _later(split: str, group: str, held: Mapping[str, set[str]]) -> str:
    """The last split that has the plate, where that comes after ``split``; else nothing."""
    after = ORDER[ORDER.index(split) + 1 :]
    return next((other for other in reversed(after) if group in held[other]), "")


def check_versions(owner: str, count: int) -> None:
    if count < 1:
        raise ValueError(f"{owner}: versions is {count}; it must be at least 1")
