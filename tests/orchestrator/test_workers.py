"""Two workers that train together are one worker: the same samples in the same steps, the same result."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from small import Quiet, part_of, small_recipe, some_batch
from torch import distributed
from torch.testing import assert_close

from orchestrator import checkpoint
from orchestrator.execution import Execution
from orchestrator.ingest import ingest, make_here
from orchestrator.journal import lines
from orchestrator.pipeline import Machine, train_recipe
from orchestrator.plan import Recipe
from orchestrator.ranks import Ranks
from orchestrator.store import Store
from orchestrator.update import trainee_of, update

# Sums in another order differ by rounding, and Adam's first steps are as long for a gradient of rounding errors as for
# a real one. Measured here: losses differ by 1e-6, gradient norms by 1e-4, weights by 2e-5 after steps of 1e-4.
DRIFT = 1e-4
SETTINGS = {
    "stages.pretrain.optim.clip_norm": 1.0,
    "stages.pretrain.optim.lr": 1e-4,
    "stages.finetune.augment.noise": 0.05,
}


def recipe() -> Recipe:
    return small_recipe(**SETTINGS)


def shards_in(store: Path) -> dict[str, Path]:
    plan = recipe()
    return {
        name: ingest(
            source, None, name=name, image=plan.image, alphabet=plan.alphabet, frames=plan.task.frames, store=store,
            make=make_here,
        )
        for name, source in plan.sources.items()
    }  # fmt: skip


def train(rank: int, ranks: int, root: Path, shards: dict[str, Path]) -> None:
    torch.set_num_threads(1)
    if ranks > 1:
        distributed.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=ranks)
    machine = Machine.of(Execution(device="cpu"), Ranks.of_process_group())
    assert train_recipe(recipe(), Store(root), shards, Execution(device="cpu"), machine=machine, watch=Quiet())
    if ranks > 1:
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Path, Path]:
    """The stores of one worker and of two that trained the same plan on the same shards."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    shards = shards_in(one)
    mp.spawn(train, args=(1, one, shards), nprocs=1)
    mp.spawn(train, args=(2, two, shards), nprocs=2)
    return one, two


def stage_folders(root: Path) -> dict[str, Path]:
    return {path.name.rpartition("-")[0]: path for path in root.glob("runs/small/*")}


def test_the_number_of_workers_is_no_part_of_a_stages_identity(both):
    one, two = map(stage_folders, both)
    assert {name: path.name for name, path in one.items()} == {name: path.name for name, path in two.items()}


@pytest.mark.parametrize("stage", ["pretrain", "finetune_frozen", "finetune"])
def test_two_workers_take_the_steps_of_one(both, stage):
    one, two = (lines(stage_folders(root)[stage] / "metrics.jsonl") for root in both)
    assert [(row["kind"], row["step"]) for row in one] == [(row["kind"], row["step"]) for row in two]
    steps = [pair for pair in zip(one, two, strict=True) if pair[0]["kind"] == "step"]
    for alone, together in steps:
        assert together["loss/ctc"] == pytest.approx(alone["loss/ctc"], rel=DRIFT)
        assert together["grad_norm"] == pytest.approx(alone["grad_norm"], rel=20 * DRIFT)


@pytest.mark.parametrize("stage", ["pretrain", "finetune_frozen", "finetune"])
def test_two_workers_validate_every_word_once(both, stage):
    one, two = (lines(stage_folders(root)[stage] / "metrics.jsonl", "validation") for root in both)
    for alone, together in zip(one, two, strict=True):
        assert together["rendered/n"] == alone["rendered/n"] == 24
        assert together["rendered/loss"] == pytest.approx(alone["rendered/loss"], rel=DRIFT)
        for name in ("blank_share", "entropy", "distinct"):
            assert together[f"rendered/{name}"] == pytest.approx(alone[f"rendered/{name}"], abs=DRIFT)


def test_two_workers_give_the_optimiser_the_gradient_of_one(tmp_path):
    """Every element of it, in the layout of its kernel: norms alone do not see elements that changed places."""
    for ranks in (1, 2):
        mp.spawn(one_update, args=(ranks, tmp_path / str(ranks)), nprocs=ranks)
    one, two = (load_file(tmp_path / f"{ranks}.safetensors") for ranks in (1, 2))
    assert one.keys() == two.keys() and sum(value.ndim == 4 for value in one.values()) == 14
    for name, value in one.items():
        assert_close(two[name], value, rtol=1e-3, atol=1e-4 * float(value.abs().max()), msg=name)


def one_update(rank: int, ranks: int, place: Path) -> None:
    """Save AdamW's moments after one update on this rank's share of twelve images, kernels channels last."""
    torch.set_num_threads(1)
    if ranks > 1:
        distributed.init_process_group("gloo", init_method=f"file://{place}-meet", rank=rank, world_size=ranks)
    stage = recipe().stages[0]
    torch.manual_seed(0)
    task = recipe().task.build().to(memory_format=torch.channels_last)
    whole = some_batch(12, height=32, width=48)
    trainee = trainee_of(stage, task)
    update(
        trainee, stage, [part_of(whole, slice(rank, None, ranks))], lr=1e-4, forward=task, autocast=nullcontext,
        ranks=Ranks.of_process_group(),
    )  # fmt: skip
    if rank == 0:
        moments = checkpoint.optimizer_tensors(trainee.optimizer, trainee.names)
        save_file({name: value.contiguous() for name, value in moments.items()}, f"{place}.safetensors")
    if ranks > 1:
        distributed.destroy_process_group()


def test_two_workers_end_with_the_weights_of_one(both):
    ends = []
    for root in both:
        folder = stage_folders(root)["pretrain"]
        last = json.loads((folder / "record.json").read_text())["last"]
        ends.append(checkpoint.read(folder / last).tensors)
    for file in ("weights.cnn", "weights.rnn"):
        for name, value in ends[0][file].items():
            assert_close(ends[1][file][name], value, rtol=DRIFT, atol=1e-4, msg=f"{file} {name}")


@pytest.mark.ray
def test_two_ray_workers_train_to_a_record(both, tmp_path, ray_of_two_cpus):
    from orchestrator.worker import new_live_folder, train_on_ray

    store = Store(tmp_path)
    execution = Execution(workers=2, threads=1, device="cpu")
    live = new_live_folder(store)
    assert train_on_ray(recipe(), store, shards_in(both[0]), execution, live=live, only=["pretrain"])
    [folder] = tmp_path.glob("runs/small/pretrain-*")
    one = lines(stage_folders(both[0])["pretrain"] / "metrics.jsonl", "epoch")
    two = lines(folder / "metrics.jsonl", "epoch")
    assert [row["loss/ctc"] for row in two] == pytest.approx([row["loss/ctc"] for row in one], rel=DRIFT)
    assert os.path.exists(folder / "record.json")


@pytest.mark.ray
def test_a_worker_that_is_told_to_go_and_one_that_hangs_cost_no_line_and_no_bit(both, tmp_path, ray_of_two_cpus):
    """SIGTERM to one of two ranks, as before its node is taken away; then one that stands still."""
    from orchestrator.live import LiveFolder
    from orchestrator.worker import new_live_folder, train_on_ray

    store = Store(tmp_path)
    live = new_live_folder(store)
    execution = Execution(workers=2, threads=1, device="cpu", timeout_s=6, checkpoint_every_s=0)
    launch = partial(train_on_ray, recipe(), store, shards_in(both[0]), execution, live=live, only=["pretrain"])
    with ThreadPoolExecutor() as pool:
        done = pool.submit(launch)
        first = ranks_once(live, done, lambda step: step >= 2)
        os.kill(first[1]["pid"], signal.SIGTERM)
        second = ranks_once(live, done, lambda step: step >= 8, but=first)
        os.kill(second[1]["pid"], signal.SIGSTOP)
        assert done.result(timeout=180)
    said = [row["says"] for row in map(json.loads, (live / "events.jsonl").read_text().splitlines()) if "says" in row]
    assert sum(line.startswith("2 workers: rank 0 on ") for line in said) == 3
    node = first[1]["node"]
    assert f"rank 1 on {node} got SIGTERM: another group of workers goes on from the newest checkpoint" in said
    [hung] = [line for line in said if "hangs in" in line]
    assert hung.startswith(f"warning: rank 1 on {node} (process {second[1]['pid']}) hangs in ")
    assert "the whole process stands still; rank 0 waited 6 s for it (--timeout). Going on from the newest" in hung
    [folder] = tmp_path.glob("runs/small/pretrain-*")
    assert (folder / "metrics.jsonl").read_bytes() == (
        stage_folders(both[1])["pretrain"] / "metrics.jsonl"
    ).read_bytes()
    record = json.loads((folder / "record.json").read_text())
    assert record["execution"]["nodes"] == [node, node] and record["execution"]["workers_used"] == 2
    assert LiveFolder(live).outcome()


def ranks_once(live: Path, done: Future, enough: Callable[[int], bool], but: Sequence[dict] = ()) -> list[dict]:
    """What both ranks of a group other than that of ``but`` tell, once training is at a step that is far ``enough``."""
    from orchestrator.live import LiveFolder
    from orchestrator.pulse import pulses

    others = {each["pid"] for each in but}
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if done.done():
            raise AssertionError(f"it ended too soon: {done.result()}")
        told, status = pulses(live), LiveFolder(live).status() or {}
        if len(told) == 2 and not others & {each["pid"] for each in told} and enough(status.get("step", 0)):
            return told
        time.sleep(0.02)
    raise AssertionError(f"never came so far: {told}, {status}")


@pytest.mark.ray
def test_a_failure_that_would_come_again_is_told_and_not_trained_again(both, tmp_path, ray_of_two_cpus):
    from orchestrator.live import RunFailed
    from orchestrator.worker import new_live_folder, train_on_ray

    store = Store(tmp_path)
    gated = small_recipe(**SETTINGS | {"stages.pretrain.gate": {"rendered/word_accuracy_36": 0.99}})
    live = new_live_folder(store)
    with pytest.raises(RunFailed, match=r"below its gate of 0\.9900; its weights are in"):
        train_on_ray(gated, store, shards_in(both[0]), Execution(threads=1, device="cpu"), live=live, only=["pretrain"])
    [folder] = tmp_path.glob("runs/small/pretrain-*")
    started = [row for row in lines(folder / "speed.jsonl") if row["kind"] == "epoch"]
    assert len(started) == 2  # the two epochs of the one time it was trained


@pytest.mark.ray
def test_more_workers_than_there_are_cpus_is_refused_at_once(tmp_path, ray_of_two_cpus):
    from orchestrator.plan import PlanError
    from orchestrator.worker import new_live_folder, train_on_ray

    store = Store(tmp_path)
    with pytest.raises(PlanError, match="--workers 64: needs 64 CPUs, the cluster has 2; use fewer workers"):
        train_on_ray(recipe(), store, {}, Execution(workers=64), live=new_live_folder(store), only=[])
