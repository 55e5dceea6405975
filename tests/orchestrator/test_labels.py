"""Labels as arrays say what `Alphabet.encode` says of each."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.text import ALNUM62, Alphabet, LabelError, frames_needed
from orchestrator.labels import Labels

UMLAUTS = Alphabet(symbols="aäoöß€")


def of(texts: list[str], alphabet: Alphabet = ALNUM62) -> Labels:
    return Labels.of(pa.chunked_array([pa.array(texts, pa.string())]), alphabet)


def classes_of(labels: Labels, row: int) -> list[int]:
    return labels.classes[labels.starts[row] :][: labels.lengths[row]].tolist()


@settings(deadline=None)
@given(st.lists(st.text(alphabet="aab\u00e4\u00f6\u20ac-", max_size=6), min_size=1, max_size=6))
def test_every_label_is_what_the_alphabet_makes_of_it(texts):
    texts = [UMLAUTS.normalize(text) for text in texts]
    labels = of(texts, UMLAUTS)
    for row, text in enumerate(texts):
        try:
            classes = UMLAUTS.encode(text)
        except LabelError:
            classes = []
        assert classes_of(labels, row) == classes
        assert labels.needed[row] == frames_needed(classes)


def test_the_end_of_one_label_and_the_start_of_the_next_are_no_neighbours():
    assert of(["ba", "ab", "", "bb"]).needed.tolist() == [2, 2, 0, 3]


def test_tokens_are_padded_after_each_label():
    a, b = ALNUM62.encode("ab")
    assert of(["a", "bb", ""]).tokens(np.array([1, 2, 0])).tolist() == [[b, b], [0, 0], [a, 0]]
    assert of([""]).tokens(np.array([0])).tolist() == [[0]]


def test_slices_and_chunks_are_read_where_they_begin():
    whole = pa.array(["xx", "ab", "cd", "yy"], pa.string())
    labels = Labels.of(pa.chunked_array([whole.slice(1, 1), whole.slice(2, 2)]), ALNUM62)
    assert [classes_of(labels, row) for row in range(3)] == [ALNUM62.encode(text) for text in ("ab", "cd", "yy")]


def test_parts_keep_their_labels_when_put_together():
    both = Labels.together([of(["ab", "c"]), of(["de"])])
    assert [classes_of(both, row) for row in range(3)] == [ALNUM62.encode(text) for text in ("ab", "c", "de")]


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_symbols_at_all_are_no_error(texts):
    assert of(texts).needed.tolist() == [0] * len(texts)
