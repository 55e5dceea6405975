"""What an export says of itself: taken from the record, the shards in its store and the evaluations beside it."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from datasets.pair_image import PairSpec
from orchestrator.export.onnx import MULTIPLE
from orchestrator.export.proof import ingested
from orchestrator.identity import plain
from orchestrator.plan import Recipe
from orchestrator.store import Record, Store
from orchestrator.trained import EXPORT_KIND, EXPORT_SCHEMA, Trained

NOTES = ("name", "licence", "citation", "labels", "group")
VERSIONS = ("plumbline", "torch", "numpy", "opencv-python-headless", "onnx", "onnxruntime")


def facts_of(trained: Trained) -> dict[str, Any]:
    """The config of an export but for its files, its ONNX and its proof."""
    recipe = trained.recipe
    alphabet: Any = recipe.alphabet
    image: Any = recipe.image
    return {
        "kind": EXPORT_KIND,
        "schema": EXPORT_SCHEMA,
        "recipe": recipe.name,
        "task": plain(recipe.task),
        "image": asdict(image),
        "alphabet": asdict(alphabet),
        "frames": asdict(recipe.task.frames),  # type: ignore[call-overload]
        "fits": dict(trained.fits),
        **tensors_of(image),
        "parts": list(trained.parts),
        "weights_sha256": trained.sha256,
        "averaged": trained.averaged,
        "step": trained.step,
        "stage": stage_facts(trained),
        "metrics": metrics_of(trained),
        "lineage": [_summary(record, recipe) for record in lineage(trained)],
        "data": data_of(trained),
        "versions": {"trained": dict(trained.record.versions) if trained.record else {}, "exported": _versions()},
    }


def tensors_of(image: Any) -> dict[str, Any]:
    """What the network takes and gives, in words."""
    logits = "float32 (batch, frames, classes): class 0 is the CTC blank, class k is alphabet.symbols[k - 1]"
    pixel = "pixel / 127.5 - 1, so black is -1 and white 1"
    if isinstance(image, PairSpec):
        size = f"(batch, 3, {image.target_height}, {image.target_width})"
        return {
            "input": {"image": f"float32 (batch, 3, {image.height}, {image.width}), RGB: {pixel}"},
            "width_multiple": 1,
            "output": {"restored": f"float32 {size}, -1 to 1 as the input", "logits": logits},
        }
    return {
        "input": {
            "image": f"float32 (batch, channels, height, width): {pixel}; columns past an image's own width are -1",
            "widths": "int64 (batch,): columns of each image before padding",
        },
        "width_multiple": MULTIPLE,
        "output": {"logits": logits, "frames": "int64 (batch,): valid frames of each image"},
    }


def stage_facts(trained: Trained) -> dict[str, Any]:
    record = trained.record
    if record is None:
        name, _, fingerprint = trained.stage.name.rpartition("-") if trained.stage else ("", "", "")
        return {"name": name, "fingerprint": fingerprint, "recorded": False}
    return {
        "name": record.stage, "fingerprint": record.fingerprint, "recorded": True, "is_result": is_result(trained),
        "finished": record.finished, "ended_at": record.ended_at,
        "warnings": list(record.warnings), "accepted": dict(record.accepted),
    }  # fmt: skip


def is_result(trained: Trained) -> bool:
    """Whether these are the weights that the stage's record stands for."""
    record, stage = trained.record, trained.stage
    return record is not None and stage is not None and (stage / record.checkpoint).resolve() == trained.place.resolve()


def metrics_of(trained: Trained) -> dict[str, Any]:
    """``validation`` of exactly these weights, and of the record's result each ``test`` that was evaluated."""
    tests = {}
    if trained.stage is not None and is_result(trained):
        for path in sorted(trained.stage.glob("evaluation-*.json")):
            source, _, split = path.stem.removeprefix("evaluation-").rpartition("-")
            tests[f"{source}/{split}"] = json.loads(path.read_text(encoding="utf-8"))
    record = trained.record
    splits = dict(trained.recipe.stage(record.stage).validate) if record else {}
    return {"validation": _validation(trained), "validation_splits": splits, "evaluated": tests}


def lineage(trained: Trained) -> list[Record]:
    """The records of this stage and of those it started from, the first one first; as far as they are in the store."""
    found: list[Record] = []
    record, stage = trained.record, trained.stage
    while record is not None and stage is not None:
        found.insert(0, record)
        parents = sorted(stage.parent.glob(f"*-{record.parent}")) if record.parent else []
        stage = parents[0] if parents else None
        record = Store(stage).read(stage) if stage else None
    return found


def data_of(trained: Trained) -> dict[str, Any]:
    """Source -> counts, rejects, what each stage of the lineage used it for, and the terms it comes on."""
    known = ingested(trained.stage) if trained.stage else {}
    data: dict[str, Any] = {}
    for record in lineage(trained):
        stage = trained.recipe.stage(record.stage)
        for source in stage.sources:
            told = record.data[source]
            _, notes = known.get(told["content"], (None, {}))
            facts = data.setdefault(source, {
                "content": told["content"], "counts": dict(told["counts"]), "rejects": dict(told["rejects"]),
                "kind": str(plain(trained.recipe.sources[source])["is"]).rpartition(".")[2],
                "notes": {name: notes[name] for name in NOTES if name in notes}, "used": {},
            })  # fmt: skip
            share, split = stage.data.shares.get(source), stage.validate.get(source)
            used = ([f"{share:.0%} of training"] if share else []) + ([f"validation on {split}"] if split else [])
            facts["used"][record.stage] = ", ".join(used)
    return data


def _validation(trained: Trained) -> dict[str, float]:
    record, stage = trained.record, trained.stage
    if record is None or stage is None:
        return {}
    if is_result(trained):
        return dict(record.metrics)
    for best in record.best.values():
        if (stage / best["checkpoint"]).resolve() == trained.place.resolve():
            return dict(best["metrics"])
    return {}


def _summary(record: Record, recipe: Recipe) -> dict[str, Any]:
    stage = recipe.stage(record.stage)
    start: Mapping[str, Any] | None = plain(stage.start_from)
    return {
        "stage": record.stage, "fingerprint": record.fingerprint, "steps": record.steps, "epochs": record.epochs,
        "learned": list(stage.learn), "started_from": start, "parent": record.parent, "finished": record.finished,
        "metrics": dict(record.metrics), "before": dict(record.before), "effective": dict(record.effective),
    }  # fmt: skip


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
