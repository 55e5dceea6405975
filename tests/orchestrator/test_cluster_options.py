"""Where Ray is, how many workers, and what a submitted job must not do: mistakes are told before anything starts."""

from __future__ import annotations

import json

import pytest

from orchestrator.cluster import SUBMITTED, start_ray, submission_id, use_address
from orchestrator.execution import Execution, check_workers, spelled
from orchestrator.live import RunFailed
from orchestrator.options import execution_of, store_of
from orchestrator.plan import PlanError
from orchestrator.run import main, parser


def execution(*words: str) -> Execution:
    return execution_of(parser().parse_args(["train", "demo", *words]))


@pytest.mark.parametrize(
    ("words", "fewest", "most"), [((), 1, 1), (("--workers", "4"), 4, 4), (("--workers", "2:4"), 2, 4)]
)
def test_workers_are_a_number_or_the_fewest_and_the_most(words, fewest, most):
    found = execution(*words)
    assert (found.fewest, found.workers) == (fewest, most)


def test_the_number_of_workers_is_said_as_it_was_asked_for():
    assert [spelled(execution("--workers", each)) for each in ("0", "3", "2:4")] == ["0", "3", "2:4"]


def test_more_at_least_than_at_most_is_a_mistake(capsys):
    assert main(["train", "demo", "--workers", "4:2"]) == 2
    assert "--workers 4:2: the fewest come first, as in 2:4" in capsys.readouterr().err


def test_elastic_workers_fit_when_the_fewest_do():
    check_workers(Execution(workers=8, workers_min=2, threads=1, device="cpu"), cpus=2, gpus=0)
    with pytest.raises(PlanError, match=r"--workers 3:8: needs 3 CPUs, the cluster has 2 and what it could start"):
        check_workers(
            Execution(workers=8, workers_min=3, threads=1, device="cpu"), cpus=2, gpus=0,
            coming=" and what it could start",
        )  # fmt: skip
    with pytest.raises(PlanError, match="--device cuda with --workers 2: the cluster has 1 GPUs"):
        check_workers(Execution(workers=2, threads=1, device="cuda"), cpus=8, gpus=1)


@pytest.mark.parametrize(
    ("address", "cure"),
    [("http://127.0.0.1:8265", "ray job submit --address http"), ("ray://head:10001", "submit a job")],
)
def test_an_address_that_trains_nothing_is_a_mistake_with_its_cure(address, cure, capsys):
    assert main(["train", "demo", "--address", address]) == 2
    assert cure in capsys.readouterr().err


def test_an_address_is_the_cluster_of_the_process(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:1")
    use_address("")
    import os

    assert os.environ["RAY_ADDRESS"] == "elsewhere:1"
    use_address("head:6379")
    assert os.environ["RAY_ADDRESS"] == "head:6379"


def test_a_dashboard_is_no_business_of_one_who_joins_a_cluster(monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert main(["train", "demo", "--dashboard"]) == 2
    assert "the cluster that it joins has its own" in capsys.readouterr().err


def test_a_submitted_job_knows_its_id_and_refuses_a_store_that_goes_away_with_it(monkeypatch, tmp_path):
    options = parser().parse_args(["train", "demo", "--store", "mine"])
    unpacked = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    unpacked.mkdir(parents=True)
    monkeypatch.chdir(unpacked)
    assert submission_id() == "" and store_of(options).root == unpacked / "mine"
    monkeypatch.setenv(SUBMITTED, json.dumps({"metadata": {"job_submission_id": "raysubmit_1"}}))
    assert submission_id() == "raysubmit_1"
    with pytest.raises(PlanError, match=r"--store .*mine: that is inside the copy .* give an absolute path"):
        store_of(options)
    options = parser().parse_args(["train", "demo", "--store", str(tmp_path / "mine")])
    assert store_of(options).root == tmp_path / "mine"


def test_a_ray_that_does_not_come_up_is_told_with_its_logs(monkeypatch):
    import ray

    def overloaded(**settings):
        raise Exception("The current node timed out during startup.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", overloaded)
    with pytest.raises(RunFailed, match=r"did not start on this machine: The current node timed out.*logs.*less to do"):
        start_ray()
