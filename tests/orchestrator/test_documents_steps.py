"""Stages with two players, kept, resumed, balanced and divided: the same bits after any stop, and on any workers."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from small import Quiet
from small_documents import STEPS, TERMS, Lines, a_task, adversarial, measured, some_lines, some_of, trained
from torch import distributed, nn
from torch.testing import assert_close

from orchestrator import checkpoint
from orchestrator.balance import Balance, Balanced, LossBalance
from orchestrator.journal import lines
from orchestrator.measured import Measured, Names
from orchestrator.moving import balances, note_balance, stage_now
from orchestrator.plan import Best, EarlyStop, Expression, Term
from orchestrator.progress import Progress
from orchestrator.ranks import Ranks
from orchestrator.update import trainee_of, update

SHARES = {"ctc": 0.65, "pixel": 0.35}
BALANCE = Balance(shares=SHARES, warmup=1, every=1, rate=0.5)
SCORE = Expression(name="score", text="{lines/psnr} - 50 * {lines/cer}")
FULL = adversarial(
    epochs=3, balance=BALANCE, ema=0.9, scores=(SCORE,), best=(Best(metric="score"), Best(metric="lines/psnr")),
    early_stop=EarlyStop(metric="score", patience=9),
)  # fmt: skip
DRIFT = 1e-4  # rounding, of sums in another order


def scored(judged: nn.Module) -> dict[str, float]:
    found = measured(judged)
    return found | {"score": SCORE.of(found).value}


def kept(folder: Path, progress: Progress) -> dict[str, str]:
    """Hashes of all that a stage's last checkpoint holds."""
    place = checkpoint.folder_of(folder / "checkpoints", progress.step)
    return {name: each["sha256"] for name, each in json.loads((place / "manifest.json").read_text())["files"].items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, nn.Module, Progress]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, *trained(folder, FULL, evaluate=scored)


def test_there_is_something_to_lose(whole):
    folder, _, progress = whole
    known = Balanced.of(progress.balance, BALANCE)
    assert known.updates == 2 * STEPS and known.moved and progress.stop_best is not None
    held = checkpoint.read(checkpoint.folder_of(folder / "checkpoints", progress.step)).tensors["optimizer"]
    for moment in ("exp_avg", "exp_avg_sq"):
        for part in ("generator", "discriminator"):
            assert any(name.startswith(part) and name.endswith(moment) and value.abs().max() > 0
                       for name, value in held.items())  # fmt: skip


@pytest.mark.parametrize("stop_after", range(1, 3 * STEPS + 1))
def test_stopped_after_any_update_and_started_again_it_ends_in_the_same_bits(whole, tmp_path, stop_after):
    folder, task, progress = whole
    _, stopped = trained(tmp_path, FULL, evaluate=scored, watch=Quiet(stop_after))
    assert stopped.step == stop_after
    again, resumed = trained(tmp_path, FULL, evaluate=scored, task=a_task(seed=5))
    assert resumed == progress and kept(tmp_path, resumed) == kept(folder, progress)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in task.state_dict().items())
    assert (tmp_path / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()


def test_the_average_of_both_players_is_what_is_judged(whole):
    folder, task, progress = whole
    held = checkpoint.read(checkpoint.folder_of(folder / "checkpoints", progress.step)).tensors
    for part in ("generator", "discriminator"):
        apart = [not torch.equal(held[f"averaged.{part}"][name], value)
                 for name, value in held[f"weights.{part}"].items()]  # fmt: skip
        assert any(apart)
    averaged = a_task(seed=3).eval()
    for part in ("generator", "discriminator", "recognizer"):
        averaged.get_submodule(part).load_state_dict(held[f"averaged.{part}"])
    assert scored(averaged) == progress.latest
    assert scored(task.eval()) != progress.latest


def test_best_keeps_the_expression_beside_its_value(whole):
    _, _, progress = whole
    best = progress.best["score"]
    assert best["expression"] == SCORE.text == "{lines/psnr} - 50 * {lines/cer}"
    assert best["value"] == pytest.approx(best["metrics"]["lines/psnr"] - 50 * best["metrics"]["lines/cer"])
    assert "expression" not in progress.best["lines/psnr"]


def test_the_balance_waits_for_its_warm_up_and_tells_of_itself(whole):
    folder, _, progress = whole
    first, second, third = lines(folder / "metrics.jsonl", "epoch")
    assert first["weight/ctc"] == TERMS["ctc"].weight and first["weight/pixel"] == TERMS["pixel"].weight
    assert "balance/updates" not in first and "weight/fool" not in first
    assert (second["balance/updates"], third["balance/updates"]) == (STEPS, 2 * STEPS)
    assert third["balance/movement"] > second["balance/movement"] > 0
    factors = Balanced.of(progress.balance, BALANCE).factors
    for term in SHARES:
        assert third[f"weight/{term}"] == pytest.approx(factors[term] * TERMS[term].weight)
        assert third[f"balance/share/{term}"] == pytest.approx(SHARES[term], abs=0.02)


def test_factors_follow_the_norms_at_the_restored_image():
    """Once, by hand: shares of the sum of what the plan's weights give."""
    stage, batch = adversarial(balance=replace(BALANCE, warmup=0, rate=1.0)), some_lines()
    trainee = trainee_of(stage, a_task())
    row = update(
        trainee, stage, [batch], lr=1e-3, forward=trainee.task, autocast=nullcontext, ranks=Ranks(), look_at_image=True
    )  # fmt: skip
    found = Measured.of(row.tolist(), Names.of(stage, trainee), batch.ids)
    fresh = trainee_of(stage, a_task()).task
    out = fresh(batch)
    for name, term in stage.terms.items():
        [slope] = torch.autograd.grad(term.loss(batch, out).value, out.image, retain_graph=True)
        assert found.at_image[name] == pytest.approx(float(slope.norm()), rel=1e-4), name
    note_balance(stage, trainee.progress, norms=found.at_image, losses={})
    weighted = {name: stage.terms[name].weight * found.at_image[name] for name in SHARES}
    for name, share in SHARES.items():
        wanted = share * sum(weighted.values()) / weighted[name]
        assert trainee.progress.balance["factors"][name] == pytest.approx(wanted, rel=1e-6)
        assert stage_now(stage, trainee.progress).terms[name].weight == pytest.approx(wanted * TERMS[name].weight)
    assert stage_now(stage, trainee.progress).terms["fool"].weight == TERMS["fool"].weight


def test_only_some_updates_are_looked_at_and_none_during_the_warm_up():
    stage = adversarial(epochs=4, balance=replace(BALANCE, warmup=2, every=3))
    assert [(epoch, step) for epoch, step in ((0, 0), (1, 3), (2, 6), (2, 7), (2, 9)) if balances(stage, epoch, step)] \
        == [(2, 6), (2, 9)]  # fmt: skip


def test_the_older_rule_goes_by_losses(tmp_path):
    stage = adversarial(balance=LossBalance(shares=SHARES, warmup=1))
    _, progress = trained(tmp_path, stage)
    told = lines(tmp_path / "metrics.jsonl", "epoch")[-1]
    assert told["balance/updates"] == STEPS and progress.balance["averages"]["pixel"] < 2  # a loss without its weight


def joined(rank: int, ranks: int, folder: Path) -> None:
    torch.set_num_threads(1)
    if ranks > 1:
        distributed.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=ranks)


def on_ranks(rank: int, ranks: int, folder: Path) -> None:
    joined(rank, ranks, folder)
    rows = slice(None) if ranks == 1 else (slice(0, 2), slice(2, 4))[rank]
    stage = replace(FULL, ema=0.0)
    task, progress = trained(folder, stage, evaluate=scored, data=Lines(rows=rows), ranks=Ranks.of_process_group())
    torch.save((task.state_dict(), progress.balance, progress.best["score"]["value"]), folder / f"{rank}.pt")
    if ranks > 1:
        distributed.destroy_process_group()


def test_two_workers_are_one(tmp_path):
    for ranks in (1, 2):
        (tmp_path / str(ranks)).mkdir()
        mp.spawn(on_ranks, args=(ranks, tmp_path / str(ranks)), nprocs=ranks)
    one, *two = (torch.load(tmp_path / path) for path in ("1/0.pt", "2/0.pt", "2/1.pt"))
    assert two[0][1] == two[1][1]  # the balance: all-reduced, so the very same on both
    assert all(torch.equal(value, two[1][0][name]) for name, value in two[0][0].items())
    for name, value in one[0].items():
        assert_close(two[0][0][name], value, rtol=DRIFT, atol=3 * STEPS * 2e-3 * 0.05, msg=name)
    for term, factor in one[1]["factors"].items():
        assert two[0][1]["factors"][term] == pytest.approx(factor, rel=1e-2)
    alone, together = (lines(tmp_path / f"{ranks}/metrics.jsonl", "step") for ranks in (1, 2))
    assert len(alone) == len(together) == 3 * STEPS
    for name in (*TERMS, "judge"):
        assert together[0][f"loss/{name}"] == pytest.approx(alone[0][f"loss/{name}"], rel=DRIFT)
        assert together[-1][f"loss/{name}"] == pytest.approx(alone[-1][f"loss/{name}"], rel=1e-2)
    assert together[0]["grad_norm/discriminator"] == pytest.approx(alone[0]["grad_norm/discriminator"], rel=1e-3)
    assert together[0]["grad_norm/generator"] == pytest.approx(alone[0]["grad_norm/generator"], rel=1e-3)


def with_a_nan(rank: int, ranks: int, folder: Path) -> None:
    joined(rank, ranks, folder)
    stage, batch = adversarial(), some_of(some_lines(), slice(2 * rank, 2 * rank + 2))
    bad = replace(batch, target=batch.target * (torch.nan if rank else 1))
    trainee = trainee_of(stage, a_task())
    before = {name: value.clone() for name, value in trainee.task.state_dict().items()}
    how = {"lr": 1e-3, "forward": trainee.task, "autocast": nullcontext, "ranks": Ranks.of_process_group()}
    row = update(trainee, stage, [bad], **how)
    assert Measured.of(row.tolist(), Names.of(stage, trainee), bad.ids).skipped
    assert all(torch.equal(value, before[name]) for name, value in trainee.task.state_dict().items())
    row = update(trainee, stage, [batch], **how)
    assert not Measured.of(row.tolist(), Names.of(stage, trainee), batch.ids).skipped
    distributed.destroy_process_group()


def test_a_nan_on_one_worker_is_skipped_by_both_players_of_both(tmp_path):
    mp.spawn(with_a_nan, args=(2, tmp_path), nprocs=2)


def test_a_ramp_brings_a_term_in_and_the_objective_follows(tmp_path):
    stage = adversarial(epochs=3, terms={**TERMS, "ctc": Term(loss=TERMS["ctc"].loss, ramp=2)})
    trained(tmp_path, stage)
    told = lines(tmp_path / "metrics.jsonl", "epoch")
    assert [line["weight/ctc"] for line in told] == [0, 0.5, 1]
    assert "gradient_share/ctc" in told[1] and told[0]["gradient_share/ctc"] == 0 < told[1]["gradient_share/ctc"]


def test_a_run_as_small_as_this_one_raises_no_false_alarm_of_two_players(whole):
    told = {line["event"] for line in lines(whole[0] / "metrics.jsonl", "event")}
    assert not told & {"always_clipped", "balancer_never_moved", "loss_without_gradient", "discriminator_wins"}
