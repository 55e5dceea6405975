"""The thread that mirrors: it reads the journals of stages as they grow, and brings every tracker up to them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestrator.files import write_json
from orchestrator.store import Record, Store
from orchestrator.tracking.points import Point, Points, StageAt

POLL_S = 1.0
MOST_WAIT_S = 60.0  # between two tries of a tracker that fails
CLOSE_S = 30.0  # how long the end of a launch waits for what is still to be delivered


class Sink(Protocol):
    """A tracker. ``place`` is what it remembers of a stage between calls and launches, as JSON data.

    Attributes:
        key: what ``place`` is kept under in ``tracked.json``; another one for another server.
        where: how a person looks at it.
    """

    name: str
    key: str

    @property
    def where(self) -> str: ...
    def mask(self, text: str) -> str: ...
    def open(self, at: StageAt, place: dict[str, Any], *, done: bool) -> None: ...
    def mirror(self, at: StageAt, place: dict[str, Any], points: Sequence[Point], record: Record | None) -> None: ...
    def close(self, stages: Sequence[tuple[StageAt, dict[str, Any], bool]], *, error: str, done: bool) -> None: ...


class Followed:
    """A stage, its points, and how far each tracker has come."""

    def __init__(self, at: StageAt, store: Store) -> None:
        self.at, self.points, self._store = at, Points(at.folder), store
        self._places: dict[str, dict[str, Any]] | None = None
        self._record: Record | None = None
        self._opened: set[str] = set()

    @property
    def begun(self) -> bool:
        return (self.at.folder / "plan.json").exists()

    @property
    def record(self) -> Record | None:
        self._record = self._record or self._store.read(self.at.folder)
        return self._record

    def place(self, sink: Sink) -> dict[str, Any]:
        path = self.at.folder / "tracked.json"
        if self._places is None:
            self._places = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return self._places.setdefault(sink.key, {})

    def save(self) -> None:
        write_json(self.at.folder / "tracked.json", self._places)

    def deliver(self, sink: Sink, *, since: float) -> None:
        """Bring ``sink`` up to what the files say. A stage it has to the end, or that is not under way, costs nothing.

        Args:
            since: the time at which this launch began.
        """
        place, record = self.place(sink), self.record  # the record first: with it the journals are complete
        if place.get("finished"):
            return
        self.points.read()
        begins = sink.key not in self._opened and (self.at.folder / "plan.json").stat().st_mtime >= since
        if not begins and not record and not self.points.beyond(place):
            return
        sink.open(self.at, place, done=record is not None)
        self._opened.add(sink.key)
        self.save()
        points = self.points.beyond(place)
        if points or record:
            sink.mirror(self.at, place, points, record)
            for point in points:
                place[point.file] = max(place.get(point.file, 0), point.end)
            place["finished"] = record is not None
            self.save()


@dataclass
class _Tries:
    """How a tracker has fared."""

    failing: bool = False
    wait: float = 1.0
    not_before: float = 0.0


@dataclass
class Tracking:
    """The thread that mirrors, for as long as a launch lasts."""

    sinks: Sequence[Sink]
    store: Store
    stages: Sequence[StageAt]
    say: Callable[[str], None]
    _ending: threading.Event = field(default_factory=threading.Event, repr=False)
    _error: str = field(default="", repr=False)

    @property
    def where(self) -> list[str]:
        """For each tracker, the command or the address that shows it."""
        return [sink.where for sink in self.sinks]

    def start(self) -> None:
        self._since = time.time() - 0.05  # clocks of files are coarser
        self._followed = [Followed(at, self.store) for at in self.stages]
        self._tries = {sink.key: _Tries() for sink in self.sinks}
        self._thread = threading.Thread(target=self._follow, name="tracking", daemon=True)
        if self.sinks:
            self._thread.start()

    def close(self, error: str) -> None:
        """Deliver what is left, say how it ended, and stop. Waits :data:`CLOSE_S` at most."""
        self._error = error
        self._ending.set()
        if self.sinks:
            self._thread.join(CLOSE_S)
            if self._thread.is_alive():
                self.say(f"trackers: not done after {CLOSE_S:.0f} s; the same command delivers the rest when run again")

    def _follow(self) -> None:
        while not self._ending.wait(POLL_S):
            for sink in self.sinks:
                self._try(sink, self._deliver)
        for sink in self.sinks:
            self._tries[sink.key].not_before = 0.0
            if not (self._try(sink, self._deliver) and self._try(sink, self._close)):
                self.say(f"{sink.name}: not everything was delivered; the same command does it when run again")

    def _try(self, sink: Sink, work: Callable[[Sink], None]) -> bool:
        tries = self._tries[sink.key]
        if time.monotonic() < tries.not_before:
            return False
        try:
            work(sink)
        except Exception as error:  # of a library, a server or a disk: none of them may end hours of training
            if not tries.failing:
                told = " ".join(sink.mask(f"{type(error).__name__}: {error}").split())[:300]
                self.say(f"{sink.name}: {told} - training goes on; this is tried again")
            tries.failing, tries.wait = True, min(tries.wait * 2, MOST_WAIT_S)
            tries.not_before = time.monotonic() + tries.wait
            return False
        if tries.failing:
            self.say(f"{sink.name}: works again")
        self._tries[sink.key] = _Tries()
        return True

    def _deliver(self, sink: Sink) -> None:
        for followed in self._followed:
            if followed.begun:
                followed.deliver(sink, since=self._since)

    def _close(self, sink: Sink) -> None:
        begun = [each for each in self._followed if each.begun]
        done = len(begun) == len(self._followed) and all(each.record for each in begun)
        stages = [(each.at, each.place(sink), each.record is not None) for each in begun]
        sink.close(stages, error=sink.mask(self._error), done=done)
        for each in begun:
            each.save()
