"""A small stage to sweep, and the spaces that do it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna

from orchestrator.execution import Execution
from orchestrator.machine import Machine
from orchestrator.pipeline import train_recipe
from orchestrator.plan import Asha, Best, Recipe, Search
from orchestrator.ranks import Ranks
from orchestrator.store import Store
from orchestrator.sweep import Sweep, sweep_of
from orchestrator.sweep.board import Board
from orchestrator.sweep.space import Space
from tests.orchestrator.small import Quiet, shards_of, small_recipe

HERE = Execution(workers=0, threads=1)


def learning_rate(trial: optuna.Trial) -> None:
    trial.suggest_float("stages.finetune.optim.lr", 1e-5, 1e-1, log=True)


def rate_and_schedule(trial: optuna.Trial) -> None:
    learning_rate(trial)
    if trial.suggest_categorical("stages.finetune.schedule", ["Constant", "Cosine"]) == "Cosine":
        trial.suggest_float("stages.finetune.schedule.warmup", 0.0, 0.3)


def a_space(suggest: Callable[[Any], Any] = learning_rate, **changes: Any) -> Space:
    said: dict[str, Any] = {
        "name": "made", "recipe": "small", "stage": "finetune", "metrics": ("worn/cer",), "modes": ("min",),
        "pick": "first", "suggest": suggest, "sha256": "a",
    }  # fmt: skip
    return Space(**said | changes)


def a_recipe(**changes: Any) -> Recipe:
    """`small`, whose last stage chooses by CER and can be cut after each of its epochs."""
    settings = {
        "stages.finetune.epochs": 3, "stages.finetune.early_stop": None, "stages.finetune.ema": 0.0,
        "stages.finetune.best": (Best(metric="worn/cer", mode="min"),),
        "stages.finetune.red_lines.rendered/word_accuracy_36": None,
    }  # fmt: skip
    return small_recipe(**settings | changes)


def a_board(
    folder: Path, *, space: Space | None = None, search: Search | None = None, resume: bool = False,
    recipe: Recipe | None = None, name: str = "made",
) -> Board:  # fmt: skip
    search = search or Search(space="made", trials=4, prune=Asha(first=1, factor=2))
    url = f"sqlite:///{folder}/study.db"
    return Board.open(url, name, space or a_space(), recipe or a_recipe(), search, resume=resume)


def with_parent(recipe: Recipe, store: Path) -> dict[str, Path]:
    """The shards of ``recipe``, in a store where the stages before its last one are trained."""
    shards = shards_of(recipe, store)
    names = [stage.name for stage in recipe.stages[:-1]]
    machine = Machine.of(HERE, Ranks())
    assert train_recipe(recipe, Store(store), shards, HERE, machine=machine, watch=Quiet(), only=names)
    return shards


def a_sweep(store: Path, shards: Mapping[str, Path], recipe: Recipe, *, trials: int, **changes: Any) -> Sweep:
    said = {"space": a_space(), "search": Search(space="made", trials=trials, prune=None)} | changes
    return sweep_of(recipe, said["space"], said["search"], Store(store), shards, name=said.get("name", ""))
