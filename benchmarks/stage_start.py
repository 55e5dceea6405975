"""Seconds from a launch to its first optimiser step, from stage to stage, and on resuming; against a trainer per stage.

Run: ``python -m benchmarks.stage_start``

Ours is the command line itself, watched from outside through the files it writes; shards are there already. The
baseline is Ray's own way: a new ``TorchTrainer`` for each stage, whose loop does nothing, with Ray's default settings.
A change of stage spans the last step of one stage, its validation, checkpoint and record, the next stage's network,
preflight and first validation, up to the end of its first step; the baseline's spans a trainer's end and the next one's
start, with nothing in them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import Sample, flag, interleaved, middle, options, report, verdict

LOOK_EVERY_S = 0.01
PATIENCE_S = 300.0
SMALL = {
    "sources.rendered.count": 640,
    "sources.rendered.valid": 64,
    "sources.worn.count": 640,
    "sources.worn.valid": 64,
    "stages.pretrain.gate.rendered/word_accuracy_36": 0.0,
    "stages.pretrain.data.epoch_samples": 640,
    "stages.finetune_frozen.data.epoch_samples": 320,
    "stages.finetune.data.epoch_samples": 320,
    "stages.finetune.epochs": 1,
    "stages.finetune_frozen.start_from.floor.worn/word_accuracy_36": 0.0,
    "stages.finetune.start_from.floor.worn/word_accuracy_36": 0.0,
}
RAYS_OWN = """
import sys, time
began = float(sys.argv[1])
import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

ray.init(address="local", include_dashboard=False, log_to_driver=False)

def loop(job):
    import time
    import torch
    with open(job["path"], "a") as file:
        file.write(f"{time.time()}\\n")

for number in range(2):
    TorchTrainer(
        loop, train_loop_config={"path": sys.argv[2]}, scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(name=f"stage{number}", storage_path=sys.argv[3]),
    ).fit()
"""


@dataclass
class Seen:
    """What a launch's files said, and when, in seconds since the launch."""

    folder: float = 0.0
    plan: float = 0.0
    first_step: float = 0.0
    step: int = 0


@dataclass
class Clock:
    """A watch for :func:`orchestrator.pipeline.train_recipe` that notes when each step of each stage was done."""

    steps: list[tuple[str, int, float]] = field(default_factory=list)

    def stop_asked(self) -> bool:
        return False

    def at(self, phase: str) -> None:
        pass

    def tell(self, status: Mapping[str, Any]) -> None:
        if not status.get("ended") and not status.get("skipped_stage"):
            self.steps.append((status["stage"], status["step"], time.perf_counter()))

    def changes(self) -> list[float]:
        """Seconds between the last step of each stage and the first of the next."""
        pairs = zip(self.steps, self.steps[1:], strict=False)
        return [after[2] - before[2] for before, after in pairs if before[0] != after[0]]


def command(store: Path, *, epochs: int = 1, workers: int = 1, stage: str = "pretrain") -> list[str]:
    """The launch of a small plan, as a person would type it."""
    settings = SMALL | {"stages.pretrain.epochs": epochs}
    changes = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    return [sys.executable, "-m", "orchestrator.run", "train", "demo", "--store", str(store), "--stage", stage,
            "--workers", str(workers), *changes]  # fmt: skip


def watched(store: Path, words: list[str], *, stop: bool) -> Seen:
    """Launch, and note when its files appear up to the first step; then ask it to stop, or let it come to its end."""
    before, began, start = _status_files(store), time.time(), time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seen = Seen()
    while not seen.first_step:
        time.sleep(LOOK_EVERY_S)
        _look(store, seen, before, began)
        if process.poll() is not None or time.perf_counter() - start > PATIENCE_S:
            raise RuntimeError(f"no first step; exit code {process.poll()}: {_end_of(process)}")
    if stop:
        process.send_signal(signal.SIGINT)
    code = process.wait(PATIENCE_S)
    if code != (128 + signal.SIGINT if stop else 0):
        raise RuntimeError(f"exit code {code}: {_end_of(process)}")
    return seen


def _look(store: Path, seen: Seen, before: set[Path], began: float) -> None:
    for status in _status_files(store) - before:
        told = json.loads(status.read_text())
        if told.get("step", 0) > 0:
            seen.first_step, seen.step = time.time() - began, told["step"]
    if not seen.folder:
        fresh = [path for path in store.glob("live/*-*") if path.stat().st_mtime >= began]
        seen.folder = time.time() - began if fresh else 0.0
    plans = [path.stat().st_mtime for path in store.glob("runs/demo/*/plan.json")]
    seen.plan = max([at - began for at in plans if at >= began], default=0.0)


def _status_files(store: Path) -> set[Path]:
    return set(store.glob("live/*/status.json"))


def _end_of(process: subprocess.Popen[str]) -> str:
    return (process.stderr.read() if process.stderr else "")[-2000:]


def cold(store: Path) -> Seen:
    """A launch that trains the first stage anew, stopped after its first steps."""
    _forget_runs(store)
    return watched(store, command(store, epochs=50), stop=True)


def resumed(store: Path) -> Seen:
    """A launch that goes on where the one before was stopped."""
    return watched(store, command(store, epochs=50), stop=True)


def _forget_runs(store: Path) -> None:
    shutil.rmtree(store / "runs", ignore_errors=True)


def changes_of_stage(store: Path) -> list[float]:
    """Seconds of both stage changes of the small plan, in this process: the same code as in a worker."""
    from orchestrator.execution import Execution
    from orchestrator.ingest import ingest, make_here
    from orchestrator.pipeline import Machine, train_recipe
    from orchestrator.ranks import Ranks
    from orchestrator.run import parser, resolved
    from orchestrator.store import Store

    _forget_runs(store)
    recipe = resolved(parser().parse_args(command(store)[3:]))
    execution, clock = Execution(workers=0), Clock()
    shards = {
        name: ingest(
            source, None, name=name, image=recipe.image, alphabet=recipe.alphabet, frames=recipe.task.frames,  # type: ignore[arg-type]
            store=store, make=make_here,
        )
        for name, source in recipe.sources.items()
    }  # fmt: skip
    machine = Machine.of(execution, Ranks())
    train_recipe(recipe, Store(store), shards, execution, machine=machine, watch=clock)
    return clock.changes()


def rays_own(folder: Path) -> tuple[float, float]:
    """Seconds from launch to the first trainer's loop, and from there to the second one's."""
    times = folder / "times.txt"
    times.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"}
    began = time.time()
    with tempfile.TemporaryDirectory() as storage:
        words = [sys.executable, "-c", RAYS_OWN, str(began), str(times), storage]
        subprocess.run(words, check=True, capture_output=True, env=environment)
    first, second = map(float, times.read_text().split())
    return first - began, second - first


def import_seconds(module: str) -> float:
    """Seconds of a fresh process that only imports ``module``."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - start


def main() -> None:
    asked = options(__doc__).parse_args()
    rounds = asked.rounds or (1 if asked.quick else 3)
    with tempfile.TemporaryDirectory() as made:
        store = Path(made) / "store"
        changes_of_stage(store)  # makes the shards
        ways: dict[str, Callable[[], Any]] = {
            "Ray's own": lambda: rays_own(Path(made)),
            "cold": lambda: cold(store),
            "resumed": lambda: resumed(store),
            "changes": lambda: max(changes_of_stage(store)),
        }
        found = interleaved(ways, rounds, keep_order=True)  # what is resumed is the launch before it
    refuse_no_resume(found)
    for name in ("ray.train.torch", "orchestrator.pipeline", "torch"):
        print(f"  a fresh process that imports {name}: {import_seconds(name):.2f} s")
    for name in ("cold", "resumed"):
        seen: Seen = found[name][-1].result
        print(f"  {name}, last round: shards found {seen.folder:.2f} s; data, network and preflight in the worker "
              f"{seen.plan:.2f} s; first step done {seen.first_step:.2f} s (step {seen.step})")  # fmt: skip
    report(rows_of(found), [sample for each in found.values() for sample in each], quick=asked.quick)


def refuse_no_resume(found: Mapping[str, list[Sample]]) -> None:
    """Raise unless each resumed launch went on after the steps of the one before."""
    for before, after in zip(found["cold"], found["resumed"], strict=True):
        if not after.result.step > before.result.step:
            raise AssertionError(f"resumed at step {after.result.step}, after {before.result.step}: it began anew")


def rows_of(found: Mapping[str, list[Sample]]) -> list[list[str]]:
    first: Callable[[Sample], float] = lambda sample: sample.result.first_step  # noqa: E731
    ray = found["Ray's own"]
    enter: Callable[[Sample], float] = lambda sample: sample.result[0]  # noqa: E731
    change: Callable[[Sample], float] = lambda sample: sample.result[1]  # noqa: E731
    whole: Callable[[Sample], float] = lambda sample: sample.result  # noqa: E731
    rows = []
    for what, name, ours, theirs, goal in (
        ("launch to first step, cold", "cold", first, enter, 8.0),
        ("launch to first step, resumed", "resumed", first, enter, None),
        ("last step of a stage to first of the next", "changes", whole, change, 0.5),
    ):
        mine, base = middle(found[name], ours), middle(ray, theirs)
        aim = verdict(mine, goal, least=False, unit=" s") if goal else ""
        rows.append([what, f"{base:.2f} s", f"{mine:.2f} s{flag(found[name])}", f"{base / mine:.1f}x", aim])
    return rows


if __name__ == "__main__":
    main()
