"""Embedding consistency: its sign, its distances, its negatives and its gradient."""

import math

import pytest
import torch
from torch.testing import assert_close

from models.batch import Read, Restored
from models.losses.embedding import EmbeddingTerm, other_text, points, shares_of_slots, warmed
from tests.models.pairs import images, pair_of, restored, said

EXACT = EmbeddingTerm(dimension=0)


def of_readings(read, clean):
    return Restored(image=images(len(read.logits), 1, 2, 28), read=read, clean=clean)


def loss(term, texts, labels=None, clean=None, sure=20.0):
    """The term where ``texts`` are read in the restored images of ``labels``, and ``clean`` in the clean ones."""
    labels = labels or texts
    batch = pair_of(labels, images(len(labels), 1, 2, 28))
    return term(batch, of_readings(said(*texts, sure=sure), said(*(clean or labels), sure=sure))).value


@pytest.mark.parametrize("dimension", [0, 16, 128])
def test_the_same_twice_costs_nothing(dimension):
    term = EmbeddingTerm(dimension=dimension)
    assert loss(term, ["ABC1D23"]) == 0
    assert loss(term, ["ABC1D23", "ABC1D23"]) == 0  # two images of one plate are no negatives of each other
    image = images(2, 1, 4, 16)
    assert term(pair_of(["AB", "AB"], image), restored(image, clean=image)).value == 0


def test_it_increases_with_the_distance_of_a_pair():
    costs = [loss(EmbeddingTerm(), [text], ["ABC1D23"]) for text in ("ABC1D23", "ABC1D28", "ABC1E98", "XYZ9K87")]
    assert costs == sorted(costs) and costs[0] == 0 and costs[1] > 0.05 and costs[3] > 1


def test_plates_without_a_common_character_are_root_two_apart():
    # Square distance 2 from its own clean image; the other plate's clean image is its own reading: margin^2.
    texts, other = ["ABC1D23"], ["XYZ9K87"]
    assert_close(loss(EXACT, texts, other), torch.tensor(2.0), rtol=0, atol=1e-2)
    far = loss(EXACT, ["ABC1D23", "XYZ9K87"], ["ABC1D23", "XYZ9K87"])
    assert_close(far, torch.tensor(0.0), rtol=0, atol=1e-5)  # 1.41 apart is beyond the margin
    swapped = loss(EXACT, ["ABC1D23", "XYZ9K87"], ["XYZ9K87", "ABC1D23"])
    assert_close(swapped, torch.tensor(2 + 1.2**2), rtol=0, atol=1e-2)


def test_one_of_seven_characters_is_a_seventh_of_the_square_distance():
    # 14 frames in 7 slots of a character and its blank: each character holds one seventh of the point.
    term = EmbeddingTerm(dimension=0, slots=7)
    assert_close(loss(term, ["ABC1D28"], ["ABC1D23"]), torch.tensor(2 / 7), rtol=0, atol=1e-3)


def test_plates_that_resemble_each_other_are_pushed_apart():
    near = loss(EXACT, ["ABC1D23", "ABC1D28"])
    apart = math.sqrt(2 * (1 - 6 / 7))
    assert_close(near, torch.tensor((1.2 - apart) ** 2), rtol=0, atol=0.02)
    assert loss(EmbeddingTerm(dimension=0, margin=0.5), ["ABC1D23", "ABC1D28"]) < 1e-6


def test_negatives_are_plates_with_another_text():
    assert other_text(pair_of(["AB", "AB", "A", "ABB"], images(4, 1, 2, 8))).tolist() == [
        [False, False, True, True], [False, False, True, True], [True, True, False, True], [True, True, True, False],
    ]  # fmt: skip


def test_padding_of_labels_is_never_read():
    batch = pair_of(["AB", "AB", "ABB"], images(3, 1, 2, 8))
    batch.tokens[1, 2] = 7
    assert other_text(batch)[0].tolist() == [False, False, True]


def test_a_point_is_made_of_roots_of_probabilities():
    logits = torch.full((1, 2, 37), -math.inf)
    logits[0, 0, 1], logits[0, 0, 0] = math.log(0.25), math.log(0.75)  # a quarter sure of the first symbol
    logits[0, 1, 2] = 0.0
    found = points(Read(logits=logits, frames=torch.tensor([2])), 1)
    assert_close(found[0, :3], torch.tensor([0.25, 0.5, 0.0]))


def test_fewer_dimensions_keep_distances():
    texts, labels = ["ABC1D23", "XYZ9K87", "ABC1D99"], ["ABC1D23", "XYZ9K81", "QRS4T55"]
    assert_close(loss(EmbeddingTerm(dimension=4096), texts, labels), loss(EXACT, texts, labels), rtol=0.1, atol=0.02)
    assert EmbeddingTerm(dimension=48).embed(said("AB1")).shape == (1, 48)
    assert_close(EmbeddingTerm().embed(said("AB1", "Z9")).norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("dimension", [0, 128])
@pytest.mark.parametrize("sure", [1.0, 20.0])
def test_every_restored_image_learns_and_no_clean_one(dimension, sure):
    image, clean = images(2, 1, 4, 16).requires_grad_(), (sure * images(2, 1, 4, 16, seed=1)).requires_grad_()
    out = restored(image * sure, clean=clean)
    EmbeddingTerm(dimension=dimension)(pair_of(["AB", "AC"], image.detach()), out).value.backward()
    assert image.grad.isfinite().all() and image.grad[0].norm() > 1e-4 and image.grad[1].norm() > 1e-4
    assert clean.grad is None


def test_a_step_down_the_gradient_brings_the_pair_together():
    image, clean = images(1, 1, 4, 16).requires_grad_(), images(1, 1, 4, 16, seed=1)
    batch = pair_of(["AB"], clean)
    first = EmbeddingTerm()(batch, restored(image, clean=clean)).value
    first.backward()
    second = EmbeddingTerm()(batch, restored((image - 0.01 * image.grad).detach(), clean=clean)).value
    assert second < first


def test_negatives_push_away_what_lies_within_the_margin():
    # The reading of plate 0 is its own clean image, but so, nearly, is that of plate 1: only the negative acts.
    logits = said("ABC1D23", "ABC1D28", sure=3.0).logits
    own = logits[:1].clone().requires_grad_()
    clean = Read(logits=logits, frames=torch.tensor([14, 14]))
    read = Read(logits=torch.cat([own, logits[1:]]), frames=torch.tensor([14, 14]))
    batch = pair_of(["ABC1D23", "ABC1D28"], images(2, 1, 2, 28))
    EXACT(batch, of_readings(read, clean)).value.backward()
    moved = Read(logits=torch.cat([(own - 0.5 * own.grad).detach(), logits[1:]]), frames=read.frames)
    other = EXACT.embed(clean)[1]
    assert (EXACT.embed(moved)[0] - other).norm() > (EXACT.embed(clean)[0] - other).norm()


def test_equal_points_of_different_plates_have_a_finite_gradient():
    logits = said("ABC1D23", "ABC1D23").logits.requires_grad_()
    read = Read(logits=logits, frames=torch.tensor([14, 14]))
    EXACT(
        pair_of(["ABC1D23", "XYZ9K87"], images(2, 1, 2, 28)), of_readings(read, said("ABC1D23", "ABC1D23"))
    ).value.backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("dimension", [0, 32])
def test_the_gradient_is_the_numerical_one(dimension):
    image, clean = (images(2, 1, 4, 8, seed=seed, dtype=torch.float64) for seed in (0, 1))
    term, batch = EmbeddingTerm(dimension=dimension, slots=4), pair_of(["AB", "AC"], clean)
    assert torch.autograd.gradcheck(
        lambda image: term(batch, restored(image, clean=clean)).total, image.requires_grad_()
    )


def test_slots_divide_the_valid_frames_evenly():
    read = Read(logits=torch.zeros(2, 4, 37), frames=torch.tensor([4, 3]))
    shares = shares_of_slots(read, 2)
    assert_close(shares[0], torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]))
    assert_close(shares[1], torch.tensor([[2 / 3, 1 / 3, 0, 0], [0, 1 / 3, 2 / 3, 0]]))
    assert_close(shares_of_slots(read, 9).sum(2), torch.ones(2, 9))


def test_points_do_not_see_frames_past_the_valid_ones():
    logits = torch.randn(1, 6, 37, generator=torch.Generator().manual_seed(0))
    other = logits.clone()
    other[:, 4:] = 9
    one, two = (Read(logits=each, frames=torch.tensor([4])) for each in (logits, other))
    assert_close(points(one, 5), points(two, 5))


def test_the_weight_is_brought_in_from_nothing():
    weights = [warmed(0.3, epoch=epoch, epochs=50) for epoch in (0, 25, 50, 51)]
    assert weights == pytest.approx([0, 0.15, 0.3, 0.3]) and warmed(0.3, epoch=0, epochs=0) == 0.3


@pytest.mark.parametrize("wrong", [{"margin": 0}, {"margin": 2.0}, {"dimension": -1}, {"slots": 0}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="EmbeddingTerm"):
        EmbeddingTerm(**wrong)


def test_a_clean_image_that_was_not_read_is_said():
    with pytest.raises(ValueError, match="must read the target too"):
        EmbeddingTerm()(pair_of(["AB"], images(1, 1, 4, 8)), restored(images(1, 1, 4, 8)))
