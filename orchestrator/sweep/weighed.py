"""How much each setting of a sweep mattered, by Optuna's own measures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec

import optuna
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

LEAST = 4  # finished trials, below which nothing is said
PARTLY = 8  # finished trials that must have had a conditional setting
FEW = 20  # finished trials, below which it is a hint and no more
TREES = 64
FAILED = (ValueError, RuntimeError)  # of Optuna, where values or settings do not vary


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """What each setting's share is, most important first.

    Attributes:
        method: ``"fANOVA"`` or ``"PED-ANOVA"``; empty where nothing could be said, and ``why`` not.
        shares: those of settings that every trial had add up to 1; that of a conditional one is its share among the
            trials that had it. One that too few had is not there.
        trials: finished ones that it rests on, and of each setting how many ``had`` it.
    """

    method: str = ""
    shares: Mapping[str, float] = field(default_factory=dict)
    had: Mapping[str, int] = field(default_factory=dict)
    trials: int = 0
    why: str = ""


def weighed(study: optuna.Study, place: int, mode: str, *, seed: int) -> Weighed:
    """The importance of every setting for the metric at ``place``, over the finished trials.

    fANOVA (Hutter et al. 2014); PED-ANOVA (Watanabe et al. 2023) where scikit-learn is not installed, or no setting is
    in every trial. Of few trials PED-ANOVA takes what is there for noise, and noise for what is there.
    """
    trials = [trial for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if trial.values]
    had = {name: sum(name in trial.params for trial in trials) for trial in trials for name in trial.params}
    if len(trials) < LEAST:
        return Weighed(trials=len(trials), why=f"{len(trials)} finished trials are too few; it takes {LEAST}")
    if len({trial.values[place] for trial in trials}) == 1:
        return Weighed(trials=len(trials), why="all finished trials have the same value")
    whole = [name for name, count in had.items() if count == len(trials)]
    partly = [name for name, count in had.items() if PARTLY <= count < len(trials)]
    by_variance = bool(whole) and find_spec("sklearn") is not None
    sign = -1.0 if mode == "max" else 1.0

    def measure(names: Sequence[str]) -> dict[str, float]:
        evaluator = (
            FanovaImportanceEvaluator(n_trees=TREES, seed=seed) if by_variance else PedAnovaImportanceEvaluator()
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "experimental", and few trials, which is said beside the numbers
            return get_param_importances(
                study, evaluator=evaluator, params=list(names), target=lambda trial: sign * trial.values[place]
            )  # fmt: skip

    try:
        shares = measure(whole) | _conditional(measure, whole, partly) if by_variance else measure([*whole, *partly])
    except FAILED as error:
        return Weighed(trials=len(trials), why=f"Optuna cannot say: {error}")
    ordered = dict(sorted(shares.items(), key=lambda pair: -pair[1]))
    return Weighed(method="fANOVA" if by_variance else "PED-ANOVA", shares=ordered, had=had, trials=len(trials))


def _conditional(
    measure: Callable[[Sequence[str]], dict[str, float]], whole: Sequence[str], partly: Sequence[str]
) -> dict[str, float]:
    """The share of each conditional setting among the trials that had it."""
    found = {}
    for name in partly:
        with suppress(*FAILED):
            found[name] = measure([*whole, name])[name]
    return found
