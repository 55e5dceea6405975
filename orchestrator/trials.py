"""A stage as a trial of a sweep: trained in a folder of its own, from its parent's record, or only looked at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.execution import Execution
from orchestrator.live import Watch
from orchestrator.machine import Machine
from orchestrator.pipeline import StageRun, check_data
from orchestrator.plan import Recipe, Stage
from orchestrator.preflight import Preflight
from orchestrator.shards import Shards
from orchestrator.store import Record, Store
from orchestrator.trying import Trying
from orchestrator.turn import Leased


class Unwatched:
    """Implements :class:`orchestrator.live.Watch` for who only looks."""

    def stop_asked(self) -> bool:
        return False

    def at(self, phase: str) -> None:
        pass

    def tell(self, status: Mapping[str, Any]) -> None:
        """Nobody listens."""


def train_trial(
    recipe: Recipe, stage: Stage, store: Store, shards: Mapping[str, Shards], execution: Execution, *,
    machine: Machine, watch: Watch, folder: Path, trying: Trying,
) -> Record | None:  # fmt: skip
    """Train one stage in a folder of its own, from its parent's record in the store, and record it there.

    Returns None where it was stopped or has paused. Raises what :func:`train_recipe` raises.
    """
    record = store.read(folder)
    if record is not None:
        return record
    checked = trying.kept.checked
    if stage.sources not in checked:
        checked[stage.sources] = check_data(recipe, [stage], shards, Preflight(accept=execution.accept))
    contents = {name: each.manifest.content for name, each in shards.items()}
    preflight = checked[stage.sources].followed()
    leased = watch if isinstance(watch, Leased) else Leased(watch)
    run = StageRun(recipe, stage, store, shards, contents, execution, machine, leased, preflight, trying)
    return run.train(folder)


def check_trial(
    recipe: Recipe, stage: Stage, store: Store, shards: Mapping[str, Shards], execution: Execution, *,
    machine: Machine, folder: Path,
) -> None:  # fmt: skip
    """The checks of a stage's plan and first batch, on its parent's weights. Raises :class:`PreflightError`."""
    contents = {name: each.manifest.content for name, each in shards.items()}
    preflight = Preflight(accept=execution.accept)
    run = StageRun(recipe, stage, store, shards, contents, execution, machine, Leased(Unwatched()), preflight)
    run.look(folder)
