"""Sweeps on a real Ray: trials that end in every way, processes used again, killed ones begun again, winners."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest

from orchestrator.adoption import with_adopted
from orchestrator.execution import Execution
from orchestrator.identity import fingerprint
from orchestrator.plan import Asha, Search
from orchestrator.store import Store
from orchestrator.sweep import STOP, Places, adopt_winner, run_sweep
from orchestrator.sweep.board import Board
from orchestrator.sweep.checks import check_space
from tests.orchestrator.small_sweep import a_recipe, a_space, a_sweep, with_parent

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_of_two_cpus")]
ONE = Execution(workers=1, threads=1)
FROM_HERE = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store in which all stages before the swept one are trained, and the shards there."""
    store = tmp_path_factory.mktemp("store")
    return store, with_parent(a_recipe(), store)


def run(sweep, *, resume=False, execution=ONE, begun=lambda trial: None, limit=0, budget_s=0.0):
    """The board after a sweep, what was said, and whether it came to its end."""
    board, said = sweep.board(resume=resume), []
    over = run_sweep(
        sweep, board, execution, Places(limit=limit), budget_s=budget_s, say=said.append, begun=begun
    )  # fmt: skip
    return board, said, over


def wild(trial: optuna.Trial) -> None:
    """Rates from sound ones to such that no update is finite."""
    trial.suggest_float("stages.finetune.optim.lr", 5e-5, 1e30, log=True)


def test_trials_end_in_three_ways_start_from_the_parent_and_the_winner_becomes_the_stage(trained):
    store, shards = trained
    recipe = a_recipe(**{"stages.finetune.nonfinite_limit": 0})
    search = Search(space="made", trials=7, sampler="random", prune=Asha(first=1, factor=2))
    sweep = a_sweep(store, shards, recipe, trials=7, space=a_space(wild), search=search, name="ends")
    board, said, over = run(sweep)
    rows = board.rows()
    assert over and [row.number for row in rows] == list(range(7)) and {"finished", "failed"} <= {
        row.outcome for row in rows
    }  # fmt: skip
    failed = [row for row in rows if row.outcome == "failed"]
    assert all("not finite" in row.reason or "preflight" in row.reason for row in failed), failed
    assert sum("failed" in line for line in said) == len(failed)
    parent = fingerprint(recipe, recipe.stage("finetune_frozen"), sweep.contents)
    for row in rows:
        folder = sweep.folder / row.folder
        if row.outcome != "finished":
            assert not (folder / "record.json").exists()
            continue
        record = Store(store).read(folder)
        assert (record.parent, record.trial["number"], record.fingerprint) == (parent, row.number, row.fingerprint)
        assert record.metrics["worn/cer"] == row.values["worn/cer"] and record.before  # measured before the first step
    best = min((row.values["worn/cer"], row.number) for row in rows if row.outcome == "finished")
    adopted = adopt_winner(sweep, board)
    assert (adopted.metrics["worn/cer"], adopted.trial) == best
    changed, found = with_adopted(recipe, Store(store), sweep.contents)
    home = Store(store).folder("small", "finetune", fingerprint(changed, changed.stage("finetune"), sweep.contents))
    assert found["finetune"] == adopted and Store(store).read(home).trial["sweep"] == "ends"


def test_processes_are_used_again_and_a_second_sweep_does_not_touch_the_first(trained):
    store, shards = trained
    pids: dict[str, dict[int, int]] = {}
    for name in ("one", "two"):
        sweep = a_sweep(store, shards, a_recipe(), trials=3, name=name)
        board, _, over = run(sweep, limit=1)
        assert over and board.counts() == {"finished": 3, "pruned": 0, "failed": 0, "interrupted": 0}
        made = sorted(path for path in sweep.folder.iterdir() if path.name.startswith("trial"))
        pids[name] = {number: int((path / ".lock").read_text()) for number, path in enumerate(made)}
        assert len(set(pids[name].values())) == 1  # one process made them all
        assert len({row.fingerprint for row in board.rows()}) == 3
    assert set(pids["one"].values()).isdisjoint(pids["two"].values())
    first = a_sweep(store, shards, a_recipe(), trials=3, name="one").board(resume=True)
    assert first.exhausted and first.study.study_name == "one"


def test_a_trial_whose_process_is_killed_goes_on_from_its_checkpoint_and_comes_to_the_same_bits(trained):
    store, shards = trained
    undisturbed, _, _ = run(a_sweep(store, shards, a_recipe(), trials=1, name="calm"))
    sweep = a_sweep(store, shards, a_recipe(), trials=1, name="killed")
    killed = []

    def kill_after_its_first_epoch(trial):
        def kill():
            folder = sweep.folder / trial.folder
            while not list(folder.glob("checkpoints/step-*[1-9]")):
                time.sleep(0.01)
            killed.append(int((folder / ".lock").read_text()))
            os.kill(killed[0], signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()

    board, _, over = run(sweep, begun=kill_after_its_first_epoch)
    assert over and len(killed) == 1
    lines = []
    for of, where in ((undisturbed, "calm"), (board, "killed")):
        (row,) = of.rows()
        assert row.outcome == "finished"
        lines.append((Path(store) / "sweeps" / where / row.folder / "metrics.jsonl").read_bytes())
    assert lines[0] == lines[1]


def test_a_sweep_whose_driver_is_killed_repeats_no_finished_trial_and_goes_on_with_the_others(trained, tmp_path):
    store, shards = trained
    place = {"store": str(store), "shards": {name: str(path) for name, path in shards.items()}}
    log = (tmp_path / "said").open("w")
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.orchestrator.test_sweep", json.dumps(place)], cwd=FROM_HERE, stdout=log,
        stderr=log, env=os.environ | {"PYTHONPATH": str(FROM_HERE)}, start_new_session=True,
    )  # fmt: skip
    said = tmp_path / "said"
    while driver.poll() is None and said.read_text().count("Trial") < 2:
        time.sleep(0.05)
    assert driver.poll() is None, said.read_text()
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    sweep = a_sweep(store, shards, a_recipe(), trials=4, name="driver")
    before = sweep.board(resume=True).rows()
    done = {row.number: (sweep.folder / row.folder / "record.json").stat().st_mtime_ns
            for row in before if row.outcome == "finished"}  # fmt: skip
    board, _, over = run(sweep, resume=True)
    assert over and len(done) >= 2 and board.counts()["finished"] == 4
    for number, written in done.items():
        assert (sweep.folder / board.rows()[number].folder / "record.json").stat().st_mtime_ns == written
    assert [row.number for row in board.rows()] == list(range(4))


def test_the_time_is_up_and_what_is_under_way_is_continued(trained):
    store, shards = trained
    recipe = a_recipe(**{"stages.finetune.epochs": 60})
    sweep = a_sweep(store, shards, recipe, trials=2, name="late")

    def time_is_up_in_its_first_epochs(trial):
        def stop():
            while not list((sweep.folder / trial.folder).glob("checkpoints/step-*[1-9]")):
                time.sleep(0.01)
            (sweep.folder / STOP).touch()  # as the timer of a budget does

        threading.Thread(target=stop, daemon=True).start()

    board, _, over = run(sweep, begun=time_is_up_in_its_first_epochs, limit=1)
    assert not over and board.counts() == {"finished": 0, "pruned": 0, "failed": 0, "interrupted": 1}
    (row,) = board.rows()
    assert list((sweep.folder / row.folder / "checkpoints").glob("step-*[1-9]")) and not (sweep.folder / STOP).exists()
    assert not sweep.board(resume=True).exhausted


def test_a_budget_of_seconds_ends_a_sweep(trained):
    store, shards = trained
    sweep = a_sweep(store, shards, a_recipe(**{"stages.finetune.epochs": 5000}), trials=1, name="budget")
    board, _, over = run(sweep, budget_s=1.0)
    assert not over and board.counts()["interrupted"] == 1


def test_a_trial_of_two_workers_pauses_to_be_compared_and_its_result_is_one_workers(trained):
    store, shards = trained
    search = Search(space="made", trials=1, prune=Asha(first=1, factor=9))
    alone, _, _ = run(a_sweep(store, shards, a_recipe(), trials=1, search=search, name="alone"))
    two_workers = Execution(workers=2, threads=1)
    sweep = a_sweep(store, shards, a_recipe(), trials=1, search=search, name="pair")
    pair, said, over = run(sweep, execution=two_workers)
    assert over and "up to 1 trials at once, each with 2 workers of 1 CPU" in said[0]
    (one,), (two,) = alone.rows(), pair.rows()
    assert (two.outcome, two.epochs) == ("finished", 3), two
    assert two.fingerprint == one.fingerprint
    assert set(two.reached) == {1, 2, 3} and two.reached == pytest.approx(one.reached, abs=0.05)


def test_the_space_is_tried_at_its_ends_on_a_real_batch(trained):
    store, shards = trained
    sweep, said = a_sweep(store, shards, a_recipe(), trials=1, name="looked"), []
    sweep.folder.mkdir(parents=True)
    check_space(sweep, ONE, said.append)
    assert said == ["made: 1 settings, legal and with gradient at 2 ends; 64 of 64 draws legal"]


def drive(store: str, shards: dict[str, str]) -> None:
    """What the killed driver does: a sweep of four trials, one after another."""
    sweep = a_sweep(
        Path(store), {name: Path(path) for name, path in shards.items()}, a_recipe(), trials=5, name="driver"
    )
    board: Board = sweep.board(resume=False)
    run_sweep(sweep, board, ONE, Places(limit=1), budget_s=0.0, say=lambda line: print(line, flush=True),
              begun=lambda trial: None)  # fmt: skip


if __name__ == "__main__":
    drive(**json.loads(sys.argv[1]))
