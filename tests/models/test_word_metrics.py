"""Word error rates: sums by hand."""

from __future__ import annotations

import math

import pytest

from models.metrics.words import cer_macro, wer, wer_macro

READ = ["the cat sat", "a", "", "more"]
TRUE = ["The  cat sat down", "b", "", "more"]


def plain(text: str) -> str:
    return " ".join(text.lower().split())


def test_wer_is_edits_over_words_of_all_lines():
    found = wer(READ, TRUE, normalize=plain)  # one missing of four, one wrong of one, none of one
    assert (found.total, found.count, found.skipped) == (2, 6, 1) and found.value == pytest.approx(1 / 3)


def test_macro_averages_the_lines():
    found = wer_macro(READ, TRUE, normalize=plain)
    assert found.value == pytest.approx((1 / 4 + 1 + 0) / 3) and (found.count, found.skipped) == (3, 1)
    assert cer_macro(["ab", "x"], ["abcd", "x"], normalize=plain).value == pytest.approx(0.25)


def test_normalisation_decides_about_case():
    assert wer(["The"], ["the"], normalize=str).value == 1
    assert wer(["The"], ["the"], normalize=plain).value == 0


def test_more_words_than_there_are_exceed_one():
    assert wer(["a b c"], ["d"], normalize=plain).value == 3


def test_parts_add_up_and_nothing_measured_is_no_number():
    parts = wer(READ[:1], TRUE[:1], normalize=plain) + wer(READ[1:], TRUE[1:], normalize=plain)
    assert parts == wer(READ, TRUE, normalize=plain)
    assert math.isnan(wer([""], [""], normalize=plain).value)
