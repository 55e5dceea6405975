"""One process at a time trains a stage: the others wait and say for whom, and a dead one is replaced."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from s3_server import BUCKET, CREDENTIALS, s3_server
from small import Quiet, shards_of, small_recipe

from orchestrator.claims import RemoteClaims
from orchestrator.execution import Execution
from orchestrator.lease import LEASE, FileClaims, Holder, Lease, LeaseLost
from orchestrator.pipeline import Machine, train_recipe
from orchestrator.ranks import Ranks
from orchestrator.remote import Remote
from orchestrator.store import Store

EXECUTION = Execution(workers=0, threads=1, device="cpu")
ELSEWHERE = {"host": "another", "machine": "another machine"}


@pytest.fixture(scope="module")
def bucket():
    with s3_server() as address, pytest.MonkeyPatch.context() as patch:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}.items():
            patch.setenv(name, value)
        yield Remote(f"s3://{BUCKET}")


@pytest.fixture(params=["file", "s3"])
def claims(request, tmp_path, monkeypatch):
    monkeypatch.setenv("PLUMBLINE_LEASE_S", "4")
    if request.param == "file":
        return FileClaims(tmp_path / "stage")
    return RemoteClaims(request.getfixturevalue("bucket"), f"{tmp_path.name}/.lease")


def test_the_second_waits_until_the_first_gives_back(claims):
    first, second = Holder.here(), replace(Holder.here(), **ELSEWHERE)
    assert claims.take(first) is None
    held = claims.take(second)
    assert f"process {os.getpid()} on {first.host}, last heard of" in str(held)
    assert claims.beat(first)
    claims.give_back(first)
    assert claims.take(second) is None
    assert not claims.beat(first)


def test_a_silent_holder_elsewhere_is_replaced_and_learns_of_it(claims):
    silent, next_one = replace(Holder.here(), **ELSEWHERE), Holder.here()
    assert claims.take(silent) is None
    lease = Lease(claims, silent)
    until = time.monotonic() + 20
    while claims.take(next_one) is not None:
        assert time.monotonic() < until
        time.sleep(0.3)
    with pytest.raises(LeaseLost, match="heartbeat could not be renewed"):
        lease.check()


def test_a_dead_process_of_this_machine_is_replaced_at_once(tmp_path):
    claims = FileClaims(tmp_path)
    take = (
        "import sys; from pathlib import Path; from orchestrator.lease import *; "
        "assert FileClaims(Path(sys.argv[1])).take(Holder.here()) is None"
    )
    subprocess.run([sys.executable, "-c", take, str(tmp_path)], check=True)
    assert (tmp_path / LEASE).exists()
    assert claims.take(Holder.here()) is None


def test_a_lease_that_was_taken_over_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv("PLUMBLINE_LEASE_S", "1")
    claims = FileClaims(tmp_path)
    lease = Lease(claims, Holder.here())
    assert claims.take(lease.me) is None
    with lease.renewed():
        lease.check()
        (tmp_path / LEASE).unlink()
        time.sleep(0.4)
        with pytest.raises(LeaseLost, match="another process took it over"):
            lease.check()


def test_a_stage_asked_for_twice_at_once_is_trained_once(tmp_path):
    recipe = small_recipe(name="demo")
    recipe = replace(recipe, stages=recipe.stages[:1])
    store = Store(tmp_path)
    shards = shards_of(recipe, tmp_path)
    watches, done = [Quiet(), Quiet()], []

    def train(watch):
        machine = Machine.of(EXECUTION, Ranks())
        done.append(train_recipe(recipe, store, shards, EXECUTION, machine=machine, watch=watch))

    threads = [threading.Thread(target=train, args=(watch,)) for watch in watches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [True, True]
    trained = [any("step" in told for told in watch.told) for watch in watches]
    assert sorted(trained) == [False, True]
    waiting = watches[trained.index(False)].told
    assert f"process {os.getpid()} on" in next(told["waits_for"] for told in waiting if "waits_for" in told)
    assert waiting[-1]["skipped_stage"]


def test_who_waits_can_be_stopped(tmp_path):
    recipe = small_recipe(name="demo")
    store, shards = Store(tmp_path), shards_of(recipe, tmp_path)
    first = Quiet(steps=1)
    machine = Machine.of(EXECUTION, Ranks())
    assert not train_recipe(recipe, store, shards, EXECUTION, machine=machine, watch=first)
    [folder] = (tmp_path / "runs" / "demo").iterdir()
    other = replace(Holder.here(), **ELSEWHERE)
    assert store.origin.claims(folder).take(other) is None
    stopped = Quiet(steps=1)
    assert not train_recipe(recipe, store, shards, EXECUTION, machine=machine, watch=stopped)
    assert "process" in stopped.told[-1]["waits_for"]
    assert (folder / LEASE).exists()


def test_a_lease_that_cannot_be_renewed_says_what_the_store_answered(monkeypatch):
    class Down:
        def beat(self, me):
            raise OSError("no route to the store")

    monkeypatch.setenv("PLUMBLINE_LEASE_S", "1")
    lease = Lease(Down(), Holder.here())
    with lease.renewed():
        time.sleep(0.8)
        with pytest.raises(LeaseLost, match=r"could not be renewed for 1 s \(OSError: no route to the store\)"):
            lease.check()
