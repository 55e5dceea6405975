"""Trackers show what the journals say: runs, settings, curves, artifacts."""

from __future__ import annotations

import json
import math
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from small import a_stage, small_recipe
from tracked_stores import (
    BOTH,
    assert_drawn,
    assert_mirrored,
    client_of,
    copied,
    history,
    runs_of,
    scalars_of,
    shards_of,
    stages_in,
    tracking,
    train,
    trained_store,
    write_lines,
)  # fmt: skip

from models.losses.text import ctc
from orchestrator.identity import plain
from orchestrator.journal import lines
from orchestrator.plan import PlanError, Term
from orchestrator.store import Store
from orchestrator.tracking import following, sinks_named
from orchestrator.tracking.points import StageAt, flat


@pytest.fixture(autouse=True)
def _no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Mapping[str, Path]:
    return shards_of(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory) -> Path:
    return trained_store(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def tracked(tmp_path_factory) -> Path:
    return trained_store(tmp_path_factory.getbasetemp(), BOTH)


def test_each_recipe_run_has_one_parent_and_one_child_for_each_stage(tracked, shards):
    client, stages = client_of(tracked), stages_in(tracked, shards)
    [parent] = runs_of(client, "recipe")
    children = runs_of(client, "stage")
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 4
    assert parent.data.tags["plumbline.fingerprint"] == stages[-1].fingerprint
    assert [run.data.tags["mlflow.parentRunId"] for run in children] == [parent.info.run_id] * 3
    assert [run.data.tags["plumbline.fingerprint"] for run in children] == [at.fingerprint for at in stages]
    assert [run.data.tags["plumbline.parent"] for run in children] == [
        "", stages[0].fingerprint, stages[1].fingerprint,
    ]  # fmt: skip
    assert {parent.data.tags[f"plumbline.{at.title}"] for at in stages} == {run.info.run_id for run in children}


def test_a_run_of_a_submitted_job_is_known_by_its_id(plain_run, shards, tmp_path, monkeypatch):
    submitted = {"metadata": {"job_submission_id": "raysubmit_1"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(submitted))
    root = copied(plain_run, tmp_path)
    with tracking(root, shards, ("mlflow",)):
        pass
    assert {run.data.tags["plumbline.job"] for run in runs_of(client_of(root), "stage")} == {"raysubmit_1"}


def test_params_are_the_plan_and_what_the_record_says_was_used(tracked, shards):
    client, recipe = client_of(tracked), small_recipe()
    for run, at in zip(runs_of(client, "stage"), stages_in(tracked, shards), strict=True):
        record = Store(tracked).read(at.folder)
        used = {name: dict(getattr(record, name, {})) for name in ("effective", "execution", "versions")}
        expected = flat(plain(at.stage)) | flat({name: each for name, each in used.items() if each})
        assert run.data.params == expected
        assert float(run.data.params["optim.lr"]) == at.stage.optim.lr
    [parent] = runs_of(client, "recipe")
    assert parent.data.params["seed"] == str(recipe.seed)
    assert parent.data.params["alphabet.sha256"] == recipe.alphabet.sha256
    assert {name.split(".")[1] for name in parent.data.params if name.startswith("sources.")} == set(recipe.sources)


def test_mlflow_shows_every_number_of_the_journals_by_epoch(tracked, shards):
    client, stages = client_of(tracked), stages_in(tracked, shards)
    assert_mirrored(client, stages)
    run, at = runs_of(client, "stage")[0], stages[0]
    norms = [row["grad_norm"] for row in lines(at.folder / "metrics.jsonl", "step") if row["epoch"] == 0]
    assert history(client, run, "train/grad_norm_mean")[0] == (1, pytest.approx(math.fsum(norms) / len(norms)))
    assert history(client, run, "train/grad_norm_max")[0] == (1, max(norms))
    name, best = next(iter(Store(tracked).read(at.folder).best.items()))
    assert history(client, run, f"best/{name}") == [(2, best["value"])]


def test_times_in_mlflow_are_when_the_epochs_ended(tracked, shards):
    client, at = client_of(tracked), stages_in(tracked, shards)[0]
    run = runs_of(client, "stage")[0]
    ended = [int(row["time"] * 1000) for row in lines(at.folder / "speed.jsonl", "epoch")]
    seen = client.get_metric_history(run.info.run_id, "train/loss/ctc")
    assert [each.timestamp for each in seen] == ended


def test_artifacts_are_the_plan_the_record_and_the_journal(tracked, shards, tmp_path):
    client, stages = client_of(tracked), stages_in(tracked, shards)
    [parent] = runs_of(client, "recipe")
    saved = client.download_artifacts(parent.info.run_id, "plan.json", str(tmp_path))
    assert json.loads(Path(saved).read_text()) == plain(small_recipe())
    for run, at in zip(runs_of(client, "stage"), stages, strict=True):
        uploaded = {each.path for each in client.list_artifacts(run.info.run_id)}
        assert uploaded - {"events.jsonl"} == {"record.json", "metrics.jsonl"}
        saved = client.download_artifacts(run.info.run_id, "metrics.jsonl", str(tmp_path))
        assert Path(saved).read_bytes() == (at.folder / "metrics.jsonl").read_bytes()


def test_event_files_hold_the_curves_of_every_stage_by_optimiser_step(tracked, shards):
    stages = stages_in(tracked, shards)
    assert_drawn(tracked, stages)
    [folder] = (tracked / "tensorboard" / "small").iterdir()
    drawn = scalars_of(folder)
    assert folder.name == stages[-1].fingerprint
    steps = [row["step"] for row in lines(stages[0].folder / "metrics.jsonl", "epoch")]
    assert [step for step, _ in drawn["stage0_pretrain/train_speed/samples_per_s"]] == steps
    assert [step for step, _ in drawn["stage0_pretrain/train_grad_norm_max"]] == steps
    assert {tag.split("/")[0] for tag in drawn} == {at.title for at in stages}
    assert {tag.split("/")[1].split("_")[0] for tag in drawn} == {"train", "val", "learning"}


def test_nothing_that_trackers_keep_names_the_machine_or_its_user(tracked):
    texts = [path.read_bytes() for path in (tracked / "tensorboard").rglob("*tfevents*")]
    texts += [path.name.encode() for path in tracked.rglob("*")]
    texts += [repr(run.data.tags | run.data.params).encode() for kind in ("recipe", "stage")
              for run in runs_of(client_of(tracked), kind)]  # fmt: skip
    assert not [text for text in texts if socket.gethostname().encode() in text]


def test_following_what_is_finished_and_tracked_changes_nothing(tracked, shards, tmp_path):
    root = tmp_path / "again"
    shutil.copytree(tracked, root)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with tracking(root, shards) as said:
        train(root, shards)
    assert said == []
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_more_settings_and_points_than_mlflow_takes_at_once(tmp_path):
    stage = a_stage(terms={f"term{number}": Term(loss=ctc) for number in range(70)})
    recipe = small_recipe()
    at = StageAt(0, stage, tmp_path / "runs" / "small" / "only-0123456789ab")
    write_lines(at.folder / "plan.json", plain(recipe))
    write_lines(at.folder / "metrics.jsonl",
                *({"kind": "epoch", "epoch": epoch, "step": epoch, "lr": 1.0 / epoch, "why?": 0.0}
                  for epoch in range(1, 601)))  # fmt: skip
    with following(recipe, Store(tmp_path), [at], BOTH, say=print):
        pass
    client = client_of(tmp_path)
    [run] = runs_of(client, "stage")
    assert run.data.params == flat(plain(stage)) and len(run.data.params) > 100
    assert history(client, run, "train/lr") == [(epoch, 1.0 / epoch) for epoch in range(1, 601)]
    assert len(history(client, run, "train/why_")) == 600


def test_reports_and_findings_written_before_the_end_are_uploaded(plain_run, shards, tmp_path):
    root = copied(plain_run, tmp_path)
    at = stages_in(root, shards)[0]
    finding = {"kind": "event", "event": "plateau", "epoch": 2, "step": 16, "says": "cer gains nothing"}
    write_lines(at.folder / "metrics.jsonl", finding)
    with following(small_recipe(), Store(root), [at], ("mlflow",), say=print):
        (at.folder / "report.html").write_text("<p>first</p>")
    with following(small_recipe(), Store(root), [at], ("mlflow",), say=print):
        (at.folder / "report.html").write_text("<p>second</p>")
    client = client_of(root)
    [run] = runs_of(client, "stage")
    read = lambda name: Path(client.download_artifacts(run.info.run_id, name, str(tmp_path))).read_text()  # noqa: E731
    assert read("report.html") == "<p>second</p>"
    events = read("events.jsonl").splitlines()
    assert json.loads(events[-1]) == finding
    assert history(client, run, "events")[-1] == (2, len(events))


def test_trackers_are_chosen_by_name():
    assert sinks_named("mlflow,tensorboard") == BOTH
    assert sinks_named(" tensorboard ,") == ("tensorboard",)
    assert sinks_named("none") == sinks_named("") == ()
    with pytest.raises(PlanError, match="no tracker 'wandb'; allowed: mlflow, tensorboard, or none"):
        sinks_named("mlflow,wandb")


def test_without_trackers_nothing_is_written_and_mlflow_is_not_imported(plain_run, shards):
    before = sorted(plain_run.rglob("*"))
    with tracking(plain_run, shards, ()) as said:
        pass
    assert said == [] and sorted(plain_run.rglob("*")) == before
    code = "import sys, orchestrator.tracking; print({'mlflow', 'tensorboardX', 'torch', 'ray'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_pictures_that_a_report_left_are_shown_once_at_the_stages_last_step(plain_run, shards, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    root = copied(plain_run, tmp_path)
    at = stages_in(root, shards)[0]
    (at.folder / "pictures").mkdir()
    for side in (16, 24, 24):
        with following(small_recipe(), Store(root), [at], BOTH, say=print):
            picture = np.zeros((side, 30, 3), np.uint8)
            if side == 16 or not (at.folder / "pictures" / "new").exists():
                cv2.imwrite(str(at.folder / "pictures" / "comparison.png"), picture)
            if side == 24:
                (at.folder / "pictures" / "new").touch()
    [folder] = (root / "tensorboard" / "small").iterdir()
    shown = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload().Images(f"{at.title}/comparison")
    steps = lines(at.folder / "metrics.jsonl", "epoch")[-1]["step"]
    assert [(each.step, each.height, each.width) for each in shown] == [(steps, 16, 30), (steps, 24, 30)]
    assert {tag.partition("/")[0] for tag in scalars_of(folder)} == {at.title}  # nothing before them was harmed
    client = client_of(root)
    [run] = runs_of(client, "stage")
    assert [each.path for each in client.list_artifacts(run.info.run_id, "pictures")] == ["pictures/comparison.png"]
