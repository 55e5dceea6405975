"""A stage's journals as points on curves, and its plan as flat settings: what every tracker shows, in whatever form.

=====================================  ==================================================================
name                                   from
=====================================  ==================================================================
``train/lr``, ``train/loss/TERM`` ...  every number of an epoch's line in ``metrics.jsonl``
``train/grad_norm_mean``, ``_max``     over the steps of the epoch; ``train/grad_norm_mean/PART`` of a part
``val/SET/METRIC``                     every number of a validation's line
``events``                             findings so far
``speed/samples_per_s`` ...            every number of an epoch's line in ``speed.jsonl``
``speed/busy_s/rank0`` ...             where there are several ranks, each rank's
``speed/events``                       findings so far that depend on the clock
=====================================  ==================================================================
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.plan import Stage

PICTURES = "pictures"  # the folder of a stage that the report leaves PNGs in
NOT_EVENTS = ("step", "epoch", "validation")  # of metrics.jsonl; every other kind of line there is a finding
PLACE_OF = ("kind", "epoch", "step", "time")  # where a line belongs, not what it measured


@dataclass(frozen=True)
class StageAt:
    """A stage, its number in the recipe from 0, and its folder in the store."""

    number: int
    stage: Stage
    folder: Path

    @property
    def fingerprint(self) -> str:
        return self.folder.name.rpartition("-")[2]

    @property
    def title(self) -> str:
        return f"stage{self.number}_{self.stage.name}"

    @property
    def name(self) -> str:
        """What its run is called."""
        return self.title


@dataclass(frozen=True)
class TrialAt(StageAt):
    """A trial of a sweep: the stage with its settings, its ``trial`` number and what it changes in the plan."""

    trial: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"trial{self.trial:04d}"


@dataclass(frozen=True, slots=True)
class Point:
    """One number on a curve.

    Attributes:
        file: the journal it comes from; ``end`` is the length in bytes of that file up to the end of its line.
        epoch: epochs finished by then, and ``step`` the updates.
        time: seconds since 1970 at which the epoch ended; 0 for what was measured before the first step. The same
            however often the line is read, so that a tracker can tell a repeated point.
    """

    file: str
    end: int
    name: str
    value: float
    epoch: int
    step: int
    time: float


class Points:
    """The points of one stage, read from its journals as they grow."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fold = _Fold.of(folder)
        self.all: list[Point] = []

    def read(self) -> None:
        """Take in the whole lines that are new."""
        try:
            self.all += self._fold.new()
        except ValueError:  # resuming cut the journal and wrote other bytes: another number of workers rounds otherwise
            self._fold, self.all = _Fold.of(self._folder), []
            self.all += self._fold.new()

    def beyond(self, places: Mapping[str, Any]) -> list[Point]:
        """Those that come from lines after the first ``places[file]`` bytes of their file."""
        return [point for point in self.all if point.end > places.get(point.file, 0)]


def events_of(path: Path) -> str:
    """The lines of a ``metrics.jsonl`` that are findings, as they stand there."""
    return "".join(line.decode() for _, line in _Tail(path).new() if json.loads(line)["kind"] not in NOT_EVENTS)


def flat(value: Any, name: str = "") -> dict[str, str]:
    """JSON data as text by dotted path: ``{"optim": {"lr": 0.1}}`` gives ``{"optim.lr": "0.1"}``.

    Lists of plain values stay one JSON text; the items of other lists are numbered from 0.
    """
    listed = isinstance(value, Sequence) and any(isinstance(item, Mapping | list) for item in value)
    inner = dict(enumerate(value)) if listed else value
    if not isinstance(inner, Mapping) or not inner:
        return {name: value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)}
    found: dict[str, str] = {}
    for key, item in inner.items():
        found |= flat(item, f"{name}.{key}" if name else str(key))
    return found


@dataclass
class _Tail:
    """The whole lines of a growing file, each once; one that was cut is read on when it is longer than before."""

    path: Path
    place: int = 0

    def new(self) -> Iterator[tuple[int, bytes]]:
        """Each new line, after the length of the file up to its end."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.place)
            data = file.read()
        for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
            self.place += len(line)
            yield self.place, line


@dataclass
class _Fold:
    """What the lines so far say that later lines need."""

    metrics: _Tail
    speed: _Tail
    norms: dict[str, list[float]] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=lambda: {0: 0})
    times: dict[int, float] = field(default_factory=dict)
    waiting: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    epoch: int = 0
    events: int = 0
    speed_events: int = 0

    @staticmethod
    def of(folder: Path) -> _Fold:
        return _Fold(_Tail(folder / "metrics.jsonl"), _Tail(folder / "speed.jsonl"))

    def new(self) -> list[Point]:
        journal = list(self.metrics.new())  # first: the epoch's line in speed.jsonl is written before the one here
        for end, line in self.speed.new():
            row = json.loads(line)
            if row["kind"] == "epoch":
                self.times.setdefault(row["epoch"], row["time"])
            self.waiting.append((end, row))
        points = [point for end, line in journal for point in self._measured(end, json.loads(line))]
        return points + list(self._speeds())

    def _measured(self, end: int, row: Mapping[str, Any]) -> Iterator[Point]:
        kind = row["kind"]
        if kind == "step":
            self._note_norms(row)
            return
        if kind == "epoch":
            self.epoch = row["epoch"]
            self.steps[self.epoch] = row["step"]
            numbers = {f"train/{name}": value for name, value in _numbers(row).items()} | self._norms_of_epoch()
        elif kind == "validation":
            numbers = {f"val/{name}": value for name, value in _numbers(row).items()}
        else:
            self.events += 1
            numbers = {"events": float(self.events)}
        epoch = row.get("epoch", self.epoch)
        time = self.times.get(max((known for known in self.times if known <= epoch), default=-1), 0.0)
        step = row.get("step", self.steps.get(epoch, 0))
        yield from (Point("metrics.jsonl", end, safe(name), value, epoch, step, time)
                    for name, value in numbers.items())  # fmt: skip

    def _speeds(self) -> Iterator[Point]:
        """Lines of speed.jsonl, in order; each waits until the step at which its epoch ended is known."""
        while self.waiting and self.waiting[0][1].get("epoch", 0) in self.steps:
            end, row = self.waiting.pop(0)
            if row["kind"] == "epoch":
                numbers = {f"speed/{name}": value for name, value in (_numbers(row) | _of_ranks(row)).items()}
            elif row["kind"] == "event" and row.get("event") != "resumed":
                self.speed_events += 1
                numbers = {"speed/events": float(self.speed_events)}
            else:
                continue
            epoch = row.get("epoch", 0)
            yield from (Point("speed.jsonl", end, safe(name), value, epoch, self.steps[epoch], row["time"])
                        for name, value in numbers.items())  # fmt: skip

    def _note_norms(self, row: Mapping[str, Any]) -> None:
        for name, value in _numbers(row).items():
            if name.split("/")[0] == "grad_norm":
                total, count, most = self.norms.get(name, (0.0, 0.0, 0.0))
                self.norms[name] = [total + value, count + 1, max(most, value)]

    def _norms_of_epoch(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, (total, count, most) in self.norms.items():
            part = name.removeprefix("grad_norm")
            found |= {f"train/grad_norm_mean{part}": total / count, f"train/grad_norm_max{part}": most}
        self.norms = {}
        return found


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """What a line measured; a value that was not finite stands there as null and is left out."""
    return {
        name: float(value)
        for name, value in row.items()
        if name not in PLACE_OF and isinstance(value, int | float) and not isinstance(value, bool)
    }


def _of_ranks(row: Mapping[str, Any]) -> dict[str, float]:
    """What a line says of each rank: ``{"busy_s": [2.0, 3.0]}`` gives ``busy_s/rank0`` and ``busy_s/rank1``."""
    lists = {name: value for name, value in row.items() if isinstance(value, list)}
    return {f"{name}/rank{rank}": float(each) for name, value in lists.items() for rank, each in enumerate(value)}


def safe(name: str) -> str:
    """``name`` in the letters that every tracker takes."""
    return re.sub(r"[^\w./ -]", "_", name)
