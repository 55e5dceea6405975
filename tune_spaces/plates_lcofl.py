"""How hard to pull on being read, where its ceiling lies, and how fast to learn while doing so.

The weight of characters is sought below 1: at 1 PSNR falls below bicubic. The ceiling is never ``hard``:
above that nothing would teach.
"""

from __future__ import annotations

import optuna

RECIPE, STAGE = "plates", "lcofl"
METRIC, MODE = "best", ""  # what the stage itself chooses by


def space(trial: optuna.Trial) -> None:
    trial.suggest_float("stages.lcofl.terms.characters.weight", 0.005, 1.0, log=True)
    trial.suggest_float("stages.lcofl.terms.layout.weight", 0.005, 0.5, log=True)
    trial.suggest_float("stages.lcofl.terms.ssim.weight", 0.01, 0.5, log=True)
    clip = "stages.lcofl.terms.characters.loss.clip"
    if trial.suggest_categorical(f"{clip}.mode", ["none", "log_tail", "root_tail"]) != "none":
        trial.suggest_float(f"{clip}.value", 0.5, 12.0, log=True)  # nats per character; ln 37 is 3.6
    trial.suggest_float("stages.lcofl.optim.lr", 5e-5, 3e-3, log=True)
    if trial.suggest_categorical("stages.lcofl.schedule", ["Constant", "Cosine", "StepDown"]) == "Cosine":
        trial.suggest_float("stages.lcofl.schedule.warmup", 0.0, 0.2)
