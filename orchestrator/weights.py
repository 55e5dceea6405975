"""Between a task and its checkpoints: what is saved of it, put back, or handed to a later stage."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orchestrator import checkpoint
from orchestrator.checkpoint import CheckpointError, Contents
from orchestrator.mining import Difficulty
from orchestrator.progress import Progress
from orchestrator.update import Trainee


def contents_of(trainee: Trainee, fits: Mapping[str, Any]) -> Contents:
    """Everything a checkpoint of ``trainee`` holds; its tensors are the live ones."""
    tensors = {f"weights.{name}": part.state_dict() for name, part in trainee.task.named_children()}
    if trainee.averaged is not None:
        tensors |= {f"averaged.{name}": part.state_dict() for name, part in trainee.averaged.named_children()}
    tensors["optimizer"] = checkpoint.optimizer_tensors(trainee.optimizer, trainee.names)
    if trainee.difficulty is not None:
        tensors["mining"] = {name: torch.from_numpy(each) for name, each in trainee.difficulty.arrays().items()}
    return Contents(tensors=tensors, progress=asdict(trainee.progress), fits=fits)


def restore(trainee: Trainee, contents: Contents) -> None:
    """Put back all of :func:`contents_of`. Raises :class:`CheckpointError` where it does not fit."""
    load_parts(trainee.task, contents, "weights")
    if trainee.averaged is not None:
        load_parts(trainee.averaged, contents, "averaged")
    trainee.progress = Progress.of(contents.progress)
    checkpoint.load_optimizer(
        trainee.optimizer, contents.tensors.get("optimizer", {}), trainee.names, updates=trainee.progress.step
    )
    if trainee.difficulty is not None:
        arrays = {name: tensor.numpy() for name, tensor in contents.tensors.get("mining", {}).items()}
        try:
            trainee.difficulty = Difficulty.of(arrays, len(trainee.difficulty))
        except ValueError as error:
            raise CheckpointError(str(error)) from error


def load_judged(
    task: nn.Module, folder: Path, fits: Mapping[str, Any], parts: Sequence[str] = (), *,
    read: Callable[[Path], Contents] = checkpoint.read,
) -> None:  # fmt: skip
    """Load the validated weights of a checkpoint: the averaged ones where there are any. Strict in every tensor."""
    contents = read(folder)
    checkpoint.refuse_unfit(contents.fits, fits, folder)
    averaged = any(name.startswith("averaged.") for name in contents.tensors)
    load_parts(task, contents, "averaged" if averaged else "weights", parts or None)


def load_parts(task: nn.Module, contents: Contents, kind: str, parts: Iterable[str] | None = None) -> None:
    """Load ``kind`` (``"weights"`` or ``"averaged"``) of the named parts, or of all; every tensor, strictly."""
    for part in parts or [name for name, _ in task.named_children()]:
        try:
            task.get_submodule(part).load_state_dict(contents.tensors[f"{kind}.{part}"])
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"part {part!r} does not fit the checkpoint: {error}") from error


def hash_of_frozen(task: nn.Module, learn: Sequence[str]) -> str:
    """SHA-256 of every parameter and buffer outside the parts that learn."""
    digest = hashlib.sha256()
    for name, value in task.state_dict().items():
        if name.split(".")[0] not in learn:
            raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(name.encode() + raw.numpy().tobytes())
    return digest.hexdigest()
