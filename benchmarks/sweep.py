"""Sweeps: what a trial costs beside its training, what pruning saves, and whether two hundred trials stay flat.

Run: ``python -m benchmarks.sweep`` (or ``--only trials``, ``pruning``, ``many``)

``trials``: the same short trials in processes that are used again, and each in a Ray Train group of its own, the usual
way to put a trainer into Ray Tune. From a trial's proposal to its first update, and trials an hour.
``pruning``: the same random settings with and without successive halving; epochs trained, and the best value of each.
``many``: 200 trials of one short epoch; seconds per trial and memory of the driver, by quarter.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from ray import tune

from benchmarks.measure import machine, options
from orchestrator.execution import Execution
from orchestrator.ingest import ingest, make_here
from orchestrator.machine import Machine
from orchestrator.override import override
from orchestrator.pipeline import train_recipe
from orchestrator.plan import Asha, Best, Recipe, Search
from orchestrator.ranks import Ranks
from orchestrator.recipes import demo
from orchestrator.store import Store
from orchestrator.sweep import Places, Sweep, run_sweep, sweep_of
from orchestrator.sweep.board import Row
from orchestrator.sweep.group import trained_in_groups
from orchestrator.sweep.space import Space
from orchestrator.sweep.trial import Asked, Job, outcome_of
from orchestrator.sweep.tuning import Cutting, Desk, Proposals
from orchestrator.trials import Unwatched
from orchestrator.worker import get_ready

METRIC = "worn/loss"
SMALL: dict[str, Any] = {
    "task.recognizer.width": 0.0625, "task.recognizer.hidden": 16,
    "sources.rendered.count": 640, "sources.rendered.valid": 64, "sources.worn.count": 320, "sources.worn.valid": 64,
    "stages.pretrain.epochs": 2, "stages.pretrain.data.epoch_samples": 640,
    "stages.pretrain.gate.rendered/word_accuracy_36": None,
    "stages.finetune_frozen.epochs": 1, "stages.finetune_frozen.data.epoch_samples": 320,
    "stages.finetune_frozen.start_from.floor.worn/word_accuracy_36": None,
    "stages.finetune.data.epoch_samples": 320, "stages.finetune.early_stop": None,
    "stages.finetune.red_lines.rendered/word_accuracy_36": None,
    "stages.finetune.best": (Best(metric=METRIC, mode="min"),),
}  # fmt: skip
ONE = Execution(workers=1, threads=1, device="cpu")


def rates(trial: Any) -> None:
    """Learning rates from too low to too high, and how much the pictures change."""
    trial.suggest_float("stages.finetune.optim.lr", 1e-5, 1e-1, log=True)
    trial.suggest_float("stages.finetune.augment.rotate", 0.0, 10.0)


@dataclass(frozen=True)
class Ground:
    """A store whose swept stage has a trained parent."""

    recipe: Recipe
    store: Store
    shards: dict[str, Path]

    def again(self) -> Ground:
        """The same in another store, where a sweep of the same name proposes the same settings."""
        root = Path(tempfile.mkdtemp(dir=self.store.root.parent)) / "store"
        shutil.copytree(self.store.root, root)
        shards = {name: root / folder.relative_to(self.store.root) for name, folder in self.shards.items()}
        return Ground(self.recipe, Store(root), shards)

    def sweep(self, *, trials: int, epochs: int, prune: Asha | None = None) -> Sweep:
        name = "rates"
        space = Space(name=name, recipe="demo", stage="finetune", metrics=(METRIC,), modes=("min",), pick="first",
                      suggest=rates, sha256=name)  # fmt: skip
        search = Search(space=name, trials=trials, sampler="random", prune=prune)
        recipe = override(self.recipe, {"stages.finetune.epochs": epochs})
        return sweep_of(recipe, space, search, self.store, self.shards, name=name)


def ground(folder: Path) -> Ground:
    """Ingest and train what the trials start from, in this process."""
    recipe, store = override(demo.recipe(), SMALL), Store(folder)
    shards = {
        name: ingest(source, None, name=name, image=recipe.image, alphabet=recipe.alphabet,  # type: ignore[arg-type]
                     frames=recipe.task.frames, store=folder, make=make_here)
        for name, source in recipe.sources.items()
    }  # fmt: skip
    here = Execution(workers=0, threads=1)
    machine_here, names = Machine.of(here, Ranks()), [stage.name for stage in recipe.stages[:-1]]
    train_recipe(recipe, store, shards, here, machine=machine_here, watch=Unwatched(), only=names)
    return Ground(recipe, store, shards)


def ours(sweep: Sweep, *, limit: int = 1, each: Callable[[], None] = lambda: None) -> tuple[list[Row], float]:
    """The trials of a sweep in processes used again, and the seconds that they took together."""
    board, start = sweep.board(resume=False), time.perf_counter()
    run_sweep(sweep, board, ONE, Places(limit=limit), budget_s=0.0, say=lambda line: each(), begun=lambda trial: None)
    return board.rows(), time.perf_counter() - start


def nested(sweep: Sweep) -> tuple[list[Row], float]:
    """The same trials, each with a new process that fits a Ray Train group of one worker."""
    board, start = sweep.board(resume=False), time.perf_counter()
    sweep.folder.mkdir(parents=True, exist_ok=True)
    desk = Desk(board, sweep.planned, 1, lambda: False, lambda line: None)
    job = sweep.job(ONE)
    trainable = tune.with_resources(tune.with_parameters(nested_trial, job=vars(job)), {"memory": 1.0})
    how = tune.TuneConfig(search_alg=Proposals(desk), scheduler=Cutting(desk), num_samples=-1, reuse_actors=False)
    with tempfile.TemporaryDirectory() as scratch:
        tune.Tuner(trainable, tune_config=how, run_config=tune.RunConfig(storage_path=scratch, verbose=0)).fit()
    return board.rows(), time.perf_counter() - start


def nested_trial(config: dict[str, Any], job: dict[str, Any]) -> None:
    """A trial in a group of its own."""
    asked, whole = Asked(**json.loads(config["trial"])), Job(**job)

    def tell(line: Any) -> None:
        tune.report({"told": json.dumps(line)})

    tell(outcome_of(whole, asked, lambda: trained_in_groups(whole, asked, tell)))


def trials(at: Ground, *, count: int) -> list[str]:
    """Rows of what a trial costs."""
    found = {"a group per trial": nested(at.again().sweep(trials=count, epochs=2)),
             "used again": ours(at.again().sweep(trials=count, epochs=2))}  # fmt: skip
    values = [[row.values[METRIC] for row in rows] for rows, _ in found.values()]
    if values[0] != values[1]:
        raise AssertionError(f"the two ways trained other things: {values}")
    lines = []
    for name, (rows, seconds) in found.items():
        waits = [row.first_step_s for row in rows if row.first_step_s is not None]
        lines.append(f"| {name} | {waits[0]:.2f} s | {median(waits[1:]):.2f} s | {seconds:.1f} s | "
                     f"{3600 * count / seconds:.0f} |")  # fmt: skip
    ratio = found["a group per trial"][1] / found["used again"][1]
    return ["| trials | first, to its first update | the others, median | together | trials per hour |",
            "|---|---|---|---|---|", *lines, f"{count} trials of 2 epochs, one at a time: {ratio:.1f}x"]  # fmt: skip


def pruning(at: Ground, *, count: int, epochs: int) -> list[str]:
    """Rows of what pruning saves."""
    lines = []
    for name, prune in (("every trial to its end", None), ("successive halving", Asha(first=1, factor=3))):
        rows, seconds = ours(at.again().sweep(trials=count, epochs=epochs, prune=prune), limit=2)
        best = min((row.values[METRIC], row.number) for row in rows if row.outcome == "finished")
        until = sum(row.epochs for row in rows if row.number <= best[1])
        pruned = sum(row.outcome == "pruned" for row in rows)
        lines.append(f"| {name} | {sum(row.epochs for row in rows)} | {pruned} of {count} | {best[0]:.4f} "
                     f"(trial {best[1]}) | {until} | {seconds:.0f} s |")  # fmt: skip
    head = f"| {count} random trials of {epochs} epochs | trained | pruned | best {METRIC} | epochs up to it | wall |"
    return [head,
            "|---|---|---|---|---|---|", *lines]  # fmt: skip


def many(at: Ground, *, count: int) -> list[str]:
    """Rows of whether trials go on costing the same."""
    marks: list[tuple[float, float]] = [_mark()]
    ours(at.again().sweep(trials=count, epochs=1), limit=2, each=lambda: marks.append(_mark()))
    ends = marks[2:]  # after the line that says how many run at once
    quarter, lines = len(ends) // 4, []
    for number in range(4):
        part = ends[number * quarter : (number + 1) * quarter]
        each = (part[-1][0] - part[0][0]) / (len(part) - 1)
        which = f"{number * quarter} to {(number + 1) * quarter}"
        lines.append(f"| {which} | {each:.3f} s | {part[-1][1]:.0f} MB |")
    return ["| trials | seconds per trial | driver's memory (RSS) |", "|---|---|---|", *lines]


def _mark() -> tuple[float, float]:
    gc.collect()
    return time.perf_counter(), psutil.Process(os.getpid()).memory_info().rss / 1e6


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--only", choices=("trials", "pruning", "many"), default="")
    asked = parser.parse_args()
    quick = asked.quick
    get_ready()
    print(machine())
    with tempfile.TemporaryDirectory() as made:
        at = ground(Path(made) / "store")
        parts: dict[str, Callable[[], list[str]]] = {
            "trials": lambda: trials(at, count=2 if quick else 6),
            "pruning": lambda: pruning(at, count=4 if quick else 27, epochs=3 if quick else 9),
            "many": lambda: many(at, count=8 if quick else 200),
        }
        for name, part in parts.items():
            if asked.only in ("", name):
                print("\n".join(["", *part()]), flush=True)
    if quick:
        print("a smoke run: these are no figures")


if __name__ == "__main__":
    main()
