"""What a sweep over a stage's settings is: how many trials, who proposes them, and when one is cut short.

A trial is cut only by what others reached at the same epoch of the stage, and never inside its own warm-up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.limits import PlanError, at_least, one_of, plain_name

if TYPE_CHECKING:
    from orchestrator.plan import Stage

SAMPLERS = ("tpe", "gp", "cma", "random")


@dataclass(frozen=True, kw_only=True)
class Asha:
    """Asynchronous successive halving (Li et al. 2020): at each rung only the best share of the trials goes on.

    Attributes:
        first: epochs of the first rung; the next ones are ``factor`` times the one before.
        factor: one in so many goes on past a rung, among those that have come to it so far.
    """

    first: int = 1
    factor: int = 3

    def __post_init__(self) -> None:
        at_least("Asha.first", self.first, 1)
        at_least("Asha.factor", self.factor, 2)

    def rungs(self, epochs: int) -> list[int]:
        """The epochs after which trials of ``epochs`` epochs are compared."""
        found = []
        rung = self.first
        while rung < epochs:
            found.append(rung)
            rung *= self.factor
        return found

    def cuts(self, value: float, others: Sequence[float], mode: str) -> bool:
        """Whether a trial with ``value`` at a rung ends there, given what ``others`` had at the same rung."""
        ranked = sorted((*map(_worst_if_nan(mode), others), _worst_if_nan(mode)(value)), reverse=mode == "max")
        passing = ranked[max(len(ranked) // self.factor, 1) - 1]
        return _is_worse(value, passing, mode)


@dataclass(frozen=True, kw_only=True)
class Median:
    """A trial ends where it is worse than the median of the others at the same epoch (Golovin et al. 2017).

    Attributes:
        first: epochs before the first comparison; then there is one every ``every`` epochs.
        least: others that must have come as far; with fewer nothing is cut.
    """

    first: int = 1
    every: int = 1
    least: int = 4

    def __post_init__(self) -> None:
        for name in ("first", "every", "least"):
            at_least(f"Median.{name}", getattr(self, name), 1)

    def rungs(self, epochs: int) -> list[int]:
        """The epochs after which trials of ``epochs`` epochs are compared."""
        return list(range(self.first, epochs, self.every))

    def cuts(self, value: float, others: Sequence[float], mode: str) -> bool:
        """Whether a trial with ``value`` ends, given what ``others`` had at the same epoch."""
        known = list(map(_worst_if_nan(mode), others))
        return len(known) >= self.least and _is_worse(value, median(known), mode)


@dataclass(frozen=True, kw_only=True)
class Search:
    """A stage that is searched: :mod:`orchestrator.sweep` trains it once per trial, and the winner becomes its result.

    Attributes:
        space: file in ``tune_spaces`` that says which settings vary, and by which metric they are compared.
        trials: how many, whatever becomes of them; the first one has the settings as they stand.
        sampler: who proposes settings. ``"cma"`` needs the extra ``cma``.
        prune: when a trial is cut short; None trains every trial to its end. One metric only.
    """

    space: str
    trials: int = 16
    sampler: Literal["tpe", "gp", "cma", "random"] = "tpe"
    prune: Asha | Median | None = field(default_factory=Asha)

    def __post_init__(self) -> None:
        plain_name(self.space)
        at_least("Search.trials", self.trials, 1)
        one_of("Search.sampler", self.sampler, SAMPLERS)


def warmup_epochs(stage: Stage) -> int:
    """Epochs in which ``stage`` is not yet what its settings say: rates that rise, ramps, balances that wait."""
    share = getattr(stage.schedule, "warmup", 0.0)
    return max(
        math.ceil(share * stage.epochs),
        *(term.ramp for term in stage.terms.values()),
        stage.balance.warmup if stage.balance else 0,
    )


def rungs_of(prune: Asha | Median | None, stage: Stage) -> list[int]:
    """The epochs after which a trial of ``stage`` is compared; all come after its warm-up.

    Raises :class:`PlanError` where the stage validates at none of them.
    """
    if prune is None:
        return []
    wanted = prune.rungs(stage.epochs)
    found = [rung for rung in wanted if rung > warmup_epochs(stage) and rung % stage.validate_every == 0]
    if wanted and not found and not any(rung % stage.validate_every == 0 for rung in wanted):
        raise PlanError(
            f"stage {stage.name!r} validates every {stage.validate_every} epochs, and trials would be compared after "
            f"{', '.join(map(str, wanted))}; choose epochs that it validates at (search.prune), or prune nothing"
        )
    return found


def _is_worse(value: float, than: float, mode: str) -> bool:
    mine = _worst_if_nan(mode)(value)
    return mine < than if mode == "max" else mine > than


def _worst_if_nan(mode: str) -> Any:
    worst = -math.inf if mode == "max" else math.inf
    return lambda value: worst if math.isnan(value) else value
