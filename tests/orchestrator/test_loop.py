"""The training loop: gradients, guards, stopping, and the same bits after any interruption."""

from __future__ import annotations

import pytest
import torch
from small import Columns, MadeData, Quiet, a_setting, a_stage, not_finite, part_of, some_batch, weights_of
from torch.testing import assert_close

from orchestrator import checkpoint
from orchestrator.journal import lines
from orchestrator.loop import NonFinite, train_stage
from orchestrator.measured import Measured, Names
from orchestrator.plan import Cosine, EarlyStop, Optim, PlanError, StartFrom, Term
from orchestrator.ranks import Ranks
from orchestrator.update import learning_rate, trainee_of, update


def fresh(seed: int = 0) -> Columns:
    torch.manual_seed(seed)
    return Columns()


def one_update(stage, task, batches, ranks=None):
    trainee = trainee_of(stage, task)
    from contextlib import nullcontext

    measured = update(trainee, stage, batches, lr=1e-2, forward=task, autocast=nullcontext, ranks=ranks or Ranks())
    return trainee, measured


def read(stage, trainee, measured, samples):
    return Measured.of(measured.tolist(), Names.of(stage, trainee), range(samples))


def trained(folder, *, stage=None, task=None, data=None, watch=None, **changes):
    task = task or fresh()
    setting = a_setting(folder, task, watch=watch, **changes)
    return task, train_stage(stage or a_stage(), task, data or MadeData(), setting)


def test_a_stage_learns_and_says_so(tmp_path):
    _, progress = trained(tmp_path, stage=a_stage(epochs=20))
    losses = [row["loss/ctc"] for row in lines(tmp_path / "metrics.jsonl", "epoch")]
    assert progress.finished == "all epochs done"
    assert len(losses) == 20 and losses[-1] < 0.8 * losses[0]


def test_frozen_parts_do_not_change_by_a_bit(tmp_path):
    task = fresh()
    before = weights_of(task)
    trained(tmp_path, stage=a_stage(learn=("rnn",), start_from=None), task=task)
    for name, value in task.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("cnn"), name


def test_two_uneven_ranks_give_the_gradient_of_one():
    whole, stage = some_batch(6), a_stage()
    alone, _ = one_update(stage, fresh(), [whole])

    class Rank(Ranks):
        """Two ranks played one after the other: what the other one adds is known."""

        def __init__(self, other, gradients):
            object.__setattr__(self, "rank", 0)
            object.__setattr__(self, "count", 2)
            object.__setattr__(self, "other", other)
            object.__setattr__(self, "gradients", gradients)

        def sum(self, values):
            return values.add_(self.other)

        def sum_gradients(self, parameters):
            for parameter, gradient in zip(parameters, self.gradients, strict=True):
                parameter.grad += gradient

    mine, other = part_of(whole, slice(0, 1)), part_of(whole, slice(1, 6))
    totals = torch.tensor([0.0, 5.0, 0.0, 5.0], dtype=torch.float64)
    helper = fresh()
    from models.losses.text import ctc

    (ctc(other, helper(other)).total / 6).backward()
    together, _ = one_update(stage, fresh(), [mine], Rank(totals, [p.grad for p in helper.parameters()]))
    for one, two in zip(alone.task.parameters(), together.task.parameters(), strict=True):
        assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_micro_batches_give_the_update_of_the_whole_batch():
    whole = some_batch(6)
    at_once, _ = one_update(a_stage(), fresh(), [whole])
    stage = a_stage(optim=Optim(lr=1e-2, accumulate=3))
    parts = [part_of(whole, rows) for rows in (slice(0, 1), slice(1, 4), slice(4, 6))]
    in_parts, measured = one_update(stage, fresh(), parts)
    assert read(stage, in_parts, measured, 6).counts == {"ctc": 6}
    for one, two in zip(at_once.task.parameters(), in_parts.task.parameters(), strict=True):
        assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_accumulating_several_terms_is_refused():
    with pytest.raises(PlanError, match="Set accumulate to 1"):
        a_stage(optim=Optim(lr=1e-2, accumulate=2), terms={"a": Term(loss=not_finite), "b": Term(loss=not_finite)})


def test_a_gradient_that_is_not_finite_changes_nothing():
    stage = a_stage(terms={"bad": Term(loss=not_finite)})
    task = fresh()
    trainee, _ = one_update(stage, task, [some_batch(6)])
    before, moments = weights_of(task), checkpoint.optimizer_tensors(trainee.optimizer, trainee.names)
    moments = {name: value.clone() for name, value in moments.items()}
    from contextlib import nullcontext

    measured = update(
        trainee, stage, [some_batch(6, first_id=10)], lr=1e-2, forward=task, autocast=nullcontext, ranks=Ranks()
    )
    assert read(stage, trainee, measured, 6).skipped
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    after = checkpoint.optimizer_tensors(trainee.optimizer, trainee.names)
    assert all(torch.equal(after[name], value) for name, value in moments.items())


class WithABadSample(MadeData):
    from contextlib import contextmanager

    @contextmanager
    def batches(self, epoch, first_step):
        yield iter([[some_batch(6, seed=s, first_id=10 if s == 2 else 0)] for s in range(first_step, 4)])


def test_skipped_updates_are_counted_with_their_samples(tmp_path):
    stage = a_stage(terms={"bad": Term(loss=not_finite)}, nonfinite_limit=5)
    _, progress = trained(tmp_path, stage=stage, data=WithABadSample())
    events = lines(tmp_path / "metrics.jsonl", "event")
    assert progress.skipped == 3 == len(events)
    assert [(event["event"], event["step"], event["epoch"]) for event in events] == [
        ("nonfinite", 2, 1), ("nonfinite", 6, 2), ("nonfinite", 10, 3)
    ]  # fmt: skip
    assert "made/13" in events[0]["evidence"]["samples"] and "stages.only.optim.lr" in events[0]["change"]


def test_too_many_skipped_updates_end_the_run_with_step_and_cure(tmp_path):
    stage = a_stage(terms={"bad": Term(loss=not_finite)}, nonfinite_limit=1)
    with pytest.raises(NonFinite, match=r"step 6: 2 updates .* nonfinite_limit 1.*Lower optim.lr"):
        trained(tmp_path, stage=stage, data=WithABadSample())


def test_the_logged_learning_rate_is_the_plans(tmp_path):
    stage = a_stage(schedule=Cosine(warmup=0.0, floor=0.1))
    trained(tmp_path, stage=stage)
    rates = [row["lr"] for row in lines(tmp_path / "metrics.jsonl", "step")]
    assert rates[0] == 1e-2 and rates == [learning_rate(stage, step, 12) for step in range(12)]


def test_the_moving_average_is_what_is_validated_and_kept(tmp_path):
    task, progress = trained(tmp_path, stage=a_stage(ema=0.9))
    contents = checkpoint.read(checkpoint.folder_of(tmp_path / "checkpoints", progress.step))
    averaged = Columns()
    averaged.cnn.load_state_dict(contents.tensors["averaged.cnn"])
    averaged.rnn.load_state_dict(contents.tensors["averaged.rnn"])
    assert not torch.equal(averaged.rnn.weight, task.rnn.weight)
    held_out = a_setting(tmp_path, task).evaluate(averaged)["made/loss"]
    assert held_out == progress.latest["made/loss"]


def test_the_moving_average_of_one_step_lies_where_paper_says():
    task = fresh()
    before = weights_of(task)
    trainee, _ = one_update(a_stage(ema=0.75), task, [some_batch(6)])
    expected = 0.75 * before["rnn.weight"] + 0.25 * task.rnn.weight
    assert_close(trainee.averaged.rnn.weight, expected)


def scripted(values):
    """Validation that returns one prepared value after the other."""
    rest = iter(values)
    return lambda judged: {"made/loss": next(rest)}


def test_early_stopping_stops_after_its_patience(tmp_path):
    stage = a_stage(epochs=10, early_stop=EarlyStop(metric="made/loss", mode="min", patience=2, min_delta=0.1))
    _, progress = trained(tmp_path, stage=stage, evaluate=scripted([5.0, 4.0, 3.95, 3.9, 1.0]))
    assert progress.epoch == 4 and progress.finished.startswith("early stop: made/loss")


def test_the_best_checkpoint_outlives_rotation(tmp_path):
    stage = a_stage(epochs=6)
    _, progress = trained(tmp_path, stage=stage, evaluate=scripted([3.0, 1.0, 2.0, 2.0, 2.0, 2.0]))
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert progress.best["made/loss"] == {"value": 1.0, "step": 8, "metrics": {"made/loss": 1.0}}
    assert "step-00000008" in kept and len(kept) == 3


def test_what_is_not_a_number_is_never_best_and_never_in_the_way(tmp_path):
    nan = float("nan")
    stage = a_stage(epochs=4, early_stop=EarlyStop(metric="made/loss", mode="min", patience=3))
    _, progress = trained(tmp_path, stage=stage, evaluate=scripted([nan, 2.0, nan, 1.5]))
    assert progress.best["made/loss"]["value"] == 1.5 and progress.stop_best == 1.5
    assert progress.finished == "all epochs done"


def test_a_checkpoint_that_crosses_a_red_line_is_not_best(tmp_path):
    stage = a_stage(epochs=2, red_lines={"made/loss": 0.5}, start_from=StartFrom(stage="earlier", parts=("cnn", "rnn")))
    _, progress = trained(tmp_path, stage=stage, evaluate=scripted([2.0, 2.6, 1.5]))
    [event] = lines(tmp_path / "metrics.jsonl", "event")
    assert (event["event"], event["epoch"], event["step"]) == ("red_line", 1, 4)
    assert event["evidence"]["crossed"]["made/loss"] == pytest.approx(0.6)
    assert progress.best["made/loss"]["value"] == 1.5


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4, 5, 8, 11, 12])
def test_stopping_anywhere_and_going_on_gives_the_same_bits_and_lines(tmp_path, stop_after):
    stage = a_stage(ema=0.9, schedule=Cosine(), start_from=StartFrom(stage="earlier", parts=("cnn", "rnn")))
    whole, there = trained(tmp_path / "whole", stage=stage)
    _, stopped = trained(tmp_path / "parts", stage=stage, watch=Quiet(stop_after))
    data = MadeData()
    again, progress = trained(tmp_path / "parts", stage=stage, task=fresh(seed=7), data=data)
    assert (stopped.step, progress.step) == (stop_after, 12)
    assert data.seen == list(range(stop_after, 12))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
    assert (tmp_path / "whole/metrics.jsonl").read_bytes() == (tmp_path / "parts/metrics.jsonl").read_bytes()
    assert progress.best == there.best


def test_a_damaged_newest_checkpoint_costs_only_what_came_after_the_one_before(tmp_path):
    whole, _ = trained(tmp_path / "whole")
    trained(tmp_path / "hit", watch=Quiet(7))
    newest = max((tmp_path / "hit/checkpoints").iterdir())
    (newest / "weights.rnn.safetensors").write_bytes(b"rot")
    again, _ = trained(tmp_path / "hit", task=fresh(seed=7))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
    assert (tmp_path / "whole/metrics.jsonl").read_bytes() == (tmp_path / "hit/metrics.jsonl").read_bytes()
    [event] = lines(tmp_path / "hit/speed.jsonl", "event")
    assert event["event"] == "damaged_checkpoint" and newest.name in event["evidence"]["what"]


def test_weights_of_another_alphabet_are_not_resumed(tmp_path):
    trained(tmp_path, watch=Quiet(3))
    with pytest.raises(checkpoint.CheckpointError, match="its alphabet is a, this run's is b"):
        trained(tmp_path, fits={"alphabet": "b"})


def test_deciding_by_a_metric_nobody_measures_is_refused(tmp_path):
    with pytest.raises(PlanError, match=r"decides by .'made/loss'.; measured are made/cer"):
        trained(tmp_path, evaluate=lambda judged: {"made/cer": 1.0})
