"""Trackers of a sweep: one run for each trial, under the sweep, under the stage, ended as the study says."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from small_sweep import a_recipe, a_space, a_sweep, rate_and_schedule, with_parent
from sweeps_made_up import EPOCHS, begin, end, made_sweep, measure, sweep_in
from tracked_stores import client_of, history, runs_of, scalars_of

from orchestrator.commands_sweep import _swept
from orchestrator.execution import Execution
from orchestrator.identity import plain
from orchestrator.sweep import Places, Sweep
from orchestrator.sweep.about import write_about
from orchestrator.sweep.board import Board, Facts
from orchestrator.sweep.followed import Following, following_trials
from orchestrator.sweep.tuning import UnderWay
from orchestrator.tracking import thread
from orchestrator.tracking.points import flat

BOTH = ("mlflow", "tensorboard")


@pytest.fixture(autouse=True)
def _no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def new_database(tmp_path_factory) -> Path:
    """What MLflow takes seconds to make."""
    root = tmp_path_factory.mktemp("database")
    client_of(root).search_experiments()
    return root / "mlflow.db"


@pytest.fixture
def root(tmp_path, new_database) -> Path:
    shutil.copy(new_database, tmp_path)
    return tmp_path


@contextmanager
def followed(sweep: Sweep, board: Board, sinks=BOTH, said: list[str] | None = None) -> Iterator[Following]:
    say = [].append if said is None else said.append
    with following_trials(sweep, board, write_about(sweep), sinks, say=say) as following:
        yield following


def under_way(sweep: Sweep, proposal) -> UnderWay:
    planned = sweep.planned(proposal)
    return UnderWay(proposal.number, planned.fingerprint, planned.folder.name, EPOCHS, [], 0.0)


def trial_runs(client) -> list:
    return sorted(runs_of(client, "trial"), key=lambda run: int(run.data.tags["plumbline.trial"]))


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, new_database) -> tuple[Sweep, Board]:
    root = tmp_path_factory.mktemp("tracked")
    shutil.copy(new_database, root)
    sweep, board = made_sweep(root, trials=5)
    with followed(sweep, board) as following:
        (sweep.folder / "report.html").write_text("<p>all of it</p>")
        following.over = True
    return sweep, board


def test_trials_lie_under_the_sweep_the_sweep_under_the_stage_the_stage_under_the_recipe(tracked):
    client = client_of(tracked[0].store.root)
    [recipe], [stage], [sweep] = (runs_of(client, kind) for kind in ("recipe", "stage", "sweep"))
    above = {run.info.run_name: run.data.tags["mlflow.parentRunId"] for run in (stage, sweep, *trial_runs(client))}
    expected = {f"trial{number:04d}": sweep.info.run_id for number in range(5)}
    expected |= {tracked[0].name: stage.info.run_id, "stage2_finetune": recipe.info.run_id}
    assert above == expected
    assert [run.info.status for run in (recipe, stage, sweep)] == ["FINISHED"] * 3
    assert stage.data.tags["plumbline.fingerprint"] == tracked[0].folder.name.removeprefix("tried-")


def test_finished_pruned_and_failed_trials_are_ended_as_such_with_the_reason(tracked):
    found = [
        (run.info.status, run.data.tags["plumbline.outcome"], run.data.tags.get("plumbline.reason"))
        for run in trial_runs(client_of(tracked[0].store.root))
    ]
    assert found == [
        ("FINISHED", "finished", None), ("FINISHED", "finished", None),
        ("KILLED", "pruned", "worse than others after epoch 2"),
        ("FAILED", "failed", "ValueError: <b>no</b> & [never](x)"), ("FINISHED", "finished", None),
    ]  # fmt: skip


def test_params_of_a_trial_are_what_it_changes_and_the_whole_stage(tracked):
    sweep, board = tracked
    for run, row in zip(trial_runs(client_of(sweep.store.root)), board.rows(), strict=True):
        stage = sweep.planned(row).stage
        changes = {name: text for path, value in row.changes.items() for name, text in flat(value, path).items()}
        assert run.data.params == flat(plain(stage)) | changes
    assert run.data.params["stages.finetune.optim.lr"] == run.data.params["optim.lr"]


def test_the_sweeps_run_has_space_sampler_best_value_counts_and_report(tracked, tmp_path):
    client = client_of(tracked[0].store.root)
    [run] = runs_of(client, "sweep")
    assert run.data.params["space.stages.finetune.optim.lr"] == "1e-05 to 0.01, logarithmic"
    assert run.data.params["space.stages.finetune.schedule"] == "Constant, Cosine"
    assert (run.data.params["search.sampler"], run.data.params["search.prune.factor"]) == ("random", "2")
    assert history(client, run, "best/worn/cer") == [(5, 0.1)]
    assert {name: run.data.metrics[f"trials/{name}"] for name in ("finished", "pruned", "failed")} == {
        "finished": 3.0, "pruned": 1.0, "failed": 1.0,
    }  # fmt: skip
    saved = client.download_artifacts(run.info.run_id, "report.html", str(tmp_path))
    assert Path(saved).read_text() == "<p>all of it</p>"
    assert {each.path for each in client.list_artifacts(run.info.run_id)} == {"report.html", "sweep.json"}


def test_each_trial_has_curves_of_its_own_under_the_stages_names(tracked):
    sweep, board = tracked
    root = sweep.store.root / "tensorboard" / "small" / sweep.name
    assert sorted(path.name for path in root.iterdir()) == [f"trial{number:04d}" for number in (0, 1, 2, 4)]
    for row in board.rows():
        if row.reached:
            expected = [(4 * epoch, pytest.approx(value, rel=1e-6)) for epoch, value in row.reached.items()]
            assert scalars_of(root / f"trial{row.number:04d}")["stage2_finetune/val_worn/cer"] == expected


def test_following_again_sends_nothing_twice(tracked):
    sweep, _ = tracked
    client, curve = client_of(sweep.store.root), "val/worn/cer"
    before = {run.info.run_id: history(client, run, curve) for run in trial_runs(client)}
    said: list[str] = []
    with followed(sweep, sweep.board(resume=True), said=said) as following:
        following.over = True
    assert said == [] and {run.info.run_id: history(client, run, curve) for run in trial_runs(client)} == before
    assert len(before) == 5 and len(runs_of(client, "sweep")) == 1
    assert history(client, runs_of(client, "sweep")[0], "best/worn/cer") == [(5, 0.1)]


def test_an_interrupted_trial_is_killed_and_reopened_by_the_launch_that_goes_on_with_it(root):
    sweep = sweep_in(root)
    board = sweep.board(resume=False)
    with followed(sweep, board) as following:
        proposal = begin(sweep, board)
        following.begun(under_way(sweep, proposal))
        measure(sweep, board, proposal, [0.5, 0.4])
    client = client_of(root)
    [run] = trial_runs(client)
    assert (run.info.status, run.data.tags["plumbline.outcome"]) == ("KILLED", "interrupted")
    assert [run.info.status for kind in ("recipe", "stage", "sweep") for run in runs_of(client, kind)] == ["KILLED"] * 3
    assert history(client, run, "val/worn/cer") == [(1, 0.5), (2, 0.4)]
    board = sweep.board(resume=True)
    with followed(sweep, board) as following:
        again = begin(sweep, board)
        assert again.number == proposal.number
        following.begun(under_way(sweep, again))
        measure(sweep, board, again, [0.3], first=3)
        end(sweep, board, again, "finished", {"worn/cer": 0.3})
    [after] = trial_runs(client)
    assert after.info.run_id == run.info.run_id
    assert (after.info.status, after.data.tags["plumbline.outcome"]) == ("FINISHED", "finished")
    assert history(client, after, "val/worn/cer") == [(1, 0.5), (2, 0.4), (3, 0.3)]


def test_a_trial_ends_while_the_sweep_goes_on_once_its_process_has_left(root, monkeypatch):
    monkeypatch.setattr(thread, "POLL_S", 0.05)
    sweep = sweep_in(root)
    board = sweep.board(resume=False)

    def outcomes() -> list[str | None]:
        return [run.data.tags.get("plumbline.outcome") for run in trial_runs(client_of(root))]

    def wait_for(wanted: list[str | None]) -> None:
        ends = time.monotonic() + 60
        there = client_of(root).get_experiment_by_name
        while time.monotonic() < ends and (there(sweep.recipe.name) is None or outcomes() != wanted):
            time.sleep(0.1)
        assert outcomes() == wanted

    with followed(sweep, board, ("mlflow",)) as following:
        proposal = begin(sweep, board)
        folder = sweep.planned(proposal).folder
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            following.begun(under_way(sweep, proposal))
            measure(sweep, board, proposal, [0.5])
            end(sweep, board, proposal, "pruned", {}, epochs=1, reason="worse")
            wait_for([None])
            measure(sweep, board, proposal, [0.4], first=2, told=False)  # written while it unwinds
        wait_for(["pruned"])
        [run] = trial_runs(client_of(root))
        assert history(client_of(root), run, "val/worn/cer") == [(1, 0.5), (2, 0.4)]


def test_a_trial_whose_settings_do_not_go_together_has_a_run_that_says_why(root):
    sweep = sweep_in(root)
    board = sweep.board(resume=False)
    proposal = board.next()
    board.note(proposal.number, {"stages.finetune.nothing": 1}, Facts())
    board.end(proposal.number, "failed", {}, Facts(reason="there is no such setting"))
    with followed(sweep, board):
        pass
    [run] = trial_runs(client_of(root))
    assert (run.info.status, run.data.tags["plumbline.reason"]) == ("FAILED", "there is no such setting")
    assert run.data.params["stages.finetune.nothing"] == "1"


def test_a_tracker_that_is_down_stops_no_sweep_and_another_gets_everything_later(root, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://reader:s3cret@127.0.0.1:9")
    said: list[str] = []
    sweep = sweep_in(root)
    board = sweep.board(resume=False)
    with followed(sweep, board, said=said) as following:
        proposal = begin(sweep, board)
        following.begun(under_way(sweep, proposal))
        measure(sweep, board, proposal, [0.5])
        end(sweep, board, proposal, "finished", {"worn/cer": 0.5})
    assert board.counts()["finished"] == 1
    assert len(said) == 2 and "training goes on" in said[0] and "s3cret" not in "".join(said)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with followed(sweep, sweep.board(resume=True)):
        pass
    [run] = trial_runs(client_of(root))
    assert run.info.status == "FINISHED" and history(client_of(root), run, "val/worn/cer") == [(1, 0.5)]


@pytest.mark.ray
def test_a_sweep_leaves_a_report_and_runs(root, ray_of_two_cpus):
    recipe = a_recipe()
    shards = with_parent(recipe, root)
    sweep = a_sweep(root, shards, recipe, trials=3, space=a_space(rate_and_schedule))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code, adopted = _swept(sweep, Execution(workers=1, device="cpu"), Places(), trackers=",".join(BOTH),
                               report=True, resume=False, budget_s=0.0, adopt=True)  # fmt: skip
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert code == 0 and adopted is not None
    client, rows = client_of(root), sweep.board(resume=True).rows()
    assert [run.data.tags["plumbline.outcome"] for run in trial_runs(client)] == [row.outcome for row in rows]
    for run, row in zip(trial_runs(client), rows, strict=True):
        seen = dict(history(client, run, "val/worn/cer"))
        assert row.reached and {epoch: seen[epoch] for epoch in row.reached} == row.reached
    [run] = runs_of(client, "sweep")
    assert {each.path for each in client.list_artifacts(run.info.run_id)} == {"report.html", "report.md", "sweep.json"}
    assert json.loads((sweep.folder / "sweep.json").read_text())["parent"]["stage"] == "finetune_frozen"
