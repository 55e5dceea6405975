"""How fast to learn to read rendered words."""

from __future__ import annotations

import optuna

RECIPE, STAGE = "words", "pretrain"
METRIC, MODE = "best", ""  # what the stage itself chooses by


def space(trial: optuna.Trial) -> None:
    trial.suggest_float("stages.pretrain.optim.lr", 1e-4, 1e-2, log=True)
    if trial.suggest_categorical("stages.pretrain.schedule", ["Constant", "Cosine", "OneCycle"]) != "Constant":
        trial.suggest_float("stages.pretrain.schedule.warmup", 0.0, 0.3)
