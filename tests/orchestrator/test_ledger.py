"""What the loop writes of its updates: norms, shares, flagged samples and events, the same after any interruption."""

from __future__ import annotations

import math
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch
import torch.multiprocessing as mp
from small import Columns, MadeData, Quiet, a_setting, a_stage, some_batch, weights_of
from torch import distributed
from torch.testing import assert_close

from models.losses.text import ctc, not_finite, not_spelled
from models.mean import mean_of
from orchestrator.journal import lines
from orchestrator.loop import train_stage
from orchestrator.plan import Best, Optim, StartFrom, Term
from orchestrator.ranks import Ranks
from orchestrator.update import trainee_of, update


class Watched(Columns):
    watched: ClassVar = {"infeasible": not_spelled, "nonfinite": not_finite}


def fresh(seed=0):
    torch.manual_seed(seed)
    return Watched()


@dataclass
class Flawed(MadeData):
    """Six samples a step, numbered through; those in ``bad`` cannot be spelled."""

    bad: tuple[int, ...] = ()
    ranks: Ranks = field(default_factory=Ranks)

    @contextmanager
    def batches(self, epoch, first_step):
        def made():
            for step in range(first_step, self.steps_per_epoch):
                batch = some_batch(6, seed=epoch * 100 + step, first_id=6 * step)
                counted = torch.tensor([sample not in self.bad for sample in batch.ids])
                batch = replace(batch, counted=counted)
                rows = slice(self.ranks.rank, None, self.ranks.count)
                yield [replace(batch, **{name: getattr(batch, name)[rows] for name in batch.__dataclass_fields__})]

        yield made()


def trained(folder, *, stage=None, task=None, data=None, watch=None, **changes):
    task = task or fresh()
    setting = a_setting(folder, task, watch=watch, **changes)
    return train_stage(stage or a_stage(), task, data or MadeData(), setting)


def events_in(folder, file="metrics.jsonl"):
    return lines(folder / file, "event")


class Learnable(MadeData):
    """The same four batches in every epoch."""

    @contextmanager
    def batches(self, epoch, first_step):
        yield iter([[some_batch(6, seed=step)] for step in range(first_step, 4)])


def on_one_of_them(judged):
    batch = some_batch(6, seed=1)
    with torch.no_grad():
        return {"made/loss": float(ctc(batch, judged(batch)).value)}


def test_a_healthy_run_raises_no_event(tmp_path):
    trained(tmp_path, stage=a_stage(epochs=20), data=Learnable(), evaluate=on_one_of_them)
    assert events_in(tmp_path) == [] == events_in(tmp_path, "speed.jsonl")
    for row in lines(tmp_path / "metrics.jsonl", "epoch"):
        assert (row["watch/infeasible"], row["watch/nonfinite"], row["watch/clipped_updates"]) == (0, 0, 0)
        assert row["gradient_share/ctc"] == 1.0


def test_gradient_norms_of_parts_are_those_computed_by_hand(tmp_path):
    trained(tmp_path, stage=a_stage(epochs=1))
    task, batch = fresh(), some_batch(6, seed=0)
    ctc(batch, task(batch)).value.backward()
    row = lines(tmp_path / "metrics.jsonl", "step")[0]
    for part in ("cnn", "rnn"):
        square = sum(float(p.grad.double().square().sum()) for p in task.get_submodule(part).parameters())
        assert row[f"grad_norm/{part}"] == pytest.approx(math.sqrt(square), rel=1e-5)
    assert row["grad_norm"] == pytest.approx(math.hypot(row["grad_norm/cnn"], row["grad_norm/rnn"]), rel=1e-6)
    assert row["grad_norm/cnn"] != row["grad_norm/rnn"]


def test_a_frozen_part_has_no_norm(tmp_path):
    trained(tmp_path, stage=a_stage(epochs=1, learn=("rnn",)))
    row = lines(tmp_path / "metrics.jsonl", "step")[0]
    assert row["grad_norm/rnn"] == pytest.approx(row["grad_norm"], rel=1e-6) and "grad_norm/cnn" not in row


def test_clipped_updates_are_counted_and_clipping_always_is_said(tmp_path):
    trained(tmp_path, stage=a_stage(epochs=3, optim=Optim(lr=1e-2, clip_norm=1e-3)))
    assert [row["watch/clipped_updates"] for row in lines(tmp_path / "metrics.jsonl", "epoch")] == [1, 1, 1]
    [event] = events_in(tmp_path)
    assert (event["event"], event["epoch"]) == ("clipping_always", 2)


def test_flagged_samples_are_counted_and_named(tmp_path):
    trained(tmp_path, data=Flawed(bad=(3, 13, 14)))
    shares = [row["watch/infeasible"] for row in lines(tmp_path / "metrics.jsonl", "epoch")]
    assert shares == [3 / 24] * 3
    [event] = events_in(tmp_path)
    assert (event["event"], event["epoch"], event["step"]) == ("infeasible", 1, 4)
    assert event["evidence"] == {"count": 3, "share": 3 / 24, "samples": ["made/3", "made/13", "made/14"]}


def spread(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    ranks = Ranks.of_process_group()
    trained(folder / "two", data=Flawed(bad=(3, 13, 14), ranks=ranks), ranks=ranks)
    distributed.destroy_process_group()


def test_two_ranks_name_the_samples_of_both(tmp_path):
    trained(tmp_path / "one", data=Flawed(bad=(3, 13, 14)))
    mp.spawn(spread, args=(tmp_path,), nprocs=2)
    assert events_in(tmp_path / "two") == events_in(tmp_path / "one")
    one, two = (lines(tmp_path / name / "metrics.jsonl", "epoch") for name in ("one", "two"))
    assert [row["watch/infeasible"] for row in two] == [row["watch/infeasible"] for row in one]
    [*rows] = lines(tmp_path / "two" / "speed.jsonl", "epoch")
    assert len(rows) == 3 and all(len(row["busy_s"]) == 2 for row in rows)


def test_samples_with_scores_that_are_not_finite_are_named(tmp_path):
    class Broken(Watched):
        def forward(self, batch):
            out = super().forward(batch)
            bad = torch.tensor([sample == 13 for sample in batch.ids])
            return replace(out, logits=torch.where(bad[:, None, None], torch.nan, out.logits))

    torch.manual_seed(0)
    trained(tmp_path, stage=a_stage(epochs=2), task=Broken(), data=Flawed(),
            evaluate=lambda judged: {"made/loss": 1.0})  # fmt: skip
    found = events_in(tmp_path)
    assert [(event["event"], event["step"], event["evidence"]["samples"]) for event in found] == [
        ("nonfinite", 2, ["made/13"]), ("nonfinite", 6, ["made/13"])
    ]  # fmt: skip
    assert lines(tmp_path / "metrics.jsonl", "epoch")[0]["watch/nonfinite"] == 1 / 24


def test_the_samples_to_blame_are_named_where_the_others_are_spoiled_by_them(tmp_path):
    """As where a recogniser learns: its batch norm leaves no score of the batch finite."""

    class Spoiled(Watched):
        watched: ClassVar = {
            **Watched.watched, "nonfinite_image": lambda batch, out: torch.tensor([id == 13 for id in batch.ids])
        }  # fmt: skip

        def forward(self, batch):
            out = super().forward(batch)
            return replace(out, logits=out.logits * (torch.nan if 13 in batch.ids else 1.0))

    torch.manual_seed(0)
    trained(tmp_path, stage=a_stage(epochs=1), task=Spoiled(), data=Flawed(),
            evaluate=lambda judged: {"made/loss": 1.0})  # fmt: skip
    assert [(event["event"], event["evidence"]["samples"]) for event in events_in(tmp_path)] == [
        ("nonfinite", ["made/13"])
    ]  # fmt: skip
    [epoch] = lines(tmp_path / "metrics.jsonl", "epoch")
    assert epoch["watch/nonfinite_image"] == 1 / 24 < epoch["watch/nonfinite"]


def loud(batch, out):
    """CTC, a thousand times as loud for the batch that holds sample 13 in an epoch that has it."""
    mean = ctc(batch, out)
    return replace(mean, total=mean.total * (1000.0 if 13 in batch.ids else 1.0))


class LoudLater(MadeData):
    """Batches without sample 13, but for one of the seventh epoch."""

    @contextmanager
    def batches(self, epoch, first_step):
        ids = [10 if (epoch, step) == (6, 2) else 0 for step in range(4)]
        yield iter([[some_batch(6, seed=step, first_id=ids[step])] for step in range(first_step, 4)])


def test_a_spike_in_the_gradient_names_what_is_behind_it(tmp_path):
    stage = a_stage(epochs=8, terms={"ctc": Term(loss=loud)})
    trained(tmp_path, stage=stage, data=LoudLater(), evaluate=on_one_of_them)
    [event] = [event for event in events_in(tmp_path) if event["event"] == "gradient_spike"]
    assert (event["step"], event["epoch"]) == (26, 7)
    rows = {row["step"]: row for row in lines(tmp_path / "metrics.jsonl", "step")}
    assert event["evidence"]["norm"] == rows[26]["grad_norm"] > 100 * rows[25]["grad_norm"]
    part = event["evidence"]["part"]
    assert rows[26][f"grad_norm/{part}"] == max(rows[26]["grad_norm/cnn"], rows[26]["grad_norm/rnn"])
    assert event["evidence"]["parameter"].startswith(part)


def size(batch, out):
    return mean_of(out.logits.square().mean((1, 2)))


def nothing(batch, out):
    """A loss that nothing can change."""
    return mean_of(torch.ones(len(batch.ids)))


def test_gradient_shares_are_those_of_each_weighted_term_alone(tmp_path):
    stage = a_stage(epochs=2, terms={"ctc": Term(loss=ctc), "size": Term(loss=size, weight=3.0)})
    trained(tmp_path, stage=stage)
    norms = []
    for term in stage.terms.values():
        task, batch = fresh(), some_batch(6, seed=0)
        (term.weight * term.loss(batch, task(batch)).value).backward()
        norms.append(math.sqrt(sum(float(p.grad.double().square().sum()) for p in task.parameters())))
    first = lines(tmp_path / "metrics.jsonl", "epoch")[0]
    assert first["gradient_share/ctc"] == pytest.approx(norms[0] / sum(norms), rel=1e-4)
    assert first["gradient_share/ctc"] + first["gradient_share/size"] == pytest.approx(1)
    assert events_in(tmp_path) == []


def test_a_term_that_is_constant_is_dead(tmp_path):
    trained(tmp_path, stage=a_stage(terms={"ctc": Term(loss=ctc), "nothing": Term(loss=nothing)}))
    [event] = events_in(tmp_path)
    assert (event["event"], event["epoch"]) == ("dead_term", 1)
    assert event["evidence"] == {"term": "nothing", "share": 0.0, "gradient_shares": {"ctc": 1.0, "nothing": 0.0}}


class Chancy(Columns):
    """A reader with all that a second look could disturb: dropout and normalisation statistics."""

    def __init__(self):
        super().__init__()
        self.cnn = torch.nn.Sequential(self.cnn, torch.nn.BatchNorm2d(4), torch.nn.Dropout(0.5))


def test_looking_at_each_term_changes_nothing():
    stage = a_stage(terms={"ctc": Term(loss=ctc), "size": Term(loss=size)})
    ends = []
    for compare in (False, True):
        torch.manual_seed(0)
        task = Chancy()
        trainee = trainee_of(stage, task)
        for step in range(3):
            torch.manual_seed(step)
            update(trainee, stage, [some_batch(6, seed=step)], lr=1e-2, forward=task, autocast=nullcontext,
                   ranks=Ranks(), compare_terms=compare)  # fmt: skip
        ends.append(weights_of(task) | {"draw": torch.rand(3)})
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


@pytest.mark.parametrize("stop_after", [1, 2, 5, 6, 8, 11])
def test_events_and_shares_are_the_same_after_an_interruption(tmp_path, stop_after):
    terms = {"ctc": Term(loss=loud), "size": Term(loss=size), "nothing": Term(loss=nothing)}
    stage = a_stage(terms=terms, optim=Optim(lr=1e-2, clip_norm=0.5))
    data = {"evaluate": lambda judged: {"made/loss": 1.0, "made/cer": 1.0, "made/distinct": 0.001}}
    trained(tmp_path / "whole", stage=stage, data=Flawed(bad=(5, 22)), **data)
    trained(tmp_path / "parts", stage=stage, data=Flawed(bad=(5, 22)), watch=Quiet(stop_after), **data)
    trained(tmp_path / "parts", stage=stage, data=Flawed(bad=(5, 22)), task=fresh(seed=7), **data)
    assert (tmp_path / "whole/metrics.jsonl").read_bytes() == (tmp_path / "parts/metrics.jsonl").read_bytes()
    assert {event["event"] for event in events_in(tmp_path / "parts")} == {
        "dead_term", "infeasible", "clipping_always", "collapse", "at_chance"
    }  # fmt: skip


def test_validations_that_stand_still_are_told(tmp_path):
    stage = a_stage(epochs=9, best=(Best(metric="made/loss", mode="min"),))
    watch = Quiet()
    trained(tmp_path, stage=stage, watch=watch, evaluate=lambda judged: {"made/loss": 0.5})
    [event] = events_in(tmp_path)
    assert (event["event"], event["epoch"]) == ("plateau", 8)
    told = [each for status in watch.told for each in status["events"]]
    assert told == [{name: value for name, value in event.items() if name != "kind"}]


def test_the_start_is_judged_before_the_first_step_and_only_then(tmp_path):
    stage = a_stage(start_from=StartFrom(stage="earlier", parts=("cnn", "rnn")))
    judged = []

    def floor(metrics):
        judged.append(metrics["made/loss"])
        raise ValueError("below its floor")

    with pytest.raises(ValueError, match="below its floor"):
        trained(tmp_path, stage=stage, judge_start=floor)
    [baseline] = lines(tmp_path / "metrics.jsonl", "validation")
    assert judged == [baseline["made/loss"]] and lines(tmp_path / "metrics.jsonl", "step") == []
    trained(tmp_path, stage=stage, watch=Quiet(2), judge_start=judged.append)
    trained(tmp_path, stage=stage, task=fresh(7), judge_start=floor)  # goes on: not judged again
    assert len(judged) == 2
    assert_close(judged[1]["made/loss"], judged[0])
