"""Between the study and Ray Tune: Tune places trials, keeps their processes, starts dead ones again; Optuna decides.

One trainable serves all trials, and its process is used again for the next one. What a trial tells comes here as
results; a result after which it is to be cut is answered with STOP, which unwinds its training at that very place.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from orchestrator.plan import PlanError
from orchestrator.store import StoreError
from orchestrator.sweep.board import Board, Facts, Proposal
from orchestrator.sweep.group import trained_in_groups
from orchestrator.sweep.trial import Asked, Job, Planned, outcome_of, trained

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the study and the journals have all of it
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "100000",  # of Tune's own state, which nothing reads: the study is what a sweep resumes
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "100000",
    "RAY_AIR_NEW_OUTPUT": "0",
}
HOPELESS = 5  # trials that fail before any has come to something: then no more are made
UNWIND_S = "600"  # how long a process may take to end a trial, its checkpoint written, before the next one begins


@dataclass
class UnderWay:
    """A trial that was proposed and has not ended.

    Attributes:
        epoch: the newest that it told of.
    """

    number: int
    fingerprint: str
    folder: str
    planned: int
    rungs: list[int]
    asked_at: float
    epoch: int = 0
    first_step_s: float | None = None

    def facts(self, **more: Any) -> Facts:
        known = {"fingerprint": self.fingerprint, "folder": self.folder, "planned": self.planned,
                 "epochs": self.epoch, "first_step_s": self.first_step_s,
                 "seconds": time.time() - self.asked_at}  # fmt: skip
        return Facts(**{**known, **more})


@dataclass
class Desk:
    """Where proposals go out and results come in, for Tune's searcher and scheduler.

    Attributes:
        plan_of: the plan of a proposal; raises :class:`PlanError` where its settings do not go together.
        limit: trials under way at once.
        over: whether no new trial is to begin.
        say: is told of every end of a trial.
    """

    board: Board
    plan_of: Callable[[Proposal], Planned]
    limit: int
    over: Callable[[], bool]
    say: Callable[[str], None]
    under_way: dict[int, UnderWay] = field(default_factory=dict)
    begun: Callable[[UnderWay], None] = lambda trial: None

    def propose(self) -> Asked | str | None:
        """The next trial; None while all places are taken, ``Searcher.FINISHED`` when there is none."""
        while not self.over() and not self.board.exhausted and not self.hopeless:
            if len(self.under_way) >= self.limit:
                return None
            proposal, asked_at = self.board.next(), time.time()
            self.board.note(proposal.number, proposal.changes, Facts())
            try:
                plan = self.plan_of(proposal)
                rungs = self.board.rungs(plan.recipe)
            except PlanError as error:
                self._end(proposal.number, "failed", {}, Facts(reason=str(error)))
                continue
            same = self.board.finished_as(plan.fingerprint)
            if same is not None:
                facts = Facts(reason=f"the same settings as trial {same.number}", fingerprint=same.fingerprint,
                              folder=same.folder, planned=same.planned)  # fmt: skip
                self._end(proposal.number, "finished", same.values, facts)
                continue
            trial = UnderWay(proposal.number, plan.fingerprint, plan.folder.name, plan.stage.epochs, rungs, asked_at)
            self.under_way[proposal.number] = trial
            self.board.note(proposal.number, proposal.changes, trial.facts(seconds=None))
            self.begun(trial)
            return Asked(number=proposal.number, changes=proposal.changes, asked_at=asked_at, rungs=rungs)
        return Searcher.FINISHED

    @property
    def hopeless(self) -> bool:
        """Whether nothing but failures came of the first trials."""
        counts = self.board.counts()
        return counts["failed"] >= HOPELESS and not counts["finished"] and not counts["pruned"]

    def take(self, number: int, told: Mapping[str, Any]) -> bool:
        """Take in what a trial tells. True where it is to be cut."""
        trial = self.under_way.get(number)
        if trial is None:
            return True
        if told.get("first_step_s") is not None:
            trial.first_step_s = told["first_step_s"]
        if "outcome" in told:
            self._ended(trial, told)
        elif "epoch" in told:
            trial.epoch = told["epoch"]
            value = next(iter(told["values"].values()))
            if self.board.reached(number, trial.epoch, value, trial.rungs):
                reason = f"worse than others after epoch {trial.epoch}"
                self._end(number, "pruned", told["values"], trial.facts(reason=reason))
                return True
        return False

    def lost(self, number: int, reason: str) -> None:
        """Its process died more often than it may."""
        if number in self.under_way:
            self._end(number, "failed", {}, self.under_way[number].facts(reason=reason))

    def _ended(self, trial: UnderWay, told: Mapping[str, Any]) -> None:
        if told["outcome"] == "interrupted":  # it stays under way in the study, to be continued
            self.under_way.pop(trial.number)
            return
        facts = trial.facts(reason=told.get("reason", ""), epochs=told.get("epochs", trial.epoch))
        self._end(trial.number, told["outcome"], told.get("values", {}), facts)

    def _end(self, number: int, outcome: str, values: Mapping[str, float], facts: Facts) -> None:
        self.under_way.pop(number, None)
        self.board.end(number, outcome, values, facts)
        row = self.board.rows()[number]
        best = self.board.winner() if self.board.space.single else None
        shown = " ".join(f"{name} {value:.4f}" for name, value in values.items())
        far = f" after {facts.epochs} of {facts.planned} epochs" if facts.planned else ""
        lead = f"; best so far: trial {best.number} with {next(iter(best.values.values())):.4f}" if best else ""
        self.say(f"Trial {number} {row.outcome}{far}: {row.reason or shown}{lead if row.outcome == 'finished' else ''}")


class Proposals(Searcher):
    """Hands Tune what the desk proposes. Keeps nothing of its own: the study is the state."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        asked = self._desk.propose()
        if not isinstance(asked, Asked):
            return asked
        self._numbers[trial_id] = asked.number
        return {"trial": json.dumps(asdict(asked))}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number = self._numbers.pop(trial_id)
        if error:
            self._desk.lost(number, "its process died, or could not be started, more often than it may (--retries)")

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was saved."""


class Cutting(FIFOScheduler):
    """Answers each result of a trial with what the desk says."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number = json.loads(trial.config["trial"])["number"]
        cut = self._desk.take(number, json.loads(result["told"]))
        return TrialScheduler.STOP if cut else TrialScheduler.CONTINUE


def run_trials(desk: Desk, job: Job, *, resources: Mapping[str, float], retries: int, scratch: Path) -> None:
    """Make trials until the desk has no more to propose. Ray is started already.

    Args:
        resources: of one trial's process.
        scratch: folder for what Tune writes of itself; nothing there is read again.
    """
    os.environ.update(QUIET)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    trainable = tune.with_resources(tune.with_parameters(make_trial, job=vars(job)), dict(resources))
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=Proposals(desk), scheduler=Cutting(desk), num_samples=-1, reuse_actors=True,
            trial_name_creator=_name_of, trial_dirname_creator=_name_of,
        ),
        run_config=tune.RunConfig(
            name="tune", storage_path=str(scratch), verbose=0,
            failure_config=tune.FailureConfig(max_failures=retries),
        ),
    )  # fmt: skip
    try:
        tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _name_of(trial: Any) -> str:
    return f"trial{json.loads(trial.config['trial'])['number']:04d}"


def make_trial(config: dict[str, Any], job: dict[str, Any]) -> None:
    """The trainable: one trial after another comes to the same process. Everything goes up by ``tune.report``."""
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", UNWIND_S)
    asked, whole = Asked(**json.loads(config["trial"])), Job(**job)
    several = whole.execution["workers"] > 1
    with Line(whole, asked.number) as line:
        make = trained_in_groups if several else trained
        line.tell(outcome_of(whole, asked, lambda: make(whole, asked, line.tell)))


class Line:
    """What a trial tells Tune by, until it is cut: Tune then ends the call with SystemExit, and hears no more.

    The checkpoints of a trial that was cut go once its training has ended and none is being written.
    """

    def __init__(self, job: Job, number: int) -> None:
        self._job, self._number, self._cut = job, number, False

    def tell(self, line: Mapping[str, Any]) -> None:
        if self._cut:  # an error on the way out: nobody waits for it, and it would wait for ever
            raise SystemExit
        try:
            tune.report({"told": json.dumps(line)})
        except SystemExit:
            self._cut = True
            raise

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *error: object) -> None:
        if self._cut:
            for folder in self._job.root.glob(f"trial{self._number:04d}-*/checkpoints"):
                shutil.rmtree(folder, ignore_errors=True)
                with suppress(StoreError):
                    self._job.home.origin.forget(folder)
