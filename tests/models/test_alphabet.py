import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.text import ALNUM36, ALNUM62, PRINTABLE94, Alphabet, Frames, LabelError, frames_needed


@given(st.text(alphabet=PRINTABLE94.symbols, max_size=30))
def test_what_is_encoded_decodes_to_itself(text):
    assert PRINTABLE94.decode(PRINTABLE94.encode(text)) == text


@given(st.text(alphabet=string.ascii_letters + string.digits + " \t", max_size=30))
def test_a_folding_alphabet_decodes_to_the_normalised_text(text):
    alphabet = Alphabet(symbols=ALNUM36.symbols + " ", case="lower")
    assert alphabet.decode(alphabet.encode(text)) == alphabet.normalize(text)


@given(st.text(max_size=10))
def test_normalising_twice_changes_nothing_more(text):
    assert ALNUM62.normalize(ALNUM62.normalize(text)) == ALNUM62.normalize(text)


def test_no_symbol_is_the_blank():
    assert min(ALNUM36.encode(ALNUM36.symbols)) == 1
    assert max(ALNUM36.encode(ALNUM36.symbols)) == ALNUM36.classes - 1


def test_a_label_outside_the_alphabet_is_refused_by_name():
    with pytest.raises(LabelError, match=r"\['é'\]"):
        ALNUM36.encode("café")


def test_the_order_and_the_case_policy_are_part_of_the_hash():
    hashes = {
        Alphabet(symbols="ab").sha256,
        Alphabet(symbols="ba").sha256,
        Alphabet(symbols="ab", case="lower").sha256,
    }
    assert len(hashes) == 3


def test_an_alphabet_with_a_symbol_its_case_policy_removes_is_refused():
    with pytest.raises(ValueError, match=r"\['B'\]"):
        Alphabet(symbols="aB", case="lower")


def test_equal_neighbours_need_a_frame_between_them():
    assert [frames_needed(label) for label in ([], [1], [1, 2, 3], [1, 1], [1, 1, 2, 3], [1, 1, 1])] == [
        0,
        1,
        3,
        3,
        5,
        5,
    ]


def test_frames_are_never_negative():
    assert Frames(stride=4, offset=-1).of(3) == 0
