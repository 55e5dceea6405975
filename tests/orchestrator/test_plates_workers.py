"""Two workers that train `plates` are one: parameters, weights of symbols, lists of samples, the decision to stop."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from small_plates import STAGES, folder_of, plate_shards, record_of, small_plates, train
from torch import distributed
from torch.testing import assert_close

from models.batch import Batch, Pair
from orchestrator import checkpoint, loop
from orchestrator.journal import lines
from orchestrator.measured import Measured, Names
from orchestrator.plan import EarlyStop, Recipe, Stage
from orchestrator.ranks import Ranks
from orchestrator.update import Trainee, trainee_of, update

DRIFT = 1e-4  # rounding, of sums in another order: see test_workers
WEIGHTS = 5e-4  # three updates of 1e-4, each of which may take a step of its own where the gradient is rounding alone


def plan() -> Recipe:
    stop = EarlyStop(metric="plates/recognition_rate", patience=1)  # nothing is read: one validation, and one more
    return small_plates(**{"stages.lcofl.epochs": 4, "stages.lcofl.early_stop": stop})


def joined(rank: int, ranks: int, meet: Path) -> None:
    torch.set_num_threads(1)
    if ranks > 1:
        distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=ranks)


def trained(rank: int, ranks: int, root: Path, shards: dict[str, Path]) -> None:
    joined(rank, ranks, root / "meet")
    lists: list[list[int]] = []
    real = loop.drawn_now

    def drawn_now(*given: Any, **rest: Any) -> Any:
        found = real(*given, **rest)
        lists.extend([] if found is None else [found.tolist()])
        return found

    loop.drawn_now = drawn_now
    assert train(root, plan(), shards=shards)
    (root / f"drawn-{rank}.json").write_text(json.dumps(lists))
    if ranks > 1:
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Path, Path]:
    """The stores of one worker and of two that trained the same plan on the same shards."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    mp.spawn(trained, args=(1, one, plate_shards()), nprocs=1)
    mp.spawn(trained, args=(2, two, plate_shards()), nprocs=2)
    return one, two


def last_of(root: Path, stage: str) -> Path:
    return folder_of(root, stage) / record_of(root, stage)["last"]


def test_two_workers_end_with_the_weights_of_one(both):
    for stage in STAGES:
        one, two = (checkpoint.read(last_of(root, stage)).tensors for root in both)
        assert one.keys() == two.keys()
        for part in ("generator", "ocr", "monitor"):
            for name, value in one[f"weights.{part}"].items():
                assert_close(
                    two[f"weights.{part}"][name], value, rtol=DRIFT, atol=WEIGHTS, msg=f"{stage} {part} {name}"
                )


def test_two_workers_count_the_same_confusions_and_weigh_symbols_alike(both):
    for stage in ("lcofl", "finetune", "hard_mining"):
        counted = [json.loads((last_of(root, stage) / "progress.json").read_text())["symbols"] for root in both]
        assert counted[0] == counted[1] and sum(counted[0]["wrong"]) > 0
        told = [lines(folder_of(root, stage) / "metrics.jsonl", "epoch") for root in both]
        assert [line["symbols"] for line in told[0]] == [line["symbols"] for line in told[1]]


def test_two_workers_know_the_same_of_every_sample_and_draw_the_same_lists(both):
    one, two = (checkpoint.read(last_of(root, "hard_mining")).tensors["mining"] for root in both)
    assert all(torch.equal(two[name], value) for name, value in one.items()) and len(one["accuracy"].unique()) > 3
    lists = [
        json.loads((root / f"drawn-{rank}.json").read_text())
        for root, rank in zip((*both, both[1]), (0, 0, 1), strict=True)
    ]
    assert lists[0] == lists[1] == lists[2] and len(lists[0]) == 3
    assert max(lists[0][2].count(sample) for sample in lists[0][2]) > 1
    shown = [lines(folder_of(root, "hard_mining") / "metrics.jsonl", "epoch") for root in both]
    for alone, together in zip(*shown, strict=True):
        assert (alone["hardest"], alone["suspects"]) == (together["hardest"], together["suspects"])


def test_two_workers_stop_where_one_does(both):
    ends = [record_of(root, "lcofl") for root in both]
    assert [(end["epochs"], end["finished"]) for end in ends] == 2 * [(2, ends[0]["finished"])]
    assert ends[0]["finished"].startswith("early stop: plates/recognition_rate gained nothing in 1")
    assert {stage: record_of(both[0], stage)["checkpoint"] for stage in STAGES} == {
        stage: record_of(both[1], stage)["checkpoint"] for stage in STAGES
    }


def test_two_workers_take_the_steps_of_one(both):
    for stage in STAGES:
        one, two = (lines(folder_of(root, stage) / "metrics.jsonl", "step") for root in both)
        assert len(one) == len(two) > 2
        for alone, together in zip(one, two, strict=True):
            for name in plan().stage(stage).terms:
                assert together[f"loss/{name}"] == pytest.approx(alone[f"loss/{name}"], rel=DRIFT, abs=1e-6), name


def some_pairs(rank: int) -> Pair:
    draw = torch.Generator().manual_seed(rank)
    return Pair(
        image=torch.rand(4, 3, 16, 48, generator=draw) * 2 - 1, widths=torch.full((4,), 48),
        tokens=torch.randint(1, 37, (4, 7), generator=draw), lengths=torch.full((4,), 7),
        counted=torch.ones(4, dtype=torch.bool), ids=tuple(range(4 * rank, 4 * rank + 4)),
        target=torch.rand(4, 3, 32, 96, generator=draw) * 2 - 1,
    )  # fmt: skip


def one_update(trainee: Trainee, batch: Batch, stage: Stage) -> Measured:
    row = update(
        trainee, stage, [batch], lr=1e-4, forward=trainee.task, autocast=nullcontext, ranks=Ranks.of_process_group()
    )  # fmt: skip
    return Measured.of(row.tolist(), Names.of(stage, trainee), batch.ids)


def met_a_nan(rank: int, ranks: int, folder: Path, name: str) -> None:
    """One of the second rank's pictures is no numbers in the first update, and is sound in the second."""
    joined(rank, ranks, folder / "meet")
    torch.manual_seed(0)
    task, stage = plan().task.build(), plan().stage(name)
    trainee = trainee_of(stage, task)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    batch = some_pairs(rank)
    damaged = batch.image.clone()
    damaged[2, 0, 5, 5] = torch.nan if rank == 1 else 0.5
    bad = Pair(**{**vars(batch), "image": damaged})
    found = one_update(trainee, bad, stage)
    assert found.skipped and not any(state.get("step", 0) > 0 for state in trainee.optimizer.state.values())
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    assert found.own_flagged["nonfinite_image"] == ([6] if rank == 1 else []) and found.flagged["nonfinite_image"] == 1
    # where the recogniser learns, its batch norm over ranks leaves no reading of any rank finite
    assert found.flagged["nonfinite"] == (1 if name == "lcofl" else 8)
    assert not one_update(trainee, batch, stage).skipped
    save_file({name: value.contiguous() for name, value in task.state_dict().items()}, folder / f"{rank}.safetensors")
    assert not torch.equal(task.state_dict()["generator.enlarge.last.weight"], before["generator.enlarge.last.weight"])
    distributed.destroy_process_group()


@pytest.mark.parametrize("stage", ["lcofl", "finetune"])
def test_a_nan_of_one_rank_makes_both_skip_and_neither_hang(tmp_path, stage):
    mp.spawn(met_a_nan, args=(2, tmp_path, stage), nprocs=2)
    one, two = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(two[name], value) for name, value in one.items())
