"""Metric lines: each exactly once, however often the run was killed."""

import pytest

from orchestrator.journal import Journal, JournalError, Log, lines


def written(path, steps, *, length=0):
    """A journal with a line for each step; its length in bytes."""
    journal = Journal(path, length=length)
    for step in steps:
        journal.write("step", {"step": step})
    end = journal.sync()
    journal.close()
    return end


def steps_in(path):
    return [row["step"] for row in lines(path)]


def test_lines_read_back_in_order_and_by_kind(tmp_path):
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path, length=0)
    journal.write("step", {"step": 0, "loss/ctc": 0.5})
    journal.write("validation", {"word": "é\u2028ï", "missing": None})
    journal.write("step", {"step": 1})
    journal.close()
    assert [row["kind"] for row in lines(path)] == ["step", "validation", "step"]
    assert lines(path, "validation") == [{"kind": "validation", "word": "é\u2028ï", "missing": None}]
    assert [row["step"] for row in lines(path, "step")] == [0, 1]


def test_resuming_cuts_off_what_will_be_written_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    at_checkpoint = written(path, range(3))
    written(path, [3, 4], length=at_checkpoint)  # ... and then the run was killed
    assert steps_in(path) == [0, 1, 2, 3, 4]
    written(path, [3, 4, 5], length=at_checkpoint)
    assert steps_in(path) == [0, 1, 2, 3, 4, 5]


def test_two_runs_that_were_killed_elsewhere_write_the_same_bytes(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    written(whole, range(6))
    at_checkpoint = written(broken, [0, 1])
    written(broken, [2], length=at_checkpoint)
    written(broken, [2, 3, 4, 5], length=at_checkpoint)
    assert broken.read_bytes() == whole.read_bytes()


def test_a_fresh_start_forgets_what_an_earlier_one_left(tmp_path):
    path = tmp_path / "metrics.jsonl"
    written(path, range(3))
    written(path, [7], length=0)
    assert steps_in(path) == [7]


def test_a_journal_that_lost_lines_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    length = written(path, range(3))
    before = path.read_bytes()
    with pytest.raises(JournalError, match=rf"metrics.jsonl: {length} bytes, .* written after {length + 1}; lines are"):
        Journal(path, length=length + 1)
    assert path.read_bytes() == before
    path.unlink()
    with pytest.raises(JournalError, match=r"0 bytes, .* Restore the file, or delete the stage's folder"):
        Journal(path, length=length)


def test_a_line_cut_short_by_a_kill_is_not_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    written(path, range(2))
    with path.open("ab") as file:
        file.write(b'{"kind": "step", "st')
    assert steps_in(path) == [0, 1]
    assert lines(tmp_path / "nowhere") == []


def test_sync_says_how_many_bytes_are_on_disk(tmp_path):
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path, length=0)
    journal.write("step", {"word": "é"})
    assert journal.sync() == path.stat().st_size > 0
    journal.close()


def test_only_one_rank_keeps_the_journal_and_all_know_its_length(tmp_path):
    path = tmp_path / "metrics.jsonl"
    other = Journal(path, length=42, writes=False)
    other.write("step", {"step": 0})
    assert other.sync() == 42
    other.close()
    Log(path, writes=False).write("epoch", {})
    assert not path.exists()


def test_a_log_only_grows_and_says_when(tmp_path):
    path = tmp_path / "speed.jsonl"
    for seconds in (1.0, 2.0):  # two launches
        Log(path).write("epoch", {"seconds": seconds})
    rows = lines(path, "epoch")
    assert [row["seconds"] for row in rows] == [1.0, 2.0]
    assert 0 < rows[0]["time"] <= rows[1]["time"]
