"""Distances of a recogniser's features: by hand, at valid frames alone, and their gradients."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from models.losses.feature import feature_distance, feature_perceptual
from tests.models.judged import featured

TERMS = (feature_distance, feature_perceptual)


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_by_hand():
    # Frames 3 of 4 and 1 of 4 valid, two features each: 0.5 apart everywhere, clean ones are 2.
    out = featured(torch.full((2, 4, 2), 2.5), torch.full((2, 4, 2), 2.0), [3, 1])
    squared, relative = (term(None, out) for term in TERMS)
    assert squared.value == 0.25 and squared.count == 8
    assert relative.value == 0.25 and relative.count == 2


def test_one_means_that_nothing_of_the_features_is_left_whatever_their_scale():
    for scale in (1e-3, 1.0, 1e3):
        clean = scale * drawn(2, 5, 3)
        assert_close(feature_perceptual(None, featured(torch.zeros(2, 5, 3), clean, [5, 2])).value, torch.tensor(1.0))
        assert feature_perceptual(None, featured(clean, clean, [5, 2])).value == 0
    assert feature_perceptual(None, featured(torch.zeros(1, 5, 3), torch.zeros(1, 5, 3), [5])).value == 0


@pytest.mark.parametrize("term", TERMS)
def test_padding_counts_for_nothing_in_value_and_gradient(term):
    found, clean = drawn(2, 6, 3).requires_grad_(), drawn(2, 6, 3, seed=1)
    value = term(None, featured(found, clean, [6, 2])).total
    value.backward()
    assert found.grad[0].all() and found.grad[1, :2].all() and not found.grad[1, 2:].any()
    other, there = found.detach().clone(), clean.clone()
    other[1, 2:], there[1, 2:] = torch.nan, torch.inf
    assert term(None, featured(other, there, [6, 2])).total == value


@pytest.mark.parametrize("term", TERMS)
def test_the_clean_image_gets_no_gradient(term):
    found, clean = drawn(1, 4, 2).requires_grad_(), drawn(1, 4, 2, seed=1).requires_grad_()
    term(None, featured(found, clean, [4])).total.backward()
    assert found.grad.any() and clean.grad is None


@pytest.mark.parametrize("term", TERMS)
def test_uneven_parts_add_up_to_the_whole(term):
    found, clean, frames = drawn(3, 6, 2), drawn(3, 6, 2, seed=1), [6, 1, 4]
    parts = [term(None, featured(found[a:b], clean[a:b], frames[a:b])) for a, b in ((0, 1), (1, 3))]
    assert_close((parts[0] + parts[1]).value, term(None, featured(found, clean, frames)).value)


@pytest.mark.parametrize("term", TERMS)
def test_the_gradient_is_the_numerical_one(term):
    found, clean = drawn(2, 4, 3, dtype=torch.float64).requires_grad_(), drawn(2, 4, 3, seed=1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda found: term(None, featured(found, clean, [4, 3])).total, found)


@pytest.mark.parametrize("term", TERMS)
def test_what_does_not_belong_together_is_refused(term):
    out = featured(drawn(2, 4, 3), drawn(2, 4, 3), [4, 4])
    with pytest.raises(ValueError, match="the task made none"):
        term(None, replace(out, clean_features=None))
    with pytest.raises(ValueError, match="must be \\(B, T, D\\)"):
        term(None, replace(out, clean_features=drawn(2, 1, 3)))
    with pytest.raises(ValueError, match="4 frames"):
        term(None, replace(out, features=drawn(2, 5, 3), clean_features=drawn(2, 5, 3)))
