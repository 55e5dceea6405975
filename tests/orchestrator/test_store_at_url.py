"""A store on a real S3 server that fails and dawdles: killed, gone on elsewhere, and no credential in anything."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from s3_server import BUCKET, CREDENTIALS, Faults, proxy, s3_server
from small import Quiet, shards_of, small_recipe

from orchestrator.execution import Execution
from orchestrator.identity import plain
from orchestrator.pipeline import Machine, train_recipe
from orchestrator.ranks import Ranks
from orchestrator.remote import Remote
from orchestrator.run import main
from orchestrator.store import Store, StoreError
from orchestrator.working_copy import store_at

PLACE = f"s3://{BUCKET}/team/store"
EXECUTION = Execution(workers=0, threads=1, device="cpu", checkpoint_every_s=0.2)


def two_stages():
    recipe = small_recipe(name="demo")
    return replace(recipe, stages=recipe.stages[:2])


@pytest.fixture(scope="module")
def server():
    with s3_server() as address:
        yield address


@pytest.fixture
def faults():
    return Faults()


@pytest.fixture
def node(server, faults, tmp_path, monkeypatch):
    """This process as a node with an empty cache, before an S3 server with ``faults``."""
    with proxy(server, faults) as address:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("PLUMBLINE_LEASE_S", "6")
        remote = Remote(f"s3://{BUCKET}")
        remote.delete(list(remote.list()))
        yield lambda name: monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path / name))


def published(recipe, store) -> dict[str, Path]:
    """Every source of ``recipe``, ingested in this process."""
    folders = shards_of(recipe, store.root)
    for folder in folders.values():
        store.origin.publish_shards(folder)
    return folders


def trained(recipe, store, shards, **changes) -> bool:
    changes = {"machine": Machine.of(EXECUTION, Ranks()), "watch": Quiet()} | changes
    return train_recipe(recipe, store, shards, EXECUTION, **changes)


def outcome(store: Store) -> dict[str, list[str]]:
    """Stage -> hashes of its last weights, and its metric lines."""
    found = {}
    for folder, record in store.stages():
        store.origin.fetch_stage(folder, checkpoints=[Path(record.last).name])
        weights = sorted((folder / record.last).glob("*.safetensors"))
        hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in weights]
        found[record.stage] = [*hashes, (folder / "metrics.jsonl").read_text()]
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    assert trained(two_stages(), store, shards_of(two_stages(), store.root))
    return outcome(store)


@pytest.mark.ray
def test_a_killed_run_goes_on_from_a_fresh_cache_to_the_same_bits(node, faults, undisturbed, tmp_path, capsys):
    faults.fail, faults.slow = 0.05, 0.02
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(plain(two_stages())))
    words = ["demo", "--plan", str(plan), "--store", PLACE, "--threads", "1", "--device", "cpu"]
    train = ["train", *words, "--checkpoint-every", "0.5", "--trackers", "none"]
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.run", *train, "--no-report", "--workers", "1"], start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while sum("PUT" in seen and "finetune_frozen" in seen and "manifest.json" in seen for seen in faults.seen) < 2:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    node("second")
    assert main([*train, "--workers", "0"]) == 0
    said = capsys.readouterr().err
    assert "Stage pretrain: has a record already, skipped" in said
    assert "Report: " in said
    assert faults.failed > 3
    node("third")
    assert outcome(store_at(PLACE)) == undisturbed
    assert main(["evaluate", *words, "--on", "worn", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 24
    assert main(["runs", "--store", PLACE]) == 0
    [_, last] = capsys.readouterr().out.splitlines()
    assert "finetune_frozen" in last and "done" in last
    node("fourth")
    stage = last.split("\t")[0]
    assert main(["predict", str(drawn(tmp_path)), "--from", f"{PLACE}/runs/{stage}", "--json", "--device", "cpu"]) == 0
    assert not told_by([tmp_path, *Path("/tmp/ray").glob("session_latest/logs")])


def drawn(folder: Path) -> Path:
    import cv2
    import numpy as np

    path = folder / "word.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (32, 96), np.uint8))
    return path


def told_by(folders) -> list[str]:
    """Files below ``folders`` that hold a credential."""
    secrets = [value.encode() for value in (*CREDENTIALS.values(), "hunter2")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(secret in path.read_bytes() for secret in secrets)]


def test_credentials_in_a_url_reach_no_file_and_no_message(node, tmp_path, capsys, monkeypatch):
    place = f"s3://AKIALOOPBACKTEST:hunter2%2Fhunter2@{BUCKET}/secret"
    store = store_at(place)
    recipe = two_stages()
    shards = published(recipe, store)
    assert trained(replace(recipe, stages=recipe.stages[:1]), store, shards)
    assert main(["report", "--store", place]) == 0
    assert main(["runs", "--store", place]) == 0
    assert main(["train", "demo", "--store", place.replace(BUCKET, "nobucket")]) == 1
    assert main(["train", "demo", "--store", place, "--data", f"rendered={place}/nothing"]) != 0
    said = capsys.readouterr()
    assert "hunter2" not in said.out + said.err
    assert "failed: s3://nobucket/secret/.writable" in said.err
    assert "NO_SUCH_BUCKET" in said.err
    assert not told_by([tmp_path])
    remote = Remote(PLACE.removesuffix("team/store") + "secret")
    assert len(remote.list()) > 10
    assert not [name for name in remote.list() if b"hunter2" in (remote.read(name) or b"")]


def test_a_store_that_does_not_answer_is_told_in_the_end_and_loses_nothing_published(node, faults, monkeypatch):
    store, recipe = store_at(PLACE), two_stages()
    shards = published(recipe, store)
    monkeypatch.setenv("PLUMBLINE_REMOTE_PATIENCE", "1")
    assert not trained(recipe, store, shards, watch=Quiet(steps=4))
    before = Remote(PLACE).list("runs")
    faults.fail, faults.only = 1.0, "/runs/"
    with pytest.raises(StoreError, match=r"cannot .* it, tried \d+ times in \d+ s .*503.*PLUMBLINE_REMOTE_PATIENCE"):
        trained(recipe, store, shards)
    faults.fail = 0.0
    after = Remote(PLACE).list("runs")
    assert {name for name in before if "lease" not in name} <= set(after)
    assert not any(name.endswith("record.json") for name in after)


def test_a_record_appears_after_all_that_it_names(node, faults):
    store, recipe = store_at(PLACE), two_stages()
    recipe = replace(recipe, stages=recipe.stages[:1])
    assert trained(recipe, store, published(recipe, store))
    written = [seen.partition(" ")[2].partition("?")[0] for seen in faults.seen if seen.startswith("PUT")]
    written = [name for name in written if not name.endswith("/")]  # marks of folders
    [record] = [place for place, name in enumerate(written) if name.endswith("record.json")]
    assert not [name for name in written[record + 1 :] if "/runs/" in name and ".lease" not in name]
    last = {name.rpartition("/")[0]: name for name in written if "/step-" in name or "/shards/" in name}
    assert all(name.endswith("/manifest.json") for name in last.values())
    [(_, done)] = store.stages()
    named = {Path(done.last).name, Path(done.checkpoint).name, *recipe.sources}
    assert all(any(name in folder for folder in last) for name in named)  # those in between may be rotated away first


def test_data_at_a_url_is_fetched_once_and_again_when_it_changes(node, faults, tmp_path):
    from orchestrator.fetched import fetch_again, fetch_folder

    there = Remote(f"s3://{BUCKET}/data")
    for name in ("labels.tsv", "a/1.png", "a/2.png"):
        there.put(name, name.encode())
    steps = []
    fetched = fetch_folder(f"s3://{BUCKET}/data", progress=lambda done, total: steps.append((done, total)))
    assert (fetched.path / "a" / "1.png").read_text() == "a/1.png"
    assert steps[-1] == (3, 3)
    faults.seen.clear()
    fetch_again(fetched)
    assert faults.seen == []
    there.put("a/1.png", b"changed it")
    there.delete(["a/2.png"])
    again = fetch_folder(f"s3://{BUCKET}/data")
    assert again.files != fetched.files
    assert [path.name for path in (again.path / "a").iterdir()] == ["1.png"]
    assert (again.path / "a" / "1.png").read_text() == "changed it"
