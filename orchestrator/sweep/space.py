"""A search space: a file in ``tune_spaces`` whose suggestions are called by the dotted paths of the plan they change.

    RECIPE, STAGE = "words", "finetune"
    METRIC, MODE = "iiit5k/word_accuracy_36", "max"   # two tuples and PICK for several; "best", "" for the stage's own

    def space(trial: optuna.Trial) -> None:
        trial.suggest_float("stages.finetune.optim.lr", 1e-5, 1e-3, log=True)
        if trial.suggest_categorical("stages.finetune.schedule", ["Constant", "Cosine"]) == "Cosine":
            trial.suggest_float("stages.finetune.schedule.warmup", 0.0, 0.3)

What ``space`` returns, if anything, are further changes that follow from the suggestions.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass, replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import tune_spaces
from orchestrator.limits import less_is_better
from orchestrator.plan import PlanError, Recipe, Stage

PICKS = ("first", "knee")
BEST = "best"


@dataclass(frozen=True, kw_only=True)
class Space:
    """What varies, and by what trials are compared.

    Attributes:
        metrics: validation metrics or scores of the stage, of the checkpoint that a trial would hand on; ``"best"`` is
            the one by which the stage itself chooses that checkpoint.
        modes: of each, ``"max"`` or ``"min"``.
        pick: which trial of several metrics' Pareto set wins: the best by the ``"first"`` metric, or the ``"knee"``,
            the one nearest to the best of all metrics, each scaled to the set's own range.
        suggest: Optuna's define-by-run function.
        sha256: of the file, so that a study goes on only with the space it began with.
    """

    name: str
    recipe: str
    stage: str
    metrics: tuple[str, ...]
    modes: tuple[str, ...]
    pick: str
    suggest: Callable[[Any], Mapping[str, Any] | None]
    sha256: str

    @property
    def single(self) -> bool:
        return len(self.metrics) == 1

    def of(self, stage: Stage) -> Space:
        """This space, with the metric by which ``stage`` chooses its own result where it compares by that."""
        if self.metrics != (BEST,):
            return self
        return replace(self, metrics=(stage.best[0].metric,), modes=(stage.best[0].mode,))


def space_names() -> list[str]:
    """The spaces there are."""
    return sorted(module.name for module in iter_modules(tune_spaces.__path__))


def load_space(name: str) -> Space:
    """The space in ``tune_spaces/NAME.py``. Raises :class:`PlanError` saying what it lacks."""
    if name not in space_names():
        raise PlanError(f"there is no search space {name!r}; there are: {', '.join(space_names())}")
    module = import_module(f"tune_spaces.{name}")
    where = f"tune_spaces/{name}.py"
    missing = [each for each in ("RECIPE", "STAGE", "METRIC", "MODE", "space") if not hasattr(module, each)]
    if missing:
        raise PlanError(f"{where}: lacks {', '.join(missing)}")
    metrics, modes = _listed(module.METRIC), _listed(module.MODE)
    if len(metrics) != len(modes):
        raise PlanError(f"{where}: METRIC names {len(metrics)} and MODE {len(modes)}; each metric has its mode")
    for metric, mode in zip(metrics, modes, strict=True):
        if metric == BEST:
            continue
        if mode not in ("max", "min") or (less_is_better(metric) and mode == "max"):
            raise PlanError(f"{where}: MODE of {metric!r} is {mode!r}; allowed: 'max' or 'min', and what it means")
    pick = getattr(module, "PICK", "first" if len(metrics) == 1 else "")
    if pick not in PICKS:
        raise PlanError(f"{where}: several metrics need a rule that picks one trial: PICK = 'first' or 'knee'")
    return Space(
        name=name, recipe=module.RECIPE, stage=module.STAGE, metrics=metrics, modes=modes, pick=pick,
        suggest=module.space, sha256=hashlib.sha256(inspect.getsource(module).encode()).hexdigest(),
    )  # fmt: skip


def _listed(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def value_at(recipe: Recipe, path: str) -> Any:
    """What a dotted path holds at present. Raises :class:`PlanError` where there is no such setting."""
    node: Any = recipe
    for key in path.split("."):
        if is_dataclass(node) and key in node.__dataclass_fields__:
            node = getattr(node, key)
        elif isinstance(node, Mapping) and key in node:
            node = node[key]
        elif isinstance(node, tuple) and any(getattr(item, "name", None) == key for item in node):
            node = next(item for item in node if item.name == key)
        else:
            raise PlanError(f"{path}: the plan has no {key!r} there; a space names settings as --set does")
    return node


def changes_of(space: Space, trial: Any, recipe: Recipe) -> dict[str, Any]:
    """What ``trial`` suggests, as changes that :func:`orchestrator.override.override` takes.

    A class and settings of it, suggested apart, become one value; a class that is there already only gets its settings.
    """
    further = space.suggest(trial)
    if further is None:
        further = {}
    if not isinstance(further, Mapping):
        raise PlanError(
            f"tune_spaces/{space.name}.py: space() returned {further!r}; it returns nothing, or further changes by path"
        )
    given = {**trial.params, **further}
    changes: dict[str, Any] = {}
    for path, value in given.items():
        inner = {key.removeprefix(f"{path}."): each for key, each in given.items() if key.startswith(f"{path}.")}
        if isinstance(value, str) and type(value_at(recipe, path)).__name__ == value:
            continue
        if any(path.startswith(f"{whole}.") for whole in changes):
            continue
        changes[path] = {"is": value, **inner} if inner else value
    return changes


@dataclass(frozen=True)
class Range:
    """What may be suggested: numbers from ``low`` to ``high``, or one of ``choices``."""

    low: float = 0.0
    high: float = 0.0
    choices: tuple[Any, ...] = ()
    whole: bool = False
    log: bool = False


class Probe:
    """Looks like a trial of Optuna to a space, and takes each value from a function.

    Attributes:
        params: what was chosen, by path; ``ranges`` are what it was chosen from.
    """

    def __init__(self, choose: Callable[[str, Range], Any]) -> None:
        self._choose = choose
        self.params: dict[str, Any] = {}
        self.ranges: dict[str, Range] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._chosen(name, Range(low, high, log=log)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return int(self._chosen(name, Range(low, high, whole=True, log=log)))

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._chosen(name, Range(choices=tuple(choices)))

    def _chosen(self, name: str, of: Range) -> Any:
        self.ranges[name] = of
        self.params[name] = self._choose(name, of)
        return self.params[name]


def current(space: Space, recipe: Recipe) -> Probe:
    """The settings of ``recipe`` as a suggestion of ``space``.

    Raises :class:`PlanError` where the space does not hold them: the first trial of a sweep has the settings as they
    stand, so that every other one is measured against them.
    """

    def choose(path: str, of: Range) -> Any:
        value = value_at(recipe, path)
        if of.choices:
            for choice in of.choices:
                if _same(choice, value):
                    return choice
            raise PlanError(_outside(space, path, value, f"one of {', '.join(map(repr, of.choices))}"))
        if not isinstance(value, int | float) or not of.low <= value <= of.high:
            raise PlanError(_outside(space, path, value, f"within {of.low:g} .. {of.high:g}"))
        return value

    probe = Probe(choose)
    space.suggest(probe)
    return probe


def _same(choice: Any, value: Any) -> bool:
    """Whether a choice stands for the value: itself, the name of its class, or ``"none"``."""
    if is_dataclass(value):
        return choice == type(value).__name__
    return (type(choice) is type(value) and choice == value) or (value is None and choice == "none")


def _outside(space: Space, path: str, value: Any, held: str) -> str:
    return (
        f"tune_spaces/{space.name}.py: {path} is {value!r} at present, which is not {held}; the first trial has the "
        "settings as they stand, so widen the space, or --set a value that lies in it"
    )
