"""The recipe `plates` with all five stages, small enough to be trained in seconds, and what its tests ask of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from small import Quiet, shards_of

from datasets.rendered_plates import RenderedPlates
from orchestrator.execution import Execution
from orchestrator.override import override
from orchestrator.pipeline import Machine, train_recipe
from orchestrator.plan import Best, Curriculum, Recipe
from orchestrator.ranks import Ranks
from orchestrator.recipes.plates import recipe
from orchestrator.store import Store

STAGES = ("pretrain", "warmup", "lcofl", "finetune", "hard_mining")
CPU = Execution(device="cpu", threads=1, checkpoint_every_s=0.0, accept=("headroom",))  # nothing is read right yet
EPOCHS = {"pretrain": 1, "warmup": 1, "lcofl": 2, "finetune": 2, "hard_mining": 3}
SMALL: Mapping[str, Any] = {
    "task.generator.features": 8, "task.generator.blocks": 1, "task.generator.growth": 4, "task.generator.layers": 1,
    "task.generator.groups": 1, "task.generator.deformable": "dcnv3",
    "task.ocr.width": 0.25, "task.ocr.hidden": 8, "task.monitor.width": 0.125, "task.monitor.hidden": 4,
    "sources.plates": RenderedPlates(
        tracks=12, valid=4, test=2, frames=2, layouts=("Brazilian", "Mercosur"), height=32
    ),
    "sources.drawn": RenderedPlates(tracks=24, frames=1, seed=1, height=32),
    **{f"stages.{stage}.batch_size": 8 for stage in STAGES},
    **{f"stages.{stage}.epochs": epochs for stage, epochs in EPOCHS.items()},
    **{f"stages.{stage}.optim.lr": 1e-4 for stage in STAGES},  # a recogniser of six quick steps reads nothing at all
    # the second one keeps the checkpoint before the first step, in which as little is read right as ever after
    "stages.finetune.best": (Best(metric="plates/loss_anchor", mode="min"), Best(metric="plates/recognition_rate")),
    "stages.hard_mining.terms.embedding.ramp": 2,
    "stages.hard_mining.mining.least_visits": 1, "stages.hard_mining.mining.reweigh_every": 1,
    "stages.hard_mining.mining.suspect_after": 2,
    "stages.hard_mining.mining.curriculum": Curriculum(start=0.3, end=1.0, epochs=3),
}  # fmt: skip


def small_plates(**changes: Any) -> Recipe:
    return override(recipe(), {**SMALL, **changes})


@cache
def plate_shards() -> dict[str, Path]:
    """The sources of :func:`small_plates`, ingested once."""
    return shards_of(small_plates(), Path(mkdtemp()))


def train(
    root: Path, plan: Recipe | None = None, *, only: Sequence[str] = (), watch: Quiet | None = None,
    shards: Mapping[str, Path] | None = None, execution: Execution = CPU,
) -> bool:  # fmt: skip
    """Bring ``plan`` to its records in ``root``; False when ``watch`` asked for a stop."""
    ranks = Ranks.of_process_group()
    return train_recipe(
        plan or small_plates(), Store(root), shards or plate_shards(), execution,
        machine=Machine.of(execution, ranks), watch=watch or Quiet(), only=only,
    )  # fmt: skip


def folder_of(root: Path, stage: str) -> Path:
    [folder] = root.glob(f"runs/plates/{stage}-*")
    return folder


def record_of(root: Path, stage: str) -> dict[str, Any]:
    return json.loads((folder_of(root, stage) / "record.json").read_text())


@cache
def trained() -> Path:
    """The store of all five stages, trained once for all tests of a session; only to be read."""
    root = Path(mkdtemp())
    assert train(root, execution=replace(CPU, checkpoint_every_s=1e9))
    return root
