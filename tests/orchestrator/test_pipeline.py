"""Walking a recipe: what is done stays done, what must not start does not, and each refusal says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small import Quiet, shards_of, small_recipe

from models.text import ALNUM36, Alphabet
from orchestrator import checkpoint
from orchestrator.execution import Execution
from orchestrator.journal import lines
from orchestrator.override import override
from orchestrator.pipeline import GateNotMet, Machine, train_recipe
from orchestrator.plan import PlanError, Recipe
from orchestrator.preflight import PreflightError
from orchestrator.preflight import machine as preflight_machine
from orchestrator.preflight.frames import check_frames
from orchestrator.ranks import Ranks
from orchestrator.store import Store

CPU = Execution(device="cpu")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> dict[str, Path]:
    return shards_of(small_recipe(), tmp_path_factory.mktemp("shards"))


def run(recipe, root, shards, *, only=(), watch=None) -> bool:
    machine = Machine.of(CPU, Ranks())
    return train_recipe(recipe, Store(root), shards, CPU, machine=machine, watch=watch or Quiet(), only=only)


def folder_of(root: Path, stage: str) -> Path:
    [folder] = root.glob(f"runs/small/{stage}-*")
    return folder


@pytest.fixture(scope="module")
def done(shards, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("done")
    assert run(small_recipe(), root, shards)
    return root


def test_every_stage_leaves_a_record_with_plan_data_and_lineage(done):
    records = {stage: json.loads((folder_of(done, stage) / "record.json").read_text())
               for stage in ("pretrain", "finetune_frozen", "finetune")}  # fmt: skip
    assert records["finetune"]["parent"] == records["finetune_frozen"]["fingerprint"]
    assert records["finetune_frozen"]["parent"] == records["pretrain"]["fingerprint"]
    assert records["pretrain"]["data"]["rendered"]["counts"]["train"] == 120
    assert records["finetune"]["before"]["worn/n"] == 24


def test_a_finished_recipe_trains_nothing_again(done, shards):
    records = sorted(done.rglob("record.json"))
    before = [path.stat().st_mtime_ns for path in records]
    watch = Quiet()
    assert run(small_recipe(), done, shards, watch=watch)
    assert [told["skipped_stage"] for told in watch.told] == [True] * 3
    assert [path.stat().st_mtime_ns for path in records] == before


def test_a_changed_late_stage_keeps_the_early_ones(done, shards):
    changed = override(small_recipe(), {"stages.finetune.optim.lr": 1e-4, "stages.finetune.epochs": 1})
    assert run(changed, done, shards)
    assert len(list(done.glob("runs/small/pretrain-*"))) == 1
    assert len(list(done.glob("runs/small/finetune-*"))) == 2


def test_a_stage_begins_with_the_best_weights_of_its_parent(done):
    parent, child = folder_of(done, "pretrain"), folder_of(done, "finetune_frozen")
    best = json.loads((parent / "record.json").read_text())["checkpoint"]
    theirs = checkpoint.read(parent / best).tensors["weights.cnn"]
    start = checkpoint.read(child / "checkpoints" / "step-00000000").tensors["weights.cnn"]
    assert all(torch.equal(start[name], value) for name, value in theirs.items())


def test_one_stage_alone_is_the_same_as_that_part_of_all(done, shards, tmp_path):
    for stage in ("pretrain", "finetune_frozen"):
        assert run(small_recipe(), tmp_path, shards, only=[stage])
    together, alone = folder_of(done, "finetune_frozen"), folder_of(tmp_path, "finetune_frozen")
    assert (together / "metrics.jsonl").read_bytes() == (alone / "metrics.jsonl").read_bytes()


def test_a_stage_without_its_parents_record_is_refused_by_name(shards, tmp_path):
    with pytest.raises(PlanError, match="'finetune' starts from 'finetune_frozen', which has no record"):
        run(small_recipe(), tmp_path, shards, only=["finetune"])


def test_a_gate_stops_the_recipe_and_says_where_the_weights_are(shards, tmp_path):
    gated = override(small_recipe(), {"stages.pretrain.gate": {"rendered/word_accuracy_36": 0.99}})
    with pytest.raises(
        GateNotMet, match=r"word_accuracy_36=0\.\d+, below its gate of 0.9900; its weights are in .*pretrain-"
    ):
        run(gated, tmp_path, shards)
    assert not list(tmp_path.glob("runs/small/finetune*"))


def test_a_parent_whose_gate_failed_hands_nothing_on(shards, tmp_path):
    gated = override(small_recipe(), {"stages.pretrain.gate": {"rendered/word_accuracy_36": 0.99}})
    with pytest.raises(GateNotMet):
        run(gated, tmp_path, shards)
    with pytest.raises(GateNotMet):
        run(gated, tmp_path, shards, only=["finetune_frozen"])


def test_the_frozen_half_is_the_same_before_and_after_its_stage(done):
    folder = folder_of(done, "finetune_frozen")
    last = json.loads((folder / "record.json").read_text())["last"]
    before = checkpoint.read(folder / "checkpoints/step-00000000").tensors
    after = checkpoint.read(folder / last).tensors
    assert all(torch.equal(after["weights.cnn"][name], value) for name, value in before["weights.cnn"].items())
    assert not all(torch.equal(after["weights.rnn"][name], value) for name, value in before["weights.rnn"].items())


def test_the_learning_rate_of_step_0_is_the_plans(done):
    first = lines(folder_of(done, "finetune_frozen") / "metrics.jsonl", "step")[0]
    assert first["lr"] == small_recipe().stage("finetune_frozen").optim.lr


def other_alphabet() -> Recipe:
    recipe = small_recipe()
    swapped = recipe.alphabet.symbols[::-1]
    return override(recipe, {"alphabet.symbols": swapped})


def test_shards_of_another_alphabet_are_refused(shards, tmp_path):
    with pytest.raises(PreflightError, match="were made with alphabet 722af59b6307, the recipe has"):
        run(other_alphabet(), tmp_path, shards)


def test_shards_of_another_image_spec_are_refused(shards, tmp_path):
    with pytest.raises(PreflightError, match="were made with ImageSpec"):
        run(override(small_recipe(), {"image.max_width": 88}), tmp_path, shards)


def test_a_checkpoint_of_another_alphabet_is_refused(done):
    folder = folder_of(done, "pretrain")
    best = folder / json.loads((folder / "record.json").read_text())["checkpoint"]
    with pytest.raises(checkpoint.CheckpointError, match=r"its alphabet is .* models\.remap"):
        checkpoint.refuse_unfit(checkpoint.read(best).fits, {"alphabet": ALNUM36.sha256}, best)


def test_a_network_whose_frames_are_not_the_plans_is_refused(shards):
    class Lies:
        def __init__(self, task):
            self.task, self.frames = task, type("Rule", (), {"of": staticmethod(lambda width: width // 2)})()

    recipe = small_recipe()
    lying = type("R", (), {"image": recipe.image, "alphabet": recipe.alphabet, "task": Lies(recipe.task)})()
    with pytest.raises(
        PreflightError, match="width 32: the network makes 9 frames and reports 9, the plan's rule says 16"
    ):
        check_frames(recipe.task.build(), lying, [32], torch.device("cpu"))


def test_a_head_that_scores_other_classes_than_the_alphabet_is_refused():
    recipe = small_recipe()
    narrower = Alphabet(symbols=recipe.alphabet.symbols[:-1])
    lying = type("R", (), {"image": recipe.image, "alphabet": narrower, "task": recipe.task})()
    with pytest.raises(PreflightError, match="scores 63 classes, the alphabet has 62"):
        check_frames(recipe.task.build(), lying, [32], torch.device("cpu"))


def test_more_workers_than_a_step_has_samples_is_refused():
    stage = small_recipe().stages[0]
    with pytest.raises(PreflightError, match="smallest step has 8 samples, too few for 64 workers"):
        preflight_machine.check_division(stage, smallest_step=16, ranks=64)


def test_a_damaged_shard_is_named_before_anything_trains(tmp_path):
    made = shards_of(small_recipe(), tmp_path)
    shard = next(made["rendered"].glob("*.arrow"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=f"{shard.name}.*ingest"):
        run(small_recipe(), tmp_path, made)
