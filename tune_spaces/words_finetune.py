"""How fast to adapt to photographs, along which schedule, and how hard to change the pictures."""

from __future__ import annotations

import optuna

RECIPE, STAGE = "words", "finetune"
METRIC, MODE = "best", ""  # what the stage itself chooses by


def space(trial: optuna.Trial) -> None:
    trial.suggest_float("stages.finetune.optim.lr", 2e-5, 2e-3, log=True)
    trial.suggest_float("stages.finetune.optim.weight_decay", 0.0, 0.1)
    if trial.suggest_categorical("stages.finetune.schedule", ["Constant", "Cosine", "OneCycle"]) != "Constant":
        trial.suggest_float("stages.finetune.schedule.warmup", 0.0, 0.3)
    trial.suggest_float("stages.finetune.augment.rotate", 0.0, 10.0)
    trial.suggest_float("stages.finetune.augment.blur", 0.0, 2.0)
    trial.suggest_float("stages.finetune.augment.contrast", 0.0, 0.8)
