"""How the four pulls on the generator are weighed, where CTC's ceiling lies, and how fast both players learn.

Two metrics at once: CER and PSNR. Too much CTC harms both (GAN-HTR's ablation of its weight): ranges are logarithmic.
The knee of the Pareto set wins.
"""

from __future__ import annotations

import optuna

RECIPE, STAGE = "documents", "adversarial"
METRIC, MODE, PICK = ("lines/cer", "lines/psnr"), ("min", "max"), "knee"


def space(trial: optuna.Trial) -> None:
    trial.suggest_float("stages.adversarial.terms.ctc.weight", 0.1, 5.0, log=True)
    trial.suggest_float("stages.adversarial.terms.adversarial.weight", 0.1, 5.0, log=True)
    trial.suggest_float("stages.adversarial.terms.feature.weight", 0.5, 20.0, log=True)
    trial.suggest_float("stages.adversarial.terms.perceptual.weight", 0.02, 2.0, log=True)
    ceiling = "stages.adversarial.terms.ctc.loss.ceiling"
    if trial.suggest_categorical(f"{ceiling}.mode", ["none", "log_tail", "root_tail"]) != "none":
        trial.suggest_float(f"{ceiling}.value", 0.5, 8.0, log=True)  # nats per character
    trial.suggest_int("stages.adversarial.terms.ctc.ramp", 0, 4)
    trial.suggest_float("stages.adversarial.optim.lr", 5e-5, 3e-3, log=True)
    trial.suggest_float("stages.adversarial.adversary.optim.lr", 2e-5, 1e-3, log=True)
