"""Stores with a small recipe trained and tracked, and what the journals say against what trackers hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from small import Quiet, small_recipe

from orchestrator.execution import Execution
from orchestrator.identity import fingerprint
from orchestrator.ingest import ingest, make_here
from orchestrator.journal import lines
from orchestrator.pipeline import Machine, train_recipe
from orchestrator.plan import Recipe
from orchestrator.ranks import Ranks
from orchestrator.shards import Shards
from orchestrator.store import Store
from orchestrator.tracking import following
from orchestrator.tracking.points import StageAt

CPU = Execution(device="cpu", workers=0)
BOTH = ("mlflow", "tensorboard")


@cache
def shards_of(base: Path) -> Mapping[str, Path]:
    """The recipe's sources, ingested once for all tests."""
    recipe, store = small_recipe(), base / "shards of tracked stores"
    return {
        name: ingest(
            source, None, name=name, image=recipe.image, alphabet=recipe.alphabet, frames=recipe.task.frames,
            store=store, make=make_here,
        )
        for name, source in recipe.sources.items()
    }  # fmt: skip


@cache
def trained_store(base: Path, sinks: Sequence[str] = ()) -> Path:
    """A store with the recipe trained to its end while ``sinks`` followed. Tests that change it take a copy."""
    root = base / f"trained with {len(sinks)} trackers"
    with tracking(root, shards_of(base), sinks):
        train(root, shards_of(base))
    return root


def copied(store: Path, folder: Path) -> Path:
    root = folder / "store"
    shutil.copytree(store, root)
    return root


def train(root: Path, shards: Mapping[str, Path], *, steps: int = 1_000_000) -> None:
    machine = Machine.of(CPU, Ranks())
    train_recipe(small_recipe(), Store(root), shards, CPU, machine=machine, watch=Quiet(steps=steps))


def stages_in(root: Path, shards: Mapping[str, Path], recipe: Recipe | None = None) -> list[StageAt]:
    recipe = recipe or small_recipe()
    contents = {name: Shards.open(folder, verify=False).manifest.content for name, folder in shards.items()}
    return [
        StageAt(number, stage, Store(root).folder(recipe.name, stage.name, fingerprint(recipe, stage, contents)))
        for number, stage in enumerate(recipe.stages)
    ]


@contextmanager
def tracking(root: Path, shards: Mapping[str, Path], sinks=BOTH) -> Iterator[list[str]]:
    """Follow the whole recipe in a store; gives the lines that were said."""
    said: list[str] = []
    with following(small_recipe(), Store(root), stages_in(root, shards), sinks, say=said.append):
        yield said


def client_of(root: Path):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db")


def runs_of(client, kind: str) -> list:
    found = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    chosen = [run for run in found if run.data.tags["plumbline.kind"] == kind]
    return sorted(chosen, key=lambda run: run.data.tags.get("plumbline.number", ""))


def history(client, run, name: str) -> list[tuple[int, float]]:
    return sorted((each.step, each.value) for each in client.get_metric_history(run.info.run_id, name))


def journaled(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What the journals say, by the names of the trackers: (epoch, value) of each number as it stands there."""
    found: dict[str, list[tuple[int, float]]] = {}
    for file, kind, side in (("metrics.jsonl", "epoch", "train"), ("metrics.jsonl", "validation", "val"),
                             ("speed.jsonl", "epoch", "speed")):  # fmt: skip
        for row in lines(folder / file, kind):
            for name in set(row) - {"kind", "epoch", "step", "time"}:
                if isinstance(row[name], int | float):
                    found.setdefault(f"{side}/{name}", []).append((row["epoch"], row[name]))
    return {name: sorted(points) for name, points in found.items()}


def assert_mirrored(client, stages: list[StageAt]) -> None:
    """Every number of the journals is in MLflow, once, and nothing else of that kind."""
    runs = runs_of(client, "stage")
    assert [run.info.run_name for run in runs] == [at.title for at in stages]
    for run, at in zip(runs, stages, strict=True):
        expected = journaled(at.folder)
        assert {name: history(client, run, name) for name in expected} == expected
        assert {name for name in run.data.metrics if name.startswith("val/")} == {
            name for name in expected if name.startswith("val/")
        }


def scalars_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def as_float32(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(step, pytest.approx(value, rel=1e-6)) for step, value in points]


def assert_drawn(root: Path, stages: list[StageAt]) -> None:
    """Every number of metrics.jsonl is in the event files, once, at the optimiser's step."""
    [folder] = (root / "tensorboard" / "small").iterdir()
    drawn = scalars_of(folder)
    for at in stages:
        for kind, side in (("epoch", "train"), ("validation", "val")):
            rows = lines(at.folder / "metrics.jsonl", kind)
            for name in set(rows[0]) - {"kind", "epoch", "step"}:
                expected = [(row["step"], row[name]) for row in rows]
                assert drawn[f"{at.title}/{side}_{name}"] == as_float32(expected), name


def write_lines(path: Path, *rows: Mapping) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
