"""What is known of a sweep, gathered for its report, and how its trials are spoken of there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from orchestrator.plan import PlanError, Stage
from orchestrator.report.blocks import NOTHING, said
from orchestrator.search import rungs_of
from orchestrator.store import Record, Store
from orchestrator.sweep.about import About, counted, opened_board, read_about
from orchestrator.sweep.board import Board, Row
from orchestrator.sweep.plots import Scale, said_value

DIRECTIONS = {"max": "more is better", "min": "less is better"}
RULES = {"first": "the best by {}", "knee": "the knee: the one nearest to the best of all metrics, each scaled to the "
         "set's own range"}  # fmt: skip


@dataclass(frozen=True)
class Told:
    """All that a sweep's report is made of."""

    folder: Path
    store: Store
    about: About
    board: Board
    rows: Sequence[Row]
    winner: Row | None
    counts: Mapping[str, int]

    @property
    def stage(self) -> Stage:
        return self.board.recipe.stage(self.about.stage)

    @property
    def prefix(self) -> str:
        return f"stages.{self.about.stage}."

    def short(self, path: str) -> str:
        """A setting's path without what all of them begin with."""
        return path.removeprefix(self.prefix)

    def planned(self, row: Row) -> int:
        """Epochs that the trial was to be trained for."""
        return row.planned or int(row.changes.get(f"{self.prefix}epochs", self.stage.epochs))

    def trained(self, row: Row) -> int:
        return max(row.epochs, *row.reached, 0)

    def record(self, row: Row | None) -> Record | None:
        return self.store.read(self.folder / row.folder) if row and row.folder else None

    @property
    def metrics(self) -> list[tuple[str, str]]:
        """Each metric that trials are compared by, and whether more (``"max"``) or less of it is better."""
        return list(zip(self.about.metrics, self.about.modes, strict=True))

    @property
    def rule(self) -> str:
        """How the winner is picked from several metrics' Pareto set."""
        return "from the Pareto set, " + RULES[self.about.pick].format(self.about.metrics[0])

    @property
    def rungs(self) -> list[int]:
        """Epochs after which a trial of the plan as it stands is compared with others."""
        try:
            return rungs_of(self.board.search.prune, self.stage) if self.board.space.single else []
        except PlanError:
            return []

    @property
    def picked(self) -> int | None:
        """The winner's number."""
        return self.winner.number if self.winner else None

    @property
    def first(self) -> Row | None:
        """The trial with the settings as they stand."""
        return next((row for row in self.rows if row.number == 0), None)

    def of(self, metric: str) -> str:
        """What a title says of the metric where there are several."""
        return "" if self.board.space.single else f" of {metric}"

    def setting(self, row: Row | None, path: str) -> str:
        """What the trial has for a setting of the space."""
        if row is None:
            return NOTHING
        return said_value(row.params[path]) if path in row.params else "not set"

    def changed(self, row: Row) -> str:
        """All that the trial changes, in one line."""
        changed = ", ".join(f"{self.short(path)} {_brief(value)}" for path, value in row.changes.items())
        return changed or ("as it stands" if row.number == 0 else NOTHING)

    @property
    def scales(self) -> list[Scale]:
        """Every setting of the space, its name short."""
        return [replace(scale, name=self.short(scale.name)) for scale in scales_of(self.board.study)]


def gathered(folder: Path, store: Store, url: str = "") -> Told:
    """All of the sweep in ``folder``. Raises :class:`StoreError`; see :func:`opened_board` for ``url``."""
    about = read_about(folder)
    board = opened_board(folder, about, url)
    rows = board.rows()
    return Told(folder, store, about, board, rows, board.winner(), counted(rows))


def summed(seconds: Iterable[float | None]) -> str:
    """Seconds of those that have any."""
    known = [each for each in seconds if each is not None]
    return f"{sum(known):.1f}" if known else NOTHING


def _brief(value: Any) -> str:
    return said(value) if isinstance(value, Mapping | list | tuple) else said_value(value)


def scales_of(study: Study) -> list[Scale]:
    """Every setting that some trial had, in the order of the space, one that depends on another after that."""
    found: dict[str, BaseDistribution] = {}
    for trial in study.get_trials(deepcopy=False):
        found = _merged(found, trial.distributions)
    return [_scale(name, each) for name, each in found.items()]


def range_of(scale: Scale) -> str:
    """What is searched, in words."""
    if scale.choices:
        return ", ".join(map(said_value, scale.choices))
    return f"{scale.low:.4g} to {scale.high:.4g}{', logarithmic' if scale.log else ''}"


def _scale(name: str, of: BaseDistribution) -> Scale:
    if isinstance(of, CategoricalDistribution):
        return Scale(name=name, choices=tuple(of.choices))
    assert isinstance(of, FloatDistribution | IntDistribution)
    return Scale(name=name, low=of.low, high=of.high, log=of.log)


def _merged(known: dict[str, BaseDistribution], new: Mapping[str, BaseDistribution]) -> dict[str, BaseDistribution]:
    """``known`` with what is new placed behind what stood before it in ``new``."""
    names = list(known)
    for place, name in enumerate(list(new)):
        if name not in names:
            names.insert(names.index(list(new)[place - 1]) + 1 if place else 0, name)
    return {name: new[name] if name in new else known[name] for name in names}
