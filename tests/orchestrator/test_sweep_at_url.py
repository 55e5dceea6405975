"""A sweep in a store at a URL, its trials on another node than the process that launched it."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace

import optuna
import pytest
from s3_server import BUCKET, CREDENTIALS, Faults, proxy, s3_server

from orchestrator.adoption import with_adopted
from orchestrator.execution import Execution
from orchestrator.identity import fingerprint
from orchestrator.journal import lines
from orchestrator.live import RunFailed
from orchestrator.machine import Machine
from orchestrator.pipeline import train_recipe
from orchestrator.plan import Asha, PlanError, Search
from orchestrator.ranks import Ranks
from orchestrator.remote import Remote
from orchestrator.sweep import STOP, Places, adopt_winner, forget_pruned, run_sweep, sweep_of
from orchestrator.sweep.about import sweeps_in, write_about
from orchestrator.sweep.board import Row
from orchestrator.sweep.shared import COPY, bring_trial, shared
from orchestrator.working_copy import store_at
from tests.orchestrator.small import Quiet, shards_of
from tests.orchestrator.small_sweep import HERE, a_recipe, a_space

PLACE = f"s3://{BUCKET}/team/swept"
ONE = Execution(workers=1, threads=1)


def rates(trial: optuna.Trial) -> None:
    trial.suggest_float("stages.finetune.optim.lr", 1e-5, 1e-1, log=True)


@pytest.fixture(scope="module")
def server():
    with s3_server() as address:
        yield address


@pytest.fixture
def on_node(server, tmp_path, monkeypatch):
    """Make this process one on the named node, with a cache of its own."""
    with proxy(server, Faults()) as address:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(name, value)
        remote = Remote(f"s3://{BUCKET}")
        remote.delete(list(remote.list()))
        yield lambda name: monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path / name))


def a_sweep(store, *, trials: int, prune=None, **changes):
    """The sweep, its shards and the stages before it in the store."""
    recipe = a_recipe(**changes)
    shards = shards_of(recipe, store.root)
    for folder in shards.values():
        store.origin.publish_shards(folder)
    machine = Machine.of(HERE, Ranks())
    names = [stage.name for stage in recipe.stages[:-1]]
    assert train_recipe(recipe, store, shards, HERE, machine=machine, watch=Quiet(), only=names)
    search = Search(space="made", trials=trials, sampler="random", prune=prune)
    return sweep_of(recipe, a_space(rates), search, store, shards)


def seen_from_here(sweep):
    """The same sweep on the node that this process is on now."""
    store = store_at(PLACE)
    folder = store.root / "sweeps" / sweep.name
    shards = {name: store.root / path.relative_to(sweep.store.root) for name, path in sweep.shards.items()}
    return replace(sweep, store=store, folder=folder, shards=shards, url=f"sqlite:///{folder}/study.db")


@pytest.fixture
def own_ray():
    """No Ray before and after; the one that other tests share is back then."""
    import ray

    from orchestrator.cluster import start_ray

    shared_one = ray.is_initialized()
    ray.shutdown()
    yield lambda: start_ray(2)
    ray.shutdown()
    if shared_one:
        start_ray(2)


@pytest.fixture
def workers_elsewhere(own_ray, on_node):
    """A Ray whose processes are on a node called ``workers``, while this one is on ``driver``."""
    on_node("workers")
    own_ray()
    on_node("driver")


@pytest.mark.ray
def test_trials_on_another_node_come_to_a_winner_that_a_third_one_adopts(workers_elsewhere, on_node, tmp_path):
    sweep = a_sweep(store_at(PLACE), trials=3, prune=Asha(first=1, factor=3))
    said: list[str] = []
    board = sweep.board(resume=False)
    assert run_sweep(sweep, board, ONE, Places(), budget_s=0.0, say=said.append, begun=lambda trial: None)
    rows = board.rows()
    assert len(rows) == 3 and {row.outcome for row in rows} <= {"finished", "pruned"}, said
    assert os.listdir(tmp_path / "workers" / "stores") == os.listdir(tmp_path / "driver" / "stores")
    assert not list(sweep.folder.glob("trial*/checkpoints/step-*"))  # none of it was trained here

    on_node("third")
    again = seen_from_here(sweep)
    known = again.board(resume=True)
    assert [row.values for row in known.rows()] == [row.values for row in rows] and known.exhausted
    adopted = adopt_winner(again, known)
    assert adopted.metrics == min(
        (row.values for row in rows if row.outcome == "finished"), key=lambda v: v["worn/cer"]
    )

    on_node("fourth")
    write_about(again)  # as the command does before the first trial
    [(about, counts, winner)] = sweeps_in(store_at(PLACE))
    assert (about.sweep, winner.number) == (sweep.name, adopted.trial) and sum(counts.values()) == 3
    store, recipe = store_at(PLACE), sweep.recipe
    changed, found = with_adopted(recipe, store, sweep.contents)
    assert found["finetune"] == adopted
    home = store.folder(recipe.name, "finetune", fingerprint(changed, changed.stage("finetune"), sweep.contents))
    record = store.find(home)
    store.origin.fetch_stage(home, checkpoints=None)
    assert (
        record.metrics["worn/cer"] == adopted.metrics["worn/cer"]
        and (home / record.checkpoint / "manifest.json").exists()
    )
    there = Remote(PLACE).list()
    pruned = [row.folder for row in rows if row.outcome == "pruned"]
    assert not [name for name in there if "/stop" in name]
    assert not [name for name in there if "/.lease/" in name and not any(folder in name for folder in pruned)]
    assert not [name for name in there if any(f"{folder}/checkpoints" in name for folder in pruned)]


@pytest.mark.ray
def test_a_stop_reaches_trials_on_another_node_and_a_third_one_goes_on_with_them(workers_elsewhere, on_node):
    sweep = a_sweep(store_at(PLACE), trials=1, **{"stages.finetune.epochs": 10})

    def time_is_up_in_its_first_epochs(trial):
        def stop():
            remote, folder = Remote(PLACE), f"sweeps/{sweep.name}/{trial.folder}/checkpoints"
            while not [
                name for name in remote.list(folder) if name.endswith("manifest.json") and "-00000000" not in name
            ]:
                time.sleep(0.05)
            (sweep.folder / STOP).touch()  # as the timer of a budget does

        threading.Thread(target=stop, daemon=True).start()

    board = sweep.board(resume=False)
    run = {"budget_s": 0.0, "say": lambda line: None}
    assert not run_sweep(sweep, board, ONE, Places(), begun=time_is_up_in_its_first_epochs, **run)
    assert board.counts()["interrupted"] == 1

    on_node("third")
    again = seen_from_here(sweep)
    known = again.board(resume=True)
    assert run_sweep(again, known, ONE, Places(), begun=lambda trial: None, **run)
    (row,) = known.rows()
    assert row.outcome == "finished" and bring_trial(again.store, again.folder / row.folder)
    resumed = lines(again.folder / row.folder / "speed.jsonl", "resumed")
    assert len(resumed) == 1 and resumed[0]["step"] > 0


def test_what_is_published_of_a_sweep_is_its_study_and_the_wish_to_stop(on_node):
    on_node("driver")
    store = store_at(PLACE)
    folder = store.root / "sweeps" / "made"
    folder.mkdir(parents=True)
    study, stop, sign = folder / "study.db", folder / "stop", folder / "stop-1"
    optuna.create_study(storage=f"sqlite:///{study}", study_name="made")
    with shared(store, folder, study, stop=stop, sign=sign):
        on_node("other")
        other = store_at(PLACE)
        with (
            pytest.raises(RunFailed, match=r"made: process \d+ on .* makes its trials; wait for it"),
            shared(other, other.root / "sweeps" / "made", None, stop=stop, sign=sign),
        ):
            pass
        stop.touch()
        trial = other.root / "sweeps" / "made" / "trial0000-a"
        Remote(PLACE).put("sweeps/made/trial0000-a/metrics.jsonl", b"{}\n")
        Remote(PLACE).put("sweeps/made/trial0000-a/.lease/x.claim", b"{}")
        assert not bring_trial(other, trial) and not trial.exists()
        Remote(PLACE).delete(["sweeps/made/trial0000-a/.lease/x.claim"])
        assert bring_trial(other, trial) and (trial / "metrics.jsonl").read_bytes() == b"{}\n"
    names = set(Remote(PLACE).list("sweeps/made"))
    assert COPY in names and not [name for name in names if name.startswith(("stop", ".lease"))] and not sign.exists()


def test_checkpoints_of_pruned_trials_are_deleted_where_their_processes_did_not_come_to_it(on_node):
    on_node("driver")
    store = store_at(PLACE)
    for name in ("trial0000-a", "trial0001-b"):
        (store.root / "sweeps" / "made" / name / "checkpoints").mkdir(parents=True)
        Remote(PLACE).put(f"sweeps/made/{name}/checkpoints/step-00000004/manifest.json", b"{}")
        Remote(PLACE).put(f"sweeps/made/{name}/metrics.jsonl", b"{}\n")
    rows = [
        Row(number=number, outcome=outcome, params={}, values={}, changes={}, folder=folder)
        for number, outcome, folder in ((0, "pruned", "trial0000-a"), (1, "finished", "trial0001-b"))
    ]
    folder = store.root / "sweeps" / "made"
    forget_pruned(store, folder, rows)
    assert [path.parent.name for path in folder.glob("*/checkpoints")] == ["trial0001-b"]
    assert set(Remote(PLACE).list("sweeps/made")) == {
        "trial0000-a/metrics.jsonl", "trial0001-b/metrics.jsonl", "trial0001-b/checkpoints/step-00000004/manifest.json"
    }  # fmt: skip


@pytest.mark.ray
@pytest.mark.usefixtures("ray_of_two_cpus")
def test_trials_of_several_workers_want_a_folder(on_node):
    on_node("driver")
    sweep = a_sweep(store_at(PLACE), trials=1)
    with pytest.raises(PlanError, match=r"--workers-per-trial 2: the workers of a trial tell each other.*--store DIR"):
        run_sweep(
            sweep, sweep.board(resume=False), Execution(workers=2, threads=1), Places(), budget_s=0.0, say=print,
            begun=lambda trial: None,
        )  # fmt: skip
