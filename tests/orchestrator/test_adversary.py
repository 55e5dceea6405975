"""Two players in one update: whose gradient goes where, at which weights, rates and ceilings; and what is skipped."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from small_documents import AGAINST, TERMS, a_task, adversarial, some_lines
from torch import Tensor, nn
from torch.testing import assert_close

from models.batch import Judged, Pair
from models.losses.adversarial import DiscriminatorTerm, GeneratorTerm
from models.losses.image import l1
from models.losses.line_ctc import Ceiling, LineCTC
from models.mean import Mean
from orchestrator import update as update_module
from orchestrator.gradients import norms_of
from orchestrator.measured import Measured, Names
from orchestrator.plan import Adversary, Optim, PlanError, Stage, Term
from orchestrator.players import backward, freeze_all_but, objective, set_learning
from orchestrator.preflight import PreflightError
from orchestrator.preflight.model import Trial, check_effective, check_gradients
from orchestrator.ranks import Ranks
from orchestrator.update import Trainee, trainee_of, update

LOOSE = Optim(lr=2e-3, betas=(0.5, 0.9), clip_norm=1e9)
FREE = adversarial(optim=Optim(lr=1e-3, clip_norm=1e9), adversary=replace(AGAINST, optim=LOOSE))


def one_update(trainee: Trainee, stage: Stage, batch: Pair, *, lr: float | None = None, **looks: bool) -> Measured:
    row = update(
        trainee, stage, [batch], lr=stage.optim.lr if lr is None else lr, forward=trainee.task, autocast=nullcontext,
        ranks=Ranks(), **looks,
    )  # fmt: skip
    return Measured.of(row.tolist(), Names.of(stage, trainee), batch.ids)


def alone(task: nn.Module, stage: Stage, terms: Mapping[str, Term], part: str) -> dict[str, Tensor]:
    """The gradient of some terms by one part, from a forward pass of its own."""
    set_learning(task, stage)
    batch = some_lines()
    torch.manual_seed(0)
    out = task(batch)
    value = sum(term.weight * term.loss(batch, out).value for term in terms.values())
    own = {name: p for name, p in task.named_parameters() if name.startswith(f"{part}.")}
    return dict(zip(own, torch.autograd.grad(value, list(own.values())), strict=True))  # type: ignore[arg-type]


def moments(trainee: Trainee, key: str = "exp_avg") -> dict[str, Tensor]:
    return {trainee.names[p]: state[key] for p, state in trainee.optimizer.state.items()}


def test_each_players_gradient_is_that_of_its_own_terms_alone_at_the_same_weights():
    """The first moments of AdamW are (1 - beta) of the gradient it was given."""
    assert FREE.adversary is not None
    mine = alone(a_task(), FREE, FREE.terms, "generator")
    theirs = alone(a_task(), FREE, FREE.adversary.terms, "discriminator")
    trainee = trainee_of(FREE, a_task())
    one_update(trainee, FREE, some_lines())
    given = moments(trainee)
    assert given.keys() == mine.keys() | theirs.keys()
    for name, gradient in mine.items():
        assert_close(given[name], 0.1 * gradient, rtol=1e-4, atol=1e-7, msg=name)
    for name, gradient in theirs.items():
        assert_close(given[name], 0.5 * gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_what_the_generator_wants_of_the_discriminator_is_not_in_the_discriminators_gradient():
    """Both terms depend on both parts; with the wrong one added the gradients would be far from what they are."""
    assert FREE.adversary is not None
    fool = {"fool": FREE.terms["fool"]}
    right, wrong = (alone(a_task(), FREE, terms, "discriminator") for terms in (FREE.adversary.terms, fool))
    apart = [float((wrong[name]).norm() / right[name].norm().clamp(min=1e-12)) for name in right]
    assert max(apart) > 0.1
    right, wrong = (alone(a_task(), FREE, terms, "generator") for terms in (FREE.terms, FREE.adversary.terms))
    assert max(float(wrong[name].norm()) for name in right) > 0


def test_the_first_update_moves_each_player_at_its_own_rate_with_its_own_betas():
    trainee = trainee_of(FREE, a_task())
    before = {name: p.detach().clone() for name, p in trainee.task.named_parameters()}
    one_update(trainee, FREE, some_lines(), lr=1e-3)
    for part, rate in (("generator", 1e-3), ("discriminator", 2e-3)):
        moved = max(float((p.detach() - before[name]).abs().max()) for name, p in trainee.task.named_parameters()
                    if name.startswith(part))  # fmt: skip
        assert moved == pytest.approx(rate, rel=1e-3)
    assert all(torch.equal(p, before[name]) for name, p in trainee.task.named_parameters() if name.startswith("recog"))
    betas = {name.split(".")[0]: group["betas"] for group in trainee.optimizer.param_groups
             for p in group["params"] for name in [trainee.names[p]]}  # fmt: skip
    assert betas == {"generator": (0.9, 0.999), "discriminator": (0.5, 0.9)}


def test_the_schedule_scales_both_rates():
    trainee = trainee_of(FREE, a_task())
    one_update(trainee, FREE, some_lines(), lr=1e-4)  # a tenth of the stage's own
    rates = {group.get("part", ""): group["lr"] for group in trainee.optimizer.param_groups}
    assert rates == {"": 1e-4, "discriminator": pytest.approx(2e-4)}


@pytest.mark.parametrize("hard", ["generator", "discriminator"])
def test_each_player_is_clipped_by_its_own_norm(hard):
    own, against = ((0.01, 1e9) if hard == "generator" else (1e9, 0.01))  # fmt: skip
    stage = adversarial(
        optim=Optim(lr=1e-3, clip_norm=own), adversary=replace(AGAINST, optim=replace(LOOSE, clip_norm=against))
    )  # fmt: skip
    trainee, free = trainee_of(stage, a_task()), trainee_of(FREE, a_task())
    found = one_update(trainee, stage, some_lines())
    one_update(free, FREE, some_lines())
    for part, factor in (("generator", 0.1), ("discriminator", 0.5)):
        given, whole = (torch.cat([m.flatten() for name, m in moments(each).items() if name.startswith(part)])
                        for each in (trainee, free))  # fmt: skip
        norm = float(whole.norm()) / factor
        assert norm > 0.05
        assert float(given.norm()) / factor == pytest.approx(0.01 if part == hard else norm, rel=1e-4)
        assert found.norms_by_part()[part] == pytest.approx(norm, rel=1e-4)  # as it was before clipping
    assert found.norm == pytest.approx(found.norms_by_part()["generator"])


def of_nothing(batch: Pair, out: Judged) -> Mean:
    mean = DiscriminatorTerm()(batch, out)
    return Mean(mean.total * torch.nan, mean.count)


def infinite(batch: Pair, out: Judged) -> Mean:
    mean = l1(batch, out)
    return Mean(mean.total / 0.0, mean.count)


@pytest.mark.parametrize("whose", ["generator", "discriminator"])
def test_what_is_not_finite_for_one_player_is_skipped_for_both(whose):
    bad = (
        adversarial(terms={**TERMS, "pixel": Term(loss=infinite)}) if whose == "generator" else
        adversarial(adversary=replace(AGAINST, terms={"judge": Term(loss=of_nothing)}))
    )  # fmt: skip
    trainee = trainee_of(bad, a_task())
    before = {name: value.clone() for name, value in trainee.task.state_dict().items()}
    found = one_update(trainee, bad, some_lines())
    assert found.skipped and found.means["pixel" if whose == "generator" else "judge"] is None
    assert all(torch.equal(value, before[name]) for name, value in trainee.task.state_dict().items())
    assert not any(float(state["step"]) for state in trainee.optimizer.state.values())
    assert not one_update(trainee, adversarial(), some_lines()).skipped
    after = trainee.task.state_dict()
    for part in ("generator", "discriminator"):
        assert any(not torch.equal(after[name], value) for name, value in before.items() if name.startswith(part))


def test_a_loss_is_the_slope_of_the_objective_by_its_weight():
    """What a sweep changes is what the update optimises: doubled weight, doubled own gradient, by term and player."""
    trainee = trainee_of(FREE, a_task())
    usual = one_update(trainee, FREE, some_lines(), compare_terms=True)
    assert usual.alone.keys() == FREE.terms.keys() and min(usual.alone.values()) > 0
    for name, term in FREE.terms.items():
        doubled = replace(FREE, terms={**FREE.terms, name: replace(term, weight=2 * term.weight)})
        found = one_update(trainee_of(doubled, a_task()), doubled, some_lines(), compare_terms=True)
        for other, norm in usual.alone.items():
            assert found.alone[other] == pytest.approx((2 if other == name else 1) * norm, rel=1e-4), (name, other)
        assert found.means == pytest.approx(usual.means)
        assert found.norm != pytest.approx(usual.norm, rel=1e-6)
    assert FREE.adversary is not None
    harder = replace(FREE.adversary, terms={"judge": Term(loss=DiscriminatorTerm(), weight=3.0)})
    found = one_update(trainee_of(FREE, a_task()), replace(FREE, adversary=harder), some_lines())
    assert found.norms_by_part()["discriminator"] == pytest.approx(3 * usual.norms_by_part()["discriminator"], rel=1e-4)
    assert found.norm == pytest.approx(usual.norm, rel=1e-4)


def a_trial(stage: Stage | None = None, task: nn.Module | None = None) -> Trial:
    return Trial(
        stage=stage or adversarial(), task=task or a_task(), batch=some_lines(), autocast=nullcontext, ranks=Ranks(),
        steps=6,
    )  # fmt: skip


def test_preflight_lets_two_sound_players_pass_and_changes_nothing():
    trial = a_trial()
    before = {name: value.clone() for name, value in trial.task.state_dict().items()}
    says = check_gradients(trial).says
    assert all(f"{name} into generator" in says for name in TERMS) and "judge into discriminator" in says
    found = check_effective(trial).facts["effective"]
    assert found["weights"]["judge"] == 1 and found["lr_factors"] == {"discriminator": pytest.approx(2)}
    assert all(torch.equal(value, before[name]) for name, value in trial.task.state_dict().items())


def detached(batch: Pair, out: Judged) -> Mean:
    return GeneratorTerm()(batch, replace(out, fake=out.fake.detach()))  # type: ignore[union-attr]


def only_of_the_image(batch: Pair, out: Judged) -> Mean:
    return Mean(out.image.square().sum(), out.image.new_tensor(1.0))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (adversarial(terms={**TERMS, "fool": Term(loss=detached)}), "term 'fool' is a constant"),
        (adversarial(terms={**TERMS, "fool": Term(loss=GeneratorTerm(), weight=0.0)}), "'fool' into part 'generator'"),
        (
            adversarial(adversary=replace(AGAINST, terms={"judge": Term(loss=only_of_the_image)})),
            "'judge' into part 'discriminator' is 0",
        ),
        (
            adversarial(adversary=replace(AGAINST, terms={"judge": Term(loss=DiscriminatorTerm(), weight=0.0)})),
            "'judge' into part 'discriminator' is 0",
        ),
    ],
)
def test_a_term_of_either_player_that_teaches_it_nothing_is_refused(stage, message):
    with pytest.raises(PreflightError, match=message):
        check_gradients(a_trial(stage))


def both_into_all(players, means, counts):
    """The classic fault: one backward pass of the sum."""
    objective({name: term for player in players for name, term in player.terms.items()}, means, counts).backward()


def second_left_out(players, means, counts):
    backward(players[:1], means, counts)


def clipped_together(players, norms):
    parameters = [p for player in players for p in player.parameters.values()]
    norm = norms_of(parameters).square().sum().sqrt()
    nn.utils.clip_grads_with_norm_(parameters, players[0].optim.clip_norm, norm)
    return norm.expand(len(players))


@pytest.mark.parametrize(
    ("name", "fault"), [("backward", both_into_all), ("backward", second_left_out), ("clip", clipped_together)]
)
def test_an_update_in_which_the_players_meet_is_refused(monkeypatch, name, fault):
    monkeypatch.setattr(update_module, name, fault)
    with pytest.raises(PreflightError, match=r"the optimiser was given another gradient|moved weights by up to"):
        check_effective(a_trial())


def test_a_rate_that_is_not_the_adversarys_is_refused(monkeypatch):
    real = update_module.groups_of

    def groups(players):
        return [{**group, "factor": 1.0} for group in real(players)]

    monkeypatch.setattr(update_module, "groups_of", groups)
    with pytest.raises(PreflightError, match=r"learning rate is \[0\.001\], planned \[0\.001, 0\.002\]"):
        check_effective(a_trial())


def test_a_player_has_parts_and_terms_and_no_ramp():
    with pytest.raises(PlanError, match="must each name at least one"):
        Adversary(learn=(), terms={"judge": Term(loss=DiscriminatorTerm())}, optim=LOOSE)
    with pytest.raises(PlanError, match="only the stage's own terms can"):
        Adversary(learn=("d",), terms={"judge": Term(loss=DiscriminatorTerm(), ramp=2)}, optim=LOOSE)
    with pytest.raises(PlanError, match="accumulate is 1"):
        Adversary(learn=("d",), terms={"judge": Term(loss=DiscriminatorTerm())}, optim=replace(LOOSE, accumulate=2))


def test_frozen_normalisation_keeps_its_statistics_while_its_part_learns():
    kept = adversarial(freeze_norm=True)
    for stage, moves in ((adversarial(), True), (kept, False)):
        trainee = trainee_of(stage, a_task())
        before = {name: buffer.clone() for name, buffer in trainee.task.named_buffers()}
        weights = {name: p.detach().clone() for name, p in trainee.task.named_parameters()}
        one_update(trainee, stage, some_lines())
        changed = {name for name, buffer in trainee.task.named_buffers() if not torch.equal(buffer, before[name])}
        assert any(name.startswith("discriminator") for name in before)
        assert bool(changed) == moves and not any(name.startswith("recognizer") for name in changed)
        assert any(not torch.equal(p, weights[name]) for name, p in trainee.task.named_parameters())
    freeze_all_but(trainee.task, ())
    set_learning(trainee.task, kept)  # as after each validation
    one_update(trainee, kept, some_lines(seed=1))
    assert all(torch.equal(buffer, before[name]) for name, buffer in trainee.task.named_buffers())


@pytest.mark.parametrize(
    ("mode", "value", "share"), [("log_tail", 1e-3, 1.0), ("log_tail", 1e6, 0.0), ("none", 1e-3, None)]
)
def test_the_samples_that_a_ceiling_clips_are_counted_by_the_term(mode, value, share):
    stage = adversarial(terms={**TERMS, "ctc": Term(loss=LineCTC(ceiling=Ceiling(mode=mode, value=value)))})
    found = one_update(trainee_of(stage, a_task()), stage, some_lines())
    if share is None:
        assert "clipped_ctc" not in found.flagged  # what has no ceiling clips nothing
    else:
        assert found.flagged["clipped_ctc"] == share * found.samples
