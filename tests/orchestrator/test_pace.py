"""Where the time of an epoch goes."""

from __future__ import annotations

import pytest
import torch

from orchestrator import pace
from orchestrator.ranks import Ranks


class Clock:
    """A clock that goes only when it is told to."""

    def __init__(self) -> None:
        self.now, self.waited = 0.0, 0.0

    def monotonic(self) -> float:
        return self.now

    def batches(self):
        for wait in (3.0, 1.0, 0.5):
            self.now += wait
            yield wait


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace.time, "monotonic", clock.monotonic)
    monkeypatch.setattr(pace, "seconds_waited", lambda: clock.waited)
    return clock


def epoch(clock: Clock, **place) -> tuple:
    measured = pace.Pace(_started=clock.now, _in_collectives=clock.waited)
    for _ in measured.over(clock.batches()):
        clock.now += 2.0  # an update, ...
        clock.waited += 0.5  # ... a quarter of it for other ranks
        measured.took(21 // place.get("count", 1), Ranks(**place))
    return measured.of_ranks(Ranks(**place), torch.device("cpu"))


def test_the_first_batch_is_counted_apart(clock):
    line, waited, busy = epoch(clock)
    assert line == {
        "seconds": 10.5, "samples_per_s": 6.0, "data_wait_share": 1.5 / 10.5, "first_batch_s": 3.0
    }  # fmt: skip
    assert (waited, busy) == ([1.5], [4.5])  # three updates less what they waited for others


def test_every_rank_brings_its_own_seconds_and_samples(clock, monkeypatch):
    others = torch.tensor([[7.0, 0.0], [9.0, 0.0], [33.0, 0.0]])
    monkeypatch.setattr(Ranks, "sum", lambda self, values: values + others)
    line, waited, busy = epoch(clock, rank=1, count=2)
    assert (waited, busy) == ([7.0, 1.5], [9.0, 4.5])
    assert (line["data_s"], line["busy_s"]) == (waited, busy)
    assert line["step_s"] == [3.0, 1.5]  # of three updates
    assert line["rank_samples_per_s"] == [33 / 10.5, 30 / 10.5] and line["samples_per_s"] == 6.0


def test_what_comes_next_is_told(clock):
    told: list[str] = []
    for _ in pace.Pace().over(clock.batches(), at=told.append):
        told.append("in the body")
    assert told == [pace.DATA, *[pace.UPDATE, "in the body", pace.DATA] * 3]
