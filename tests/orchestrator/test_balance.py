"""Balancing by gradients: the closed form by hand, bounds, spikes, silence; and the older rule's own numbers."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.balance import Balance, Balanced, LossBalance, balancing, shares_of, spread, untouched
from orchestrator.identity import plain
from orchestrator.limits import PlanError

RULE = Balance(shares={"ctc": 0.65, "pixel": 0.35}, rate=1.0, warmup=0)
OLD = LossBalance(shares={"ctc": 0.65, "visual": 0.35}, warmup=0)
SEEN = {"ctc": 297.8, "visual": 14.12}


def after(rule, *measured, epoch=0, known=None):
    known = untouched(rule) if known is None else known
    for each in measured:
        known = rule.after(known, each, epoch=epoch)
    return known


def test_the_closed_form_by_hand():
    # Gradients of 1 and 9: together 10, of which 6.5 and 3.5 are wanted.
    known = after(RULE, {"ctc": 1.0, "pixel": 9.0})
    assert known.factors == pytest.approx({"ctc": 6.5, "pixel": 3.5 / 9})
    assert shares_of(known) == pytest.approx(RULE.shares)
    assert known.updates == 1 and known.moved
    assert known.movement == pytest.approx(math.log(6.5) + math.log(9 / 3.5))


def norms(least=1e-6, most=1e6):
    return st.fixed_dictionaries({term: st.floats(least, most) for term in "abc"})


def shares():
    return st.tuples(st.floats(0.05, 0.9), st.floats(0.05, 0.9)).map(
        lambda pair: {"a": pair[0] / 2, "b": pair[1] / 2, "c": 1 - (pair[0] + pair[1]) / 2}
    )


@given(shares(), norms())
def test_the_sum_of_gradients_stays_and_bounds_are_kept(wanted, found):
    factors = balancing(wanted, found, least=0.1, most=10.0)
    assert sum(factors[term] * found[term] for term in found) == pytest.approx(sum(found.values()))
    assert all(0.1 <= factor <= 10 for factor in factors.values())
    free = [term for term in found if 0.1001 < factors[term] < 9.999]
    scales = [factors[term] * found[term] / wanted[term] for term in free]
    assert scales == pytest.approx(scales[:1] * len(scales))  # those within bounds divide the rest by their shares


def test_where_a_bound_holds_one_back_the_others_make_up_for_it():
    # a wants 4,002,000 / 3 / 1 and gets 10; b and c share what is left of the sum, 4,001,991, equally.
    factors = balancing({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, {"a": 1.0, "b": 1e6, "c": 3e6}, least=0.1, most=10.0)
    left = (1 + 4e6 - 10) / 2
    assert factors == pytest.approx({"a": 10, "b": left / 1e6, "c": left / 3e6})


def test_gradients_that_have_their_shares_already_move_nothing():
    known = after(RULE, {"ctc": 6.5, "pixel": 3.5}, {"ctc": 65.0, "pixel": 35.0})
    assert known.factors == pytest.approx({"ctc": 1, "pixel": 1})
    assert known.updates == 2 and not known.moved


def test_a_balancer_that_never_moves_can_be_told_from_one_that_was_never_asked():
    held = after(Balance(shares=RULE.shares, least=1.0, most=1.0, warmup=0), *[{"ctc": 1.0, "pixel": 9.0}] * 500)
    assert held.updates == 500 and held.movement < 1e-9 and not held.moved
    assert not untouched(RULE).moved and untouched(RULE).updates == 0


def test_shares_are_reached_and_then_kept_while_gradients_shrink():
    rule, known = Balance(shares={"ctc": 0.65, "pixel": 0.35}, warmup=0), None
    for step in range(200):
        known = after(rule, {"ctc": 5.0 * 0.99**step, "pixel": 0.02 * 0.99**step}, known=known)
        assert shares_of(known) == pytest.approx(rule.shares)
    assert known.averages["ctc"] < 5.0 * 0.99**180


def test_a_spike_hardly_moves_the_other_terms():
    rule = Balance(shares={"ctc": 0.5, "pixel": 0.5}, warmup=0)
    known = after(rule, {"ctc": 1.0, "pixel": 1.0}, {"ctc": 250.0, "pixel": 1.0})
    assert known.averages["ctc"] == pytest.approx(250**0.1)  # 1.74
    assert known.factors["pixel"] == pytest.approx((1 + 250**0.1) / 2)  # 1.37, not 126


def test_nothing_happens_during_warm_up():
    rule = replace(RULE, warmup=3)
    assert after(rule, {"ctc": 1.0, "pixel": 9.0}, epoch=2) == untouched(rule)
    assert after(rule, {"ctc": 1.0, "pixel": 9.0}, epoch=3).moved


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("rule", [RULE, OLD])
def test_a_step_that_is_not_finite_leaves_everything_as_it_was(rule, bad):
    known = after(rule, dict.fromkeys(rule.shares, 2.0))
    assert rule.after(known, dict.fromkeys(rule.shares, 2.0) | {"ctc": bad}, epoch=0) is known


def test_a_term_without_gradient_keeps_its_factor_and_is_counted():
    rule = Balance(shares={"ctc": 0.5, "pixel": 0.25, "feature": 0.25}, rate=1.0, warmup=0)
    first = after(rule, {"ctc": 0.0, "pixel": 1.0, "feature": 3.0})
    assert first.factors == pytest.approx({"ctc": 1, "pixel": 2, "feature": 2 / 3})  # as if they were all there are
    assert first.silent == {"ctc": 1, "pixel": 0, "feature": 0}
    both = after(rule, {"ctc": 4.0, "pixel": 1.0, "feature": 3.0}, known=first)
    again = after(rule, *[{"ctc": 0.0, "pixel": 1.0, "feature": 3.0}] * 3, known=both)
    assert shares_of(both) == pytest.approx(rule.shares) and both.silent["ctc"] == 0
    assert again.factors == pytest.approx(both.factors) and again.silent["ctc"] == 3
    nothing = after(rule, dict.fromkeys(rule.shares, 0.0))
    assert nothing.factors == untouched(rule).factors and nothing.silent["pixel"] == 1


@pytest.mark.parametrize("rule", [RULE, OLD])
def test_resuming_from_json_goes_on_bit_for_bit(rule):
    terms = list(rule.shares)
    steps = [{terms[0]: 1.0 + step % 7, terms[1]: 0.1 * (1 + step % 3)} for step in range(40)]
    through = after(replace(rule, rate=0.1), *steps)
    half = after(replace(rule, rate=0.1), *steps[:17])
    again = Balanced.of(json.loads(json.dumps(half.plain())), rule)
    assert again == half and after(replace(rule, rate=0.1), *steps[17:], known=again) == through


def test_a_checkpoint_of_other_terms_is_refused():
    other = untouched(Balance(shares={"ctc": 0.5, "feature": 0.5}))
    with pytest.raises(ValueError, match="the checkpoint balances ctc, feature, the plan ctc, pixel"):
        Balanced.of(other.plain(), RULE)


def test_what_was_measured_must_be_of_its_terms_and_no_norm_is_negative():
    with pytest.raises(ValueError, match=r"no norms of \['pixel'\]; measured are \['ctc', 'pixels'\]"):
        after(RULE, {"ctc": 1.0, "pixels": 1.0})
    with pytest.raises(ValueError, match="at least 0"):
        after(RULE, {"ctc": 1.0, "pixel": -1.0})
    assert after(RULE, {"ctc": 1.0, "pixel": 9.0, "other": 5.0}) == after(RULE, {"ctc": 1.0, "pixel": 9.0})


def test_the_older_rule_gives_the_shares_of_the_run_it_was_read_in():
    known, found = untouched(OLD), {}
    for step in range(1, 101):
        known = after(OLD, SEEN, known=known)
        before = replace(known, factors=found.get("factors", dict.fromkeys(SEEN, 1.0)))
        found = {**found, step: shares_of(before)["ctc"], "factors": known.factors}
    assert [found[step] for step in (1, 10, 50, 100)] == pytest.approx([0.955, 0.907, 0.681, 0.651], abs=5e-4)


def test_the_older_rule_ends_where_its_equation_says():
    known = after(OLD, *[SEEN] * 3000)
    assert list(known.factors.values()) == pytest.approx([0.2915, 3.311], abs=5e-4)
    ratio = known.factors["ctc"] / known.factors["visual"]
    assert ratio == pytest.approx(0.65 / 0.35 * 14.12 / 297.8) and round(ratio, 3) == 0.088
    assert known.updates == 3000
    assert known.movement == pytest.approx(math.log(1 / 0.2915) + math.log(3.311), abs=2e-3)


def test_the_older_rule_by_hand_and_its_floor():
    known = after(OLD, {"ctc": 3.0, "visual": 1.0}, {"ctc": 5.0, "visual": 1.0})
    assert known.averages == pytest.approx({"ctc": 3.2, "visual": 1.0})
    first = {"ctc": 1 + 0.15 * (0.65 - 0.75), "visual": 1 + 0.15 * (0.35 - 0.25)}
    share = first["ctc"] * 3.2 / (first["ctc"] * 3.2 + first["visual"])
    assert known.factors["ctc"] == pytest.approx(first["ctc"] * (1 + 0.15 * (0.65 - share)))
    assert after(OLD, *[{"ctc": 1e9, "visual": 1.0}] * 400).factors["ctc"] == 0.01


def test_the_older_rule_has_no_shares_of_a_loss_below_zero():
    with pytest.raises(ValueError, match="balance by gradients"):
        after(OLD, {"ctc": 1.0, "visual": -0.5})


def test_groups_divide_their_share_among_their_terms():
    found = spread({"recognition": (0.65, ("ctc", "feature")), "visual": (0.35, ("pixel",))})
    assert found == {"ctc": 0.325, "feature": 0.325, "pixel": 0.35}
    assert Balance(shares=found).shares == found
    with pytest.raises(PlanError, match="two groups"):
        spread({"a": (0.5, ("ctc",)), "b": (0.5, ("ctc",))})
    with pytest.raises(PlanError, match="no terms"):
        spread({"a": (0.5, ())})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"shares": {"ctc": 1.0}}, "shares"), ({"shares": {"ctc": 1.0, "pixel": 0.0}}, "shares"),
        ({"shares": {"ctc": 0.5, "pixel": 0.4}}, "sum 0.9"), ({"rate": 0.0}, "rate"), ({"rate": 1.1}, "rate"),
        ({"least": 0.0}, "least"), ({"least": 1.1}, "least"), ({"warmup": -1}, "warmup"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rule", [RULE, OLD])
def test_wrong_settings_are_refused(rule, wrong, says):
    with pytest.raises(PlanError, match=says):
        replace(rule, **wrong)


def test_settings_of_one_rule_alone():
    with pytest.raises(PlanError, match=r"Balance\.most"):
        replace(RULE, most=0.9)
    with pytest.raises(PlanError, match="gain"):
        replace(OLD, gain=0.0)


@pytest.mark.parametrize("rule", [replace(RULE, warmup=2), replace(OLD, warmup=2)])
def test_a_stage_in_which_it_would_not_act_as_written_is_refused(rule):
    terms = dict.fromkeys(rule.shares, 0)
    rule.check(terms | {"ctc": 2, "other": 9}, 3)
    with pytest.raises(PlanError, match="it would never act"):
        rule.check(terms, 2)
    with pytest.raises(PlanError, match="'ctc' is brought in over 3, which balancing would undo; set it to 3"):
        rule.check(terms | {"ctc": 3}, 9)
    with pytest.raises(PlanError, match=r"names \['ctc'\]; the stage's terms are .*pixels"):
        rule.check({name: 0 for name in rule.shares if name != "ctc"} | {"pixels": 0}, 9)


@pytest.mark.parametrize("rule", [RULE, OLD])
def test_they_are_plan_data(rule):
    data = json.loads(json.dumps(plain(rule)))
    assert data.pop("is") == f"orchestrator.plan.{type(rule).__name__}" and type(rule)(**data) == rule


def test_each_rule_says_what_it_is_to_be_given():
    assert (Balance.measures, LossBalance.measures) == ("gradients", "losses")
