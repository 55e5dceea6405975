"""A report of what is left: shards, checkpoints, parents and records that are gone, and files that are damaged."""

from __future__ import annotations

import json
import shutil

import pytest
from nasty import folder_of, rewritten, trained_store

from orchestrator.report import write_report
from orchestrator.store import Store, StoreError


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Store:
    return trained_store(tmp_path_factory.mktemp("report"))


@pytest.fixture
def store(trained, tmp_path) -> Store:
    """A copy that a test may damage."""
    shutil.copytree(trained.root, tmp_path / "store")
    return Store(tmp_path / "store")


def test_without_shards_the_page_says_what_is_left_out(store):
    shutil.rmtree(store.root / "shards")
    page = rewritten(store, "first")
    assert "Left out: the store has no shards of 'mine' with content" in page.text
    assert page.row("mine")[2:8] == ["50", "50", "0", "1", "-", "-"]  # the record still has its counts
    assert not page.words and "Loss" in page.texts


def test_a_parent_that_is_gone_is_a_warning(store):
    shutil.rmtree(folder_of(store, "first"))
    page = rewritten(store)
    assert "Stage second started from first, which is not in this store." in page.text
    assert page.row("second")[3] == "best of first: cnn, rnn"


def test_shards_that_cannot_be_read_are_told_with_the_reason(store):
    next(store.root.glob("shards/*/manifest.json")).write_text("{")
    assert "is not JSON" in rewritten(store, "first").text


def test_a_checkpoint_that_is_gone_leaves_out_only_the_readings(store):
    for folder in folder_of(store, "first").glob("checkpoints/*"):
        shutil.rmtree(folder)
    page = rewritten(store, "first")
    assert not page.words and "Left out:" in page.text and "mine/cer" in page.text


def test_an_unfinished_stage_is_shown_as_far_as_it_is(store):
    folder = folder_of(store, "second")
    (folder / "record.json").unlink()
    (folder / "evaluation-mine-test.json").write_text(json.dumps({"n": 7, "cer": 0.25, "cer_n": 7}))
    page = rewritten(store)
    assert "Stage second is not finished: 14 updates, 2 of 2 epochs" in page.text
    assert [row[0] for row in page.rows if len(row) == 9 and row[0] in ("first", "second")] == ["first", "second"]
    assert len(page.words) == 48 and page.row("cer") == ["cer", "0.2500", "7"]


def test_an_unfinished_stage_takes_no_other_shards_for_its_own(store):
    folder, manifest = folder_of(store, "second"), next(store.root.glob("shards/*/manifest.json"))
    (folder / "record.json").unlink()
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"content": "0" * 64}))
    page = rewritten(store)
    assert "no shards of 'mine' that give this stage's fingerprint" in page.text and not page.words


def test_one_update_is_enough_and_none_at_all_too(store):
    folder = folder_of(store, "second")
    (folder / "record.json").unlink()
    shutil.rmtree(folder / "checkpoints")
    path = folder / "metrics.jsonl"
    path.write_text(next(line for line in path.read_text().splitlines() if '"step"' in line[:20]) + "\n")
    (folder / "speed.jsonl").unlink()
    page = rewritten(store)
    assert "There is no validation yet" in page.text and "Loss" in page.texts and "1 updates" in page.text
    path.write_text('{"kind": "st')  # killed while writing its first line
    assert "No training step has been written yet" in rewritten(store).text


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("metrics.jsonl", '{"kind": "epoch", "step": 1, "epoch": 1}\nnot json\n', r"metrics\.jsonl: line 2 is damaged"),
        ("metrics.jsonl", '{"kind": "step", "step": "3"}\n', r"line 1 is damaged \(ValueError: its step is '3'\)"),
        ("speed.jsonl", "[]\n", r"speed\.jsonl: line 1 is damaged"),
        ("record.json", "{", r"record\.json: not a record of this version"),
        ("evaluation-mine-test.json", "[]", "evaluation-mine-test.json: cannot be read"),
    ],
)
def test_damage_is_one_clear_error(store, file, text, message):
    folder = folder_of(store, "second")
    (folder / file).write_text(text)
    (folder / "report.html").write_text("an older one")
    with pytest.raises(StoreError, match=message):
        write_report(folder, store)
    assert (folder / "report.html").read_text() == "an older one"


def test_a_folder_that_is_no_stage_is_refused(tmp_path):
    with pytest.raises(StoreError, match="needs a stage's folder"):
        write_report(tmp_path, Store(tmp_path))
