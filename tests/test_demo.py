"""The demo as a newcomer runs it: no options, to the end. Minutes long, so it runs only when asked for: -m demo."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing

import cv2
import pytest

from datasets.rendered import RenderedWords

LIMIT_S = 900
pytestmark = pytest.mark.demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder it was run in, and what it said."""
    folder = tmp_path_factory.mktemp("newcomer")
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.run"], cwd=folder, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stderr + done.stdout


def test_the_last_stage_reads_four_of_five_held_out_words(demo):
    folder, said = demo
    [path] = folder.glob("plumbline-store/runs/demo/finetune-*/record.json")
    metrics = json.loads(path.read_text())["metrics"]
    assert metrics["worn/n"] >= 500
    assert metrics["worn/word_accuracy_36"] >= 0.80
    assert f"worn/word_accuracy_36 of the last stage: {metrics['worn/word_accuracy_36']:.4f} on 500" in said


def test_a_healthy_run_raises_no_event_and_leaves_a_report_and_its_runs_in_mlflow(demo):
    folder, said = demo
    store = folder / "plumbline-store"
    assert [
        line for path in store.glob("runs/demo/*/*.jsonl") for line in path.open() if '"kind": "event"' in line
    ] == []
    assert "warning:" not in said
    [page] = store.glob("runs/demo/finetune-*/report.html")
    assert f"Report: {page}" in said and page.stat().st_size > 100_000
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        assert (
            database.execute("select status from runs").fetchall() == [("FINISHED",)] * 4
        )  # the recipe and its stages


def test_it_logs_one_plain_line_an_epoch_where_there_is_no_terminal(demo):
    _, said = demo
    assert "Epoch 1/" in said and " - Loss: " in said and " - LR: " in said
    assert "\x1b[" not in said


def test_what_it_trained_reads_a_picture(demo, tmp_path):
    folder, _ = demo
    row = next(iter(RenderedWords(count=1, style="plain", seed=5, numbers=0, random=0).rows(None)))
    picture = tmp_path / "word.png"
    cv2.imwrite(str(picture), row.image.load())
    command = [sys.executable, "-m", "orchestrator.run", "predict", str(picture), "--json"]
    read = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S)
    assert json.loads(read.stdout)["text"].lower() == row.text.lower(), read.stderr
