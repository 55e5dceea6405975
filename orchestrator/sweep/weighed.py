"""How much each setting of a sweep mattered, by Optuna's own measures."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec

import optuna
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

LEAST = 4  # finished trials, below which nothing is said
FEW = 20  # below which it is a hint, and no more
TREES = 64


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """What each setting's share is, most important first; they add up to 1.

    Attributes:
        method: ``"fANOVA"`` or ``"PED-ANOVA"``; empty where nothing could be said, and ``why`` not.
        trials: finished ones that it rests on, and of each setting how many ``had`` it.
    """

    method: str = ""
    shares: Mapping[str, float] = field(default_factory=dict)
    had: Mapping[str, int] = field(default_factory=dict)
    trials: int = 0
    why: str = ""


def weighed(study: optuna.Study, place: int, mode: str, *, seed: int) -> Weighed:
    """The importance of every setting for the metric at ``place``, over the finished trials.

    fANOVA (Hutter et al. 2014) where every finished trial has every setting; PED-ANOVA (Watanabe et al. 2023) in its
    form for conditional settings where some lack one, or scikit-learn is not installed.
    """
    trials = [trial for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if trial.values]
    had = {name: sum(name in trial.params for trial in trials) for trial in trials for name in trial.params}
    values = [trial.values[place] for trial in trials]
    if len(trials) < LEAST:
        return Weighed(trials=len(trials), why=f"{len(trials)} finished trials are too few; it takes {LEAST}")
    if len(set(values)) == 1:
        return Weighed(trials=len(trials), why="all finished trials have the same value")
    whole = all(count == len(trials) for count in had.values()) and find_spec("sklearn") is not None
    sign = -1.0 if mode == "max" else 1.0

    def target(trial: FrozenTrial) -> float:
        return sign * trial.values[place]

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "experimental", and few trials, which is said beside the numbers
            evaluator = FanovaImportanceEvaluator(n_trees=TREES, seed=seed) if whole else _of_the_best(len(trials))
            shares = get_param_importances(study, evaluator=evaluator, target=target)
    except (ValueError, RuntimeError) as error:
        return Weighed(trials=len(trials), why=f"Optuna cannot say: {error}")
    return Weighed(method="fANOVA" if whole else "PED-ANOVA", shares=shares, had=had, trials=len(trials))


def _of_the_best(trials: int) -> PedAnovaImportanceEvaluator:
    """What it takes to be among the best tenth; among the best five or the best half where a tenth is fewer."""
    return PedAnovaImportanceEvaluator(target_quantile=min(max(0.1, 5 / trials), 0.5))
