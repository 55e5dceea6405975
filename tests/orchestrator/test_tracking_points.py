"""Journals and plans as every tracker takes them."""

from __future__ import annotations

import json
from pathlib import Path

from tracked_stores import (
    write_lines,
)  # fmt: skip

from orchestrator.tracking.points import Points, flat


def points_of(folder: Path) -> dict[str, list[tuple[int, int, float]]]:
    points = Points(folder)
    points.read()
    found: dict[str, list[tuple[int, int, float]]] = {}
    for point in points.all:
        found.setdefault(point.name, []).append((point.epoch, point.step, point.value))
    return found


def test_gradient_norms_of_an_epoch_become_their_mean_and_their_most(tmp_path):
    steps = [{"kind": "step", "step": step, "epoch": 0, "lr": 1.0, "grad_norm": norm, "grad_norm/cnn": 1.0}
             for step, norm in enumerate((1.0, None, 5.0))]  # fmt: skip
    later = {"kind": "step", "step": 3, "epoch": 1, "lr": 1.0, "grad_norm": 9.0}
    write_lines(tmp_path / "metrics.jsonl", *steps, {"kind": "epoch", "epoch": 1, "step": 3, "lr": 0.5}, later)
    assert points_of(tmp_path) == {
        "train/lr": [(1, 3, 0.5)],
        "train/grad_norm_mean": [(1, 3, 3.0)],  # the step whose norm was not finite has no say
        "train/grad_norm_max": [(1, 3, 5.0)],
        "train/grad_norm_mean/cnn": [(1, 3, 1.0)],
        "train/grad_norm_max/cnn": [(1, 3, 1.0)],
    }


def test_findings_are_counted_where_they_were_made(tmp_path):
    write_lines(
        tmp_path / "metrics.jsonl",
        {"kind": "event", "event": "spike", "epoch": 0, "step": 2, "says": "..."},
        {"kind": "epoch", "epoch": 1, "step": 4},
        {"kind": "event", "event": "plateau", "epoch": 1, "step": 4, "says": "..."},
    )
    write_lines(
        tmp_path / "speed.jsonl",
        {"kind": "event", "event": "resumed", "epoch": 0, "time": 1.0},
        {"kind": "epoch", "epoch": 1, "time": 5.0, "samples_per_s": 10.0},
        {"kind": "event", "event": "data_wait", "epoch": 1, "time": 6.0},
        {"kind": "epoch", "epoch": 2, "time": 9.0, "samples_per_s": 11.0},  # its line in the journal is not yet there
    )
    assert points_of(tmp_path) == {
        "events": [(0, 2, 1.0), (1, 4, 2.0)],
        "speed/samples_per_s": [(1, 4, 10.0)],
        "speed/events": [(1, 4, 1.0)],
    }


def test_what_an_epoch_says_of_each_rank_is_a_curve_each(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", {"kind": "epoch", "epoch": 1, "step": 4})
    write_lines(
        tmp_path / "speed.jsonl", {"kind": "epoch", "epoch": 1, "time": 5.0, "seconds": 3.0, "busy_s": [2.0, 1.5]},
        {"kind": "event", "event": "straggler", "epoch": 1, "time": 6.0, "nodes": ["a", "b"], "busy_s": [2.0, 1.5]},
    )  # fmt: skip
    assert points_of(tmp_path) == {
        "speed/seconds": [(1, 4, 3.0)], "speed/busy_s/rank0": [(1, 4, 2.0)], "speed/busy_s/rank1": [(1, 4, 1.5)],
        "speed/events": [(1, 4, 1.0)],
    }  # fmt: skip


def test_a_point_has_the_time_at_which_its_epoch_first_ended(tmp_path):
    write_lines(tmp_path / "speed.jsonl", *({"kind": "epoch", "epoch": epoch, "time": when}
                                            for epoch, when in ((1, 5.0), (2, 7.0), (2, 99.0))))  # fmt: skip
    write_lines(tmp_path / "metrics.jsonl", {"kind": "validation", "epoch": 0, "step": 0, "a/cer": 1.0},
                {"kind": "validation", "epoch": 2, "step": 8, "a/cer": 0.5})  # fmt: skip
    points = Points(tmp_path)
    points.read()
    assert [(point.epoch, point.time) for point in points.all] == [(0, 0.0), (2, 7.0)]


def test_lines_are_read_once_however_they_arrive(tmp_path):
    row = {"kind": "validation", "epoch": 1, "step": 4, "a/cer": 0.5}
    whole = (json.dumps(row) + "\n").encode()
    path, points = tmp_path / "metrics.jsonl", Points(tmp_path)
    for data, seen in ((whole[:9], 0), (whole, 1), (b"", 1), (whole[:5], 1), (whole, 1), (whole * 2, 2)):
        path.write_bytes(data)  # grows, is cut, and is written again with the same bytes
        points.read()
        assert len(points.all) == seen
    assert [point.end for point in points.beyond({"metrics.jsonl": len(whole)})] == [2 * len(whole)]


def test_a_journal_that_was_cut_and_written_with_other_bytes_is_read_from_its_beginning(tmp_path):
    path, points = tmp_path / "metrics.jsonl", Points(tmp_path)
    write_lines(path, {"kind": "validation", "epoch": 1, "step": 4, "a/cer": 0.5})
    points.read()
    path.unlink()
    write_lines(path, *({"kind": "validation", "epoch": epoch, "step": 4, "a/cer": 0.123456} for epoch in (1, 2)))
    points.read()
    assert [point.value for point in points.all] == [0.123456, 0.123456]


def test_settings_become_flat():
    data = {"optim": {"lr": 1e-3}, "learn": ["cnn", "rnn"], "best": [{"metric": "a"}, {"metric": "b"}], "gate": {},
            "early_stop": None, "empty": ""}  # fmt: skip
    assert flat(data) == {
        "optim.lr": "0.001", "learn": '["cnn", "rnn"]', "best.0.metric": "a", "best.1.metric": "b", "gate": "{}",
        "early_stop": "null", "empty": '""',
    }  # fmt: skip
