"""Decoding under layouts, held against all paths walked through; and alignments against all alignments."""

from itertools import product
from math import exp

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.alignment import align, symbol_confidences
from models.decoding import greedy, prefix_beam
from models.layout_decoding import Paths, both_readings, layout_beam
from models.text import Alphabet
from models.text_layout import Layouts
from tests.models.pairs import PLATES36, said
from tests.models.test_decoding import every_label, label_of, probs_of

FEW = Alphabet(symbols="A1B", case="upper")
PATTERNS = [("L",), ("LN",), ("LL",), ("LN?",), ("LNL", "NN"), ("A{0,2}",), ("L?N?L",)]


def allowed_of(probs, patterns):
    """``p`` of every label that a layout allows, by walking through every path."""
    layouts = Layouts.of(*patterns)
    return {label: p for label, p in every_label(probs).items() if layouts.allows(FEW.decode(label))}


@pytest.mark.parametrize("patterns", PATTERNS)
@pytest.mark.parametrize("frames", [1, 3, 5])
def test_an_unlimited_beam_finds_every_allowed_label_with_its_exact_probability(patterns, frames):
    probs = probs_of(frames, 4, frames)
    found = layout_beam(np.log(probs), Paths(Layouts.of(*patterns), FEW), beam=10_000)
    assert {label: exp(p) for label, p in found} == {
        label: pytest.approx(p, rel=1e-9) for label, p in allowed_of(probs, patterns).items()
    }
    assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PATTERNS), st.integers(0, 500), st.integers(1, 4))
def test_a_narrow_beam_gives_allowed_labels_and_lower_bounds(patterns, seed, beam):
    probs = probs_of(5, 4, seed)
    exact = allowed_of(probs, patterns)
    found = layout_beam(np.log(probs), Paths(Layouts.of(*patterns), FEW), beam=beam)
    assert bool(found) == bool(exact) and all(exp(p) <= exact[label] * (1 + 1e-9) for label, p in found)


def test_a_beam_that_gets_stuck_is_widened():
    # The only prefix kept would have to repeat its last symbol in the last frame.
    log_probs, paths = np.log(probs_of(5, 4, 224)), Paths(Layouts.of("LNL", "NN"), FEW)
    assert prefix_beam(log_probs, beam=1, may=paths.may) == []
    assert layout_beam(log_probs, paths, beam=1)


def test_what_is_not_allowed_takes_no_place_in_the_beam():
    probs = np.array([[0.1, 0.1, 0.7, 0.1], [0.4, 0.3, 0.2, 0.1]])  # 1 is likeliest, but a letter must stand there
    ((label, _),) = prefix_beam(np.log(probs), beam=1, may=Paths(Layouts.of("L"), FEW).may)
    assert FEW.decode(label) == "A"


def test_layouts_that_allow_everything_change_nothing():
    log_probs = np.log(probs_of(5, 4, 0))
    assert layout_beam(log_probs, Paths(Layouts.of("A{0,9}"), FEW), beam=7) == prefix_beam(log_probs, beam=7)


def test_frames_that_suffice_for_no_layout_read_nothing():
    paths = Paths(Layouts.of("LNL"), FEW)
    assert layout_beam(np.log(probs_of(2, 4, 0)), paths) == [] == layout_beam(np.zeros((0, 4)), paths)
    assert layout_beam(np.log(probs_of(4, 4, 0)), Paths(Layouts.of("[1][1][1]"), FEW)) == []  # takes five
    assert layout_beam(np.zeros((0, 4)), Paths(Layouts.of("L?"), FEW)) == [((), 0.0)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=7))
def test_one_hot_scores_are_read_as_greedy_reads_them_even_with_a_beam_of_one(path):
    logits = 60 * torch.nn.functional.one_hot(torch.tensor([path]), 4).double()
    (label, _), *_ = prefix_beam(logits[0].log_softmax(1).numpy(), beam=1)
    assert [list(label)] == greedy(logits, torch.tensor([len(path)]))


def test_raw_and_constrained_readings_are_kept_apart():
    # "8" is surer than "B" where a letter must stand: only the constrained reading may say B.
    out = said("A8C1234")
    out.logits[0, 2, PLATES36.encode("B")[0]] = 15.0
    paths = Paths(Layouts.of("LLLNNNN", "LLLNLNN"), PLATES36)
    (both,) = both_readings(out.logits, out.frames, PLATES36, paths)
    assert both.raw.text == "A8C1234" and both.constrained.text == "ABC1234"
    assert both.raw.log_p > both.constrained.log_p > -6
    sure = torch.softmax(out.logits[0, 2], 0)
    assert both.raw.confidences[1] == pytest.approx(sure[PLATES36.encode("8")[0]].item(), rel=1e-5)
    assert both.constrained.confidences[1] == pytest.approx(sure[PLATES36.encode("B")[0]].item(), rel=1e-4)
    assert len(both.constrained.confidences) == 7


def test_each_image_can_have_the_layout_it_is_known_to_have():
    out = said("ABC1D23", "ABC1D23")
    each = [Paths(Layouts.of(pattern), PLATES36) for pattern in ("LLLNLNN", "LLLNNNN")]
    one, two = both_readings(out.logits, out.frames, PLATES36, each)
    assert one.constrained.text == "ABC1D23" and Layouts.of("LLLNNNN").allows(two.constrained.text)
    assert one.raw == two.raw


def test_frames_past_the_valid_ones_are_not_read():
    out = said("ABC1D23")
    (both,) = both_readings(out.logits, torch.tensor([5]), PLATES36, Paths(Layouts.of("LLL", "LLLNLNN"), PLATES36))
    assert both.raw.text == both.constrained.text == "ABC"
    (none,) = both_readings(out.logits, torch.tensor([2]), PLATES36, Paths(Layouts.of("LLL"), PLATES36))
    assert none.raw.text == "A" and (none.constrained.text, none.constrained.log_p) == ("", -np.inf)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 3), max_size=3), st.integers(0, 500))
def test_an_alignment_is_the_best_of_all_paths(label, seed):
    probs = probs_of(5, 4, seed)
    paths = [path for path in product(range(4), repeat=5) if label_of(path) == tuple(label)]
    if not paths:
        with pytest.raises(ValueError, match="cannot spell"):
            align(np.log(probs), label)
        return
    best = max(paths, key=lambda path: np.prod([probs[t, symbol] for t, symbol in enumerate(path)]))
    places = align(np.log(probs), label)
    assert [label[place] if place >= 0 else 0 for place in places] == list(best)
    assert sorted(set(places) - {-1}) == list(range(len(label)))


def test_a_character_is_as_sure_as_its_surest_frame():
    probs = np.array([[0.1, 0.8, 0.1], [0.3, 0.6, 0.1], [0.9, 0.05, 0.05], [0.2, 0.1, 0.7]])
    assert symbol_confidences(np.log(probs), [1, 2]) == pytest.approx([0.8, 0.7])
    assert symbol_confidences(np.log(probs), []) == []
