"""Validation sets that cut no group in two."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.row import SourceError
from datasets.splits import check_shares, held_out_groups, split_by_share

GROUPS = st.lists(st.sampled_from("abcdefgh"), max_size=60)


@given(groups=GROUPS, rows=st.integers(0, 30), seed=st.integers(0, 5))
def test_held_out_groups_hold_at_most_the_rows_asked_for_in_whatever_order(groups: list[str], rows: int, seed: int):
    held_out = held_out_groups(groups, rows=rows, seed=seed)
    assert sum(Counter(groups)[group] for group in held_out) <= rows
    assert held_out == held_out_groups(sorted(groups), rows=rows, seed=seed)


def test_groups_of_one_row_make_the_number_exact():
    assert len(held_out_groups([str(row) for row in range(100)], rows=17, seed=3)) == 17


@given(groups=GROUPS, seed=st.integers(0, 5))
def test_every_group_gets_one_split_and_no_share_is_exceeded(groups: list[str], seed: int):
    singles = [f"{group}{index}" for index, group in enumerate(groups)]
    splits = split_by_share(groups + singles, valid_share=0.2, test_share=0.1, seed=seed)
    sizes = Counter(splits[group] for group in groups + singles)
    total = len(groups + singles)
    assert set(splits) == {*groups, *singles}
    assert sizes["valid"] <= max(1, round(0.2 * total)) and sizes["test"] <= max(1, round(0.1 * total))


def test_another_seed_cuts_other_groups():
    groups = [str(row) for row in range(50)]
    first, second = (split_by_share(groups, valid_share=0.2, test_share=0.2, seed=seed) for seed in (0, 1))
    assert Counter(first.values()) == Counter(second.values()) == {"train": 30, "valid": 10, "test": 10}
    assert first != second


def test_a_share_smaller_than_every_group_is_refused_with_the_cure():
    with pytest.raises(SourceError, match=r"valid_share=0.1 of 20 rows asks for 2, .* has 20 rows .* raise the share"):
        split_by_share(["page"] * 20, valid_share=0.1, test_share=0, seed=0)


def test_no_share_leaves_everything_to_train():
    assert split_by_share(["a", "b"], valid_share=0, test_share=0, seed=0) == {"a": "train", "b": "train"}


@pytest.mark.parametrize(("valid", "test"), [(-0.1, 0), (0, 1), (0.5, 0.5)])
def test_shares_that_leave_nothing_to_train_on_are_refused(valid: float, test: float):
    with pytest.raises(ValueError, match="valid_share"):
        check_shares("Set", valid_share=valid, test_share=test)
