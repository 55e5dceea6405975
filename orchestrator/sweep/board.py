"""The study of a sweep: trials in Optuna's storage, their outcomes, and what is to be tried next.

A trial is FINISHED (Optuna's COMPLETE), PRUNED, FAILED (FAIL) or under way (RUNNING); one whose sweep was interrupted
stays RUNNING, and the next sweep goes on with it. What a trial is made of depends on (seed, its number, what is known
by then) alone, however often the sweep was begun again.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from orchestrator.identity import digest
from orchestrator.plan import PlanError, Recipe
from orchestrator.search import Search, rungs_of
from orchestrator.store import StoreError
from orchestrator.sweep.space import Space, changes_of, current

OUTCOMES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
BUSY_S = 60.0  # how long a write waits for another reader of the same database


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A trial to be made: its number, and what it changes in the plan."""

    number: int
    changes: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is known of a trial.

    Attributes:
        outcome: ``"finished"``, ``"pruned"``, ``"failed"``, or ``"interrupted"`` where it can go on.
        values: by metric; of a pruned trial the last it reached, empty where there are none.
        reason: why it was pruned or failed.
        epochs: trained in all, of the ``planned`` ones; ``reached`` is what was measured after each.
        first_step_s: from being proposed to the first update; ``seconds`` in all, both over its last attempt.
    """

    number: int
    outcome: str
    params: Mapping[str, Any]
    values: Mapping[str, float]
    changes: Mapping[str, Any]
    reason: str = ""
    fingerprint: str = ""
    folder: str = ""
    epochs: int = 0
    planned: int = 0
    reached: Mapping[int, float] = field(default_factory=dict)
    first_step_s: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a trial leaves behind when it ends, beside its values."""

    reason: str = ""
    fingerprint: str = ""
    folder: str = ""
    epochs: int = 0
    planned: int = 0
    first_step_s: float | None = None
    seconds: float | None = None


@dataclass
class Board:
    """The study of one sweep. Only the process that launched the sweep writes to it."""

    study: optuna.Study
    space: Space
    recipe: Recipe
    search: Search
    _again: list[int] = field(default_factory=list)

    @classmethod
    def open(cls, url: str, name: str, space: Space, recipe: Recipe, search: Search, *, resume: bool) -> Board:
        """The study called ``name`` in the storage at ``url``; a new one, or the known one to go on with.

        Raises :class:`PlanError` where the one exists without ``resume``, or was made for another space, and
        :class:`StoreError` where the storage cannot be used.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            known = name in optuna.get_all_study_names(storage := storage_at(url))
            study = optuna.create_study(
                storage=storage, study_name=name, load_if_exists=True,
                directions=["maximize" if mode == "max" else "minimize" for mode in space.modes],
            )  # fmt: skip
        except Exception as error:  # of SQLAlchemy, of a driver for a database, of Optuna
            raise StoreError(f"the study {name!r} cannot be opened: {type(error).__name__}: {error}") from error
        board = cls(study, space, recipe, search)
        board._begin(known=known, resume=resume)
        return board

    def _begin(self, *, known: bool, resume: bool) -> None:
        study, space = self.study, self.space
        if known and not resume:
            raise PlanError(
                f"the sweep {study.study_name!r} was begun before ({self._told()}); go on with --resume, or begin "
                "another one with --name"
            )
        if known and study.user_attrs.get("space") not in (None, space.sha256):
            raise PlanError(
                f"tune_spaces/{space.name}.py has changed since the sweep {study.study_name!r} was begun; its trials "
                "cannot be compared with new ones. Begin another one with --name"
            )
        if "space" not in study.user_attrs:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "experimental", and what optuna-dashboard calls the metrics by
                study.set_metric_names(list(space.metrics))
            study.set_user_attr("space", space.sha256)
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial(current(space, self.recipe).params, user_attrs={"current": True})
        self._again = [trial.number for trial in self.study.get_trials(states=(TrialState.RUNNING,), deepcopy=False)]

    def _told(self) -> str:
        counts = self.counts()
        return ", ".join(f"{number} {outcome}" for outcome, number in counts.items() if number)

    def counts(self) -> dict[str, int]:
        """How many trials had each outcome."""
        begun = [trial for trial in self.study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
        rows = list(map(_outcome, begun))
        return {name: rows.count(name) for name in ("finished", "pruned", "failed", "interrupted")}

    @property
    def exhausted(self) -> bool:
        """Whether every trial that was asked for has been proposed."""
        return not self._again and self._proposed() >= self.search.trials

    def _proposed(self) -> int:
        waiting = (TrialState.WAITING,)
        trials = self.study.get_trials(deepcopy=False)
        return sum(trial.state not in waiting for trial in trials)

    def next(self) -> Proposal:
        """The next trial: first those that were interrupted, then new ones."""
        if self._again:
            number = self._again.pop(0)
            trial = optuna.trial.Trial(self.study, self._id(number))
        else:
            self.study.sampler = _sampler(self.search, seed=self._seed(len(self.study.get_trials(deepcopy=False))))
            trial = self.study.ask()
        return Proposal(number=trial.number, changes=changes_of(self.space, trial, self.recipe))

    def reached(self, number: int, epoch: int, value: float, planned: Sequence[int]) -> bool:
        """Note what a trial measured after ``epoch``. True where it is to be cut, which is then its outcome.

        Args:
            planned: epochs after which it may be: see :func:`orchestrator.search.rungs_of`.
        """
        if not self.space.single:
            return False
        trials = self.study.get_trials(deepcopy=False)
        if epoch not in trials[number].intermediate_values:  # an attempt that was begun again measures the same
            optuna.trial.Trial(self.study, self._id(number)).report(value, epoch)
        if self.search.prune is None or epoch not in planned:
            return False
        others = [
            trial.intermediate_values[epoch]
            for trial in trials
            if trial.number != number and trial.state != TrialState.FAIL and epoch in trial.intermediate_values
        ]
        return self.search.prune.cuts(value, others, self.space.modes[0])

    def end(self, number: int, outcome: str, values: Mapping[str, float], facts: Facts) -> None:
        """Note how a trial ended: ``"finished"`` with the values of all metrics, ``"pruned"`` or ``"failed"``."""
        if _state(self.study, number) != TrialState.RUNNING:
            return
        listed = [values[metric] for metric in self.space.metrics] if outcome == "finished" else None
        if listed is not None and any(map(math.isnan, listed)):
            outcome, listed = "failed", None
            facts = Facts(**asdict(facts) | {"reason": f"{', '.join(self.space.metrics)}: not a number"})
        trial = optuna.trial.Trial(self.study, self._id(number))
        trial.set_user_attr("facts", asdict(facts))
        state = {name: state for state, name in OUTCOMES.items()}[outcome]
        self.study.tell(number, listed, state=state)

    def note(self, number: int, changes: Mapping[str, Any], facts: Facts) -> None:
        """Note what a trial that begins changes, and where it is made."""
        trial = optuna.trial.Trial(self.study, self._id(number))
        trial.set_user_attr("changes", dict(changes))
        trial.set_user_attr("facts", asdict(facts))

    def rows(self) -> list[Row]:
        """All trials, by number."""
        return list(self._rows())

    def _rows(self) -> Iterator[Row]:
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state == TrialState.WAITING:
                continue
            facts = Facts(**trial.user_attrs.get("facts", {}))
            values = dict(zip(self.space.metrics, trial.values or (), strict=False))
            yield Row(
                number=trial.number, outcome=_outcome(trial), params=trial.params, values=values,
                changes=trial.user_attrs.get("changes", {}), reached=trial.intermediate_values, **asdict(facts),
            )  # fmt: skip

    def finished_as(self, fingerprint: str) -> Row | None:
        """The first trial that finished with the very settings that have this fingerprint; None if there is none."""
        rows = (row for row in self.rows() if row.outcome == "finished")
        return next((row for row in rows if row.fingerprint == fingerprint), None)

    def winner(self) -> Row | None:
        """The best of the finished trials by the space's metric or rule; of equals the first one."""
        rows = {row.number: row for row in self.rows() if row.outcome == "finished"}
        if not rows:
            return None
        if self.space.single:
            return rows[self.study.best_trial.number]
        front = sorted((rows[trial.number] for trial in self.study.best_trials), key=lambda row: row.number)
        return picked(front, self.space)

    def pareto(self) -> list[int]:
        """Numbers of the trials that no other one beats in every metric."""
        return sorted(trial.number for trial in self.study.best_trials)

    def rungs(self, recipe: Recipe) -> list[int]:
        """After which epochs a trial of this plan is compared with others."""
        return rungs_of(self.search.prune, recipe.stage(self.space.stage)) if self.space.single else []

    def _id(self, number: int) -> int:
        return self.study._storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)

    def _seed(self, number: int) -> int:
        return int(digest([self.recipe.seed, self.space.stage, self.study.study_name, number])[:7], 16)


def picked(front: Sequence[Row], space: Space) -> Row:
    """The one trial of a Pareto set that the space's rule picks; of equals the first one."""
    signs = [1 if mode == "max" else -1 for mode in space.modes]
    points = [[sign * row.values[metric] for sign, metric in zip(signs, space.metrics, strict=True)] for row in front]
    if space.pick == "first":
        return front[max(range(len(front)), key=lambda i: (points[i], -i))]
    tops, bottoms = [list(map(pick, zip(*points, strict=True))) for pick in (max, min)]

    def distance(point: Sequence[float]) -> float:
        return math.hypot(*((top - x) / ((top - low) or 1) for x, top, low in zip(point, tops, bottoms, strict=True)))

    return front[min(range(len(front)), key=lambda i: (distance(points[i]), i))]


def _outcome(trial: FrozenTrial) -> str:
    return OUTCOMES.get(trial.state, "interrupted")


def _state(study: optuna.Study, number: int) -> TrialState:
    return study.get_trials(deepcopy=False)[number].state


def storage_at(url: str) -> optuna.storages.BaseStorage:
    """The storage at an address; the folder of a file is made where it is missing."""
    local = url.startswith("sqlite:///")
    if local:
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    options = {"connect_args": {"timeout": BUSY_S}} if local else {"pool_pre_ping": True}
    return optuna.storages.RDBStorage(url, engine_kwargs=options)


def _sampler(search: Search, *, seed: int) -> optuna.samplers.BaseSampler:
    """Who proposes the next trial. TPE takes trials under way for bad ones, so that several at once spread out."""
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if search.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed)
    if search.sampler == "cma":
        if find_spec("cmaes") is None:
            raise PlanError("the sampler 'cma' needs the package cmaes: pip install 'plumbline[cma]'")
        return optuna.samplers.CmaEsSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
