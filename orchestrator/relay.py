"""Carries the files of a launch between its driver and a worker on another node, by way of a store at a URL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.store import Store, StoreError

EVERY_S = 2.0
ASKED = ("stop",)
TOLD = ("status.json", "events.jsonl", "outcome.json")
DRIVER = "driver"  # lies in the folder on the driver's own node, where all see the same files


@contextmanager
def relayed(store: Store, folder: Path, *, driver: bool) -> Iterator[None]:
    """Publish what this side says in ``folder`` and fetch what the other side does, every two seconds and at the end.

    Nothing is done where the store is in the file system, nor by a worker on its driver's own node.
    """
    if not store.origin.place or (not driver and (folder / DRIVER).exists()):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    if driver:
        (folder / DRIVER).touch()
    out, back = (ASKED, TOLD) if driver else (TOLD, (*ASKED, TOLD[-1]))

    def exchange() -> None:
        for name in out:
            store.origin.push(folder / name)
        for name in back:
            store.origin.pull(folder / name)

    exchange()
    with _repeated(exchange):
        yield
    if driver:
        store.origin.forget(folder)


@contextmanager
def _repeated(exchange: Callable[[], None]) -> Iterator[None]:
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(EVERY_S):
            with suppress(StoreError):  # this is only talk; what matters fails by itself
                exchange()

    thread = threading.Thread(target=follow, name="relay", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        exchange()
