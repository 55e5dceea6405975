import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.metrics.text import Ratio, cer, ned, protocols_of, text_scores, word_accuracy
from models.text import ALNUM36, ALNUM62, PRINTABLE94, Alphabet

PROTOCOLS = ("36", "62", "94")
LABELS = ["Don't", "STOP", "7up", "é!", ""]


def scores(predictions, labels, protocols=PROTOCOLS):
    return text_scores(predictions, labels, normalize=PRINTABLE94.normalize, protocols=protocols)


def test_each_protocol_forgives_what_it_says():
    label, reads = "Don't", ["Don't", "Dont", "DON'T", "dan't"]
    right = {p: [word_accuracy([read], [label], p).value for read in reads] for p in PROTOCOLS}
    assert right == {"36": [1, 1, 1, 0], "62": [1, 1, 0, 0], "94": [1, 0, 0, 0]}


def test_characters_outside_the_protocol_are_deleted_from_both_sides():
    assert word_accuracy(["a-b"], ["ab"], "36").value == 1
    assert word_accuracy(["ab"], ["a-b"], "36").value == 1
    assert word_accuracy(["a^b"], ["ab"], "36").value == 1  # mmocr's pattern keeps the caret


def test_words_without_ground_truth_are_skipped_and_counted():
    assert word_accuracy(["x"] * 5, LABELS, "36") == Ratio(total=0.0, count=3, words=3, skipped=2)
    assert word_accuracy(["x"] * 5, LABELS, "94") == Ratio(total=0.0, count=4, words=4, skipped=1)
    assert ned([""], [""]) == cer([""], [""]) == Ratio(total=0.0, count=0, words=0, skipped=1)


def test_cer_is_edits_over_characters_of_all_words():
    # "sitting" read as "kitten": 3 edits, 7 characters. "a" read as "abc": 2 edits, 1 character.
    ratio = cer(["kitten", "abc"], ["sitting", "a"])
    assert (ratio.total, ratio.count, ratio.words, ratio.value) == (5.0, 8, 2, 5 / 8)


def test_ned_averages_over_words_by_the_longer_side():
    assert ned(["kitten", "abc", "same"], ["sitting", "a", "same"]).value == pytest.approx((4 / 7 + 1 / 3 + 1) / 3)


def test_cer_and_ned_normalise_both_sides_alike():
    found = text_scores(["STOP ", "Gö"], ["stop", "go\u0308"], normalize=ALNUM36.normalize, protocols=PROTOCOLS[:2])
    assert found.values() == {"word_accuracy_36": 1.0, "word_accuracy_62": 0.0, "cer": 0.0, "ned": 1.0}


def test_only_the_protocols_asked_for_are_reported():
    assert set(scores(["a"], ["a"], ["36"]).values()) == {"word_accuracy_36", "cer", "ned"}
    assert set(scores(["a"], ["a"]).values()) == {*(f"word_accuracy_{p}" for p in PROTOCOLS), "cer", "ned"}


def test_an_alphabet_supports_the_protocols_whose_characters_it_has():
    assert protocols_of(ALNUM36) == ("36",)
    assert protocols_of(Alphabet(symbols=ALNUM36.symbols.upper())) == ("36",)
    assert protocols_of(ALNUM62) == ("36", "62")
    assert protocols_of(PRINTABLE94) == ("36", "62", "94")
    assert protocols_of(Alphabet(symbols="0123456789")) == ("36",)


words = st.text(alphabet="aB1-", max_size=4)


@given(st.lists(st.tuples(words, words), max_size=8), st.integers(0, 8))
def test_sums_over_two_ranks_are_the_sums_over_one(pairs, cut):
    def of(some):
        return scores([read for read, _ in some], [true for _, true in some])

    whole, parts = of(pairs), of(pairs[:cut]) + of(pairs[cut:])
    assert parts.counts() == whole.counts()
    assert parts.values() == pytest.approx(whole.values(), nan_ok=True)
    assert whole.unflat(whole.flat()) == whole


def test_counts_name_the_metric_they_belong_to():
    counts = scores(["x"] * 5, LABELS).counts()
    assert (counts["word_accuracy_36_n"], counts["word_accuracy_36_skipped"], counts["cer_n"]) == (3, 2, 4)


def test_nothing_measured_is_not_a_number():
    assert math.isnan(scores([], []).values()["cer"])


def test_different_metrics_do_not_add():
    with pytest.raises(ValueError, match="score alike"):
        scores(["a"], ["a"], ["36"]) + scores(["a"], ["a"])


def test_a_prediction_for_every_label():
    with pytest.raises(ValueError, match="1 predictions for 2 labels"):
        scores(["a"], ["a", "b"])
