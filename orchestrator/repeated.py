"""Something that is done again and again beside what is going on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeated(work: Callable[[], object], *, every_s: float, name: str) -> Iterator[None]:
    """Call ``work`` every ``every_s`` seconds while the body runs, in a thread called ``name``; no call outlasts it.

    An error that ``work`` raises ends the calls, not the body.
    """
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(every_s):
            work()

    thread = threading.Thread(target=follow, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
