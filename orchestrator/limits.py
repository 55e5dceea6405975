"""What a plan may hold: the error of a plan that cannot be run, and the checks that raise it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.plan import Recipe, Stage, Term

LESS_IS_BETTER = ("loss", "cer", "wer", "drd", "consistency", "ctc")  # how the last part of a metric's name begins


class PlanError(ValueError):
    """A recipe that cannot be run as written: where, what was found, what is allowed."""


def finite(where: str, value: float) -> None:
    if not math.isfinite(value):
        raise PlanError(f"{where}: must be a finite number, got {value!r}")


def within(where: str, value: float, least: float, most: float) -> None:
    finite(where, value)
    if not least <= value <= most:
        raise PlanError(f"{where}: {value!r} is outside {least:g} .. {most:g}")


def at_least(where: str, value: int, least: int) -> None:
    if value < least:
        raise PlanError(f"{where}: {value!r} is below {least}")


def positive(where: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise PlanError(f"{where}: must be a finite number above 0, got {value!r}")


def one_of(where: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise PlanError(f"{where}: {value!r}; allowed: {' or '.join(map(repr, allowed))}")


def sensible_mode(where: str, metric: str, mode: str) -> None:
    """``"max"`` or ``"min"``, and not the greatest of what should be small."""
    one_of(f"{where} of {metric!r}", mode, ("min",) if less_is_better(metric) else ("max", "min"))


def floors(where: str, least: Mapping[str, float]) -> None:
    """The least that each metric must reach."""
    for metric, value in least.items():
        finite(f"{where} of {metric!r}", value)
        if less_is_better(metric):
            raise PlanError(f"{where} of {metric!r}: it is the least that must be reached, but less of it is better")


def less_is_better(metric: str) -> bool:
    return metric.rpartition("/")[2].partition("_")[0] in LESS_IS_BETTER


def plain_name(name: str) -> None:
    """A name that can be a folder's, and a part of a dotted path."""
    if not name.replace("-", "_").isidentifier():
        raise PlanError(f"{name!r}: recipes, sources and stages are called by letters, digits, _ and -")


def helpers(stage: Stage) -> None:
    """That what follows the training readings of ``stage`` can have an effect."""
    where = f"stage {stage.name!r}"
    for name, term in stage.terms.items():
        if term.ramp >= stage.epochs:
            raise PlanError(f"{where}: term {name!r} has a ramp of {term.ramp} epochs, the stage has {stage.epochs}")
    for name in stage.weigh.terms if stage.weigh else ():
        if name not in stage.terms:
            raise PlanError(f"{where}: weigh names the term {name!r}; its terms are {', '.join(stage.terms)}")
        if not all(hasattr(stage.terms[name].loss, field) for field in ("weights", "most")):
            raise PlanError(f"{where}: weigh names {name!r}, whose loss has no weights of symbols")
    if stage.balance is not None:
        stage.balance.check({name: term.ramp for name, term in stage.terms.items()}, stage.epochs)
    if stage.mining is not None:
        stage.mining.check(stage.epochs)
        if len(stage.data.shares) > 1:
            raise PlanError(
                f"{where}: mining draws by difficulty alone, but data.shares names {len(stage.data.shares)} sources"
            )


def _trains(where: str, terms: Mapping[str, Term], learn: Sequence[str]) -> None:
    for name, term in terms.items():
        if unknown := set(term.trains) - set(learn):
            raise PlanError(f"{where}: term {name!r} trains {sorted(unknown)}, but what learns is {list(learn)}")


def check_stage(stage: Stage, *, earlier: Sequence[str], recipe: Recipe) -> None:
    """That ``stage`` follows from the ``earlier`` ones, and that all it names is in ``recipe``."""
    where = f"stage {stage.name!r}"
    if stage.name in earlier:
        raise PlanError(f"{where} appears twice; stage names address checkpoints and must be unique")
    parent = getattr(stage.start_from, "stage", None)
    if parent is not None and parent not in earlier:
        raise PlanError(
            f"{where} starts from {parent!r}, which does not run before it; earlier stages: "
            f"{', '.join(earlier) or 'none'}"
        )
    _trains(where, stage.terms, stage.learn)
    if stage.adversary is not None:
        _trains(f"{where}: adversary", stage.adversary.terms, stage.adversary.learn)
        for what, ours, theirs in (("part", stage.learn, stage.adversary.learn),
                                   ("term", stage.terms, stage.adversary.terms)):  # fmt: skip
            if both := sorted(set(ours) & set(theirs)):
                raise PlanError(
                    f"{where}: {both} is a {what} of the stage and of its adversary; give it to one of them"
                )
    if unknown := set(stage.optim.factors) - set(stage.learn):
        raise PlanError(f"{where}: optim.factors names {sorted(unknown)}, but what learns is {list(stage.learn)}")
    if stage.optim.factors and set(stage.optim.factors) == set(stage.learn):
        raise PlanError(f"{where}: optim.factors names every part that learns; change optim.lr, and leave one out")
    parts = set(recipe.task.parts)
    loaded = set(stage.start_from.parts) if stage.start_from else set()
    moves = set(stage.moves)
    if unknown := (moves | loaded) - parts:
        raise PlanError(f"{where} names parts {sorted(unknown)}; the task's parts are {sorted(parts)}")
    sound = set(getattr(recipe.task, "sound_untrained", ()))
    imported = bool(stage.start_from) and parent is None  # of an earlier stage, all that it trained has to come along
    if stage.start_from and (untouched := parts - loaded - moves - (sound if imported else set())):
        raise PlanError(f"{where} neither loads nor trains {sorted(untouched)}: random weights would stay in it")
    if not stage.start_from and (untouched := parts - moves - sound):
        raise PlanError(f"{where} starts from nothing but does not train {sorted(untouched)}")
    if unknown := set(stage.sources) - set(recipe.sources):
        raise PlanError(f"{where} reads sources {sorted(unknown)}; the recipe has {sorted(recipe.sources)}")
    scores = {score.name: score for score in stage.scores}
    for metric in (*stage.metrics_named, *(name for score in stage.scores for name in score.metrics)):
        if metric.split("/")[0] not in stage.validate and metric not in scores:
            raise PlanError(
                f"{where} decides by {metric!r}, but validates on {sorted(stage.validate)}; "
                "a metric is called SOURCE/NAME, such as "
                f"{next(iter(stage.validate))}/word_accuracy_36"
            )
    if stage.red_lines and stage.start_from is None:
        raise PlanError(f"{where}: red_lines forbid falling below the start, but it starts from nothing")
