"""One trial, in a process that makes many: the stage with a trial's settings, trained in a folder of its own.

What trials share is made once per process: the shards' maps, the checks of the data, the parent's weights and their
validation. A trial tells what it measured after each epoch, and ends in an outcome, never in silence.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from orchestrator.content import open_shards
from orchestrator.execution import Execution
from orchestrator.failures import foreseen
from orchestrator.identity import fingerprint
from orchestrator.live import RunFailed, Watch
from orchestrator.machine import Machine
from orchestrator.override import from_plain, override
from orchestrator.plan import PlanError, Recipe, Stage
from orchestrator.ranks import Ranks
from orchestrator.shards import Shards
from orchestrator.store import Record, Store, StoreError
from orchestrator.sweep.shared import StopSign
from orchestrator.trials import train_trial
from orchestrator.trying import Kept, Trying
from orchestrator.turn import turn
from orchestrator.working_copy import store_at

Tell = Callable[[Mapping[str, Any]], None]
STOP = "stop"  # in the sweep's folder: the wish that it ends


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all trials of a sweep have in common, as plain data that travels to any process.

    Attributes:
        plan: the recipe with the stage as it stands, not searched.
        store: as ``--store`` takes it; ``folder``, of the sweep, and ``shards`` lie from its root.
        stop: a file in the folder: trials save a checkpoint and end, to be continued.
    """

    plan: Mapping[str, Any]
    stage: str
    metrics: tuple[str, ...]
    sweep: str
    folder: str
    store: str
    shards: Mapping[str, str]
    execution: Mapping[str, Any]
    stop: str = STOP

    @property
    def home(self) -> Store:
        """The store, opened once per process."""
        return _store_at(self.store)

    @property
    def root(self) -> Path:
        """The sweep's folder on this node."""
        return self.home.root / self.folder


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One trial to be made.

    Attributes:
        asked_at: seconds since 1970 at which it was proposed.
        rungs: epochs after which it may be cut; trials of several workers pause there.
    """

    number: int
    changes: Mapping[str, Any]
    asked_at: float
    rungs: Sequence[int] = ()


@dataclass(frozen=True)
class Opened:
    """A job's recipe and shards, opened once per process."""

    recipe: Recipe
    shards: Mapping[str, Shards]
    kept: Kept


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A trial's own plan, and where it is trained."""

    recipe: Recipe
    stage: Stage
    fingerprint: str
    folder: Path


@dataclass
class TrialWatch:
    """Implements :class:`orchestrator.live.Watch`: tells what was measured after each epoch, and of the first step."""

    stage: Stage
    metrics: tuple[str, ...]
    stop: StopSign
    tell_up: Tell
    asked_at: float
    first_step_s: float | None = field(default=None)

    def stop_asked(self) -> bool:
        return self.stop.asked()

    def at(self, phase: str) -> None:
        pass

    def tell(self, status: Mapping[str, Any]) -> None:
        if self.first_step_s is None and status.get("step", 0) > 0:
            self.first_step_s = time.time() - self.asked_at
        epoch = status.get("epoch", 0)
        last = epoch == self.stage.epochs or bool(status.get("finished"))
        if status.get("ended") and (last or epoch % self.stage.validate_every == 0):
            values = values_of(status["validation"], self.metrics, self.stage)
            self.tell_up({"epoch": epoch, "values": values, "first_step_s": self.first_step_s})


def values_of(measured: Mapping[str, float], metrics: tuple[str, ...], stage: Stage) -> dict[str, float]:
    """The metrics that trials are compared by. Raises :class:`PlanError` naming what is measured instead."""
    if missing := [metric for metric in metrics if metric not in measured]:
        raise PlanError(
            f"the sweep compares by {', '.join(missing)}, which stage {stage.name!r} does not measure; it measures "
            f"{', '.join(sorted(measured))}"
        )
    return {metric: float(measured[metric]) for metric in metrics}


@lru_cache(maxsize=1)
def opened(job: str) -> Opened:
    """What the trials of ``job`` (:func:`packed`) share in this process."""
    data = json.loads(job)
    store = _store_at(data["store"])
    shards, _ = open_shards(store, {name: store.root / path for name, path in data["shards"].items()}, Ranks())
    return Opened(from_plain(data["plan"]), shards, Kept())


@lru_cache(maxsize=1)
def _store_at(place: str) -> Store:
    return store_at(place)


def packed(job: Job) -> str:
    """``job`` as text."""
    return json.dumps(vars(job))  # in its own order: the first of a mix is its primary source


def planned(job: Job, asked: Asked) -> Planned:
    """The plan of a trial. Raises :class:`PlanError` where its settings do not go together."""
    here = opened(packed(job))
    recipe = override(here.recipe, asked.changes)
    stage = recipe.stage(job.stage)
    contents = {name: each.manifest.content for name, each in here.shards.items()}
    known = fingerprint(recipe, stage, contents)
    return Planned(
        recipe=recipe, stage=stage, fingerprint=known,
        folder=job.root / f"trial{asked.number:04d}-{known}",
    )  # fmt: skip


def trained(job: Job, asked: Asked, tell: Tell, *, ranks: Ranks | None = None, until: int = 0) -> Record | None:
    """Train a trial to its record, or to ``until`` epochs; None where it was stopped or has paused."""
    import torch

    execution = Execution(**job.execution)
    torch.set_num_threads(execution.threads_each)
    plan, store, ranks = planned(job, asked), job.home, ranks or Ranks()
    recorded = store.find(store.folder(plan.recipe.name, plan.stage.name, plan.fingerprint))
    if recorded is not None and ranks.count == 1:
        return recorded  # the very settings were trained before, by `train` or adopted from a sweep
    watch = TrialWatch(plan.stage, job.metrics, StopSign(store, job.root / job.stop), tell, asked.asked_at)
    origin = {"sweep": job.sweep, "number": asked.number, "changes": dict(asked.changes)}
    here = opened(packed(job))

    def train(watch: Watch) -> Record | None:
        return train_trial(
            plan.recipe, plan.stage, store, here.shards, execution, machine=Machine.of(execution, ranks), watch=watch,
            folder=plan.folder, trying=Trying(kept=here.kept, origin=origin, until=until),
        )  # fmt: skip

    if not store.origin.place:
        return train(watch)
    with turn(store, plan.folder, plan.stage.name, ranks, watch) as mine:
        if mine.watch is None:
            return mine.record
        try:
            return train(mine.watch)
        finally:
            store.origin.publish_stage(plan.folder)  # its journals, however it ended


def outcome_of(job: Job, asked: Asked, run: Callable[[], Record | None]) -> dict[str, Any]:
    """What became of a trial: ``outcome`` and what belongs to it. Whatever goes wrong is its reason."""
    began = time.monotonic()
    told: dict[str, Any] = {"outcome": "interrupted"}
    try:
        plan = planned(job, asked)
        told |= {"fingerprint": plan.fingerprint, "folder": plan.folder.name, "planned": plan.stage.epochs}
        with alone_in(plan.folder):
            record = run()
        if record is not None:
            told |= {"outcome": "finished", "epochs": record.epochs,
                     "values": values_of(record.metrics, job.metrics, plan.stage)}  # fmt: skip
    except foreseen() as error:
        told |= {"outcome": "failed", "reason": str(error)}
    except Exception as error:
        told |= {"outcome": "failed", "reason": f"{type(error).__name__}: {error}"}
        if "folder" in told:
            _leave(job, told["folder"], traceback.format_exc())
    return told | {"seconds": time.monotonic() - began}


def _leave(job: Job, folder: str, trace: str) -> None:
    """Where in the code a trial failed, beside its journals."""
    path = job.root / folder / "error.txt"
    path.write_text(trace, encoding="utf-8")
    with suppress(StoreError):  # the reason is told in any case
        job.home.origin.push(path)


@contextmanager
def alone_in(folder: Path, *, wait_s: float = 120.0) -> Iterator[None]:
    """Hold a folder that no other process trains in: one that a dead sweep left behind may still be ending there.

    Raises :class:`RunFailed` where it does not end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR)
    try:
        ends = time.monotonic() + wait_s
        while not _locked(handle):
            if time.monotonic() > ends:
                raise RunFailed(f"{folder}: another process works there, still after {wait_s:.0f} s; wait, or end it")
            time.sleep(0.1)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
