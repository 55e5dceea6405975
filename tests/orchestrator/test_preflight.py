"""Preflight as a whole: its runner, settings, the start, room, what is recorded, and the command."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from small import Columns, Quiet, a_stage, shards_of, small_recipe
from torch import nn

from models.losses.text import ctc
from orchestrator.execution import Execution
from orchestrator.identity import plain
from orchestrator.pipeline import Machine, check_recipe, train_recipe
from orchestrator.plan import Balance, PlanError, StartFrom, Term
from orchestrator.preflight import ACCEPTABLE, CHECKS, Found, Preflight, PreflightError, check_names
from orchestrator.preflight import machine as preflight_machine
from orchestrator.preflight.machine import check_resources, checkpoint_bytes
from orchestrator.preflight.plan import check_settings, check_start
from orchestrator.ranks import Ranks
from orchestrator.run import main
from orchestrator.store import Store


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> dict[str, Path]:
    return shards_of(small_recipe(), tmp_path_factory.mktemp("shards"))


def run(recipe, root, shards, *, accept=(), only=()) -> bool:
    execution = Execution(device="cpu", accept=accept)
    machine = Machine.of(execution, Ranks())
    return train_recipe(recipe, Store(root), shards, execution, machine=machine, watch=Quiet(), only=only)


def record_of(root: Path, stage: str) -> dict:
    [path] = root.glob(f"runs/small/{stage}-*/record.json")
    return json.loads(path.read_text())


def test_a_refusal_names_its_check_and_how_to_go_on_all_the_same():
    def refuses() -> Found:
        raise PreflightError("3 groups are shared")

    with pytest.raises(PreflightError, match=r"preflight splits: 3 groups are shared \(.*--accept splits\)"):
        Preflight().run("splits", refuses)
    with pytest.raises(PreflightError, match=r"3 groups are shared$"):
        Preflight().run("frames", refuses)


def test_an_accepted_refusal_is_kept_as_a_warning_and_in_the_record():
    def refuses() -> Found:
        raise PreflightError("3 groups are shared")

    preflight = Preflight(accept=["splits"])
    preflight.run("splits", refuses)
    assert preflight.accepted == {"splits": "3 groups are shared"}
    assert preflight.warnings == ["accepted on purpose (splits): 3 groups are shared"]
    assert [line["verdict"] for line in preflight.lines] == ["accepted"] and not preflight.refused


def test_collecting_goes_on_only_where_the_next_check_can_still_be_run():
    def refuses() -> Found:
        raise PreflightError("no")

    collecting = Preflight(collect=True)
    collecting.run("splits", refuses)
    assert collecting.refused
    with pytest.raises(PreflightError, match="preflight frames: no"):
        collecting.run("frames", refuses)


@pytest.mark.parametrize(
    ("name", "message"), [("split", "is no check"), ("frames", "cannot be accepted: training would fail")]
)
def test_only_a_check_that_exists_and_can_be_passed_over_is_accepted(name, message):
    with pytest.raises(PlanError, match=f"--accept {name}: {message}; what can be accepted: labels, splits"):
        check_names([name])
    check_names(ACCEPTABLE)


def test_one_stage_adds_nothing_to_what_the_next_one_says():
    base = Preflight()
    base.run("labels", lambda: Found(says="all well"))
    base.followed().run("splits", lambda: Found(says="all well"))
    assert [line["check"] for line in base.lines] == ["labels"]


@dataclass(frozen=True, kw_only=True)
class Forgetful:
    """A network with a setting that its code forgot."""

    width: int = 4
    dropout: float = 0.1

    def build(self) -> nn.Module:
        return nn.Linear(self.width, 2)


def settings(recipe, stage, **changes):
    given = {"steps": 100, "samples": [120], "draws": [120]} | changes
    return check_settings(stage, recipe, **given)


def test_a_setting_that_the_network_does_not_read_is_named():
    recipe = small_recipe()
    object.__setattr__(recipe, "task", Forgetful())
    with pytest.raises(PreflightError, match=r"built without a look at task\.dropout; take"):
        settings(recipe, recipe.stages[0])


def test_the_settings_of_the_recipes_are_all_read():
    recipe = small_recipe()
    assert settings(recipe, recipe.stages[0]).says == "all 5 settings of the network are read when it is built"
    assert plain(recipe) == plain(small_recipe())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"draws": [0]}, "data.shares.rendered: 1 of an epoch is less than one sample"),
        ({"samples": [0]}, "data.shares.rendered: there are no training samples"),
    ],
)
def test_a_share_without_samples_is_refused(given, message):
    recipe = small_recipe()
    with pytest.raises(PreflightError, match=message):
        settings(recipe, recipe.stages[0], **given)


def test_patience_that_cannot_run_out_is_a_warning_and_one_that_can_is_none():
    recipe = small_recipe()
    finetune = recipe.stage("finetune")
    [warning] = settings(recipe, finetune, samples=[60, 120], draws=[48, 12]).warnings
    assert "early_stop: a patience of 12 cannot run out in 2 validations" in warning
    longer = replace(finetune, epochs=40)
    assert settings(recipe, longer, samples=[60, 120], draws=[48, 12]).warnings == ()


def test_a_balance_without_an_update_is_refused_and_an_average_that_cannot_follow_is_a_warning():
    recipe = small_recipe()
    stage = replace(recipe.stages[0], terms={"ctc": Term(loss=ctc), "again": Term(loss=ctc)})
    rule = Balance(shares={"ctc": 0.5, "again": 0.5}, warmup=1, every=60)
    assert settings(recipe, replace(stage, balance=rule), steps=100).warnings == ()  # number 60, in the second epoch
    with pytest.raises(PreflightError, match="every 60 updates, none of which comes after its warm-up of 1 epochs"):
        settings(recipe, replace(stage, balance=rule), steps=60)
    [warning] = settings(recipe, replace(stage, ema=0.999)).warnings
    assert "in 100 steps an average of 0.999 stays 90% what it was" in warning
    assert settings(recipe, replace(stage, ema=0.99)).warnings == ()


def test_weights_below_their_floor_are_refused_before_anything_is_trained(shards, tmp_path):
    floor = {"worn/word_accuracy_36": 0.9}
    recipe = small_recipe()
    stages = list(recipe.stages)
    stages[1] = replace(stages[1], start_from=StartFrom(stage="pretrain", parts=("cnn", "rnn"), floor=floor))
    with pytest.raises(PreflightError, match=r"preflight start: .*reach worn/word_accuracy_36=0\.0\d+, floor 0.9"):
        run(replace(recipe, stages=tuple(stages)), tmp_path, shards)
    [folder] = tmp_path.glob("runs/small/finetune_frozen-*")
    assert not list(folder.glob("checkpoints/step-*")) and not (folder / "record.json").exists()


def test_weights_above_their_floor_pass():
    stage = replace(small_recipe().stages[1], start_from=StartFrom(stage="pretrain", parts=("cnn", "rnn"),
                                                                   floor={"worn/ned": 0.2}))  # fmt: skip
    assert check_start(stage, {"worn/ned": 0.25}).says == "worn/ned 0.2500 (floor 0.2)"
    with pytest.raises(PreflightError):
        check_start(stage, {"worn/ned": float("nan")})


def test_a_full_disk_is_refused_with_what_is_needed_and_free(monkeypatch, tmp_path):
    stage, task = a_stage(), Columns()
    assert "GB free" in check_resources(stage, task, tmp_path / "not" / "there", smallest_step=6, ranks=1).says
    monkeypatch.setattr(preflight_machine.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1_000_000))
    with pytest.raises(PreflightError, match=r"4 checkpoints of .* MB need 67 MB in .*, 1 MB are free; make room"):
        check_resources(stage, task, tmp_path, smallest_step=6, ranks=1)


def test_the_size_of_a_checkpoint_is_that_of_its_tensors():
    sizes = {name: p.numel() * 4 for name, p in Columns().named_parameters()}
    weights, rnn = sum(sizes.values()), sum(size for name, size in sizes.items() if name.startswith("rnn"))
    assert checkpoint_bytes(a_stage(), Columns()) == 3 * weights
    assert checkpoint_bytes(a_stage(ema=0.9, learn=("rnn",)), Columns()) == 2 * weights + 2 * rnn


def test_every_check_is_run_and_recorded_with_what_it_found_within_seconds(shards, tmp_path):
    assert run(small_recipe(), tmp_path, shards, only=["pretrain"])
    assert run(small_recipe(), tmp_path, shards, only=["finetune_frozen"])
    first, second = record_of(tmp_path, "pretrain"), record_of(tmp_path, "finetune_frozen")
    assert [line["check"] for line in first["preflight"]] == [name for name in RUN_ORDER if name != "start"]
    assert [line["check"] for line in second["preflight"]] == RUN_ORDER
    assert {line["verdict"] for line in first["preflight"]} == {"ok"} and first["warnings"] == []
    assert first["effective"]["steps"] == 16 and first["accepted"] == {}
    assert all(line["seconds"] < 60 for line in second["preflight"])


RUN_ORDER = [
    "hashes", "labels", "splits", "validation", "settings", "resources", "frames", "gradients", "effective", "start",
]  # fmt: skip


def test_every_check_has_its_sentence():
    assert {*RUN_ORDER, "headroom"} == set(CHECKS)  # the last is asked of restoring tasks alone


def test_a_stage_that_was_interrupted_still_records_what_it_started_from(shards, tmp_path):
    assert run(small_recipe(), tmp_path, shards, only=["pretrain"])
    execution = Execution(device="cpu")
    machine, watch = Machine.of(execution, Ranks()), Quiet(steps=2)
    assert not train_recipe(small_recipe(), Store(tmp_path), shards, execution, machine=machine, watch=watch)
    assert run(small_recipe(), tmp_path, shards, only=["finetune_frozen"])
    assert record_of(tmp_path, "finetune_frozen")["preflight"][-1]["check"] == "start"


def test_an_accepted_fault_trains_and_stays_in_the_record(shards, tmp_path):
    stages = list(small_recipe().stages)
    floor = {"worn/word_accuracy_36": 0.9}
    stages[1] = replace(stages[1], start_from=StartFrom(stage="pretrain", parts=("cnn", "rnn"), floor=floor))
    assert run(replace(small_recipe(), stages=tuple(stages)), tmp_path, shards, accept=("start",))
    accepted = record_of(tmp_path, "finetune_frozen")["accepted"]
    assert "floor 0.9" in accepted["start"]
    assert record_of(tmp_path, "pretrain")["accepted"] == {}


def test_check_looks_at_every_stage_and_trains_nothing(shards, tmp_path):
    execution = Execution(device="cpu")
    machine = Machine.of(execution, Ranks())
    found = dict(check_recipe(small_recipe(), Store(tmp_path), shards, execution, machine=machine, watch=Quiet()))
    assert list(found) == ["data", "pretrain", "finetune_frozen", "finetune"]
    assert not any(preflight.refused for preflight in found.values())
    waiting = [line["found"] for line in found["finetune"].lines if line["check"] == "start"]
    assert waiting[0].startswith("not looked at: stage 'finetune' starts from 'finetune_frozen', which has no record")
    assert not list(tmp_path.rglob("checkpoints"))


def test_the_command_says_what_it_found_and_ends_with_1_when_something_is_refused(tmp_path, capsys):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(plain(small_recipe())))
    words = ["small", "--plan", str(plan), "--store", str(tmp_path / "store"), "--device", "cpu"]
    assert main(["check", *words]) == 0
    out = capsys.readouterr().out
    assert "data\n  ok       hashes" in out and "finetune\n" in out and "refused" not in out
    small_steps = ["--set", "stages.finetune.batch_size=2", "--set", "stages.finetune.optim.accumulate=2", "--json"]
    assert main(["check", *words, *small_steps]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    [refused] = [line for line in lines if line["verdict"] == "refused"]
    assert (refused["of"], refused["check"]) == ("finetune", "resources")
    assert main(["check", *words, *small_steps, "--accept", "resources"]) == 0
