"""What a person sees of a run where there is no terminal: a line an epoch, and a line for each event, once."""

from __future__ import annotations

import pytest

from orchestrator.console import watch
from orchestrator.events import Event
from orchestrator.live import LiveFolder

EVENT = Event(
    event="plateau", epoch=8, step=80, says="made/cer was best, 0.3000, at validation 2 of 8",
    cause="the stage has learned what it can", change="set stages.only.early_stop", evidence={},
)  # fmt: skip
WARNING = (
    "warning: made/cer was best, 0.3000, at validation 2 of 8. Likely cause: the stage has learned what it can. "
    "What to change: set stages.only.early_stop."
)


def status(**changes):
    return {
        "stage": "only", "epoch": 8, "epochs": 9, "step": 80, "steps": 90, "lr": 1e-3, "loss": {"loss/ctc": 0.5},
        "samples_per_s": 1.0, "validation": {"made/cer": 0.31, "made/entropy": 0.2}, "events": [], "ended": False,
        "skipped": 0, "finished": "",
    } | changes  # fmt: skip


@pytest.fixture
def shown(tmp_path, capsys):
    """Lines that a run which tells these statuses shows."""

    def lines(*statuses):
        live = LiveFolder(tmp_path)

        def work():
            for each in statuses:
                live.tell(each)
            return True

        assert watch(live, work)
        return capsys.readouterr().err.splitlines()

    return lines


def test_an_event_is_a_line_with_cause_and_change_shown_once(shown):
    said = shown(
        status(step=79), status(events=[EVENT.line()]), status(step=80), status(ended=True),
        status(ended=True, epoch=9, step=90),
    )  # fmt: skip
    assert said == [
        "Stage only",
        WARNING,
        "Epoch 8/9 - Loss: 0.5000 - LR: 0.001000 - made/cer: 0.3100",
        "Epoch 9/9 - Loss: 0.5000 - LR: 0.001000 - made/cer: 0.3100",
    ]


def test_events_of_an_epoch_follow_its_line(shown):
    said = shown(status(ended=True, events=[EVENT.line(), EVENT.line()]))
    assert [line.split()[0] for line in said] == ["Stage", "Epoch", "warning:", "warning:"]
