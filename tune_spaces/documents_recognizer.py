"""How fast the recogniser learns clean lines."""

from __future__ import annotations

import optuna

RECIPE, STAGE = "documents", "recognizer"
METRIC, MODE = "best", ""  # what the stage itself chooses by


def space(trial: optuna.Trial) -> None:
    trial.suggest_float("stages.recognizer.optim.lr", 1e-4, 1e-2, log=True)
    if trial.suggest_categorical("stages.recognizer.schedule", ["Constant", "Cosine", "OneCycle"]) != "Constant":
        trial.suggest_float("stages.recognizer.schedule.warmup", 0.0, 0.3)
