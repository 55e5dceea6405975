"""Who hangs, and where: from what every worker tells of itself."""

from __future__ import annotations

import json
import time

from orchestrator import pulse
from orchestrator.live import LiveFolder
from orchestrator.pulse import Pulse, forget, hung, pulses


def told(rank: int, *, phase: str = "the update", ago: float, waited: float = 0.0, silent: float = 0.0) -> dict:
    return {"rank": rank, "node": f"host-{rank}", "node_id": str(rank), "pid": 40 + rank, "phase": phase,
            "since": 1000.0 - ago, "waited_s": waited, "time": 1000.0 - silent}  # fmt: skip


def test_the_rank_that_the_others_wait_for_is_named_with_its_node_and_phase():
    late = told(1, phase="waiting for data (stage lcofl, update 7)", ago=61)
    found = hung([told(0, ago=62, waited=60), late, told(2, ago=62, waited=60)], 60)
    assert found == (
        "rank 1 on host-1 (process 41) hangs in waiting for data (stage lcofl, update 7) for 61 s; "
        "ranks 0, 2 waited 60 s for it (--timeout)"
    )


def test_a_process_that_stands_still_as_a_whole_is_told_apart():
    frozen = told(0, ago=62, silent=60)
    assert "; the whole process stands still; rank 1 waited" in hung([frozen, told(1, ago=62, waited=60)], 60)


def test_of_several_that_did_not_come_the_one_that_is_longest_at_one_thing_hangs():
    late = [told(0, ago=5), told(1, ago=70), told(2, ago=61, waited=60)]
    assert hung(late, 60).startswith("rank 1 on host-1")


def test_nobody_hangs_where_nobody_waited_long_enough_or_all_did():
    assert hung([told(0, ago=20, waited=20), told(1, ago=20)], 60) == ""
    assert hung([told(0, ago=60, waited=60), told(1, ago=60, waited=60)], 60) == ""
    assert hung([], 60) == ""


def test_a_worker_tells_what_it_is_at_while_it_is_stuck_there(tmp_path, monkeypatch):
    monkeypatch.setattr(pulse, "BEAT_S", 0.02)
    began = time.monotonic()
    live = LiveFolder(tmp_path, pulse=Pulse(tmp_path, 3, "host", "id", waits_since=lambda: began))
    assert live.pulse is not None
    with live.pulse.beating():
        live.at("validation")
        time.sleep(0.2)  # this thread says nothing any more
        [now] = pulses(tmp_path)
    assert (now["rank"], now["node"], now["phase"]) == (3, "host", "validation")
    assert now["waited_s"] > 0.1 and now["time"] > now["since"]
    forget(tmp_path)
    assert pulses(tmp_path) == []


def test_a_wait_that_failed_is_still_told(tmp_path):
    from models import collective

    try:
        with collective.waiting():
            time.sleep(0.05)
            raise RuntimeError("timed out")
    except RuntimeError:
        since = collective.waits_since()
    assert since is not None and time.monotonic() - since >= 0.05
    with collective.waiting():
        assert collective.waits_since() != since
    assert collective.waits_since() is None


def test_who_asks_for_the_end_is_heard_before_who_asks_for_another_group(tmp_path):
    live = LiveFolder(tmp_path)
    assert not live.stop_asked() and live.regroup() == ""
    live.ask_to_regroup("a node goes")
    live.ask_to_regroup("there is room")
    assert live.stop_asked() and not live.end_asked()
    assert live.regroup() == "a node goes" and not live.stop_asked()
    live.ask_to_regroup("a node goes")
    live.ask_to_stop()
    live.ask_to_regroup("too late")
    assert live.end_asked() and live.regroup() == "" and live.stop_asked()


def test_what_is_said_reaches_the_console_between_epochs(tmp_path):
    from orchestrator.console import _Told

    live = LiveFolder(tmp_path)
    live.tell({"stage": "one", "skipped_stage": True})
    live.say("2 workers: ...")
    shown: list[str] = []
    _Told(live).new(shown.append)
    assert shown == ["Stage one: has a record already, skipped", "2 workers: ..."]
    assert json.loads((tmp_path / "events.jsonl").read_text().splitlines()[1]) == {"says": "2 workers: ..."}
