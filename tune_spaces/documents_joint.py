"""How fast the recogniser learns along, and how much its readings count."""

from __future__ import annotations

import optuna

RECIPE, STAGE = "documents", "joint"
METRIC, MODE = "best", ""  # what the stage itself chooses by


def space(trial: optuna.Trial) -> None:
    trial.suggest_float("stages.joint.optim.lr", 2e-5, 2e-3, log=True)
    trial.suggest_float("stages.joint.optim.factors.recognizer", 0.01, 0.5, log=True)
    trial.suggest_float("stages.joint.terms.ctc.weight", 0.1, 5.0, log=True)
    trial.suggest_float("stages.joint.terms.anchor.weight", 0.1, 5.0, log=True)
