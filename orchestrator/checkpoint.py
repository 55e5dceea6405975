"""Checkpoints: folders of safetensors with a manifest, complete or absent, checked by hash when read.

step-00001200/
    weights.<part>.safetensors   the parts as they are trained
    averaged.<part>.safetensors  their moving average, when the stage keeps one
    optimizer.safetensors        moments and step counts, by parameter name
    progress.json                where training stands: see orchestrator/loop.py
    manifest.json                sizes and SHA-256 of the files above, and what the weights fit
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator.files import sha256_of, sync_folder, write_json

SCHEMA = 1
KEEP_NEWEST = 2
STEP, MOMENTS = "step", ("exp_avg", "exp_avg_sq")  # what AdamW keeps of a parameter


class CheckpointError(RuntimeError):
    """A checkpoint that is damaged, or that does not fit what wants to load it."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Everything a checkpoint holds.

    Attributes:
        tensors: file name without ``.safetensors`` -> tensors by name.
        progress: JSON data.
        fits: what the weights belong to: hashes of alphabet and ImageSpec, blank, plan of the task.
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    progress: Mapping[str, Any]
    fits: Mapping[str, Any]


class Staging:
    """Host memory that copies of one trainee's checkpoints go to, allocated once.

    Fresh memory of that size comes page by page from the system, which takes three times as long as the copy itself.
    The tensors keep their layout; :func:`write` makes them contiguous, in its thread.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Tensor] = {}

    def copy(self, contents: Contents) -> Contents:
        """A copy that further training steps cannot change; the next one takes its place."""
        copies = {
            file: {name: self._copied((file, name), tensor.detach()) for name, tensor in tensors.items()}
            for file, tensors in contents.tensors.items()
        }
        return Contents(tensors=copies, progress=json.loads(json.dumps(contents.progress)), fits=contents.fits)

    def _copied(self, place: tuple[str, str], tensor: Tensor) -> Tensor:
        kept = self._kept.get(place)
        if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
            kept = self._kept[place] = torch.empty_like(tensor, device="cpu")
        return kept.copy_(tensor)


def folder_of(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08d}"


def write(folder: Path, contents: Contents) -> None:
    """Write a whole checkpoint under a draft name, then rename it. Replaces a damaged one of the same step."""
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        _fill(draft, contents)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)  # of a full disk it would keep the last bytes
        raise
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(draft, folder)
    sync_folder(folder.parent)


def put(folder: Path, contents: Contents, keep: Iterable[str]) -> None:
    """Write a checkpoint, and only then delete older ones, but those named in ``keep``."""
    write(folder, contents)
    rotate(folder.parent, keep=keep, newest=KEEP_NEWEST)


def _fill(draft: Path, contents: Contents) -> None:
    for file, tensors in contents.tensors.items():
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft / f"{file}.safetensors")
    write_json(draft / "progress.json", contents.progress)
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in sorted(draft.iterdir())}
    for name in files:
        _sync_file(draft / name)
    write_json(draft / "manifest.json", {"schema": SCHEMA, "files": files, "fits": contents.fits})


def verify(folder: Path) -> Mapping[str, Any]:
    """The manifest of a sound checkpoint. Raises :class:`CheckpointError` naming file, found and expected."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        schema, _ = manifest["schema"], dict(manifest["fits"])
        if odd := [name for name in manifest["files"] if Path(name).name != name]:
            raise ValueError(f"names {odd[0]!r}, which is not beside it")
        expected = {str(name): (int(file["bytes"]), str(file["sha256"])) for name, file in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder}: no readable manifest.json ({type(error).__name__}: {error})") from error
    if schema != SCHEMA:
        raise CheckpointError(f"{folder}: written in checkpoint schema {schema}; this version reads {SCHEMA}")
    for name, (size, sha256) in expected.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            raise CheckpointError(f"{path}: {found} bytes, expected {size}; the checkpoint is damaged")
        if sha256_of(path) != sha256:
            raise CheckpointError(f"{path}: its SHA-256 is not the manifest's; the checkpoint is damaged")
    return manifest


def read(folder: Path) -> Contents:
    """A sound checkpoint's contents, on the CPU. Raises :class:`CheckpointError`."""
    manifest = verify(folder)
    try:
        tensors = {
            Path(name).stem: load_file(folder / name) for name in manifest["files"] if name.endswith(".safetensors")
        }
        progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: {error}") from error
    return Contents(tensors=tensors, progress=progress, fits=manifest["fits"])


def newest_sound(checkpoints: Path, *, passed_over: Callable[[str], None]) -> tuple[Path, Contents] | None:
    """The newest checkpoint that is whole, or None when there is none.

    Args:
        passed_over: told about each damaged one, by name and reason; nothing falls back in silence.
    """
    for folder in sorted(checkpoints.glob("step-*"), reverse=True):
        try:
            return folder, read(folder)
        except CheckpointError as error:
            passed_over(str(error))
    return None


def refuse_unfit(fits: Mapping[str, Any], wanted: Mapping[str, Any], where: Path) -> None:
    """Raise :class:`CheckpointError` unless the weights at ``where`` were trained for what ``wanted`` says."""
    for key, want in wanted.items():
        if fits.get(key) != want:
            raise CheckpointError(
                f"{where}: its {key} is {_short(fits.get(key))}, this run's is {_short(want)}. "
                "Weights fit only the alphabet and ImageSpec they were trained with; train the stage anew, or "
                "carry the symbols over with models.remap."
            )


def rotate(checkpoints: Path, *, keep: Iterable[str], newest: int) -> None:
    """Delete all checkpoints but the ``newest`` ones and those named in ``keep``, and drafts of dead writers."""
    folders = sorted(checkpoints.glob("step-*"))
    kept = set(keep) | {folder.name for folder in folders[-newest:]}
    for folder in [*folders, *checkpoints.glob(".step-*.draft")]:
        if folder.name not in kept:
            shutil.rmtree(folder)


class Writer:
    """Writes checkpoints in a thread, one at a time, so that training waits only for the copy in memory.

    A failure of the thread is raised by the next call; :meth:`wait` must be the last one.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def submit(self, task: Callable[[], None]) -> None:
        """Run ``task`` once the one before it is done."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(task,), name="checkpoint-writer")
        self._thread.start()

    def wait(self) -> None:
        """Return once everything submitted is on disk. Raises what went wrong while writing."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise CheckpointError(f"a checkpoint could not be written: {error}") from error

    def _run(self, task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            self._error = error


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """AdamW's state by parameter name: ``NAME/exp_avg``, ``NAME/exp_avg_sq``, ``NAME/step``.

    Empty before the first update; after it a parameter that never had a gradient is at step 0, without moments.
    """
    if not optimizer.state:
        return {}
    return {
        f"{name}/{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for parameter, name in names.items()
        for key, value in (optimizer.state.get(parameter) or {STEP: 0.0}).items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], names: Mapping[Tensor, str], *, updates: int
) -> None:
    """Put :func:`optimizer_tensors` back. The learning rate is not in it: it is a function of the step.

    Args:
        updates: made by the time of the checkpoint; without any there is nothing to put back.

    Raises :class:`CheckpointError` where something is missing, or is of a parameter that does not learn.
    """
    by_name = {name: parameter for parameter, name in names.items()}
    fields: dict[str, set[str]] = {name: set() for name in by_name}
    for name, _, field in (key.rpartition("/") for key in tensors):
        if name not in by_name:
            raise CheckpointError(f"optimizer.safetensors holds {name!r}, which does not learn in this stage")
        fields[name].add(field)
    for name, found in fields.items():
        never = found == {STEP} and not tensors[f"{name}/{STEP}"]
        if updates and not never and (missing := {STEP, *MOMENTS} - found):
            raise CheckpointError(
                f"optimizer.safetensors lacks {', '.join(sorted(missing))} of {name!r}, though {updates} updates were "
                "made; the stage cannot go on from this checkpoint as it was left: take another, or train it anew"
            )
    optimizer.state.clear()
    for key, value in tensors.items():
        name, _, field = key.rpartition("/")
        if fields[name] == {STEP}:
            continue  # it never had a gradient
        parameter = by_name[name]
        like = parameter.detach() if value.shape == parameter.shape else value.to(parameter.device)
        # moments must lie in memory as their parameter does (channels last): the fused kernel walks both in step
        optimizer.state[parameter][field] = torch.empty_like(like, dtype=value.dtype).copy_(value)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
