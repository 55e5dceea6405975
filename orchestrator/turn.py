"""Whose turn it is to train a stage: asked for twice at once it is trained once, and who waited uses the record."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.lease import Holder, Lease, stale_s
from orchestrator.live import Watch
from orchestrator.ranks import Ranks
from orchestrator.store import Record, Store, told_of_disk

TELL_EVERY_S = 60.0  # for whom a stage waits


@dataclass(frozen=True)
class Leased:
    """A watch that also ends the run in which the lease was lost. Only rank 0 has one."""

    watch: Watch
    lease: Lease | None = None

    def check(self) -> None:
        """Raise :class:`orchestrator.lease.LeaseLost` unless this process may write to the stage."""
        if self.lease is not None:
            self.lease.check()

    def stop_asked(self) -> bool:
        self.check()
        return self.watch.stop_asked()

    def at(self, phase: str) -> None:
        self.watch.at(phase)

    def tell(self, status: Mapping[str, Any]) -> None:
        self.watch.tell(status)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What came of waiting: the record that another process made, or the right to make it, or a stop.

    Attributes:
        watch: of who trains; not one of who must not.
    """

    record: Record | None = None
    watch: Leased | None = None


@contextmanager
def turn(store: Store, folder: Path, stage: str, ranks: Ranks, watch: Watch) -> Iterator[Turn]:
    """Wait for the stage's record or its lease, on all ranks alike. With neither in it a stop was asked for."""
    record = _record(store, folder, ranks)
    if record is not None:
        yield Turn(record=record)
        return
    me, claims = Holder.here(), store.origin.claims(folder)
    try:
        waited, mine, told_at = 0, False, float("-inf")
        while record is None and not mine:
            held = claims.take(me) if ranks.first else None
            says = str(ranks.agree(str(held) if held else ""))
            stop = bool(says) and ranks.agree(watch.stop_asked())
            mine = not says
            if says and time.monotonic() > told_at + TELL_EVERY_S:
                watch.tell({"stage": stage, "waits_for": says})
                told_at = time.monotonic()
            if says and stop:
                break
            if says:
                waited += 1
                time.sleep(min(0.5 * waited, stale_s() / 12))
            record = _record(store, folder, ranks)  # the holder may have ended with one, whoever has the lease now
        if record is not None or not mine:
            yield Turn(record=record)
            return
        with told_of_disk(folder), _trained(store, folder, ranks, Lease(claims, me)) as lease:
            yield Turn(watch=Leased(watch, lease))
    finally:
        if ranks.first:
            claims.give_back(me)


@contextmanager
def _trained(store: Store, folder: Path, ranks: Ranks, lease: Lease) -> Iterator[Lease | None]:
    """The stage's files are here on every node, and are rank 0's to change until this ends."""
    if not ranks.first:
        ranks.wait()
        store.origin.fetch_stage(folder, checkpoints=None)
        ranks.wait()
        yield None
        return
    with lease.renewed(), store.origin.writing(folder):
        store.origin.fetch_stage(folder, checkpoints=None)
        ranks.wait()
        ranks.wait()
        yield lease


def _record(store: Store, folder: Path, ranks: Ranks) -> Record | None:
    """The stage's record; on all ranks, or on none."""
    record = store.find(folder)
    if ranks.agree(record is not None):
        return record or store.find(folder)
    return None
