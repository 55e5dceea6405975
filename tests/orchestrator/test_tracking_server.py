"""MLflow behind an address: a real server, out of reach at first, and credentials that stay where they are."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from small import a_stage, small_recipe
from tracked_stores import (
    assert_mirrored,
    runs_of,
    shards_of,
    stages_in,
    tracking,
    train,
)  # fmt: skip

from orchestrator.plan import PlanError
from orchestrator.store import Store
from orchestrator.tracking import following
from orchestrator.tracking.points import StageAt


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Mapping[str, Path]:
    return shards_of(tmp_path_factory.getbasetemp())


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[None]:
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = (folder / "server.log").open("wb")
    server = subprocess.Popen(
        command, cwd=folder, stdout=log, stderr=log, env=os.environ | quiet, start_new_session=True
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        yield
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
        log.close()


def wait_for(address: str, server: subprocess.Popen) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5)
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"{address} does not answer")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_that_was_down_gets_everything_from_the_next_launch(shards, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    port, stages = free_port(), stages_in(tmp_path, shards)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://reader:s3cr%25t@127.0.0.1:{port}")
    with tracking(tmp_path, shards, ("mlflow",)) as said:
        train(tmp_path, shards)
    assert all(at.folder.joinpath("record.json").exists() for at in stages)
    assert len(said) == 2 and "training goes on" in said[0] and "run again" in said[1]
    assert not [line for line in said if "s3cr" in line or "reader" in line]
    with mlflow_server(tmp_path, port):
        with tracking(tmp_path, shards, ("mlflow",)) as said:
            train(tmp_path, shards)
        assert said == []
        client = MlflowClient(tracking_uri=f"http://127.0.0.1:{port}")
        assert_mirrored(client, stages)
        assert [run.info.status for run in runs_of(client, "stage") + runs_of(client, "recipe")] == ["FINISHED"] * 4
        run = runs_of(client, "stage")[2]
        saved = client.download_artifacts(run.info.run_id, "record.json", str(tmp_path))
        assert Path(saved).read_bytes() == (stages[2].folder / "record.json").read_bytes()
        tags = repr([run.data.tags for run in runs_of(client, "stage") + runs_of(client, "recipe")])
        assert "s3cr" not in tags
    assert not (tmp_path / "mlflow.db").exists()
    assert not [path for path in tmp_path.rglob("tracked.json") if "s3cr" in path.read_text()]


def test_credentials_are_shown_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ann:p%40ss@db.example/runs?sslpassword=hush")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    at = StageAt(0, a_stage(), tmp_path / "runs" / "small" / "only-0123456789ab")
    with following(small_recipe(), Store(tmp_path), [at], ("mlflow",), say=print) as tracking:
        [where], [sink] = tracking.where, tracking.sinks
        told = sink.mask(
            "no answer from postgresql://ann:p%40ss@db.example, password p@ss, hush, ?sslpassword=hush t0ken"
        )
    assert where == "mlflow ui --backend-store-uri postgresql://***@db.example/runs?***"
    assert told == "no answer from postgresql://***@db.example, password ***, ***, ?*** ***"


def test_credentials_in_other_addresses_are_masked_too(tmp_path):
    at = StageAt(0, a_stage(), tmp_path / "runs" / "small" / "only-0123456789ab")
    with following(small_recipe(), Store(tmp_path), [at], ("mlflow",), say=print) as tracking:
        [sink] = tracking.sinks
    assert sink.mask("cannot write to s3://key:secret@bucket/a") == "cannot write to s3://***@bucket/a"


def test_an_address_that_is_none_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://[half")
    at = StageAt(0, a_stage(), tmp_path / "runs" / "small" / "only-0123456789ab")
    with (
        pytest.raises(PlanError, match="MLFLOW_TRACKING_URI is not an address"),
        following(small_recipe(), Store(tmp_path), [at], ("mlflow",), say=print),
    ):
        pass
