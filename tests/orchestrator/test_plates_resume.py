"""All five stages of `plates`, killed after every update and started again, end in the bits of a run left alone."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import Quiet
from small_plates import CPU, STAGES, folder_of, record_of, small_plates, train, trained

from orchestrator import checkpoint, loop
from orchestrator.identity import plain
from orchestrator.journal import lines

LIMIT_S = 240


class Killed(BaseException):
    """What no part of the program expects, so that none can tidy up after it."""


@dataclass
class Killer(Quiet):
    """Ends everything when it is asked for the ``after``-th time, which is before that update of this start."""

    after: int = 2

    def stop_asked(self) -> bool:
        self.asked += 1
        if self.asked >= self.after:
            raise Killed
        return False


def outcome(root: Path) -> dict[str, Any]:
    """Stage -> hashes of all tensors and of the progress in each checkpoint that was kept, record and metric lines."""
    found: dict[str, Any] = {}
    for stage in STAGES:
        folder, record = folder_of(root, stage), record_of(root, stage)
        for place in sorted({record["last"], record["checkpoint"]}):
            files = json.loads((folder / place / "manifest.json").read_text())["files"]
            found[f"{stage} {place}"] = {name: each["sha256"] for name, each in files.items()}
        found[f"{stage} record"] = {name: record[name] for name in ("best", "last", "metrics", "before", "steps")}
        found[f"{stage} lines"] = hashlib.sha256((folder / "metrics.jsonl").read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def undisturbed() -> Path:
    return trained()


def test_there_is_something_to_lose(undisturbed):
    """Of each kind of state that a stop could cost, a run as small as this one has some."""
    ends = {stage: folder_of(undisturbed, stage) / record_of(undisturbed, stage)["last"] for stage in STAGES}
    for stage in ("lcofl", "finetune", "hard_mining"):
        counts = json.loads((ends[stage] / "progress.json").read_text())["symbols"]
        assert 0 < sum(counts["wrong"]) <= sum(counts["seen"])
        [*_, last] = lines(folder_of(undisturbed, stage) / "metrics.jsonl", "epoch")
        assert last["symbol_weight/characters/most"] > 1 > last["symbol_weight/characters/least"]
    known = checkpoint.read(ends["hard_mining"]).tensors["mining"]
    assert len(known["accuracy"].unique()) > 3 and int(known["weighed"]) == 2
    assert len(checkpoint.read(ends["finetune"]).tensors["optimizer"]) > 20
    [*_, last] = lines(folder_of(undisturbed, "hard_mining") / "metrics.jsonl", "epoch")
    assert last["mining/most_drawn"] > 1.5 and last["mining/suspects"] > 0


def test_a_run_that_is_killed_after_every_update_takes_the_same_path(undisturbed, tmp_path):
    """In every stage, in the middle of epochs and at their ends, between new weights of symbols and of samples."""
    starts = 0
    while True:
        starts += 1
        assert starts < 60
        try:
            assert train(tmp_path, watch=Killer())
            break
        except Killed:
            pass
    updates = sum(record_of(undisturbed, stage)["steps"] for stage in STAGES)
    assert starts >= updates - len(STAGES)
    assert outcome(tmp_path) == outcome(undisturbed)


@pytest.mark.parametrize("after", [2, 5, 9])
def test_an_epoch_that_was_lost_draws_the_same_samples_again(undisturbed, tmp_path, monkeypatch, after):
    """Without a checkpoint inside epochs, a kill goes back to the start of one."""
    drawn: list[tuple[int, list[int]]] = []

    def drawn_now(stage, trainee, **rest) -> np.ndarray | None:
        found = real(stage, trainee, **rest)
        if found is not None:
            drawn.append((trainee.progress.epoch, found.tolist()))
        return found

    real = loop.drawn_now
    monkeypatch.setattr(loop, "drawn_now", drawn_now)
    rarely = replace(CPU, checkpoint_every_s=1e9)
    root = Path(shutil.copytree(undisturbed, tmp_path / "store"))
    shutil.rmtree(folder_of(root, "hard_mining"))
    with pytest.raises(Killed):
        train(root, watch=Killer(after=after), execution=rarely)
    assert train(root, execution=rarely)
    assert outcome(root) == outcome(undisturbed)
    epochs = [epoch for epoch, _ in drawn]
    again = (after - 1) // 3  # three updates an epoch
    assert epochs == sorted([0, 1, 2, again] if (after - 1) % 3 else [0, 1, 2])
    lists = dict(drawn)
    assert all(lists[epoch] == found for epoch, found in drawn)
    assert len({tuple(found) for found in lists.values()}) == 3


def started(plan: Path, store: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.run", "train", "plates", "--plan", str(plan), "--store", str(store),
         "--workers", "0", "--threads", "1", "--checkpoint-every", "0", "--device", "cpu", "--trackers", "none",
         "--no-report", "--accept", "headroom"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def steps_done(store: Path) -> int:
    return sum(file.read_bytes().count(b'"kind": "step"') for file in store.glob("runs/plates/*/metrics.jsonl"))


def test_sigkill_of_the_process_at_random_moments_changes_nothing(undisturbed, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(plain(small_plates())))
    for moment in sorted(random.Random(4).sample(range(1, 28), 2)):
        process = started(plan, tmp_path)
        until = time.monotonic() + LIMIT_S
        while steps_done(tmp_path) < moment:
            assert process.poll() is None and time.monotonic() < until, process.stderr and process.stderr.read()
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    last = started(plan, tmp_path)
    _, said = last.communicate(timeout=LIMIT_S)
    assert last.returncode == 0, said
    assert outcome(tmp_path) == outcome(undisturbed)


def test_state_of_other_data_is_not_taken_up(undisturbed, tmp_path):
    """What is known of samples belongs to these samples, by their number."""
    stage = small_plates().stage("hard_mining")
    folder = folder_of(undisturbed, "hard_mining") / record_of(undisturbed, "hard_mining")["last"]
    contents = checkpoint.read(folder)
    trainee = loop.trainee_of(stage, small_plates().task.build())
    trainee.difficulty = loop.unknown(25)
    with pytest.raises(checkpoint.CheckpointError, match="the data has 25 samples, but the checkpoint has"):
        loop.restore(trainee, contents)
