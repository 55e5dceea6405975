"""Whatever was stopped, killed, deleted or out of order: each number reaches a tracker, and once."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from small import small_recipe
from tracked_stores import (
    BOTH,
    assert_drawn,
    assert_mirrored,
    client_of,
    copied,
    history,
    runs_of,
    shards_of,
    stages_in,
    tracking,
    train,
    trained_store,
)  # fmt: skip

from orchestrator.store import Store
from orchestrator.tracking import following
from orchestrator.tracking import thread as tracking_thread
from orchestrator.tracking.tensorboard import EventFiles
from orchestrator.tracking.thread import Tracking


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


def test_stages_recorded_without_a_tracker_are_mirrored_after_the_fact(plain_run, shards, tmp_path):
    root = copied(plain_run, tmp_path)
    with tracking(root, shards):
        train(root, shards)
    assert_mirrored(client_of(root), stages_in(root, shards))
    assert_drawn(root, stages_in(root, shards))
    assert [run.info.status for run in runs_of(client_of(root), "stage")] == ["FINISHED"] * 3


def test_a_stopped_run_is_continued_by_the_next_launch_and_no_number_is_there_twice(plain_run, shards, tmp_path):
    with tracking(tmp_path, shards):
        train(tmp_path, shards, steps=11)
    client, stages = client_of(tmp_path), stages_in(tmp_path, shards)
    [stopped], [parent] = runs_of(client, "stage"), runs_of(client, "recipe")
    assert [stopped.info.status, parent.info.status] == ["KILLED", "KILLED"]
    # Had it been killed instead, its journal would go on beyond the checkpoint; trackers have seen those lines.
    [full] = plain_run.glob(f"runs/small/{stages[0].folder.name}/metrics.jsonl")
    journal = stages[0].folder / "metrics.jsonl"
    assert full.read_bytes().startswith(journal.read_bytes()) and full.stat().st_size > journal.stat().st_size
    journal.write_bytes(full.read_bytes())
    with tracking(tmp_path, shards):
        pass
    assert len(history(client, runs_of(client, "stage")[0], "train/lr")) == 2
    with tracking(tmp_path, shards):
        train(tmp_path, shards)
    assert runs_of(client, "recipe")[0].info.run_id == parent.info.run_id
    assert runs_of(client, "stage")[0].info.run_id == stopped.info.run_id
    assert [run.info.status for run in (*runs_of(client, "recipe"), *runs_of(client, "stage"))] == ["FINISHED"] * 4
    assert_mirrored(client, stages)
    assert_drawn(tmp_path, stages)


def test_what_was_sent_but_not_noted_before_a_kill_is_not_there_twice(tracked, shards, tmp_path):
    root = copied(tracked, tmp_path)
    # The noted places go back to what they were before anything was sent: the worst that a kill can leave.
    stages, client = stages_in(root, shards), client_of(root)
    for at in stages:
        noted = json.loads((at.folder / "tracked.json").read_text())
        earlier = {
            "mlflow": {"run_id": noted["mlflow"]["run_id"]},
            "tensorboard": {"file": noted["tensorboard"]["file"], "bytes": 0},
        }
        (at.folder / "tracked.json").write_text(json.dumps(earlier))
    with tracking(root, shards) as said:
        pass
    assert said == []
    assert_mirrored(client, stages)
    assert_drawn(root, stages)


def test_a_run_made_just_before_a_kill_is_taken_up_not_made_again(shards, plain_run, tmp_path):
    root = copied(plain_run, tmp_path)
    stages = stages_in(root, shards)
    for at in stages[1:]:
        shutil.rmtree(at.folder)
    with tracking(root, shards, ("mlflow",)):
        pass
    client = client_of(root)
    [run] = runs_of(client, "stage")
    with sqlite_of(root) as database:  # as though the process had ended right after create_run
        for table in ("metrics", "latest_metrics"):
            database.execute(f"delete from {table}")
    (stages[0].folder / "tracked.json").unlink()
    with tracking(root, shards, ("mlflow",)):
        pass
    assert [each.info.run_id for each in runs_of(client, "stage")] == [run.info.run_id]
    assert_mirrored(client, stages[:1])


@contextmanager
def sqlite_of(root: Path) -> Iterator:
    import sqlite3

    database = sqlite3.connect(root / "mlflow.db")
    with database:
        yield database
    database.close()


def test_a_deleted_run_and_a_deleted_event_file_are_made_anew_for_a_stage_under_way(shards, tmp_path):
    with tracking(tmp_path, shards):
        train(tmp_path, shards, steps=11)
    client = client_of(tmp_path)
    client.delete_run(runs_of(client, "stage")[0].info.run_id)
    shutil.rmtree(tmp_path / "tensorboard")
    with tracking(tmp_path, shards):
        train(tmp_path, shards)
    assert_mirrored(client, stages_in(tmp_path, shards))
    assert_drawn(tmp_path, stages_in(tmp_path, shards))


def test_a_failure_is_named_on_the_stage_and_the_parent_and_goes_when_it_goes_on(shards, tmp_path):
    def fail() -> None:
        train(tmp_path, shards, steps=3)
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"), tracking(tmp_path, shards, ("mlflow",)):
        fail()
    client = client_of(tmp_path)
    for run in (*runs_of(client, "stage"), *runs_of(client, "recipe")):
        assert (run.info.status, run.data.tags["error"]) == ("FAILED", "disk full")
    with tracking(tmp_path, shards, ("mlflow",)):
        train(tmp_path, shards)
    for run in (*runs_of(client, "stage"), *runs_of(client, "recipe")):
        assert run.info.status == "FINISHED" and "error" not in run.data.tags


def test_a_tracker_that_fails_says_so_once_and_delivers_once_it_can(shards, plain_run, tmp_path):
    root = copied(plain_run, tmp_path)
    (root / "tensorboard").write_text("in the way")
    with tracking(root, shards, ("tensorboard",)) as said:
        until(lambda: said)
    assert [line.split(" ")[:2] for line in said] == [["tensorboard:", "NotADirectoryError:"], ["tensorboard:", "not"]]
    with tracking(root, shards, ("tensorboard",)) as said:
        until(lambda: said)
        (root / "tensorboard").unlink()
        until(lambda: len(said) == 2)
        assert said[1] == "tensorboard: works again"
        assert_drawn(root, stages_in(root, shards))
    assert len(said) == 2


def until(happens: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_one_tracker_that_fails_does_not_hold_up_the_other(shards, plain_run, tmp_path, monkeypatch):
    root = copied(plain_run, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://at-all")
    with tracking(root, shards) as said:
        pass
    assert {line.split(":")[0] for line in said} == {"mlflow"}
    assert_drawn(root, stages_in(root, shards))


def test_a_tracker_that_hangs_does_not_keep_a_launch_from_ending(plain_run, shards, monkeypatch):
    class Hanging(EventFiles):
        def open(self, at, place, *, done):
            let_go.wait()

    let_go, said = threading.Event(), []
    monkeypatch.setattr(tracking_thread, "CLOSE_S", 0.1)
    stages = stages_in(plain_run, shards)
    hanging = Tracking([Hanging(small_recipe(), Store(plain_run), stages)], Store(plain_run), stages, said.append)
    hanging.start()
    hanging.close("")
    let_go.set()
    assert said == ["trackers: not done after 0 s; the same command delivers the rest when run again"]


def test_a_gate_that_changed_later_is_a_tag_since_params_never_change(tracked, shards, tmp_path):
    root = copied(tracked, tmp_path)
    recipe = small_recipe(
        **{"stages.pretrain.gate": {"rendered/word_accuracy_36": 0.125, "rendered/word_accuracy_62": 0.25}}
    )
    at = stages_in(root, shards, recipe)[0]
    noted = json.loads((at.folder / "tracked.json").read_text())
    noted["mlflow"]["finished"] = False
    (at.folder / "tracked.json").write_text(json.dumps(noted))
    with following(recipe, Store(root), [at], ("mlflow",), say=print):
        pass
    run = runs_of(client_of(root), "stage")[0]
    assert run.data.params["gate.rendered/word_accuracy_36"] == "0.0"
    assert run.data.tags["now.gate.rendered/word_accuracy_36"] == "0.125"
    assert run.data.params["gate.rendered/word_accuracy_62"] == "0.25"
