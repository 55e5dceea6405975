"""When a trial is cut short: by equals at equal epochs, never in its warm-up; and who wins."""

from __future__ import annotations

from dataclasses import replace

import pytest

from models.losses.text import ctc
from orchestrator.identity import fingerprint
from orchestrator.plan import Asha, Best, Cosine, Median, PlanError, Search, Term
from orchestrator.search import rungs_of, warmup_epochs
from tests.orchestrator.small import a_stage, small_recipe

NAN = float("nan")


def test_successive_halving_lets_the_best_share_of_those_at_a_rung_go_on():
    rule = Asha(first=1, factor=3)
    assert not rule.cuts(0.1, [], "max")  # the first to come is the best so far
    assert rule.cuts(0.1, [0.2], "max") and not rule.cuts(0.3, [0.2], "max")
    others = [0.1, 0.2, 0.3, 0.4, 0.5]  # with one more, two of six go on
    assert not rule.cuts(0.45, others, "max") and rule.cuts(0.35, others, "max")
    assert rule.cuts(0.45, others, "min") and not rule.cuts(0.15, others, "min")
    assert not rule.cuts(0.5, [0.5, 0.5, 0.5], "max")  # as good as what goes on


def test_an_error_rate_of_zero_is_the_best_there_is():
    assert not Asha().cuts(0.0, [0.1, 0.2, 0.3], "min") and Asha().cuts(0.1, [0.0], "min")
    assert not Median(least=1).cuts(0.0, [0.0, 0.1], "min")


def test_the_median_of_enough_others_cuts():
    rule = Median(least=3)
    assert not rule.cuts(0.0, [0.5, 0.6], "max")  # two are not enough
    assert rule.cuts(0.5, [0.4, 0.6, 0.8], "max") and not rule.cuts(0.6, [0.4, 0.6, 0.8], "max")
    assert rule.cuts(0.7, [0.4, 0.6, 0.8], "min")


def test_what_is_no_number_is_worse_than_any():
    assert Asha().cuts(NAN, [0.0], "max") and Asha().cuts(NAN, [1e9], "min")
    assert not Asha().cuts(0.0, [NAN, NAN], "max")
    assert Median(least=1).cuts(NAN, [0.1], "max") and not Median(least=1).cuts(0.1, [NAN], "max")


def test_rungs_grow_by_the_factor_and_end_before_the_stage_does():
    assert Asha(first=2, factor=3).rungs(60) == [2, 6, 18, 54]
    assert Asha(first=4).rungs(4) == [] and Median(first=2, every=3).rungs(10) == [2, 5, 8]


def test_no_trial_is_compared_inside_its_warm_up_nor_where_it_does_not_validate():
    stage = a_stage(epochs=20)
    assert warmup_epochs(stage) == 0 and rungs_of(Asha(factor=2), stage) == [1, 2, 4, 8, 16]
    rising = replace(stage, schedule=Cosine(warmup=0.2))  # 4 epochs
    assert warmup_epochs(rising) == 4 and rungs_of(Asha(factor=2), rising) == [8, 16]
    ramped = replace(stage, terms={"ctc": Term(loss=ctc, ramp=9)})
    assert rungs_of(Asha(factor=2), ramped) == [16]
    assert rungs_of(Asha(factor=2), replace(stage, validate_every=4)) == [4, 8, 16]
    assert rungs_of(None, stage) == []
    with pytest.raises(PlanError, match="validates every 7 epochs, and trials would be compared after 1, 2, 4, 8, 16"):
        rungs_of(Asha(factor=2), replace(stage, validate_every=7))


@pytest.mark.parametrize("wrong", [
    lambda: Search(space="a b"), lambda: Search(space="a", trials=0), lambda: Search(space="a", sampler="tbe"),
    lambda: Asha(factor=1), lambda: Asha(first=0), lambda: Median(every=0),
], ids=["name", "trials", "sampler", "factor", "first", "every"])  # fmt: skip
def test_a_search_that_makes_no_sense_is_no_plan(wrong):
    with pytest.raises(PlanError):
        wrong()


def test_how_a_stage_is_searched_is_no_part_of_what_it_is():
    plain, searched = small_recipe(), small_recipe(**{"stages.finetune.search": Search(space="words_finetune")})
    assert searched.stages[-1].search is not None
    assert fingerprint(plain, plain.stages[-1], {}) == fingerprint(searched, searched.stages[-1], {})
    other = small_recipe(**{"stages.finetune.best": (Best(metric="worn/cer", mode="min"),)})
    assert fingerprint(plain, plain.stages[-1], {}) != fingerprint(other, other.stages[-1], {})
