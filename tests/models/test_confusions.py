"""Characters aligned by hand, and what must hold for any texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from models.metrics.confusions import NONE, Confusions, aligned, confusions

texts = st.lists(st.tuples(st.text("ab1l", max_size=6), st.text("ab1l", max_size=6)), max_size=8)


@pytest.mark.parametrize(
    ("read", "true", "pairs"),
    [
        ("cat", "cat", [("c", "c"), ("a", "a"), ("t", "t")]),
        ("cot", "cat", [("c", "c"), ("a", "o"), ("t", "t")]),
        ("ct", "cat", [("c", "c"), ("a", NONE), ("t", "t")]),
        ("cart", "cat", [("c", "c"), ("a", "a"), (NONE, "r"), ("t", "t")]),
        ("", "no", [("n", NONE), ("o", NONE)]),
        ("no", "", [(NONE, "n"), (NONE, "o")]),
        ("", "", []),
        ("🚗é", "🚗e", [("🚗", "🚗"), ("e", "é")]),
    ],
)
def test_pairs_by_hand(read, true, pairs):
    assert aligned(read, true) == pairs


def test_plates_counted_by_hand():
    # 0 is read as O twice and right once; 1 is left out once; an X is added once.
    found = confusions(["KAO", "OB2", "01X", "2"], ["KA0", "0B2", "01", "12"])
    assert found.mistakes() == [("0", "O", 2), (NONE, "X", 1), ("1", NONE, 1)]
    assert found.seen() == {"K": 1, "A": 1, "0": 3, "B": 1, "2": 2, "1": 2}
    assert found.accuracy() == {"K": 1, "A": 1, "0": pytest.approx(1 / 3), "B": 1, "2": 1, "1": 0.5}
    assert found.shares("0") == {"O": pytest.approx(2 / 3), "0": pytest.approx(1 / 3)}
    assert found.shares("1") == {"1": 0.5, NONE: 0.5}
    assert found.shares(NONE) == {"X": 1.0} and found.shares("Z") == {}
    assert (found.edits, found.characters) == (4, 10)


def test_nothing_read_is_nothing_confused():
    assert confusions([], []) == Confusions()
    assert Confusions().accuracy() == {} and Confusions().edits == 0


def test_readings_without_labels_are_refused():
    with pytest.raises(ValueError, match="2 predictions for 1 labels"):
        confusions(["a", "b"], ["a"])


@given(texts)
def test_both_texts_can_be_put_together_again_and_no_way_is_shorter(pairs):
    for read, true in pairs:
        found = aligned(read, true)
        assert "".join(a for a, _ in found) == true and "".join(b for _, b in found) == read
        assert sum(a != b for a, b in found) == Levenshtein.distance(read, true)


@given(texts, texts)
def test_parts_add_up_to_the_whole(first, second):
    def of(pairs):
        return confusions([read for read, _ in pairs], [true for _, true in pairs])

    assert of(first) + of(second) == of(first + second)
    assert of(first).characters == sum(len(true) for _, true in first)
