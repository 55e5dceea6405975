"""Detectors of terms that pull against each other: quiet on healthy numbers, and one fault each that they see."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from small_documents import AGAINST, TERMS, adversarial

from models.losses.adversarial import DiscriminatorTerm, GeneratorTerm
from models.losses.line_ctc import Ceiling, LineCTC
from orchestrator.balance import Balance, untouched
from orchestrator.events import Epoch, Seen, events_of_epoch
from orchestrator.events_adversary import LASTING, events_of_terms
from orchestrator.events_validation import criteria_disagree, events_of_validation
from orchestrator.plan import Best, Expression, Term

BALANCE = Balance(shares={"ctc": 0.65, "pixel": 0.35})
HEALTHY = {
    "losses": {"pixel": 0.1, "fool": 0.4, "feature": 0.02, "ctc": 2.0, "perceptual": 0.4, "judge": 0.35},
    "weights": {name: term.weight for name, term in TERMS.items()},
    "gradient_shares": {"pixel": 0.4, "fool": 0.2, "feature": 0.1, "ctc": 0.2, "perceptual": 0.1},
    "flagged": {"clipped_ctc": 1000, "worse_than_guessing": 900},
}  # fmt: skip


def an_epoch(number: int = 2, **changes) -> Epoch:
    numbers = {"epoch": number, "step": 100 * number, "updates": 100, "loss": 1.0, "clipped": 3, "samples": 4000}
    return Epoch(**numbers | HEALTHY | changes)


def told(stage, *epochs: Epoch, seen: Seen | None = None):
    """Events of some epochs, remembered from one to the next as in a checkpoint."""
    seen, found = seen or Seen(), []
    for now in epochs:
        found += events_of_terms(stage, seen, now)
        seen = Seen(**json.loads(json.dumps(asdict(seen))))
    return found


def lasting(stage, times: int = LASTING, **changes):
    return told(stage, *(an_epoch(number, **changes) for number in range(2, 2 + times)))


def test_healthy_players_say_nothing():
    stage = adversarial(balance=BALANCE)
    moved = replace(untouched(BALANCE), updates=10, movement=0.5).plain()
    assert lasting(stage, 9, balance=moved) == []
    assert events_of_epoch(stage, Seen(), an_epoch(), samples={}) == []  # a few clipped lines are no flaw of samples


SMOOTHED = adversarial(
    terms={**TERMS, "fool": Term(loss=GeneratorTerm(kind="bce", real=0.9), weight=1.5)},
    adversary=replace(AGAINST, terms={"judge": Term(loss=DiscriminatorTerm(kind="bce", real=0.9))}),
)  # fmt: skip


@pytest.mark.parametrize("loss", [1.363, 1.365, 1.366, 1.3763, 1.5])
def test_a_discriminator_at_chance_is_named_after_some_epochs_and_once(loss):
    """1.363 to 1.366 is what a known run called a stable equilibrium for 26 epochs."""
    losses = HEALTHY["losses"] | {"judge": loss, "fool": 0.792}
    assert lasting(SMOOTHED, LASTING - 1, losses=losses) == []
    [event] = lasting(SMOOTHED, 9, losses=losses)
    assert (event.event, event.epoch) == ("discriminator_at_chance", 1 + LASTING)
    assert event.evidence["chance"] == pytest.approx(1.3763, abs=1e-4) and "1.3763" in event.says
    assert "stages.adversarial.adversary.optim.lr" in event.change


@pytest.mark.parametrize("kind", ["lsgan", "bce", "hinge"])
def test_chance_is_that_of_the_kind_and_two_percent_below_it_is_not_chance(kind):
    judge = DiscriminatorTerm(kind=kind)
    stage = adversarial(
        terms={**TERMS, "fool": Term(loss=GeneratorTerm(kind=kind))},
        adversary=replace(AGAINST, terms={"judge": Term(loss=judge)}),
    )
    at, below = (HEALTHY["losses"] | {"judge": share * judge.chance} for share in (0.99, 0.97))
    assert [event.event for event in lasting(stage, losses=at)] == ["discriminator_at_chance"]
    assert lasting(stage, 9, losses=below) == []


def test_an_epoch_that_is_better_begins_the_count_anew():
    at = HEALTHY["losses"] | {"judge": 0.5}
    epochs = [an_epoch(number, losses=HEALTHY["losses"] if number % 3 == 0 else at) for number in range(2, 12)]
    assert told(adversarial(), *epochs) == []


def test_a_discriminator_that_cannot_be_fooled_is_named():
    won = HEALTHY["losses"] | {"judge": 0.004, "fool": 0.98}
    [event] = lasting(adversarial(), losses=won)
    assert event.event == "discriminator_wins" and event.evidence["generator"] == {"fool": pytest.approx(3.92)}
    assert "fool 3.9 times" in event.says and "adversary.optim.lr" in event.change
    assert lasting(adversarial(), 9, losses=won | {"fool": 0.3}) == []  # it is fooled all the same
    assert lasting(adversarial(), 9, losses=won | {"judge": 0.1}) == []


def clipped(mode: str):
    ceiling = Ceiling(mode=mode, value=300.0, accept_dead_gradient=mode == "hard")
    return adversarial(terms={**TERMS, "ctc": Term(loss=LineCTC(normalize="none", ceiling=ceiling))})


@pytest.mark.parametrize("mode", ["hard", "log_tail", "root_tail", "grad_norm"])
def test_a_ceiling_below_most_lines_is_named_and_for_hard_that_they_teach_nothing(mode):
    most = {"clipped_ctc": 3900}
    assert lasting(clipped(mode), LASTING - 1, flagged=most) == []
    [event] = lasting(clipped(mode), 6, flagged=most)
    assert event.event == "always_clipped" and event.evidence["share"] == 0.975
    assert ("no gradient at all" in event.says) == (mode == "hard") == ("'log_tail'" in event.change)
    assert "stages.adversarial.terms.ctc.loss.ceiling.value" in event.change
    assert lasting(clipped(mode), 9, flagged={"clipped_ctc": 2000}) == []


def test_readings_worse_than_a_guess_are_named():
    [event] = lasting(adversarial(), flagged={"worse_than_guessing": 3000})
    assert event.event == "worse_than_guessing" and event.evidence == {"count": 3000, "share": 0.75}
    assert lasting(adversarial(), 9, flagged={"worse_than_guessing": 2000}) == []


def test_a_term_that_is_the_loss_and_not_the_gradient_is_named_and_the_other_way_round():
    """As in a known run: a CTC of 297.8 of 303.2, hardly ever below the ceiling that took its gradient."""
    losses = HEALTHY["losses"] | {"ctc": 297.8}
    shares = {"pixel": 0.6, "fool": 0.2, "feature": 0.1, "ctc": 0.01, "perceptual": 0.09}
    [event] = lasting(adversarial(), losses=losses, gradient_shares=shares)
    assert (event.event, event.evidence["term"]) == ("loss_without_gradient", "ctc")
    assert event.evidence["loss_share"] == pytest.approx(297.8 / (297.8 + 2 + 0.6 + 0.1 + 0.08))
    small = HEALTHY["losses"] | {"ctc": 0.01}
    steep = {"pixel": 0.03, "fool": 0.02, "feature": 0.01, "ctc": 0.93, "perceptual": 0.01}
    [event] = lasting(adversarial(), losses=small, gradient_shares=steep)
    assert (event.event, event.evidence["term"]) == ("gradient_without_loss", "ctc")
    assert lasting(adversarial(), 9, losses=losses) == []  # large in both


@pytest.mark.parametrize(
    ("known", "says"),
    [
        ({}, "was set 0 times in 1 epochs"),
        (replace(untouched(BALANCE), updates=10).plain(), "was set 10 times in 1 epochs and never moved a weight"),
        (replace(untouched(BALANCE), updates=10, silent={"ctc": 10, "pixel": 0}).plain(), "; ctc had no gradient"),
    ],
)
def test_a_balance_that_never_moved_is_named_after_its_warm_up(known, says):
    stage = adversarial(balance=BALANCE)
    assert told(stage, an_epoch(1, balance=known)) == []
    [event] = told(stage, an_epoch(2, balance=known), an_epoch(3, balance=known))
    assert event.event == "balancer_never_moved" and says in event.says
    assert "stages.adversarial.balance.every" in event.change


SCORE = Expression(name="score", text="{lines/psnr} - 50 * {lines/cer}")
TWO = adversarial(best=(Best(metric="lines/psnr"), Best(metric="lines/cer", mode="min")), scores=(SCORE,))


def ended(rows, stage=TWO):
    """The end of a stage that saw these decibels and error rates, validated after every epoch."""
    seen, best = Seen(), {}
    for epoch, (psnr, cer) in enumerate(rows, start=1):
        metrics = {"lines/psnr": psnr, "lines/cer": cer, "lines/loss": 1.0}
        events_of_validation(stage, seen, epoch=epoch, step=10 * epoch, metrics=metrics, loss=1.0)
        for name, value, top in (("lines/psnr", psnr, max), ("lines/cer", cer, min)):
            if name not in best or top(value, best[name]["value"]) != best[name]["value"]:
                best[name] = {"value": value, "step": 10 * epoch, "metrics": metrics}
    return criteria_disagree(stage, Seen(**json.loads(json.dumps(asdict(seen)))), best, 9, 90)


def test_criteria_that_pick_different_checkpoints_are_told_with_what_each_would_have_picked():
    [event] = ended([(20.0, 0.2), (24.0, 0.10), (28.0, 0.18), (30.0, 0.25)])
    assert event.event == "criteria_disagree"
    assert "lines/psnr picks update 40 (lines/psnr 30.0000, lines/cer 0.2500)" in event.says
    assert "lines/cer picks update 20 (lines/cer 0.1000, lines/psnr 24.0000)" in event.says
    assert event.evidence["lost"] == {"lines/psnr": pytest.approx(0.6), "lines/cer": pytest.approx(1.0)}
    assert event.evidence["picked"]["lines/cer"]["metrics"]["lines/psnr"] == 24.0


@pytest.mark.parametrize(
    "rows",
    [
        [(20.0, 0.4), (24.0, 0.3), (28.0, 0.2), (30.0, 0.1)],  # the same one
        [(20.0, 0.4), (24.0, 0.3), (29.9, 0.1), (30.0, 0.11)],  # as good as the same
        [(20.0, 0.1), (30.0, 0.4)],  # too few to tell
        [(20.0, 0.2)] * 5,
    ],
)
def test_criteria_that_agree_or_hardly_differ_are_not(rows):
    assert ended(rows) == []


def validations(stage, losses, psnr=lambda number: 20.0 + number):
    seen, found = Seen(first_loss=9.0), []
    for number, loss in enumerate(losses, start=1):
        metrics = {"lines/psnr": psnr(number), "lines/cer": 0.3, "lines/loss": loss}
        metrics["score"] = SCORE.of(metrics).value
        train = 5.0 - 0.1 * number
        found += events_of_validation(stage, seen, epoch=number, step=number, metrics=metrics, loss=train)
    return [event.event for event in found]


BY_SCORE = adversarial(epochs=20, scores=(SCORE,), best=(Best(metric="score"),))


def test_overfitting_and_plateau_are_seen_where_a_score_or_decibels_decide():
    """A score belongs to the set of its first metric; neither it nor decibels are perfect at 1."""
    assert validations(BY_SCORE, [2.0, 1.0, 1.2, 1.4, 1.6]) == ["overfitting"]
    flat = validations(BY_SCORE, [1.0] * 9, psnr=lambda number: 25.0 - 0.1 * number)
    assert flat == ["plateau"]
    by_psnr = adversarial(epochs=20, best=(Best(metric="lines/psnr"),))
    assert validations(by_psnr, [1.0] * 9, psnr=lambda number: 25.0 - 0.1 * number) == ["plateau"]
    assert validations(BY_SCORE, [1.0 - 0.01 * number for number in range(9)]) == []


def at_floor(stage, rows):
    """Events of validations that found these nats per character of restored and clean lines."""
    seen, found = Seen(first_loss=9.0), []
    for number, (ctc, clean) in enumerate(rows, start=1):
        metrics = {"lines/psnr": 20.0 + number, "lines/cer": 0.3, "lines/ctc": ctc, "lines/ctc_target": clean}
        metrics |= {"lines/ctc_uniform": 12.0, "score": 1.0 * number}
        found += events_of_validation(stage, seen, epoch=number, step=10 * number, metrics=metrics, loss=1.0)
        seen = Seen(**json.loads(json.dumps(asdict(seen))))
    return found


HIGH = [(9.0, 4.0), (4.15, 4.0), (4.1, 4.0), (4.05, 4.0), (4.0, 4.0)]


def test_a_ctc_that_clean_lines_cost_too_is_told_once_with_the_recogniser_as_its_cause():
    [event] = at_floor(adversarial(epochs=30), HIGH)
    assert event.event == "ctc_at_floor" and event.epoch == 4
    assert event.evidence == {"set": "lines", "ctc": 4.05, "ctc_target": 4.0, "ctc_uniform": 12.0}
    assert "no generator can lower" in event.cause and "stages.adversarial.learn" in event.change


@pytest.mark.parametrize(
    "rows",
    [
        [(0.6, 0.6)] * 5,  # the recogniser is good, and reads restored lines like clean ones: all is well
        [(5.0, 4.0)] * 5,  # there is still something to win
        HIGH[:3],
    ],
)
def test_a_ctc_above_its_floor_or_with_a_low_one_says_nothing(rows):
    assert at_floor(adversarial(epochs=30), rows) == []


def test_a_recogniser_that_learns_along_lowers_its_floor_itself():
    assert at_floor(adversarial(epochs=30, learn=("generator", "recognizer")), HIGH) == []
