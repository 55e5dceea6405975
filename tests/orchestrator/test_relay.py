"""A driver and a worker that see no folder in common talk by way of the store."""

from __future__ import annotations

import time

import pytest
from s3_server import BUCKET, CREDENTIALS, s3_server

from orchestrator import relay
from orchestrator.live import LiveFolder
from orchestrator.relay import relayed
from orchestrator.working_copy import store_at

PLACE = f"s3://{BUCKET}/store"


@pytest.fixture
def sides(tmp_path, monkeypatch):
    """The store as the driver has it, and as a worker on another node does."""
    with s3_server() as address:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(relay, "EVERY_S", 0.05)
        stores = []
        for node in ("driver", "worker"):
            monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path / node))
            stores.append(store_at(PLACE))
        yield stores


def soon(holds) -> None:
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_what_a_worker_tells_reaches_the_driver_and_a_wish_to_stop_the_worker(sides):
    here, there = [LiveFolder(store.root / "live" / "1") for store in sides]
    here.folder.mkdir(parents=True)
    here.say("from the driver")
    with relayed(sides[0], here.folder, driver=True):
        with relayed(sides[1], there.folder, driver=False):
            there.say("first")
            there.tell({"stage": "warmup", "step": 3})
            soon(lambda: (here.status() or {}).get("step") == 3)
            there.say("second")
            here.ask_to_regroup("more room")
            soon(there.stop_asked)
            assert here.regroup() == "more room"
            soon(lambda: not there.stop_asked())
            there.ask_to_regroup("the node goes")
            soon(here.stop_asked)
            here.ask_to_stop()
            there.write_outcome(done=True)
        soon(here.ended)
        assert here.outcome()
    told = (here.folder / "events.jsonl").read_text().splitlines()
    assert [line.split('"')[3] for line in told] == ["from the driver", "first", "second"]
    assert sides[0].origin.names(here.folder) == []


def test_a_worker_on_the_drivers_own_node_shares_its_folder(sides):
    folder = sides[0].root / "live" / "2"
    folder.mkdir(parents=True)
    with relayed(sides[0], folder, driver=True), relayed(sides[0], folder, driver=False):
        LiveFolder(folder).say("once")
    assert (folder / "events.jsonl").read_text().count("once") == 1
