"""Finding trained weights: one content hash wherever they lie, the averaged ones first, nothing that was changed."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import small_recipe

from orchestrator import checkpoint
from orchestrator.checkpoint import CheckpointError, Contents
from orchestrator.files import write_json
from orchestrator.identity import plain
from orchestrator.progress import Progress
from orchestrator.store import Record, Store, StoreError
from orchestrator.trained import find_trained, fits_of, sealed, sha256_of_weights

RECIPE = small_recipe()


def some_weights(seed: int) -> dict[str, dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    task = RECIPE.task.build()
    return {
        name: {key: value.clone() for key, value in part.state_dict().items()} for name, part in task.named_children()
    }


def a_stage(folder: Path, *, averaged: bool = False, record: bool = True, **changes: Any) -> Path:
    """The folder of a stage with one checkpoint, as training leaves it, without the training."""
    tensors = {f"weights.{part}": of for part, of in some_weights(1).items()}
    if averaged:
        tensors |= {f"averaged.{part}": of for part, of in some_weights(2).items()}
    tensors["optimizer"] = {"cnn.step": torch.tensor(3.0)}
    folder.mkdir(parents=True)
    write_json(folder / "plan.json", plain(RECIPE))
    contents = Contents(tensors=tensors, progress=asdict(Progress(step=7)), fits=fits_of(RECIPE))
    checkpoint.write(folder / "checkpoints" / "step-00000007", contents)
    if record:
        Store(folder).write(folder, a_record(**changes))
    return folder


def a_record(**changes: Any) -> Record:
    metrics = {"rendered/word_accuracy_36": 0.25, "rendered/cer": 0.5, "rendered/n": 24.0}
    where = "checkpoints/step-00000007"
    best = {"rendered/word_accuracy_36": {"value": 0.25, "step": 7, "metrics": metrics, "checkpoint": where}}
    data = {name: {"content": f"{name}-content", "counts": {"train": 9}, "rejects": {}} for name in RECIPE.sources}
    record = Record(
        recipe=RECIPE.name, stage="pretrain", fingerprint="abc", checkpoint=where, best=best, last=where,
        metrics=metrics, before={}, steps=7, epochs=1, skipped=0, finished="all epochs done", parent="",
        plan=plain(RECIPE), data=data, execution={}, versions={"torch": "2"},
    )  # fmt: skip
    return replace(record, **changes)


def test_a_stage_its_record_and_its_checkpoint_are_the_same_weights(tmp_path):
    stage = a_stage(tmp_path / "pretrain-abc")
    places = (stage, stage / "record.json", stage / "checkpoints" / "step-00000007")
    found = [find_trained(place) for place in places]
    assert {each.sha256 for each in found} == {sha256_of_weights(some_weights(1))}
    assert {(each.parts, each.step, each.averaged, each.recipe.name) for each in found} == {
        (("cnn", "rnn"), 7, False, "small")
    }
    assert found[0].fits == fits_of(RECIPE) and found[0].record is not None


def test_averaged_weights_come_before_those_they_average(tmp_path):
    found = find_trained(a_stage(tmp_path / "pretrain-abc", averaged=True))
    assert found.averaged and found.sha256 == sha256_of_weights(some_weights(2))


def test_the_hash_is_of_names_types_shapes_and_values_but_not_of_their_order_or_layout():
    weights = some_weights(1)
    sha256 = sha256_of_weights(weights)
    backwards = {part: dict(reversed(weights[part].items())) for part in reversed(weights)}
    kernel = next(name for name, value in weights["cnn"].items() if value.ndim == 4 and value.shape[1] > 1)
    value = weights["cnn"][kernel]
    laid_out = weights | {"cnn": weights["cnn"] | {kernel: value.to(memory_format=torch.channels_last)}}
    assert sha256_of_weights(backwards) == sha256_of_weights(laid_out) == sha256
    others = (value + 1e-6, value.double(), value.reshape(-1), value.transpose(2, 3).contiguous() * 2)
    for other in others:
        assert sha256_of_weights(weights | {"cnn": weights["cnn"] | {kernel: other}}) != sha256
    renamed = {("other" if name == kernel else name): each for name, each in weights["cnn"].items()}
    assert sha256_of_weights(weights | {"cnn": renamed}) != sha256


def test_the_task_has_these_weights_in_eval_mode(tmp_path):
    task = find_trained(a_stage(tmp_path / "pretrain-abc")).task()
    assert not task.training
    assert sha256_of_weights({name: part.state_dict() for name, part in task.named_children()}) == sha256_of_weights(
        some_weights(1)
    )


def test_a_part_that_is_not_there_is_named(tmp_path):
    found = find_trained(a_stage(tmp_path / "pretrain-abc"))
    with pytest.raises(CheckpointError, match="no part 'head'; it has cnn, rnn"):
        found.tensors("head")


def test_a_tensor_that_does_not_fit_is_refused(tmp_path):
    found = find_trained(a_stage(tmp_path / "pretrain-abc"))
    short = {part: dict(found.weights[part]) for part in found.parts}
    short["rnn"].popitem()
    with pytest.raises(CheckpointError, match="'rnn' does not fit its own plan"):
        replace(found, weights=short).task()


@pytest.mark.parametrize("place", ["", "nowhere", "pretrain-abc/metrics.jsonl"])
def test_another_place_is_refused_with_what_it_may_be(tmp_path, place):
    a_stage(tmp_path / "pretrain-abc")
    with pytest.raises(StoreError, match="neither a stage with a record, nor a checkpoint, nor an export"):
        find_trained(tmp_path / place)


def test_a_stage_that_has_not_ended_names_its_checkpoints(tmp_path):
    with pytest.raises(StoreError, match="no record yet; name one of its checkpoints: step-00000007"):
        find_trained(a_stage(tmp_path / "pretrain-abc", record=False))


def test_a_checkpoint_without_a_record_is_found(tmp_path):
    stage = a_stage(tmp_path / "pretrain-abc", record=False)
    found = find_trained(stage / "checkpoints" / "step-00000007")
    assert found.record is None and found.stage == stage


def test_a_damaged_file_is_named(tmp_path):
    stage = a_stage(tmp_path / "pretrain-abc")
    weights = stage / "checkpoints" / "step-00000007" / "weights.cnn.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"weights\.cnn\.safetensors: its SHA-256"):
        find_trained(stage)


def test_weights_of_another_plan_are_refused(tmp_path):
    stage = a_stage(tmp_path / "pretrain-abc")
    data = json.loads((stage / "plan.json").read_text())
    data["image"]["min_side"] = 4
    write_json(stage / "plan.json", data)
    with pytest.raises(CheckpointError, match="its ImageSpec is"):
        find_trained(stage)


@pytest.mark.parametrize("text", ["{", "[]", '{"is": "orchestrator.plan.Optim", "lr": 0.1}'])
def test_a_plan_that_is_no_recipe_is_refused(tmp_path, text):
    stage = a_stage(tmp_path / "pretrain-abc")
    (stage / "plan.json").write_text(text)
    with pytest.raises(StoreError, match=r"plan\.json"):
        find_trained(stage)


def test_a_seal_is_broken_by_any_change():
    config = sealed({"a": 1, "b": {"c": [1.5, None]}})
    assert sealed(config) == config
    assert sealed({**config, "a": 2})["sha256"] != config["sha256"]
