"""Error rates of lines: micro and macro by hand, intervals over pages, and gains that are paired."""

from __future__ import annotations

import random

import pytest

from models.metrics.lines import Line, consistency, error_rates, gain, interval


def line(number: int, label: str, restored: str, degraded: str = "", target: str | None = None, group: str = "p"):
    texts = {"": restored, "_degraded": degraded} | ({"_target": target} if target is not None else {})
    return Line(group=group, number=number, label=label, texts=texts)


def test_micro_counts_characters_and_macro_counts_lines():
    lines = [line(0, "ab", "a"), line(1, "one two three", "one too three"), line(2, "x", "xyz")]
    found = error_rates(lines)
    assert found["cer"].value == (1 + 1 + 2) / (2 + 13 + 1) and found["cer"].words == 3
    assert found["cer_macro"].value == pytest.approx((1 / 2 + 1 / 13 + 2) / 3)
    assert found["wer"].value == (1 + 1 + 1) / 5
    assert found["wer_macro"].value == pytest.approx((1 + 1 / 3 + 1) / 3)
    assert set(error_rates(lines, "_degraded")) == {f"{name}_degraded" for name in found}
    assert error_rates(lines, "_degraded")["cer_degraded"].value == 1


def test_a_line_without_a_clean_twin_is_in_none_of_its_rates():
    lines = [line(0, "ab", "ab", target="ab"), line(1, "cdef", "cdef")]
    assert error_rates(lines, "_target")["cer_target"].count == 2
    assert consistency(lines).words == 1


def test_consistency_is_with_the_reading_of_the_clean_line_and_not_with_the_text():
    lines = [line(0, "abcd", "xyz", target="xyz"), line(1, "ab", "q", target=""), line(2, "ab", "ab", target="cb")]
    found = consistency(lines)
    assert (found.total, found.count) == (0 + 1 + 1, 3 + 0 + 2)  # a letter where the clean line says none is an edit
    assert error_rates(lines)["cer"].value == (4 + 2 + 0) / 8


PAGES = [
    line(number, "abcd", restored, degraded, "abcd", group)
    for number, (restored, degraded, group) in enumerate(
        [("abcd", "abxx", "one"), ("abcx", "xxxx", "one"), ("abcd", "abcd", "two"), ("axxd", "axxx", "three")]
    )
]


def test_intervals_hold_the_rate_and_draw_whole_pages():
    found = interval(PAGES, "_degraded")
    assert found.value == error_rates(PAGES, "_degraded")["cer_degraded"].value == (2 + 4 + 0 + 3) / 16
    # Page by page 6/8, 0/4 and 3/4 of the characters are wrong: no draw can be outside of that.
    assert 0 <= found.low < found.value < found.high <= 6 / 8
    one = interval([each for each in PAGES if each.group == "one"], "_degraded")
    assert one.low == one.value == one.high == 6 / 8


def test_a_gain_is_paired_and_positive_where_less_is_wrong():
    found = gain(PAGES, "_degraded")
    assert found.value == pytest.approx((9 - 3) / 16)
    even = [line(n, "abcd", "abcx" if n % 3 else "abcd", "abxx" if n % 3 else "abcx", group=str(n)) for n in range(9)]
    same = gain(even, "_degraded")  # every line loses exactly one of four errors: which are drawn does not matter
    assert same.low == same.value == same.high == 1 / 4
    assert interval(even).low < interval(even).high


def test_order_does_not_matter_and_nothing_is_not_a_claim():
    mixed = random.Random(1).sample(PAGES, len(PAGES))
    assert interval(mixed, "_degraded") == interval(PAGES, "_degraded") and gain(mixed, "") == gain(PAGES, "")
    nothing = interval([])
    assert str((nothing.value, nothing.low, nothing.high)) == "(nan, nan, nan)"
    assert str(gain([], "_degraded").value) == "nan"
