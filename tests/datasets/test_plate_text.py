"""What a plate may read, and which plates are held out."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.plate_splits import stratified_splits
from datasets.plate_text import BadLabel, PlateLabels, folded, matches
from datasets.row import SourceError

BRAZIL = PlateLabels()


def reason(labels: PlateLabels, text: str, layout: str = "") -> str:
    with pytest.raises(BadLabel) as error:
        labels.read(text, layout)
    return error.value.reason


@pytest.mark.parametrize(
    ("text", "layout", "read"),
    [
        ("ABC1234", "Brazilian", ("ABC1234", "Brazilian")),
        ("abc-1234", "brazilian", ("ABC1234", "Brazilian")),
        ("ABC 1D23", "Mercosul", ("ABC1D23", "Mercosur")),
        ("ABC1D23", "", ("ABC1D23", "Mercosur")),
    ],
)
def test_labels_are_read(text: str, layout: str, read: tuple[str, str]):
    assert BRAZIL.read(text, layout) == read


@pytest.mark.parametrize(
    ("text", "layout", "expected"),
    [
        ("", "Brazilian", "unlabelled"),
        (" - ", "Brazilian", "unlabelled"),
        ("ABC12\u00c94", "Brazilian", "outside_charset"),
        ("ABC12\u00df", "Brazilian", "outside_charset"),
        ("ABC123", "Brazilian", "wrong_length"),
        ("ABC12345", "", "wrong_length"),
        ("ABC1D23", "Brazilian", "contradicts_layout"),
        ("ABC1234", "Mercosur", "contradicts_layout"),
        ("1234ABC", "", "contradicts_layout"),
        ("ABC1234", "Lunar", "unknown_layout"),
    ],
)
def test_labels_that_cannot_be_right_are_refused_with_a_reason(text: str, layout: str, expected: str):
    assert reason(BRAZIL, text, layout) == expected


def test_a_refusal_is_a_reject():
    with pytest.raises(BadLabel) as error:
        BRAZIL.read("ABC123", "Brazilian")
    reject = error.value.reject("track/1")
    assert (reject.id, reject.reason) == ("track/1", "wrong_length") and "has 7" in reject.detail


def test_layouts_are_data_with_lengths_that_vary():
    labels = PlateLabels(layouts={"plain": (), "short": ("LN", "LNN", "XX")}, shortest=2, longest=4)
    assert labels.read("A12", "short")[0] == "A12" and labels.read("99", "short")[0] == "99"
    assert labels.read("ABCD", "plain")[0] == "ABCD"
    assert reason(labels, "ABCDE", "plain") == "wrong_length" and reason(labels, "AB1", "short") == "contradicts_layout"
    assert labels.read("A12") == ("A12", "")  # both layouts have such texts


def test_without_layouts_any_name_is_taken():
    labels = PlateLabels(layouts={}, longest=8)
    assert labels.read("BIGCHEES", "ny") == ("BIGCHEES", "ny") and reason(labels, "BIGCHEESE", "") == "wrong_length"


@pytest.mark.parametrize("pattern", ["LLQ", ""])
def test_a_pattern_of_unknown_kinds_is_refused(pattern: str):
    with pytest.raises(ValueError, match=r"L \(letter\), N \(digit\) and X"):
        PlateLabels(layouts={"odd": (pattern,)})


def test_patterns_match_place_by_place():
    assert matches("A1B", "LNX") and not matches("A1B", "LNN") and not matches("A1", "LNX")


def test_folding_makes_look_alikes_one():
    assert folded("O0Q", ("0O",)) == "00Q" and folded("O0I1", ("0O", "1I")) == "0011"


def test_each_stratum_gives_its_share():
    sizes = {"a": 600, "b": 300, "c": 100}
    plates = [(f"{name}{number}", name) for name, count in sizes.items() for number in range(count)]
    splits = stratified_splits(plates, valid_share=0.1, test_share=0.2, seed=0)
    found = Counter((name, splits[plate]) for plate, name in plates)
    for name, count in sizes.items():
        assert abs(found[name, "test"] - 0.2 * count) <= 1 and abs(found[name, "valid"] - 0.1 * count) <= 1


@given(st.lists(st.tuples(st.sampled_from("ABCDEFGHIJKL"), st.sampled_from("xyz")), min_size=1), st.integers(0, 9))
def test_splits_depend_on_the_seed_and_not_on_the_order(plates: list[tuple[str, str]], seed: int):
    if len({plate for plate, _ in plates}) < 3:
        return
    first = stratified_splits(plates, valid_share=0.2, test_share=0.2, seed=seed)
    assert first == stratified_splits(reversed(plates), valid_share=0.2, test_share=0.2, seed=seed)
    assert set(first.values()) == {"train", "valid", "test"} and first.keys() == {plate for plate, _ in plates}


def test_another_seed_holds_out_other_plates():
    plates = [(f"p{number}", "a") for number in range(100)]
    first, other = (stratified_splits(plates, valid_share=0.1, test_share=0.1, seed=seed) for seed in (0, 1))
    assert first != other


def test_a_share_of_nothing_holds_nothing_out():
    plates = [("p", "a"), ("q", "a")]
    assert set(stratified_splits(plates, valid_share=0, test_share=0, seed=0).values()) == {"train"}


def test_too_few_plates_for_a_share_are_an_error():
    with pytest.raises(SourceError, match="only 1 plate is left"):
        stratified_splits([("p", "a")], valid_share=0.1, test_share=0, seed=0)
