"""The stages of `plates`: selected by name or number, each from the best of the one before, nothing frozen moved."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from small import Quiet
from small_plates import CPU, EPOCHS, STAGES, folder_of, plate_shards, record_of, small_plates, train, trained

from models.recognizers.simple import SimpleCRNNConfig
from orchestrator import checkpoint
from orchestrator.batches import samples_of
from orchestrator.evaluate import evaluate
from orchestrator.identity import plain
from orchestrator.journal import lines
from orchestrator.override import override
from orchestrator.pipeline import Machine
from orchestrator.plan import PlanError
from orchestrator.ranks import Ranks
from orchestrator.recipes.plates import recipe
from orchestrator.run import main
from orchestrator.shards import Shards
from orchestrator.trained import fits_of
from orchestrator.update import learning_rate
from orchestrator.weights import hash_of_frozen, load_judged

PARTS = ("generator", "ocr", "monitor")
LEARN = {"pretrain": {"ocr", "monitor"}, "warmup": {"generator"}, "lcofl": {"generator"},
         "finetune": {"generator", "ocr"}, "hard_mining": {"generator"}}  # fmt: skip


def tensors_of(stage: str, which: str) -> dict[str, dict[str, torch.Tensor]]:
    """Part -> weights of a stage at its ``"start"``, its ``"checkpoint"`` (the best) or its ``"last"``."""
    root = trained()
    place = "checkpoints/step-00000000" if which == "start" else record_of(root, stage)[which]
    contents = checkpoint.read(folder_of(root, stage) / place)
    return {part: dict(contents.tensors[f"weights.{part}"]) for part in PARTS}


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(two[name], value) for name, value in one.items())


def test_the_stages_are_those_of_the_plan():
    assert tuple(stage.name for stage in recipe().stages) == STAGES
    assert {stage.name: set(stage.learn) for stage in recipe().stages} == LEARN


@pytest.mark.parametrize(("number", "name"), enumerate(STAGES))
def test_a_stage_is_selected_by_name_and_by_number(number, name):
    assert recipe().stage(str(number)) == recipe().stage(name) == recipe().stages[number]


def test_there_is_no_sixth_stage_and_the_refusal_names_all_five():
    with pytest.raises(
        PlanError, match="no stage '5'; it has: 0 pretrain, 1 warmup, 2 lcofl, 3 finetune, 4 hard_mining"
    ):
        recipe().stage("5")


@pytest.mark.parametrize("place", range(1, 5))
def test_each_stage_starts_from_the_best_of_the_one_before(place):
    best, start = tensors_of(STAGES[place - 1], "checkpoint"), tensors_of(STAGES[place], "start")
    assert all(equal(best[part], start[part]) for part in PARTS)


def test_the_best_is_not_the_last_where_a_later_epoch_was_no_better():
    """Nothing is read right in any epoch of this stage, so its first validation stays the best."""
    assert record_of(trained(), "lcofl")["checkpoint"] != record_of(trained(), "lcofl")["last"]
    assert not equal(tensors_of("lcofl", "last")["generator"], tensors_of("finetune", "start")["generator"])


@pytest.mark.parametrize("stage", STAGES[1:])
def test_only_what_learns_changes_and_what_is_frozen_keeps_its_hash(stage):
    start, end = tensors_of(stage, "start"), tensors_of(stage, "last")
    assert {part for part in PARTS if not equal(start[part], end[part])} == LEARN[stage]
    hashes = []
    for tensors in (start, end):
        task = small_plates().task.build()
        for part in PARTS:
            task.get_submodule(part).load_state_dict(tensors[part])
        hashes.append(hash_of_frozen(task, tuple(LEARN[stage])))
    assert hashes[0] == hashes[1]


def test_the_recogniser_of_the_third_stage_is_in_the_artefact_and_goes_on():
    assert not equal(tensors_of("pretrain", "checkpoint")["ocr"], tensors_of("finetune", "checkpoint")["ocr"])
    assert equal(tensors_of("finetune", "checkpoint")["ocr"], tensors_of("hard_mining", "last")["ocr"])


def test_the_second_recogniser_stays_that_of_the_first_stage():
    assert equal(tensors_of("pretrain", "checkpoint")["monitor"], tensors_of("hard_mining", "last")["monitor"])


def test_best_patience_and_optimiser_begin_anew_with_each_stage():
    for stage in STAGES[1:]:
        contents = checkpoint.read(folder_of(trained(), stage) / "checkpoints/step-00000000")
        assert contents.progress["stop_best"] is None and contents.progress["stale"] == 0
        assert {found["step"] for found in contents.progress["best"].values()} == {0}
        assert contents.tensors["optimizer"] == {} and contents.progress["symbols"] == {}


def test_each_record_names_its_parent_its_data_and_its_plan():
    records = [record_of(trained(), stage) for stage in STAGES]
    assert records[0]["parent"] == ""
    for before, after in pairwise(records):
        assert after["parent"] == before["fingerprint"] and after["before"]["plates/n"] == 8
        assert after["data"]["plates"]["counts"]["train"] == 24 and after["plan"] == plain(small_plates())


@pytest.mark.parametrize("stage", STAGES)
def test_the_terms_are_exactly_those_of_the_plan_at_the_rate_of_the_plan(stage):
    planned = small_plates().stage(stage)
    steps = lines(folder_of(trained(), stage) / "metrics.jsonl", "step")
    assert len(steps) == EPOCHS[stage] * (6 if stage == "pretrain" else 3)
    assert {name.removeprefix("loss/") for name in steps[0] if name.startswith("loss/")} == set(planned.terms)
    rates = [learning_rate(planned, step, len(steps)) for step in range(len(steps))]
    assert [line["lr"] for line in steps] == rates and 0 < max(rates) <= planned.optim.lr
    if stage == "finetune":
        assert [line["lr/ocr"] for line in steps] == [0.1 * rate for rate in rates]
    assert record_of(trained(), stage)["effective"]["weights"] == {name: t.weight for name, t in planned.terms.items()}


def test_one_stage_alone_is_that_part_of_all(tmp_path):
    """Both with ``--stage`` on the command line: a name, a number, and `all` for the rest."""
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(plain(small_plates())))
    for stage in ("pretrain", "1", "lcofl", "3", "4"):
        said = main(
            ["train", "plates", "--plan", str(plan), "--store", str(tmp_path), "--stage", stage, "--workers", "0",
             "--threads", "1", "--device", "cpu", "--trackers", "none", "--no-report", "--accept", "headroom"]
        )  # fmt: skip
        assert said in (None, 0)
    for stage in STAGES:
        alone, together = folder_of(tmp_path, stage), folder_of(trained(), stage)
        assert alone.name == together.name
        assert (alone / "metrics.jsonl").read_bytes() == (together / "metrics.jsonl").read_bytes()
        ends = [checkpoint.read(folder / record_of(trained(), stage)["last"]) for folder in (alone, together)]
        assert all(equal(dict(ends[0].tensors[f]), dict(ends[1].tensors[f])) for f in ends[0].tensors)


def test_a_stage_whose_parent_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(PlanError, match=r"starts from 'finetune', which has no record .*--stage finetune"):
        train(tmp_path, only=["hard_mining"])


def test_a_finished_stage_is_not_trained_again_and_a_longer_one_is_another(tmp_path):
    root, watch = Path(shutil.copytree(trained(), tmp_path / "store")), Quiet()
    assert train(root, watch=watch)
    assert [told["stage"] for told in watch.told if told.get("skipped_stage")] == list(STAGES)
    longer = small_plates(**{"stages.hard_mining.epochs": 4})
    assert not train(root, longer, only=["hard_mining"], watch=Quiet(steps=1))
    assert len(list(root.glob("runs/plates/hard_mining-*"))) == 2


def test_measured_again_a_record_says_the_same():
    """Training, validation and evaluation have one definition of every metric."""
    plan, root = small_plates(), trained()
    record, machine = record_of(root, "finetune"), Machine.of(CPU, Ranks())
    task = machine.place(plan.task.build())
    load_judged(task, folder_of(root, "finetune") / record["checkpoint"], fits_of(plan))
    shards = {"plates": Shards.open(plate_shards()["plates"], verify=False)}
    sets = {"plates": samples_of(shards, {"plates": "valid"}, plan.alphabet, plan.task.frames)}
    found = evaluate(
        task, sets, plan.alphabet, device=machine.device, autocast=machine.autocast, ranks=Ranks(),
        terms=plan.stage("finetune").terms,
    )  # fmt: skip
    assert found == pytest.approx(record["metrics"], nan_ok=True)


def test_weights_of_another_network_are_refused():
    other = override(small_plates(), {"task.ocr": SimpleCRNNConfig(classes=37, width=0.25, hidden=12)})
    place = folder_of(trained(), "warmup") / record_of(trained(), "warmup")["checkpoint"]
    with pytest.raises(checkpoint.CheckpointError, match="its task is"):
        load_judged(other.task.build(), place, fits_of(other))
