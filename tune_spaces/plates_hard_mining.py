"""How sharply difficult plates are preferred, how often they may come, and how much embeddings count."""

from __future__ import annotations

import optuna

RECIPE, STAGE = "plates", "hard_mining"
METRIC, MODE = "best", ""  # what the stage itself chooses by


def space(trial: optuna.Trial) -> None:
    trial.suggest_float("stages.hard_mining.mining.alpha", 0.5, 4.0)
    trial.suggest_float("stages.hard_mining.mining.cap", 2.0, 20.0, log=True)
    trial.suggest_categorical("stages.hard_mining.mining.curriculum.kind", ["linear", "exponential", "step"])
    trial.suggest_float("stages.hard_mining.terms.embedding.weight", 0.02, 0.5, log=True)
    trial.suggest_float("stages.hard_mining.terms.embedding.loss.margin", 0.4, 1.4)
    trial.suggest_float("stages.hard_mining.optim.lr", 1e-6, 1e-3, log=True)
