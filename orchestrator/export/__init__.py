"""A stage's weights as a folder that anyone can deploy, and that has proved to read as they do.

EXPORT/
    model.safetensors   every part, float32
    config.json         alphabet, ImageSpec, metrics, data, lineage, proof; SHA-256 of each file and of itself
    plan.json           the whole recipe
    README.md           the model card
    model.onnx          any number of images of any width       (where the network allows it)
    read.py             reads images with model.onnx, without this project
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from orchestrator.checkpoint import CheckpointError
from orchestrator.export import read as export_read
from orchestrator.export.card import card
from orchestrator.export.facts import facts_of
from orchestrator.export.onnx import NotExported, write_onnx
from orchestrator.export.proof import Answer, ExportError, answers_afresh, answers_of, compared, cpu, images_for
from orchestrator.files import sha256_of, sync_folder, write_json
from orchestrator.identity import plain
from orchestrator.reader import reader_of
from orchestrator.trained import CONFIG, PLAN, WEIGHTS, Trained, find_trained, read_config, sealed

__all__ = ["ExportError", "Exported", "export"]

ONNX, READ, CARD = "model.onnx", "read.py", "README.md"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written where, with what its config says."""

    folder: Path
    config: Mapping[str, Any]

    @property
    def summary(self) -> str:
        """What to tell whoever asked for it."""
        proof, onnx = self.config["verified"], self.config["onnx"]
        checked = ", with the project and by read.py alone" if proof["alone"] else " of the project"
        apart = max(proof[who]["largest_difference"] for who in ("project", "alone") if proof[who])
        lines = [
            f"{self.folder}: {', '.join(sorted((*self.config['files'], CONFIG)))}",
            f"{proof['images']} images ({proof['of']}) read the same in fresh processes{checked}; "
            f"logits at most {apart:.1e} apart",
        ]
        return "\n".join(lines if onnx["made"] else [*lines, f"no {ONNX} and no {READ}: {onnx['why']}"])


def export(
    place: Path, to: Path, *, onnx: bool = True, replace: bool = False, images: Sequence[Path] = ()
) -> Exported:  # fmt: skip
    """Export the judged weights at ``place`` (a stage, its record or a checkpoint) as the folder ``to``.

    It is written under a draft name, read again in fresh processes on real images, compared, and only then renamed.

    Args:
        onnx: also as ONNX, with a reader that does without this project. Where the network or the installation does
            not allow it, the export goes on without and says so.
        replace: an earlier export at ``to`` may be replaced; anything else that lies there never is.
        images: files to compare on; none takes up to 32 validation images from the store, else draws words.

    Raises :class:`ExportError`, and what :func:`orchestrator.trained.find_trained` raises.
    """
    to = to.resolve()
    refuse_occupied(to, replace=replace)
    trained = find_trained(place)
    if trained.config:
        raise ExportError(f"{place}: is an export already; copy its folder, or export the stage it came from")
    draft = to.with_name(f".{to.name}.{os.getpid()}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        config = _written(trained, draft, onnx=onnx)
        config["verified"] = verified(trained, draft, images, alone=config["onnx"]["made"])
        _seal(draft, config)
        found = find_trained(draft)
        if found.sha256 != trained.sha256:
            raise ExportError(f"{draft}: holds other weights than {trained.place}; nothing was exported")
        _move(draft, to)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Exported(folder=to, config=found.config)


def refuse_occupied(to: Path, *, replace: bool) -> None:
    """Raise :class:`ExportError` if something lies at ``to`` that must not be written over."""
    if not to.exists() or (to.is_dir() and not any(to.iterdir())):
        return
    try:
        read_config(to)
    except CheckpointError as error:
        raise ExportError(
            f"{to}: exists and is no export of this version, so it is left alone; name another"
        ) from error
    if not replace:
        raise ExportError(f"{to}: an export lies there already; replace it with --force, or name another folder")


def verified(trained: Trained, draft: Path, images: Sequence[Path], *, alone: bool) -> dict[str, Any]:
    """Read images with the weights as trained and, afresh, with the draft. Raises :class:`ExportError` where unlike."""
    with tempfile.TemporaryDirectory(prefix="plumbline-export-") as folder:
        scratch = Path(folder)
        paths, origin = images_for(trained, images, scratch / "images")
        wanted = answers_of(reader_of(trained, cpu()), paths)
        read = [answer for answer in wanted if not answer.reason]
        if not read:
            raise ExportError(
                f"none of {len(paths)} images ({origin}) can be read, so nothing could be compared; the first is "
                f"refused as {wanted[0].reason if wanted else 'missing'}; name others with --images"
            )
        project = answers_afresh(draft, paths, scratch, alone=False)
        without = answers_afresh(draft, paths, scratch, alone=True) if alone else []
        return {
            "images": len(paths), "of": origin, "read": len(read), "refused": len(wanted) - len(read),
            "distinct": len({answer.text for answer in read}), "columns": _columns(read, trained),
            "project": compared(paths, wanted, project, "the project in a fresh process"),
            "alone": compared(paths, wanted, without, "read.py without the project") if alone else None,
        }  # fmt: skip


def _written(trained: Trained, draft: Path, *, onnx: bool) -> dict[str, Any]:
    """The network's files in ``draft`` with a first config, enough to read with."""
    flat = {f"{part}.{name}": tensor for part in trained.parts for name, tensor in trained.tensors(part).items()}
    wide = [name for name, tensor in flat.items() if tensor.is_floating_point() and tensor.dtype != torch.float32]
    if wide:
        raise ExportError(f"{trained.place}: {wide[0]} is {flat[wide[0]].dtype}; only float32 weights are exported")
    (draft / WEIGHTS).write_bytes(save(flat, metadata={"format": "pt"}))  # save_file would let only its owner read it
    write_json(draft / PLAN, plain(trained.recipe))
    config = facts_of(trained) | {"onnx": {"made": False, "why": "not asked for"}}
    if onnx:
        try:
            facts = write_onnx(trained.task(), draft / ONNX, image=trained.recipe.image)
            config["onnx"] = {"made": True, **facts}
            shutil.copyfile(export_read.__file__, draft / READ)
        except NotExported as error:
            config["onnx"]["why"] = str(error)
    _write_config(draft, config)
    return config


def _seal(draft: Path, config: dict[str, Any]) -> None:
    """The model card, and the config that names everything."""
    (draft / CARD).write_text(card(_without_nan(config)), encoding="utf-8")
    _write_config(draft, config)


def _write_config(draft: Path, config: dict[str, Any]) -> None:
    files = {path.name: sha256_of(path) for path in sorted(draft.iterdir()) if path.name != CONFIG}
    write_json(draft / CONFIG, sealed(_without_nan(json.loads(json.dumps({**config, "files": files})))))


def _move(draft: Path, to: Path) -> None:
    """Put the draft in place of what lies at ``to``, which was seen to be an export or an empty folder."""
    old = to.with_name(f".{to.name}.{os.getpid()}.old")
    if to.exists():
        os.replace(to, old)
    os.replace(draft, to)
    shutil.rmtree(old, ignore_errors=True)
    sync_folder(to.parent)


def _columns(read: Sequence[Answer], trained: Trained) -> list[int]:
    """Columns of the narrowest and the widest image, to the frame."""
    frames: Any = trained.recipe.task.frames
    widths = [(len(answer.logits) - frames.offset) * frames.stride for answer in read]
    return [min(widths), max(widths)]


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: what was not measured becomes null."""
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
