"""Difficulty, weights, the curriculum and the lists made of them: by hand, and equal at any number of ranks."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.curriculum import Curriculum, Mining
from orchestrator.limits import PlanError
from orchestrator.mining import (
    Difficulty,
    begun,
    capped,
    chances,
    epoch_list,
    hardest,
    raw_weights,
    suspects,
    unknown,
    visited,
)
from orchestrator.order import of_rank, steps_of

RULE = Mining(least_visits=1, reweigh_every=1, suspect_after=1000)
SURE = Mining(least_visits=1, reweigh_every=1, suspect_after=1000, curriculum=Curriculum(start=1.0, end=1.0))


def known_as(accuracies, times=1):
    known = unknown(len(accuracies))
    for _ in range(times):
        known = visited(known, np.arange(len(accuracies)), accuracies)
    return known


def shares(known, rule, epoch=1):
    return chances(begun(known, rule, epoch), rule, epoch)


def test_raw_weights_by_hand():
    raw = raw_weights(known_as([0, 0.25, 0.5, 0.75, 1]), RULE)
    assert raw == pytest.approx([1.21, 0.7225, 0.36, 0.1225, 0.01])


def test_a_first_visit_sets_the_accuracy_and_later_ones_move_it():
    known = visited(unknown(2), [1], [0.5])
    assert known.accuracy.tolist() == [0, 0.5] and known.visits.tolist() == [0, 1]
    known = visited(known, [1, 0], [1.0, 1.0])
    assert known.accuracy.tolist() == pytest.approx([1.0, 0.9 * 0.5 + 0.1]) and known.visits.tolist() == [1, 2]


def test_samples_not_seen_often_enough_weigh_one():
    known = visited(known_as([1.0, 1.0, 0.0]), [0], [1.0])
    rule = Mining(least_visits=2)
    assert raw_weights(known, rule) == pytest.approx([0.01, 1, 1])
    assert raw_weights(unknown(3), rule).tolist() == [1, 1, 1]


@pytest.mark.parametrize("accuracy", [0.0, 0.5, 1.0])
def test_all_easy_or_all_hard_is_uniform(accuracy):
    assert shares(known_as([accuracy] * 4), SURE) == pytest.approx([0.25] * 4)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", {0: 0.1, 12: 0.268, 25: 0.45, 49: 0.786, 50: 0.8, 70: 0.8}),
        ("exponential", {0: 0.1, 25: 0.275, 50: 0.8}),
        ("step", {0: 0.1, 12: 0.1, 13: 0.275, 25: 0.45, 38: 0.8, 50: 0.8}),
    ],
)
def test_the_curriculum_of_fifty_epochs(kind, expected):
    curriculum = Curriculum(kind=kind, epochs=50)
    assert {epoch: round(curriculum.share(epoch), 12) for epoch in expected} == expected


def test_the_curriculum_mixes_difficulty_with_a_uniform_part():
    known = known_as([0, 1])
    rule = Mining(least_visits=1, reweigh_every=1, suspect_after=9, curriculum=Curriculum(start=0.5, end=0.5))
    assert shares(known, rule) == pytest.approx([0.5 * 1.21 / 1.22 + 0.25, 0.5 * 0.01 / 1.22 + 0.25])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(1, 5))
def test_no_chance_exceeds_the_cap_and_they_sum_to_one(accuracies, cap):
    rule = Mining(alpha=4, least_visits=1, reweigh_every=1, cap=cap, curriculum=Curriculum(start=1.0, end=1.0))
    found = shares(known_as(accuracies), rule)
    assert found.sum() == pytest.approx(1) and (found > 0).all()
    assert found.max() <= cap / len(accuracies) * (1 + 1e-9)


def test_what_a_cap_cuts_off_goes_to_the_others_in_proportion():
    assert capped(np.array([0.7, 0.2, 0.1]), 0.5) == pytest.approx([0.5, 1 / 3, 1 / 6])
    assert capped(np.array([0.6, 0.3, 0.1]), 0.4) == pytest.approx([0.4, 0.4, 0.2])  # the second passes it only then
    assert capped(np.array([0.4, 0.6]), 0.5) == pytest.approx([0.5, 0.5])


def test_a_uniform_epoch_is_every_sample_once():
    known = begun(unknown(97), RULE, 0)
    drawn = epoch_list(known, RULE, epoch=0, count=97, seed=(1, 2))
    assert sorted(drawn) == list(range(97)) and drawn.tolist() != sorted(drawn)


def test_each_sample_comes_as_often_as_its_chance_says_rounded():
    known = begun(known_as(np.linspace(0, 1, 50)), RULE, 30)
    drawn = epoch_list(known, RULE, epoch=30, count=500, seed=(1,))
    times = np.bincount(drawn, minlength=50)
    expected = 500 * chances(known, RULE, 30)
    assert len(drawn) == 500 and (np.abs(times - expected) < 1).all()
    assert times[0] > 2 * times[49] > 0


def test_a_list_depends_on_state_seed_and_epoch_alone():
    known = begun(known_as(np.linspace(0, 1, 50)), RULE, 3)
    one = epoch_list(known, RULE, epoch=3, count=80, seed=(1, 2))
    assert one.tolist() == epoch_list(known, RULE, epoch=3, count=80, seed=(1, 2)).tolist()
    for other in ({"epoch": 4, "seed": (1, 2)}, {"epoch": 3, "seed": (1, 3)}):
        assert one.tolist() != epoch_list(known, RULE, count=80, **other).tolist()


def test_lists_differ_from_epoch_to_epoch_and_from_weights_to_weights_even_where_all_are_alike():
    rule = Mining(curriculum=Curriculum(start=0.0, end=0.0))
    known = begun(unknown(50), rule, 0)
    again = replace(known, weighed=5)
    lists = [
        epoch_list(each, rule, epoch=epoch, count=50, seed=(1,)).tolist()
        for each, epoch in ((known, 5), (known, 6), (again, 5))
    ]
    assert lists[0] != lists[1] and lists[0] != lists[2]


def test_repeats_of_a_sample_are_spread_over_the_epoch():
    known = begun(known_as([0.0] + [1.0] * 99), SURE, 1)
    places = np.flatnonzero(epoch_list(known, SURE, epoch=1, count=400, seed=(1,)) == 0)
    assert len(places) == 40 and places.max() - places.min() > 200


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_any_number_of_ranks_trains_on_the_same_list_and_learns_the_same_of_it(ranks):
    rule = Mining(least_visits=1, reweigh_every=1, curriculum=Curriculum(epochs=3))
    known, alone = unknown(23), unknown(23)
    truth = np.random.default_rng(0).random(23)
    for epoch in range(3):
        known, alone = begun(known, rule, epoch), begun(alone, rule, epoch)
        listed = epoch_list(known, rule, epoch=epoch, count=23, seed=(5,))
        assert listed.tolist() == epoch_list(alone, rule, epoch=epoch, count=23, seed=(5,)).tolist()
        for step in steps_of(listed, np.full(23, 8), [8], 4):
            parts = [of_rank(step, rank=rank, ranks=ranks).samples for rank in range(ranks)]
            together = np.concatenate(parts[::-1])
            assert sorted(together) == sorted(step.samples)
            known = visited(known, together, truth[together])
            alone = visited(alone, step.samples, truth[step.samples])
    assert {name: array.tolist() for name, array in known.arrays().items()} == {
        name: array.tolist() for name, array in alone.arrays().items()
    }


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1)), min_size=1, max_size=12), st.randoms())
def test_the_order_within_a_step_does_not_matter(seen, shuffler):
    other = shuffler.sample(seen, len(seen))
    one, two = (visited(unknown(5), *zip(*each, strict=True)).arrays() for each in (seen, other))
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_a_sample_that_a_step_holds_twice_counts_once_with_its_mean():
    known = visited(unknown(2), [0, 0, 1], [0.0, 1.0, 0.0])
    assert known.accuracy.tolist() == [0.5, 0] and known.visits.tolist() == [1, 1] and known.misses.tolist() == [0, 1]


def test_weights_are_held_between_the_epochs_at_which_they_are_due():
    rule = Mining(least_visits=1, reweigh_every=5)
    known = begun(unknown(3), rule, 0)
    assert known.weighed == 0 and known.weights == pytest.approx([1 / 3] * 3)
    known = visited(known, [0, 1, 2], [0.0, 0.5, 1.0])
    for epoch in (0, 1, 4):  # even the epoch that was begun already, as after a resume
        assert begun(known, rule, epoch) is known
    later = begun(known, rule, 5)
    assert later.weighed == 5 and later.weights == pytest.approx(np.array([1.21, 0.36, 0.01]) / 1.58)
    assert known.weights == pytest.approx([1 / 3] * 3)


def test_state_survives_a_checkpoint_in_the_middle_of_an_epoch():
    known = begun(known_as(np.linspace(0, 1, 20)), RULE, 3)
    known = visited(known, [3, 4], [1.0, 0.0])
    again = begun(Difficulty.of({name: array.copy() for name, array in known.arrays().items()}, 20), RULE, 3)
    for name, array in known.arrays().items():
        assert np.array_equal(array, again.arrays()[name]), name
    lists = [epoch_list(each, RULE, epoch=3, count=40, seed=(1,)).tolist() for each in (known, again)]
    assert lists[0] == lists[1]
    as_json = {name: array.tolist() for name, array in known.arrays().items()}
    assert Difficulty.of(as_json, 20).accuracy.tolist() == known.accuracy.tolist()


def test_a_checkpoint_of_other_data_is_refused():
    arrays = known_as([0.5, 0.5]).arrays()
    with pytest.raises(ValueError, match="the data has 3 samples"):
        Difficulty.of(arrays, 3)
    with pytest.raises(ValueError, match="expected the arrays accuracy, visits"):
        Difficulty.of({"accuracy": [0.0]}, 1)


def test_a_label_that_nothing_ever_reads_is_listed_and_not_over_sampled():
    rule = Mining(least_visits=1, reweigh_every=1, suspect_after=3, curriculum=Curriculum(start=1.0, end=1.0))
    known = known_as([0.0, 0.5, 0.9, 1.0], times=3)
    assert suspects(known, rule) == [0] and hardest(known, rule, 2) == [1, 2]
    found = shares(known, rule)
    assert found[0] == pytest.approx(found[3]) and found[0] < 0.25 and found.argmax() == 1
    relieved = visited(known, [0], [0.2])
    assert suspects(relieved, rule) == [] and hardest(relieved, rule, 1) == [0]


def test_the_longest_suspected_comes_first():
    rule = Mining(suspect_after=2)
    known = visited(known_as([0.0, 0.0, 1.0], times=2), [1], [0.0])
    assert suspects(known, rule) == [1, 0]
    assert shares(known_as([0.0, 0.0], times=9), rule) == pytest.approx([0.5, 0.5])


def test_functions_leave_what_they_are_given_as_it_was():
    known = known_as([0.2, 0.8])
    before = {name: array.copy() for name, array in known.arrays().items()}
    visited(known, [0, 1], [1.0, 0.0])
    begun(known, RULE, 7)
    assert all(np.array_equal(before[name], array) for name, array in known.arrays().items())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: unknown(0), "no samples"),
        (lambda: visited(unknown(2), [2], [0.5]), "the data has 0 to 1"),
        (lambda: visited(unknown(2), [-1], [0.5]), "the data has 0 to 1"),
        (lambda: visited(unknown(2), [0], [np.nan]), "not a number"),
        (lambda: visited(unknown(2), [0], [1.1]), "outside 0 .. 1"),
        (lambda: visited(unknown(2), [0, 1], [0.5]), "give one each"),
        (lambda: Mining(alpha=-1), "Mining.alpha"),
        (lambda: Mining(cap=0.5), "Mining.cap"),
        (lambda: Mining(least_visits=0), "Mining.least_visits"),
        (lambda: Mining(reweigh_every=0), "Mining.reweigh_every"),
        (lambda: Curriculum(kind="easy"), "'linear' or 'exponential' or 'step'"),
        (lambda: Curriculum(start=0.9, end=0.1), "Curriculum.end"),
        (lambda: Mining(least_visits=100).check(50), "lower it or reweigh_every"),
        (lambda: Mining(reweigh_every=50).check(50), "last taken at epoch 0 of 50"),
    ],
)
def test_what_cannot_work_is_refused(make, says):
    with pytest.raises((PlanError, ValueError), match=says):
        make()


def test_rules_that_can_matter_are_allowed():
    Mining().check(50)
    Mining(least_visits=3, reweigh_every=3).check(4)
    assert visited(unknown(2), [], []).visits.tolist() == [0, 0]


def test_a_curriculum_ends_within_its_stage():
    with pytest.raises(PlanError, match=r"rises over 50 epochs, but the stage has 40; it would end at 0\.646"):
        Mining(curriculum=Curriculum(epochs=50)).check(40)


def test_a_curriculum_without_epochs_takes_those_of_the_stage():
    assert Mining().over(50).curriculum.share(25) == pytest.approx(0.45)
    assert Mining(curriculum=Curriculum(epochs=10)).over(50).curriculum.share(10) == pytest.approx(0.8)
