"""Killed at any moment and started again by the same command, a run ends in the same bits and the same lines."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from small import small_recipe

from orchestrator.identity import plain

LIMIT_S = 180
STAGES = ("pretrain", "finetune_frozen", "finetune")


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    path.write_text(json.dumps(plain(small_recipe(**{"name": "demo"}))))
    return path


def command(plan: Path, store: Path, *, workers: int) -> list[str]:
    return [
        sys.executable, "-m", "orchestrator.run", "train", "demo", "--plan", str(plan), "--store", str(store),
        "--workers", str(workers), "--threads", "1", "--checkpoint-every", "0", "--device", "cpu",
        "--trackers", "none", "--no-report",
    ]  # fmt: skip


def started(plan: Path, store: Path, *, workers: int = 0) -> subprocess.Popen:
    return subprocess.Popen(
        command(plan, store, workers=workers), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def finished(process: subprocess.Popen) -> None:
    _, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, said


def steps_done(store: Path) -> int:
    files = store.glob("runs/demo/*/metrics.jsonl")
    return sum(file.read_bytes().count(b'"kind": "step"') for file in files)


def checkpoints_in(store: Path) -> int:
    return len(list(store.glob("runs/demo/*/checkpoints/step-*")))


def wait_for(condition, process: subprocess.Popen) -> None:
    until = time.monotonic() + LIMIT_S
    while not condition():
        assert process.poll() is None, (
            f"ended with {process.returncode} before it could be killed: {process.stderr.read()}"
        )
        assert time.monotonic() < until
        time.sleep(0.005)


def outcome(store: Path) -> dict[str, str]:
    """Stage -> hash of its last weights, and of its metric lines."""
    found = {}
    for folder in store.glob("runs/demo/*"):
        record = json.loads((folder / "record.json").read_text())
        weights = sorted((folder / record["last"]).glob("*.safetensors"))
        found[record["stage"]] = [hashlib.sha256(path.read_bytes()).hexdigest() for path in weights]
        found[f"{record['stage']} lines"] = (folder / "metrics.jsonl").read_text()
    assert {name for name in found if " " not in name} == set(STAGES)
    return found


@pytest.fixture(scope="module")
def undisturbed(plan, tmp_path_factory) -> dict[str, str]:
    store = tmp_path_factory.mktemp("undisturbed")
    finished(started(plan, store))
    return outcome(store)


def test_no_line_is_repeated_or_missing_in_an_undisturbed_run(undisturbed):
    steps = [json.loads(line) for line in undisturbed["finetune lines"].splitlines()]
    assert [line["step"] for line in steps if line["kind"] == "step"] == list(range(10))


def test_sigkill_of_the_driver_at_random_moments_changes_nothing(plan, undisturbed, tmp_path):
    moments = sorted(random.Random(20).sample(range(1, 24), 3))
    for moment in moments:
        process = started(plan, tmp_path)
        wait_for(lambda moment=moment: steps_done(tmp_path) >= moment, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finished(started(plan, tmp_path))
    assert outcome(tmp_path) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_and_names_the_command_that_goes_on(plan, undisturbed, tmp_path, number):
    process = started(plan, tmp_path)
    wait_for(lambda: steps_done(tmp_path) >= 5, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 128 + number
    assert f"python -m orchestrator.run train demo --plan {plan}" in said
    assert "Traceback" not in said
    finished(started(plan, tmp_path))
    assert outcome(tmp_path) == undisturbed


def train_workers(process: subprocess.Popen) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "RayTrainWorker" in _title(child)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.mark.ray
def test_sigkill_of_a_ray_worker_changes_nothing_but_the_time(plan, undisturbed, tmp_path):
    process = started(plan, tmp_path, workers=1)
    wait_for(lambda: steps_done(tmp_path) >= 6 and checkpoints_in(tmp_path), process)
    [worker] = train_workers(process)
    worker.kill()
    finished(process)
    assert outcome(tmp_path) == undisturbed


@pytest.mark.ray
def test_sigkill_of_a_ray_driver_and_the_same_command_again_changes_nothing(plan, undisturbed, tmp_path):
    process = started(plan, tmp_path, workers=1)
    wait_for(lambda: steps_done(tmp_path) >= 12, process)
    process.kill()
    process.wait()
    finished(started(plan, tmp_path, workers=1))
    assert outcome(tmp_path) == undisturbed
