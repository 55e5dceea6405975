"""Trained weights wherever they lie: in a stage, a record, a checkpoint or an export. Checked by hash as they are read.

The weights are always the judged ones: the averaged ones where the stage kept an average.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from orchestrator import checkpoint
from orchestrator.checkpoint import CheckpointError
from orchestrator.identity import digest, plain
from orchestrator.override import from_plain
from orchestrator.plan import Recipe
from orchestrator.store import Record, Store, StoreError

EXPORT_KIND, EXPORT_SCHEMA = "plumbline export", 1
WEIGHTS, CONFIG, PLAN = "model.safetensors", "config.json", "plan.json"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Judged weights and what they belong to.

    Attributes:
        place: the checkpoint or the export they were read from.
        weights: part -> tensors by name, on the CPU.
        fits: hashes of alphabet and ImageSpec, blank and plan of the task, as checkpoints carry them.
        sha256: of the weights' names, types, shapes and bytes: one for the record, the checkpoint and the export.
        averaged: whether they are a moving average of the trained weights.
        step: the update after which they were kept.
        stage: folder of the stage, None for an export; ``record`` is its record, if it has one.
        config: the export's config.json, empty elsewhere.
    """

    place: Path
    recipe: Recipe
    weights: Mapping[str, Mapping[str, Tensor]]
    fits: Mapping[str, Any]
    sha256: str
    averaged: bool
    step: int
    stage: Path | None = None
    record: Record | None = None
    config: Mapping[str, Any]

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.weights)

    def tensors(self, part: str) -> Mapping[str, Tensor]:
        """Every parameter and buffer of a part. Raises :class:`CheckpointError`."""
        if part not in self.weights:
            raise CheckpointError(f"{self.place}: has no part {part!r}; it has {', '.join(self.parts)}")
        return self.weights[part]

    def task(self) -> nn.Module:
        """The recipe's task with these weights, on the CPU, in eval mode; every tensor must fit."""
        task: nn.Module = self.recipe.task.build()  # type: ignore[assignment]
        for part, _ in task.named_children():
            try:
                task.get_submodule(part).load_state_dict(self.tensors(part))
            except RuntimeError as error:
                raise CheckpointError(f"{self.place}: part {part!r} does not fit its own plan: {error}") from error
        return task.eval()


def find_trained(place: Path) -> Trained:
    """The judged weights at ``place``: a stage's folder, its record.json, one of its checkpoints, or an export.

    Raises :class:`orchestrator.store.StoreError` or :class:`orchestrator.checkpoint.CheckpointError`.
    """
    folder = place.parent if place.name in ("record.json", CONFIG) else place
    if (folder / "manifest.json").exists() and (folder / "progress.json").exists():
        return _of_checkpoint(folder, folder.parent.parent)
    if (folder / CONFIG).exists():
        return _of_export(folder)
    record = Store(folder).read(folder)
    if record is not None:
        return _of_checkpoint(folder / record.checkpoint, folder)
    begun = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
    hint = f"it has no record yet; name one of its checkpoints: {', '.join(begun)}" if begun else (
        "neither a stage with a record, nor a checkpoint, nor an export; `runs` lists what the store holds"
    )  # fmt: skip
    raise StoreError(f"{place}: {hint}")


def fits_of(recipe: Recipe) -> dict[str, Any]:
    """What weights trained for ``recipe`` belong to; weights of another alphabet or ImageSpec never load."""
    return {
        "alphabet": recipe.alphabet.sha256,
        "ImageSpec": recipe.image.sha256,
        "blank": 0,
        "task": plain(recipe.task),
    }


def sha256_of_weights(weights: Mapping[str, Mapping[str, Tensor]]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors, in the order of their names."""
    total = hashlib.sha256()
    flat = {f"{part}.{name}": tensor for part, tensors in weights.items() for name, tensor in tensors.items()}
    for name, tensor in sorted(flat.items()):
        total.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def sealed(config: Mapping[str, Any]) -> dict[str, Any]:
    """An export's config with the SHA-256 of all the rest of it under ``sha256``."""
    rest = {key: value for key, value in config.items() if key != "sha256"}
    return {**rest, "sha256": digest(rest)}


def read_config(folder: Path) -> dict[str, Any]:
    """The config of an export. Raises :class:`CheckpointError` when it is none of ours, or was changed."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind, schema = config["kind"], config["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not the config of an export ({type(error).__name__}: {error})") from error
    if (kind, schema) != (EXPORT_KIND, EXPORT_SCHEMA):
        raise CheckpointError(
            f"{path}: {kind!r} of schema {schema!r}; this version reads {EXPORT_KIND!r} of schema {EXPORT_SCHEMA}"
        )
    if sealed(config)["sha256"] != config.get("sha256"):
        raise CheckpointError(f"{path}: its SHA-256 is not the one it states; it was changed: export again")
    return config


def _of_checkpoint(folder: Path, stage: Path) -> Trained:
    recipe = _plan_of(stage / PLAN)
    contents = checkpoint.read(folder)
    checkpoint.refuse_unfit(contents.fits, fits_of(recipe), folder)
    averaged = any(name.startswith("averaged.") for name in contents.tensors)
    kind = "averaged." if averaged else "weights."
    weights = {
        name.removeprefix(kind): tensors for name, tensors in contents.tensors.items() if name.startswith(kind)
    }  # fmt: skip
    return Trained(
        place=folder, recipe=recipe, weights=weights, fits=contents.fits, sha256=sha256_of_weights(weights),
        averaged=averaged, step=int(contents.progress["step"]), stage=stage, record=Store(stage).read(stage),
        config={},
    )  # fmt: skip


def _of_export(folder: Path) -> Trained:
    config = read_config(folder)
    data = _verified(folder, WEIGHTS, config)
    _verified(folder, PLAN, config)
    recipe = _plan_of(folder / PLAN)
    checkpoint.refuse_unfit(config["fits"], fits_of(recipe), folder)
    try:
        flat = load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS}: {error}") from error
    weights: dict[str, dict[str, Tensor]] = {part: {} for part in config["parts"]}
    for name, tensor in flat.items():
        part, _, inner = name.partition(".")
        weights[part][inner] = tensor
    sha256 = sha256_of_weights(weights)
    if sha256 != config["weights_sha256"]:
        raise CheckpointError(f"{folder / WEIGHTS}: not the weights that {CONFIG} names; export again")
    return Trained(
        place=folder, recipe=recipe, weights=weights, fits=config["fits"], sha256=sha256,
        averaged=config["averaged"], step=config["step"], config=config,
    )  # fmt: skip


def _verified(folder: Path, name: str, config: Mapping[str, Any]) -> bytes:
    """The bytes of a file of an export, if they are those that its config names."""
    path = folder / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; the export is not whole: export again") from error
    found, expected = hashlib.sha256(data).hexdigest(), config["files"].get(name)
    if found != expected:
        raise CheckpointError(f"{path}: SHA-256 {found}, expected {expected}; it is damaged: export again")
    return data


def _plan_of(path: Path) -> Recipe:
    try:
        recipe = from_plain(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be used ({error})") from error
    if not isinstance(recipe, Recipe):
        raise StoreError(f"{path}: holds {type(recipe).__name__}, not a recipe")
    return recipe
