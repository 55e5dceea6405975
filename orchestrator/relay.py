"""Carries the files of a launch between its driver and a worker on another node, by way of a store at a URL."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.repeated import repeated
from orchestrator.store import Store, StoreError

EVERY_S = 2.0
DRIVER = "driver"  # lies in the folder on the driver's own node, where all see the same files
STOP, EVENTS, OUTCOME = "stop", "events.jsonl", "outcome.json"


@contextmanager
def relayed(store: Store, folder: Path, *, driver: bool) -> Iterator[None]:
    """Publish what this side says in ``folder`` and fetch what the other does, every two seconds and at the end.

    Nothing is done where the store is in the file system, nor by a worker on its driver's own node.
    """
    if not store.origin.place or (not driver and (folder / DRIVER).exists()):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    if driver:
        (folder / DRIVER).touch()
    relay = _Relay(store, folder, driver)
    relay.exchange()

    def exchange() -> None:
        with suppress(StoreError):  # this is only talk; what matters fails by itself
            relay.exchange()

    try:
        with repeated(exchange, every_s=EVERY_S, name="relay"):
            yield
    finally:
        relay.exchange()
    if driver:
        store.origin.forget(folder)


@dataclass
class _Relay:
    """One side of it. A wish to stop may come, and be taken back, on either side; of all else a worker tells."""

    store: Store
    folder: Path
    driver: bool
    token: str = field(default_factory=lambda: secrets.token_hex(4))
    shown: dict[str, int] = field(default_factory=dict)  # file of a worker's events -> bytes that were taken over
    stop_known: bool = False  # the wish was the same on both sides

    def exchange(self) -> None:
        self._stop()
        origin = self.store.origin
        if not self.driver:
            told = self.folder / f"events-{self.token}.jsonl"
            if (self.folder / EVENTS).exists():
                told.write_bytes((self.folder / EVENTS).read_bytes())
            for path in [told, *self.folder.glob("rank-*.json"), self.folder / "status.json", self.folder / OUTCOME]:
                origin.push(path)
            origin.pull(self.folder / OUTCOME)
            return
        for name in origin.names(self.folder):
            if name.startswith(("events-", "rank-")) or name in ("status.json", OUTCOME):
                origin.pull(self.folder / name)
        for path in sorted(self.folder.glob("events-*.jsonl")):
            self._take_over(path)

    def _take_over(self, told: Path) -> None:
        new = told.read_bytes()[self.shown.get(told.name, 0) :].rpartition(b"\n")
        if new[1]:
            self.shown[told.name] = self.shown.get(told.name, 0) + len(new[0]) + 1
            with (self.folder / EVENTS).open("ab") as file:
                file.write(new[0] + new[1])

    def _stop(self) -> None:
        origin, path = self.store.origin, self.folder / STOP
        here, there = path.exists(), STOP in origin.names(self.folder)
        if here and not there and not self.stop_known:
            origin.push(path)
        elif there and not here and not self.stop_known:
            origin.pull(path)
        elif here and not there:  # taken back there
            path.unlink()
        elif there and not here:  # taken back here
            origin.take_back(path)
        self.stop_known = path.exists()
