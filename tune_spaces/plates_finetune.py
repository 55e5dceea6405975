"""How fast generator and OCR learn together, and how firmly the OCR is anchored on clean plates."""

from __future__ import annotations

import optuna

RECIPE, STAGE = "plates", "finetune"
METRIC, MODE = "best", ""  # what the stage itself chooses by


def space(trial: optuna.Trial) -> None:
    trial.suggest_float("stages.finetune.optim.lr", 5e-6, 2e-3, log=True)
    trial.suggest_float("stages.finetune.optim.factors.ocr", 0.01, 0.3, log=True)
    trial.suggest_float("stages.finetune.terms.anchor.weight", 0.1, 3.0, log=True)
    trial.suggest_float("stages.finetune.terms.characters.weight", 0.005, 1.0, log=True)
