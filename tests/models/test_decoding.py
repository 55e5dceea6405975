from itertools import groupby, product
from math import exp, log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from models.alignment import symbol_confidences
from models.decoding import (
    confidence,
    greedy,
    greedy_confidences,
    kept,
    lexicon_log_likelihoods,
    log_likelihoods,
    prefix_beam,
)


def label_of(path):
    return tuple(symbol for symbol, _ in groupby(path) if symbol != 0)


def every_label(probs):
    """``p`` of every label, by walking through every path."""
    labels = {}
    for path in product(range(probs.shape[1]), repeat=probs.shape[0]):
        p = float(np.prod([probs[t, symbol] for t, symbol in enumerate(path)]))
        labels[label_of(path)] = labels.get(label_of(path), 0.0) + p
    return labels


def probs_of(frames, classes, seed):
    return np.random.default_rng(seed).dirichlet(np.ones(classes), size=frames)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=4), st.data())
def test_greedy_is_the_slow_greedy(paths, data):
    frames = data.draw(st.lists(st.integers(0, 6), min_size=len(paths), max_size=len(paths)))
    logits = torch.nn.functional.one_hot(torch.tensor(paths), 4).float()
    slow = [list(label_of(path[:valid])) for path, valid in zip(paths, frames, strict=True)]
    assert greedy(logits, torch.tensor(frames)) == slow


def test_repeats_collapse_before_blanks_go():
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 1, 0, 1, 2, 2]]), 3).float()
    assert greedy(logits, torch.tensor([6])) == [[1, 1, 2]]


@pytest.mark.parametrize(("frames", "classes", "seed"), [(1, 4, 0), (3, 3, 1), (5, 3, 2), (4, 4, 3), (6, 2, 4)])
def test_an_unlimited_beam_finds_every_label_with_its_exact_probability(frames, classes, seed):
    probs = probs_of(frames, classes, seed)
    exact = every_label(probs)
    found = prefix_beam(np.log(probs), beam=10_000)
    assert {label: pytest.approx(p, rel=1e-9) for label, p in exact.items()} == {label: exp(p) for label, p in found}
    assert found[0][0] == max(exact, key=exact.__getitem__)
    assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)


def test_a_beam_sums_paths_where_greedy_takes_one():
    probs = np.array([[0.6, 0.4], [0.6, 0.4]])  # __ is the best path (.36), but a_, _a, aa read "a" (.64)
    assert greedy(torch.tensor(np.log(probs))[None], torch.tensor([2])) == [[]]
    (label, p), *_ = prefix_beam(np.log(probs), beam=2)
    assert label == (1,) and p == pytest.approx(log(0.64))


def test_a_narrow_beam_gives_lower_bounds():
    probs = probs_of(6, 4, 5)
    exact = every_label(probs)
    assert all(exp(p) <= exact[label] * (1 + 1e-9) for label, p in prefix_beam(np.log(probs), beam=3))
    assert len(prefix_beam(np.log(probs), beam=3)) == 3


def test_impossible_classes_never_enter_the_beam():
    with np.errstate(divide="ignore"):
        found = prefix_beam(np.log(np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])), beam=10)
    assert sorted(found) == [((), pytest.approx(log(0.5))), ((1,), pytest.approx(log(0.5)))]


def test_no_frames_read_nothing():
    assert prefix_beam(np.zeros((0, 3))) == [((), 0.0)]


def test_lexicon_scores_are_the_sums_over_all_paths():
    probs = probs_of(5, 3, 6)
    exact = every_label(probs)
    words = [list(label) for label in exact]
    (scores,) = lexicon_log_likelihoods(torch.tensor(np.log(probs))[None], torch.tensor([5]), [words])
    assert_close(scores.exp(), torch.tensor(list(exact.values())).float(), rtol=1e-4, atol=1e-7)


def test_confidence_is_the_probability_of_the_reading_among_all():
    probs = probs_of(4, 3, 7)
    logits = torch.tensor(np.log(probs))[None]
    labels = list(every_label(probs))
    everything = confidence(logits.expand(len(labels), -1, -1), torch.full((len(labels),), 4), labels)
    assert_close(everything.sum(), torch.tensor(1.0))


def test_a_confident_reading_has_confidence_one():
    logits = 50 * torch.nn.functional.one_hot(torch.tensor([[1, 0, 1], [0, 0, 0]]), 3).float()
    frames = torch.tensor([3, 3])
    assert_close(confidence(logits, frames, greedy(logits, frames)), torch.ones(2))


def test_a_word_the_frames_cannot_spell_scores_minus_infinity():
    logits = torch.zeros(1, 6, 3)
    (scores,) = lexicon_log_likelihoods(logits, torch.tensor([2]), [[[1, 1], [1, 2], [1, 2, 1], []]])
    assert scores.isneginf().tolist() == [True, False, True, False]


def test_equal_candidates_score_equally_and_in_place():
    logits = torch.randn(2, 5, 4)
    lexica = [[[1], [2], [1], [3, 3]], [[2]]]
    scores = lexicon_log_likelihoods(logits, torch.tensor([5, 3]), lexica)
    assert [len(s) for s in scores] == [4, 1]
    assert scores[0][0] == scores[0][2] != scores[0][1]
    assert_close(scores[1], log_likelihoods(logits[1:, :3].log_softmax(2), torch.tensor([3]), [[2]]))


def test_a_lexicon_of_more_than_one_chunk_scores_as_its_parts():
    words = [list(word) for word in product(range(1, 19), repeat=3)]  # 5832
    logits = torch.randn(1, 6, 19)
    (whole,) = lexicon_log_likelihoods(logits, torch.tensor([6]), [words])
    (tail,) = lexicon_log_likelihoods(logits, torch.tensor([6]), [words[4000:]])
    assert len(whole) == 5832
    assert_close(whole[4000:], tail)


def test_an_image_without_candidates_gets_no_scores():
    assert lexicon_log_likelihoods(torch.zeros(1, 2, 3), torch.tensor([2]), [[]])[0].shape == (0,)


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_greedy_confidences_are_those_of_the_best_alignment(seed):
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 7, 4))) * 3
    frames = torch.tensor([7, 4, 1])
    found = greedy_confidences(logits, frames)
    for row, valid, label, sure in zip(logits.log_softmax(2), frames, greedy(logits, frames), found, strict=True):
        assert sure == pytest.approx(symbol_confidences(row[:valid].numpy(), label))


def test_greedy_confidences_by_hand():
    #                      A    A    -    A    B, and past the valid frames a surer B
    best = torch.tensor([[1, 1, 0, 1, 2, 2]])
    sure = torch.tensor([[0.6, 0.8, 0.9, 0.5, 0.7, 0.99]])
    probs = ((1 - sure) / 2)[..., None].expand(-1, -1, 3).scatter(2, best[..., None], sure[..., None])
    assert greedy_confidences(probs.log(), torch.tensor([5])) == [pytest.approx((0.8, 0.5, 0.7))]
    assert greedy_confidences(probs.log(), torch.tensor([0])) == [()]


@pytest.mark.parametrize(
    ("raw", "text", "places"),
    [
        ("ab", "ab", [0, 1]),
        (" a  b ", "a b", [1, 2, 4]),
        ("  ", "", []),
        ("a b", "a b", [0, 1, 2]),
        ("b  b", "b b", [0, 1, 3]),
    ],
)
def test_confidences_stay_with_their_characters_where_whitespace_is_folded(raw, text, places):
    sure = [0.1 * number for number in range(len(raw))]
    assert kept(raw, text, sure) == tuple(sure[place] for place in places)
