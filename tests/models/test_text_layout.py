import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.text import LabelError
from models.text_layout import Layout, Layouts, check_label, layouts_of

BRAZIL = {"Brazilian": Layout("LLLNNNN"), "Mercosur": Layout("LLLNLNN")}


@pytest.mark.parametrize(
    ("pattern", "allowed", "refused"),
    [
        ("LLLNNNN", ["ABC1234", "ZZZ0000", "abc1234"], ["ABC1D23", "ABC123", "ABC12345", "AB01234", ""]),
        ("LLLNLNN", ["ABC1D23"], ["ABC1234", "ABCD123"]),
        ("L{1,3}L{1,2}N{1,4}[EH]?", ["BMW1", "MAB1234H", "ABCDE1E", "AB1"], ["A1", "ABCDEF1", "AB12345", "AB1X", "AB"]),
        ("AAA?", ["A1", "1AB"], ["A", "A1BC", "A-"]),
        ("[A-CX]N{2}", ["A12", "X00"], ["D12", "A1"]),
        ("AN-?N", ["A1-2", "A12"], ["A1-", "A1--2"]),
        ("N?[L]", ["1L", "L"], ["1A", "1"]),
    ],
)
def test_patterns(pattern, allowed, refused):
    layout = Layout(pattern)
    assert [text for text in allowed if not layout.allows(text)] == []
    assert [text for text in refused if layout.allows(text)] == []


@given(st.sampled_from(["LLN?", "L?N?L", "L{1,2}N{0,2}", "[AB]?L{0,2}1"]), st.text("AB12", max_size=5))
def test_patterns_are_what_a_regular_expression_says(pattern, text):
    kinds = {"LLN?": "[A-Z][A-Z][0-9]?", "L?N?L": "[A-Z]?[0-9]?[A-Z]", "L{1,2}N{0,2}": "[A-Z]{1,2}[0-9]{0,2}"}
    expected = kinds.get(pattern, "[AB]?[A-Z]{0,2}1")
    assert Layout(pattern).allows(text) == bool(re.fullmatch(expected, text))


def test_lengths_say_the_fewest_and_the_most_symbols():
    assert Layout("LLLNNNN").lengths == (7, 7)
    assert Layout("L{1,3}L{1,2}N{1,4}[EH]?").lengths == (3, 10)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("", "has 0 places"), ("L{0}", "has 0 places"), ("L{65}", "of at most 64"), ("L{3,2}", "LEAST,MOST"),
        ("?L", "cannot read"), ("L??", "cannot read"), ("[]", "cannot read"), ("L}", "cannot read"),
        ("[9-2]", "back to"), ("A{40}A{40}", "has 80 places"),
    ],
)  # fmt: skip
def test_patterns_that_cannot_be_read_are_refused(pattern, says):
    with pytest.raises(ValueError, match=says):
        Layout(pattern)


def test_which_symbols_may_stand_at_a_place():
    digits, letters = frozenset("0123456789"), frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    both = Layouts(tuple(BRAZIL.values()))
    assert [both.at(place) for place in range(7)] == [
        letters,
        letters,
        letters,
        digits,
        digits | letters,
        digits,
        digits,
    ]
    assert both.at(7) == frozenset()
    assert Layouts.of("L{1,3}N").at(2) == letters | digits


@pytest.mark.parametrize("patterns", [["LLN?"], ["L?N?L", "NN"], ["A{1,3}", "L"]])
def test_the_machine_knows_what_may_follow_and_what_is_missing(patterns):
    layouts, symbols = Layouts.of(*patterns), "AB1"
    texts = [
        text for length in range(4) for text in map("".join, product(symbols, repeat=length)) if layouts.allows(text)
    ]
    for length in range(4):
        for prefix in map("".join, product(symbols, repeat=length)):
            state = layouts.start
            for symbol in prefix:
                state = layouts.after(state, symbol)
            onwards = [text for text in texts if text.startswith(prefix)]
            assert bool(state) == bool(onwards)
            if state:
                assert layouts.needed(state) == min(map(len, onwards)) - len(prefix)
                assert {text[length] for text in onwards if len(text) > length} == layouts.next(state) & set(symbols)


def test_labels_are_held_against_their_own_layout_or_any():
    assert layouts_of("ABC1234", BRAZIL) == ("Brazilian",) and layouts_of("ABC12", BRAZIL) == ()
    check_label("ABC1234", BRAZIL)
    check_label("abc1d23", BRAZIL, "Mercosur")
    with pytest.raises(LabelError, match=r"'ABC1234' does not fit Mercosur \(LLLNLNN\)$"):
        check_label("ABC1234", BRAZIL, "Mercosur")
    with pytest.raises(LabelError, match=r"fit Brazilian \(LLLNNNN\), Mercosur"):
        check_label("ABC12", BRAZIL)
    with pytest.raises(LabelError, match="has the layout 'Peru'; known: Brazilian, Mercosur"):
        check_label("ABC1234", BRAZIL, "Peru")


def test_no_layout_at_all_is_said():
    with pytest.raises(ValueError, match="none given"):
        Layouts(())
