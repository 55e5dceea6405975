"""Preflight of training itself: what teaches nothing, or is not done as planned, is refused on one real batch."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from small import CLASSES, Columns, a_stage, some_batch, weights_of
from torch import nn

from models.batch import Batch, Read
from models.losses.text import ctc
from models.mean import Mean
from orchestrator.plan import EarlyStop, Term
from orchestrator.preflight import PreflightError
from orchestrator.preflight import model as preflight_model
from orchestrator.preflight.model import Trial, check_effective, check_gradients
from orchestrator.ranks import Ranks


def a_trial(task: nn.Module | None = None, **changes) -> Trial:
    torch.manual_seed(0)
    return Trial(
        stage=a_stage(**changes), task=task or Columns(), batch=some_batch(6), autocast=nullcontext, ranks=Ranks(),
        steps=12,
    )  # fmt: skip


def test_healthy_terms_and_parts_pass_and_nothing_is_changed():
    trial = a_trial()
    before, draw = weights_of(trial.task), torch.get_rng_state()
    found = check_gradients(trial)
    assert found.says.startswith("gradient norms: ctc into cnn ") and "none of 4 parameters without" in found.says
    check_effective(trial)
    assert all(torch.equal(value, before[name]) for name, value in trial.task.state_dict().items())
    assert torch.equal(draw, torch.get_rng_state())
    assert all(p.grad is None and p.requires_grad for p in trial.task.parameters())


def constant_zero(batch: Batch, out: Read) -> Mean:
    """What a seed's recognition loss was for 300 epochs."""
    return Mean((out.logits * 0).sum(), out.logits.new_tensor(1.0))


def clipped_below(batch: Batch, out: Read) -> Mean:
    """A CTC loss under a hard clip that every value is above."""
    mean = ctc(batch, out)
    return Mean(mean.total.clamp(max=0.01), mean.count)


def detached(batch: Batch, out: Read) -> Mean:
    return ctc(batch, Read(logits=out.logits.detach(), frames=out.frames))


def through_argmax(batch: Batch, out: Read) -> Mean:
    return Mean(out.logits.argmax(2).float().sum(), out.logits.new_tensor(1.0))


def nobody(batch: Batch, out: Read) -> Mean:
    mean = ctc(batch, out)
    return Mean(mean.total * 0, mean.count * 0)


def own_reduction(batch: Batch, out: Read) -> torch.Tensor:
    return out.logits.square().mean()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (constant_zero, "gradient of term 'guide' into part 'cnn' is 0 on a real batch"),
        (clipped_below, "gradient of term 'guide' into part 'cnn' is 0 on a real batch"),
        (detached, "term 'guide' is a constant"),
        (through_argmax, "term 'guide' is a constant"),
        (nobody, "term 'guide' counted none of 6 real samples"),
        (own_reduction, "term 'guide' returns Tensor; a term returns a Mean"),
    ],
)
def test_a_term_that_teaches_nothing_is_refused(loss, message):
    terms = {"ctc": Term(loss=ctc), "guide": Term(loss=loss)}
    with pytest.raises(PreflightError, match=message):
        check_gradients(a_trial(terms=terms))


def test_a_weight_of_zero_is_refused():
    with pytest.raises(PreflightError, match="gradient of term 'guide' into part 'cnn' is 0"):
        check_gradients(a_trial(terms={"ctc": Term(loss=ctc), "guide": Term(loss=ctc, weight=0.0)}))


class HalfBlind(Columns):
    """Its CNN is cut off from the loss."""

    def forward(self, batch: Batch) -> Read:
        features = self.cnn(batch.image).relu().squeeze(2).transpose(1, 2).detach()
        return Read(logits=self.rnn(features), frames=batch.widths)


def test_a_part_that_a_term_should_train_and_does_not_is_refused_unless_the_plan_says_so():
    with pytest.raises(PreflightError, match="into part 'cnn' is 0"):
        check_gradients(a_trial(HalfBlind()))
    said = {"ctc": Term(loss=ctc, trains=("rnn",))}
    with pytest.raises(PreflightError, match=r"2 of 4 parameters that should learn get no gradient .*cnn\.weight"):
        check_gradients(a_trial(HalfBlind(), terms=said))
    assert check_gradients(a_trial(HalfBlind(), terms=said, learn=("rnn",)))


class Idle(Columns):
    """One layer nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn.unused = nn.Linear(2, 2)


def test_a_parameter_that_no_term_reaches_is_named():
    with pytest.raises(PreflightError, match=r"2 of 6 parameters .*: rnn\.unused\.weight, rnn\.unused\.bias"):
        check_gradients(a_trial(Idle()))


class Thaws(Columns):
    """A forward pass that makes everything learn again."""

    def forward(self, batch: Batch) -> Read:
        self.requires_grad_(True)
        return super().forward(batch)


def test_a_frozen_part_that_asks_for_a_gradient_is_refused():
    with pytest.raises(PreflightError, match=r"frozen parameters ask for a gradient: cnn\.weight, cnn\.bias"):
        check_gradients(a_trial(Thaws(), learn=("rnn",)))


def test_a_gradient_that_is_not_finite_is_refused():
    def poisoned(batch: Batch, out: Read) -> Mean:
        return Mean((out.logits * torch.inf).sum() * 0, out.logits.new_tensor(1.0))

    with pytest.raises(PreflightError, match="is nan on a real batch; it must be finite"):
        check_gradients(a_trial(terms={"ctc": Term(loss=poisoned)}))


def test_effective_values_are_the_plans_and_go_into_the_record():
    stage = {"early_stop": EarlyStop(metric="made/loss", mode="min", patience=2), "epochs": 4}
    facts = check_effective(a_trial(**stage)).facts["effective"]
    assert facts["lr"] == {"first": 1e-2, "highest": 1e-2, "last": 1e-2}
    assert (facts["steps"], facts["validations"], facts["early_stop_after"]) == (12, 4, 2)
    assert facts["learning_parameters"] == {"cnn": 4 * 24 + 4, "rnn": 4 * CLASSES + CLASSES}


def test_a_rate_that_is_not_the_plans_is_refused(monkeypatch):
    real = preflight_model.update
    monkeypatch.setattr(preflight_model, "update", lambda *a, lr, **k: real(*a, lr=lr / 10, **k))
    with pytest.raises(PreflightError, match=r"learning rate is .0.001., planned .0.01."):
        check_effective(a_trial())


def test_an_optimiser_that_moves_weights_otherwise_is_refused(monkeypatch):
    real = preflight_model.update

    def moves_more(trainee, *given, **named):
        real(trainee, *given, **named)
        with torch.no_grad():
            for parameter in trainee.names:
                parameter.add_(0.5)

    monkeypatch.setattr(preflight_model, "update", moves_more)
    with pytest.raises(
        PreflightError, match=r"moved weights by up to 0.5.*, the plan's learning rate at step 0 is 0.01"
    ):
        check_effective(a_trial())


def test_a_weight_that_is_not_applied_is_refused(monkeypatch):
    real = preflight_model.update

    def ignores_weights(trainee, stage, *given, **named):
        plain_terms = {name: replace(term, weight=1.0) for name, term in stage.terms.items()}
        return real(trainee, replace(stage, terms=plain_terms), *given, **named)

    terms = {"ctc": Term(loss=ctc, weight=1.0), "guide": Term(loss=small_logits, weight=3.0)}
    assert check_effective(a_trial(terms=terms))
    monkeypatch.setattr(preflight_model, "update", ignores_weights)
    with pytest.raises(PreflightError, match=r"another gradient than the plan's weighted terms \(ctc x 1, guide x 3"):
        check_effective(a_trial(terms=terms))


def small_logits(batch: Batch, out: Read) -> Mean:
    return Mean(out.logits.square().sum(), out.logits.new_tensor(float(out.logits.numel())))


def test_early_stopping_that_never_stops_is_refused(monkeypatch):
    monkeypatch.setattr(preflight_model, "stops_early", lambda stage, progress: False)
    stop = EarlyStop(metric="made/loss", mode="min", patience=2)
    with pytest.raises(
        PreflightError, match="ended after 3 validations without a gain when tried, planned is a patience of 2"
    ):
        check_effective(a_trial(early_stop=stop))
