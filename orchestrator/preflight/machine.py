"""Preflight of the machine: room on disk, cores for the workers, samples for every one of them."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import nn

from orchestrator.checkpoint import KEEP_NEWEST
from orchestrator.plan import Stage
from orchestrator.preflight import Found, PreflightError

SPARE = 64 * 2**20  # bytes beside checkpoints: journal, plan, record, report


def check_resources(stage: Stage, task: nn.Module, folder: Path, *, smallest_step: int, ranks: int) -> Found:
    """The store has room for this stage's checkpoints, and every step has samples for every rank and micro-batch."""
    room = check_room(stage, task, folder)
    check_division(stage, smallest_step=smallest_step, ranks=ranks)
    return Found(says=f"{room}; the smallest step has {smallest_step} samples for {ranks} worker{'s' * (ranks > 1)}")


def check_room(stage: Stage, task: nn.Module, folder: Path) -> str:
    """Room for the checkpoints that are kept, and for the one that is being written."""
    one = checkpoint_bytes(stage, task)
    kept = KEEP_NEWEST + len(stage.best) + 1
    needed = one * kept + SPARE
    free = shutil.disk_usage(_existing(folder)).free
    if free < needed:
        raise PreflightError(
            f"stage {stage.name!r}: {kept} checkpoints of {one / 1e6:.1f} MB need {needed / 1e6:.0f} MB in {folder}, "
            f"{free / 1e6:.0f} MB are free; make room or give another place with --store"
        )
    return f"{needed / 1e6:.0f} MB for {kept} checkpoints, {free / 1e9:.1f} GB free"


def checkpoint_bytes(stage: Stage, task: nn.Module) -> int:
    """Bytes of tensors in one checkpoint: weights, their average where there is one, two moments of what learns."""
    weights = sum(value.numel() * value.element_size() for value in task.state_dict().values())
    learning = sum(p.numel() * p.element_size() for part in stage.moves for p in task.get_submodule(part).parameters())
    return weights * (2 if stage.ema else 1) + 2 * learning


def check_division(stage: Stage, *, smallest_step: int, ranks: int) -> None:
    """Every step has samples for every rank and micro-batch: none is under half of ``batch_size``, but in tiny sets."""
    smallest = min(stage.batch_size // 2, smallest_step)
    if smallest < ranks * stage.optim.accumulate:
        raise PreflightError(
            f"stage {stage.name!r}: its smallest step has {smallest} samples, too few for {ranks} workers with "
            f"{stage.optim.accumulate} micro-batches each; raise batch_size or use fewer workers"
        )


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())
