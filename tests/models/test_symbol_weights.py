"""Weights of confused characters: bounded, smoothed, and 1 on average over the labels."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.losses.plates import CharacterTerm
from models.losses.symbol_weights import SymbolErrors
from models.metrics.confusions import confusions
from tests.models.pairs import PLATES36

SYMBOLS = PLATES36.symbols
COUNTS = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=2, max_size=36)


def errors_of(pairs):
    """``(right, wrong)`` times for each symbol."""
    return SymbolErrors(
        seen=tuple(float(right + wrong) for right, wrong in pairs), wrong=tuple(float(wrong) for _, wrong in pairs)
    )


def test_ten_bs_read_as_eights_are_reported_as_such():
    found = confusions(["A8C1D23"] * 10, ["ABC1D23"] * 10)
    assert found.mistakes() == [("B", "8", 10)]
    errors = SymbolErrors.of(found, SYMBOLS)
    assert errors.wrong == tuple(10.0 if symbol == "B" else 0.0 for symbol in SYMBOLS)
    assert errors.seen == tuple(10.0 if symbol in "ABC1D23" else 0.0 for symbol in SYMBOLS)
    weights = dict(zip(SYMBOLS, errors.weights(), strict=True))
    assert max(weights, key=weights.__getitem__) == "B" and weights["B"] > 1 > weights["A"]


def test_the_last_and_the_first_symbol_count_like_all_others():
    errors = SymbolErrors.of(confusions(["2O"] * 4, ["Z0"] * 4), SYMBOLS)
    assert (errors.wrong[35], errors.wrong[0], sum(errors.wrong)) == (4, 4, 8)


def test_what_was_left_out_or_added_confuses_nothing():
    # One missing character at the front would set all seven beside their neighbours if they were not aligned.
    errors = SymbolErrors.of(confusions(["BC1D23", "ABC1D239"], ["ABC1D23"] * 2), SYMBOLS)
    assert sum(errors.wrong) == 0 and sum(errors.seen) == 13


def test_weights_by_hand():
    # Rate overall 10/100 = 0.1. B: (10 + 2) / (20 + 20) = 0.3; A: (0 + 2) / (80 + 20) = 0.02.
    # Raised: 3 and 1 + 2 * 0.02 / 0.3; their average over 20 and 80 characters is divided away.
    weights = errors_of([(80, 0), (10, 10)]).weights()
    raised = (1 + 2 / 15, 3)
    average = 0.8 * raised[0] + 0.2 * raised[1]
    assert weights == pytest.approx((raised[0] / average, raised[1] / average))


def test_three_hundred_confusions_stay_within_the_bound():
    errors = SymbolErrors.of(confusions(["8"] * 300 + ["A"] * 9000, ["B"] * 300 + ["A"] * 9000), SYMBOLS)
    weights = errors.weights(most=3.0)
    assert max(weights) <= 3 and weights[SYMBOLS.index("B")] > 2
    CharacterTerm(weights=weights, most=3.0)


def test_one_mistake_of_a_rare_symbol_does_not_outweigh_four_hundred():
    rare, common = errors_of([(0, 1), (600, 400), (9000, 0)]).weights()[:2]
    assert rare < common


def test_all_right_or_nothing_read_weighs_all_alike():
    assert errors_of([(5, 0), (9, 0)]).weights() == (1.0, 1.0)
    assert SymbolErrors.of(confusions([], []), SYMBOLS).weights() == (1.0,) * 36


@given(COUNTS, st.floats(1, 10), st.floats(0.1, 100))
def test_weights_are_bounded_and_average_to_one_over_the_labels(pairs, most, prior):
    errors = errors_of(pairs)
    weights = errors.weights(most=most, prior=prior)
    assert all(0 < weight <= most for weight in weights)
    if sum(errors.seen):
        weighted = math.fsum(seen * weight for seen, weight in zip(errors.seen, weights, strict=True))
        assert weighted / sum(errors.seen) == pytest.approx(1)


def test_old_epochs_fade():
    old, new = errors_of([(0, 10), (0, 0)]), errors_of([(10, 0), (0, 10)])
    mixed = old.after(new)
    assert mixed.wrong == pytest.approx((7, 3)) and mixed.seen == pytest.approx((10, 3))
    for _ in range(100):
        mixed = mixed.after(errors_of([(10, 0), (10, 0)]))
    assert (max(mixed.wrong) < 1e-9 and max(mixed.weights()) < 1 + 1e-6) or max(mixed.weights()) <= 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: SymbolErrors(seen=(1.0,), wrong=()),
        lambda: SymbolErrors(seen=(1.0,), wrong=(2.0,)),
        lambda: errors_of([(1, 1)]).weights(most=0.5),
        lambda: errors_of([(1, 1)]).weights(prior=0),
        lambda: errors_of([(1, 1)]).after(errors_of([(1, 1)]), keep=1),
        lambda: errors_of([(1, 1)]).after(errors_of([(1, 1), (1, 1)])),
    ],
)
def test_what_cannot_be_is_refused(make):
    with pytest.raises(ValueError, match=r"SymbolErrors|argument 2"):
        make()
