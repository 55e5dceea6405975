"""Trackers of a sweep: its trials as runs of their own, ended as the study says, beside the recipe's stages.

MLflow: the recipe's run holds one of the stage as it stands, that one of the sweep, and that one of each trial. A
finished trial is FINISHED, a failed one FAILED, a pruned one KILLED, and so is one that was interrupted and can go on;
the tag ``plumbline.outcome`` tells them apart. TensorBoard: STORE/tensorboard/RECIPE/SWEEP/trialNNNN/ for each trial,
with the tags that the stage itself has.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

from orchestrator.identity import plain
from orchestrator.plan import Recipe
from orchestrator.store import Store
from orchestrator.tracking import MlflowRuns
from orchestrator.tracking.points import StageAt, TrialAt, flat
from orchestrator.tracking.tensorboard import EventFiles
from orchestrator.tracking.thread import Followed, Sink, Tracking

STATUS = {"finished": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "interrupted": "KILLED"}
ABOUT = ("report.html", "report.md", "sweep.json")
OUTCOME, REASON = "plumbline.outcome", "plumbline.reason"


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a trial ended: ``"finished"``, ``"pruned"`` or ``"failed"``, and why."""

    outcome: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a sweep has come.

    Attributes:
        endings: by trial, of those that have ended and whose process has left their folder.
        counts: outcome -> trials; ``best`` the winner's values so far by metric.
        ranges: setting -> what is searched.
        at: seconds since 1970 at which the newest trial ended; 0 before that.
    """

    endings: Mapping[int, Ending] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    best: Mapping[str, float] = field(default_factory=dict)
    ranges: Mapping[str, str] = field(default_factory=dict)
    at: float = 0.0

    @property
    def ended(self) -> int:
        return sum(number for outcome, number in self.counts.items() if outcome != "interrupted")


@dataclass(frozen=True, kw_only=True)
class SweepAt:
    """A sweep and the ``stage`` it searches, as it stands; ``settings`` are what it is made of, as flat text."""

    name: str
    folder: Path
    stage: StageAt
    settings: Mapping[str, str]


class TrialSink(Sink, Protocol):
    """A tracker of trials. ``place`` is what it remembers of a trial, and of the sweep, between calls and launches."""

    def end(self, at: TrialAt, place: dict[str, Any], ending: Ending) -> None: ...
    def tell(self, place: dict[str, Any], standing: Standing) -> None: ...
    def end_sweep(self, place: dict[str, Any], standing: Standing, *, error: str, over: bool) -> None: ...


class MlflowTrials(MlflowRuns):
    """Implements :class:`TrialSink`."""

    def __init__(self, recipe: Recipe, store: Store, sweep: SweepAt) -> None:
        super().__init__(recipe, store, [sweep.stage])
        self._sweep = sweep
        self._stage_was_open = False

    def _above(self, at: StageAt) -> str:
        return str(self._sweep_run.info.run_id)

    def _tags(self, at: StageAt) -> dict[str, str]:
        assert isinstance(at, TrialAt)
        return {"plumbline.kind": "trial", "plumbline.trial": str(at.trial), "plumbline.stage": at.stage.name,
                "plumbline.sweep": self._sweep.name}  # fmt: skip

    def _opened(self, at: StageAt, parent: str, run: Any) -> None:
        assert isinstance(at, TrialAt)
        for tag in (OUTCOME, REASON):
            if tag in run.data.tags:
                self._client.delete_tag(run.info.run_id, tag)
        changes = [flat(value, path) for path, value in at.changes.items()]
        self._log_params(run, dict(ChainMap(*changes, flat(plain(at.stage)))))

    def end(self, at: TrialAt, place: dict[str, Any], ending: Ending) -> None:
        """Say how it ended, and upload what lies in its folder."""
        self._upload(at, place)
        self._end_trial(place["run_id"], ending)

    def tell(self, place: dict[str, Any], standing: Standing) -> None:
        """The best value and the counts so far; the step is the number of trials that have ended."""
        from mlflow.entities import Metric

        run = self._sweep_run
        place["run_id"] = run.info.run_id
        self._log_params(run, {f"space.{name}": text for name, text in standing.ranges.items()})
        if standing.ended and place.get("ended") != standing.ended:
            found = {f"best/{name}": value for name, value in standing.best.items()}
            found |= {f"trials/{outcome}": float(number) for outcome, number in standing.counts.items()
                      if outcome != "interrupted"}  # fmt: skip
            at = int(standing.at * 1000)
            metrics = [Metric(name, value, at, standing.ended) for name, value in found.items()]
            self._client.log_batch(run.info.run_id, metrics=metrics)
            place["ended"] = standing.ended

    def close(self, stages: Sequence[tuple[StageAt, dict[str, Any], bool]], *, error: str, done: bool) -> None:
        """End the trials that are under way as interrupted: they can go on."""
        for _, place, ended in stages:
            if not ended and place.get("run_id") in self._starts:
                self._end_trial(place["run_id"], Ending(outcome="interrupted"))

    def end_sweep(self, place: dict[str, Any], standing: Standing, *, error: str, over: bool) -> None:
        """Upload the report, and end the sweep's run, the stage's and the recipe's."""
        run_id = self._above(self._sweep.stage)
        for name in ABOUT:
            path = self._sweep.folder / name
            stamp = [path.stat().st_size, path.stat().st_mtime_ns] if path.exists() else None
            if stamp and place.setdefault("artifacts", {}).get(name) != stamp:
                self._client.log_artifact(run_id, str(path))
                place["artifacts"][name] = stamp
        status = "FAILED" if error else "FINISHED" if over else "KILLED"
        above = [self._stage_run.info.run_id] if self._stage_was_open else []
        for each in (run_id, *above, self._open_parent()):
            self._end(each, status, error)

    def _end_trial(self, run_id: str, ending: Ending) -> None:
        self._client.set_tag(run_id, OUTCOME, ending.outcome)
        if ending.reason:
            self._client.set_tag(run_id, REASON, ending.reason[:5000])
        self._client.set_terminated(run_id, STATUS[ending.outcome])

    @cached_property
    def _stage_run(self) -> Any:
        """The run of the stage as it stands, trained or not; made if need be."""
        at = self._sweep.stage
        wanted = f"tags.`plumbline.kind` = 'stage' and tags.`plumbline.fingerprint` = '{at.fingerprint}'"
        found = self._client.search_runs([self._experiment], wanted, max_results=1)
        parent = self._open_parent()
        self._stage_was_open = not found or found[0].info.status != "FINISHED"
        if found:
            run = found[0]
            if self._stage_was_open:
                self._reopen(run)
        else:
            tags = {"mlflow.parentRunId": parent, "plumbline.fingerprint": at.fingerprint, **super()._tags(at)}
            run = self._client.create_run(self._experiment, tags=tags, run_name=at.name)
            self._log_params(run, flat(plain(at.stage)))
        self._client.set_tag(parent, f"plumbline.{at.title}", run.info.run_id)
        return run

    @cached_property
    def _sweep_run(self) -> Any:
        """The run of the sweep, made if need be."""
        wanted = f"tags.`plumbline.kind` = 'sweep' and tags.`plumbline.sweep` = '{self._sweep.name}'"
        found = self._client.search_runs([self._experiment], wanted, max_results=1)
        tags = {"plumbline.kind": "sweep", "plumbline.sweep": self._sweep.name,
                "mlflow.parentRunId": self._stage_run.info.run_id}  # fmt: skip
        run = found[0] if found else self._client.create_run(self._experiment, tags=tags, run_name=self._sweep.name)
        self._reopen(run)
        self._log_params(run, self._sweep.settings)
        return run


class TrialEventFiles(EventFiles):
    """Implements :class:`TrialSink`."""

    def __init__(self, recipe: Recipe, store: Store, sweep: SweepAt) -> None:
        super().__init__(recipe, store, [sweep.stage])
        self._folder = store.root / "tensorboard" / recipe.name / sweep.name

    def _file(self, at: StageAt) -> Path:
        return self._folder / at.name / f"events.out.tfevents.{at.number:010d}.{at.title}"

    def end(self, at: TrialAt, place: dict[str, Any], ending: Ending) -> None:
        """A curve that ends says enough."""

    def tell(self, place: dict[str, Any], standing: Standing) -> None:
        """Curves are of trials alone."""

    def end_sweep(self, place: dict[str, Any], standing: Standing, *, error: str, over: bool) -> None:
        """Nothing is open between two calls."""


SINKS: Mapping[str, type[MlflowTrials] | type[TrialEventFiles]] = {
    "mlflow": MlflowTrials, "tensorboard": TrialEventFiles,
}  # fmt: skip


class TrialFollowed(Followed):
    """A trial, its points, and how far each tracker has come."""

    ending: Ending | None = None

    @property
    def begun(self) -> bool:
        return super().begun or self.ending is not None

    def deliver(self, sink: Sink, *, since: float) -> None:
        place, at = self.place(sink), cast(TrialAt, self.at)
        if place.get("outcome"):
            return
        if super().begun:
            super().deliver(sink, since=since)
        if self.ending is not None:
            at.folder.mkdir(parents=True, exist_ok=True)  # of one that failed before it began
            sink.open(at, place, done=True)
            cast(TrialSink, sink).end(at, place, self.ending)
            place["outcome"] = self.ending.outcome
            self.save()


@dataclass
class TrialTracking(Tracking):
    """The thread that mirrors a sweep, for as long as its launch lasts.

    Attributes:
        look: what the study says now, and the trials that were not followed yet.
        over: whether the sweep has come to its end; set before :meth:`close`.
    """

    own: Followed = field(kw_only=True)
    look: Callable[[], tuple[Standing, Sequence[TrialAt]]] = field(kw_only=True)
    over: bool = False
    _now: Standing = field(default_factory=Standing, repr=False)

    def _deliver(self, sink: Sink) -> None:
        self._now, new = self.look()
        self._followed += [TrialFollowed(at, self.store) for at in new]
        for followed in self._followed:
            cast(TrialFollowed, followed).ending = self._now.endings.get(cast(TrialAt, followed.at).trial)
        super()._deliver(sink)
        cast(TrialSink, sink).tell(self.own.place(sink), self._now)
        self.own.save()

    def _close(self, sink: Sink) -> None:
        begun = [each for each in self._followed if each.begun]
        stages = [(each.at, each.place(sink), bool(each.place(sink).get("outcome"))) for each in begun]
        error = sink.mask(self._error)
        sink.close(stages, error=error, done=self.over)
        cast(TrialSink, sink).end_sweep(self.own.place(sink), self._now, error=error, over=self.over)
        self.own.save()


def trial_tracking(
    recipe: Recipe, store: Store, sweep: SweepAt, sinks: Sequence[str],
    look: Callable[[], tuple[Standing, Sequence[TrialAt]]], *, say: Callable[[str], None],
) -> TrialTracking:  # fmt: skip
    """What mirrors a sweep to ``sinks``, not yet started."""
    own = Followed(replace(sweep.stage, folder=sweep.folder), store)
    made = [SINKS[name](recipe, store, sweep) for name in sinks]
    return TrialTracking(made, store, (), say, own=own, look=look)
