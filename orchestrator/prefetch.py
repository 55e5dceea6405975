"""Items made by a thread while the ones before them are used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def ahead(items: Iterable[T], *, depth: int) -> Iterator[Iterator[T]]:
    """The same items, made by a thread that keeps ``depth`` of them ready. Its errors are raised here."""
    ready: queue.Queue[list[T] | BaseException] = queue.Queue(depth)  # an empty list is the end
    closed = threading.Event()

    def put(entry: list[T] | BaseException) -> bool:
        while not closed.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put([item]):
                    return
            put([])
        except BaseException as error:
            put(error)

    def taken() -> Iterator[T]:
        while entry := ready.get():
            if isinstance(entry, BaseException):
                raise entry
            yield from entry

    thread = threading.Thread(target=work, name="batches-ahead", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        closed.set()
        thread.join()
