"""Workers that come and go in the middle of a stage: the same samples in the same updates, and the same curve."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from small import Quiet, shards_of, small_recipe
from torch import distributed

from orchestrator.execution import Execution
from orchestrator.journal import lines
from orchestrator.pipeline import Machine, train_recipe
from orchestrator.plan import Recipe
from orchestrator.preflight import PreflightError
from orchestrator.ranks import Ranks
from orchestrator.store import Store

DRIFT = 1e-4  # of losses, see test_workers.py
SAMPLES, STEPS_PER_EPOCH = 120, 7
mp.get_context("forkserver").set_forkserver_preload(["orchestrator.pipeline", "small"])


def recipe() -> Recipe:
    """Eighteen samples an update, which four workers cannot share evenly; three to validate on, too few for four."""
    return small_recipe(**{
        "sources.rendered.valid": 3, "stages.pretrain.batch_size": 18, "stages.pretrain.epochs": 3,
        "stages.pretrain.optim.clip_norm": 1.0, "stages.pretrain.optim.lr": 1e-4, "stages.pretrain.augment.noise": 0.05,
    })  # fmt: skip


def train(rank: int, ranks: int, steps: int, root: Path, shards: dict[str, Path]) -> None:
    """Train for ``steps`` more updates; note each update's samples of this rank in ``seen-*.jsonl``."""
    torch.set_num_threads(1)
    if ranks > 1:
        meet = f"file://{root}/meet-{ranks}-{steps}"
        distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=ranks)
    noted = root / f"seen-{ranks}-{steps}-{rank}.jsonl"
    machine, watch = Machine.of(Execution(device="cpu"), Ranks.of_process_group()), Noting(noted, steps=steps)
    train_recipe(
        recipe(), Store(root), shards, Execution(device="cpu"), machine=machine, watch=watch, only=["pretrain"]
    )
    if ranks > 1:
        distributed.destroy_process_group()


class Noting(Quiet):
    """Notes the samples of each update of this process, and asks for a stop after ``steps`` of them."""

    def __init__(self, place: Path, *, steps: int) -> None:
        from orchestrator import loop

        super().__init__(steps=steps)
        real = loop.update

        def update(trainee, stage, batches, **rest):
            ids = [sample for batch in batches for sample in batch.ids]
            with place.open("a") as file:
                file.write(json.dumps([trainee.progress.epoch, trainee.progress.step, ids]) + "\n")
            return real(trainee, stage, batches, **rest)

        loop.update = update


def run(root: Path, shards: dict[str, Path], groups: list[tuple[int, int]]) -> Path:
    """Train in groups of (workers, updates) one after another; the stage's folder."""
    for ranks, steps in groups:
        mp.start_processes(train, args=(ranks, steps, root, shards), nprocs=ranks, start_method="forkserver")
    [folder] = root.glob("runs/small/pretrain-*")
    assert (folder / "record.json").exists()
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Path, Path]:
    """One worker throughout, and four, then two, then four."""
    fixed, elastic = tmp_path_factory.mktemp("fixed"), tmp_path_factory.mktemp("elastic")
    shards = shards_of(recipe(), fixed)
    return run(fixed, shards, [(1, 1000)]), run(elastic, shards, [(4, 5), (2, 6), (4, 1000)])


def test_each_sample_comes_exactly_once_an_epoch_whoever_comes_and_goes(both):
    seen: dict[int, Counter[int]] = {}
    for path in both[1].parents[2].glob("seen-*.jsonl"):
        for epoch, _, ids in map(json.loads, path.read_text().splitlines()):
            seen.setdefault(epoch, Counter()).update(ids)
    assert seen == {epoch: Counter(range(SAMPLES)) for epoch in range(3)}


def test_every_update_has_the_samples_and_the_rate_of_the_plan(both):
    """The union over the ranks of whatever group made an update is what one worker alone would have taken."""
    unions = []
    for folder in both:
        union: dict[int, set[int]] = {}
        for path in folder.parents[2].glob("seen-*.jsonl"):
            for _, step, ids in map(json.loads, path.read_text().splitlines()):
                union.setdefault(step, set()).update(ids)
        unions.append(union)
    assert unions[0] == unions[1] and len(unions[0]) == 3 * STEPS_PER_EPOCH
    assert {len(ids) for ids in unions[0].values()} & {17, 18}
    rates = [[row["lr"] for row in lines(folder / "metrics.jsonl", "step")] for folder in both]
    assert rates[0] == rates[1]


def test_the_loss_curve_is_that_of_one_worker(both):
    one, some = (lines(folder / "metrics.jsonl") for folder in both)
    assert [(row["kind"], row["step"]) for row in one] == [(row["kind"], row["step"]) for row in some]
    for alone, together in zip(one, some, strict=True):
        if alone["kind"] in ("step", "epoch"):
            assert together["loss/ctc"] == pytest.approx(alone["loss/ctc"], rel=DRIFT)
        elif alone["kind"] == "validation":
            assert together["rendered/n"] == alone["rendered/n"] == 3
            assert together["rendered/loss"] == pytest.approx(alone["rendered/loss"], rel=DRIFT)


def test_a_largest_group_that_leaves_a_rank_without_samples_is_refused_before_the_smallest_begins(both, tmp_path):
    shards = shards_of(recipe(), both[0].parents[2])
    execution = Execution(device="cpu", workers=16, workers_min=1)
    machine = Machine.of(execution, Ranks())
    with pytest.raises(PreflightError, match=r"too few for 16 workers"):
        train_recipe(
            recipe(), Store(tmp_path), shards, execution, machine=machine, watch=Quiet(), only=["pretrain"]
        )  # fmt: skip
