"""LCOFL: CTC's posterior against all paths walked through, hand-made values, and gradient in every character."""

from itertools import groupby, product

import pytest
import torch
from torch.testing import assert_close

from models.batch import Read
from models.losses.clip import Clip
from models.losses.plates import CharacterTerm, LayoutTerm, occupancy, weight_of_plates
from models.losses.text import ctc
from tests.models.pairs import PLATES36, images, pair_of, reader, restored, said
from tests.models.test_ctc import batch_of, logits_of, read_of

LAYOUT = LayoutTerm(symbols=PLATES36.symbols)
ONE = pair_of(["A"], images(1, 1, 2, 4))
RISING = tuple(1 + index / 35 for index in range(36))
TERMS = {
    "plain": CharacterTerm(),
    "by plate": CharacterTerm(weights=RISING),
    "by character": CharacterTerm(weights=RISING, by="character"),
    "clipped": CharacterTerm(weights=RISING, clip=Clip(mode="log_tail", value=0.5)),
    "layout": LAYOUT,
}
ALL = pytest.mark.parametrize("term", TERMS.values(), ids=TERMS.keys())


def walked(probs, label):
    """``(T, K)`` posterior of each class in each frame given the label, path by path."""
    frames, classes = probs.shape
    posterior = torch.zeros_like(probs)
    for path in product(range(classes), repeat=frames):
        if [symbol for symbol, _ in groupby(path) if symbol] == label:
            p = torch.stack([probs[t, symbol] for t, symbol in enumerate(path)]).prod()
            for t, symbol in enumerate(path):
                posterior[t, symbol] += p
    return posterior / posterior[0].sum()


@pytest.mark.parametrize("label", [[1], [1, 2], [2, 2], [1, 2, 1]])
def test_the_posterior_is_that_of_all_paths(label):
    logits = logits_of(1, 5, 3, seed=len(label), dtype=torch.float64)
    found = occupancy(logits.log_softmax(2), batch_of([label]), read_of(logits))
    assert_close(found[0], walked(logits[0].softmax(1), label))


def test_the_posterior_is_nothing_where_there_is_nothing_to_spell():
    logits = logits_of(3, 5, 3)
    batch, read = batch_of([[1, 2], [1, 1], [1]], [True, True, False]), read_of(logits, [3, 2, 5])
    found = occupancy(logits.log_softmax(2), batch, read)
    assert_close(found[0, :3].sum(1), torch.ones(3))
    assert not found[0, 3:].any() and not found[1].any() and not found[2].any()


def test_without_weights_the_character_term_is_ctc():
    target = images(2, 1, 12, 40)
    batch, read = pair_of(["ABC1D23", "AA1"], target), reader(target)
    assert CharacterTerm()(batch, read) == ctc(batch, read)
    ones = (1.0,) * 36
    for by in ("plate", "character"):
        assert_close(CharacterTerm(weights=ones, by=by)(batch, read).total, ctc(batch, read).total)


def test_a_plate_weighs_as_much_as_its_characters_on_average():
    weights = torch.tensor([1.0, 3.0, 1.0, 1.5])  # of the blank and three symbols
    batch = batch_of([[1, 1], [1, 2, 3], []])
    assert_close(weight_of_plates(batch, weights), torch.tensor([3.0, 5.5 / 3, 1.0]))
    logits = logits_of(3, 8, 4)
    each = [ctc(batch_of([label]), read_of(logits[i : i + 1])).value for i, label in enumerate([[1, 1], [1, 2, 3], []])]
    found = CharacterTerm(weights=(3.0, 1.0, 1.5))(batch, read_of(logits))
    assert_close(found.value, (3 * each[0] + 5.5 / 3 * each[1] + each[2]) / 3)


def test_by_character_a_confused_one_learns_more_and_its_neighbours_no_less():
    logits = logits_of(1, 4, 3, dtype=torch.float64).requires_grad_()
    batch, read = batch_of([[1, 2]]), read_of(logits)
    term = CharacterTerm(weights=(3.0, 1.0), by="character")
    (plain,) = torch.autograd.grad(ctc(batch, read).total, logits)
    (raised,) = torch.autograd.grad(term(batch, read).total, logits)
    posterior = walked(logits[0].detach().softmax(1), [1, 2])
    # Cross-entropy of the frames of symbol 1, two times more, over a label of two characters.
    extra = 2 * posterior[:, 1:2] * (logits[0].softmax(1) - torch.tensor([0.0, 1.0, 0.0])) / 2
    assert_close(raised[0], (plain[0] + extra).detach())


def value_of(term, text, target):
    return term(pair_of([text], target), reader(target)).value


@pytest.mark.parametrize("by", ["plate", "character"])
def test_every_character_contributes(by):
    # A weight of 2 for one symbol changes the loss of a plate that holds it, Z and 0 included, and of no other.
    target = images(1, 1, 4, 8)
    for place, symbol in enumerate(PLATES36.symbols):
        raised = CharacterTerm(weights=tuple(2.0 if each == place else 1.0 for each in range(36)), by=by)
        other = PLATES36.symbols[place - 1] * 2
        assert value_of(raised, symbol * 2, target) > 1.2 * value_of(CharacterTerm(), symbol * 2, target)
        assert value_of(raised, other, target) == value_of(CharacterTerm(), other, target)


@ALL
def test_every_term_reaches_the_image_for_every_character_through_a_frozen_reader(term):
    for symbol in PLATES36.symbols:
        image = images(1, 1, 4, 8).requires_grad_()
        mean = term(pair_of([symbol * 2], image.detach()), restored(image))
        mean.value.backward()
        assert image.grad.isfinite().all() and image.grad.norm() > 1e-4, symbol


@ALL
def test_only_the_image_learns_where_the_reader_is_frozen(term):
    torch.manual_seed(0)
    frozen = torch.nn.Linear(4, 37).requires_grad_(False)
    image = images(2, 1, 4, 16).requires_grad_()
    logits = frozen(image.squeeze(1).transpose(1, 2))
    term(pair_of(["AB1", "2C"], image.detach()), read_of(logits)).value.backward()
    assert image.grad[0].any() and image.grad[1].any() and frozen.weight.grad is None


def test_a_perfect_confident_reading_has_no_layout_cost():
    texts = ["ABC1D23", "AAA0000", "ZZZ9Z99"]
    found = LAYOUT(pair_of(texts, images(3, 1, 2, 28)), said(*texts))
    assert found.value < 1e-3 and found.count == 3


def test_a_certain_digit_for_a_letter_costs_beta_a_frame():
    # "AB" is read as "4B". Frame 0 alone can spell A: symbols there are almost surely digits.
    batch, read = pair_of(["AB"], images(1, 1, 2, 8)), said("4B")
    right, cost = said("AB"), LayoutTerm(symbols=PLATES36.symbols, beta=2.0)(batch, read).value
    assert_close(cost, torch.tensor(2.0 / 2), rtol=0, atol=2e-3)
    assert LAYOUT(batch, right).value < 1e-3
    assert LAYOUT(batch, said("XB")).value < 1e-3  # another letter is no fault of layout


def test_an_even_reading_costs_what_counting_gives():
    # One frame, one letter: the posterior is 1, ten of 36 symbols are digits.
    read = Read(logits=torch.zeros(1, 1, 37), frames=torch.tensor([1]))
    assert_close(LAYOUT(pair_of(["A"], images(1, 1, 2, 2)), read).value, torch.tensor(10 / 36))
    assert_close(LAYOUT(pair_of(["7"], images(1, 1, 2, 2)), read).value, torch.tensor(26 / 36))


def test_symbols_that_are_neither_kind_are_never_wrong():
    read = Read(logits=torch.zeros(1, 1, 4), frames=torch.tensor([1]))
    assert_close(LayoutTerm(symbols="A1-")(batch_of([[3]]), read).value, torch.tensor(0.0))
    assert_close(LayoutTerm(symbols="A1-")(batch_of([[1]]), read).value, torch.tensor(1 / 3))


@pytest.mark.parametrize("name", ["plain", "by plate", "clipped"])
def test_the_gradient_is_the_numerical_one(name):
    target = images(2, 1, 4, 6, dtype=torch.float64)
    batch, term = pair_of(["A1B", "22"], target), TERMS[name]
    assert torch.autograd.gradcheck(lambda image: term(batch, restored(image)).total, target.requires_grad_())


def test_the_layout_gradient_is_the_numerical_one_where_the_alignment_cannot_move():
    # Two frames for two different symbols: the posterior is 0 or 1 whatever the image says.
    target = images(1, 1, 4, 2, dtype=torch.float64)
    batch = pair_of(["A1"], target)
    for term in (LAYOUT, TERMS["by character"]):
        assert torch.autograd.gradcheck(
            lambda image, term=term: term(batch, restored(image)).total, target.requires_grad_()
        )


@ALL
def test_masked_is_filtered(term):
    target = images(3, 1, 4, 8)
    texts = ["A1B", "222222222", "C4"]  # the second needs 17 frames of 8
    masked, filtered = target.clone().requires_grad_(), target[[0, 2]].clone().requires_grad_()
    one = term(pair_of(texts, target), restored(masked))
    other = term(pair_of([texts[0], texts[2]], target[[0, 2]]), restored(filtered))
    one.value.backward()
    other.value.backward()
    assert one.count == 2
    assert_close(one.value, other.value)
    assert_close(masked.grad[[0, 2]], filtered.grad)
    assert not masked.grad[1].any()


@ALL
def test_frames_past_the_valid_ones_change_nothing(term):
    logits = torch.randn(2, 8, 37, generator=torch.Generator().manual_seed(0))
    other = logits.clone()
    other[:, 6:] = 9
    batch = pair_of(["A1", "2C"], images(2, 1, 4, 16))
    assert_close(term(batch, read_of(logits, [6, 6])).total, term(batch, read_of(other, [6, 6])).total)


@ALL
def test_it_stays_in_float32_under_autocast_and_works_in_inference_mode(term):
    batch = pair_of(["A1", "2C"], images(2, 1, 4, 16))
    read = read_of(torch.randn(2, 8, 37, generator=torch.Generator().manual_seed(0)).bfloat16())
    plain = term(batch, Read(logits=read.logits.float(), frames=read.frames))
    with torch.autocast("cpu", torch.bfloat16):
        found = term(batch, read)
    assert found.total.dtype == torch.float32 and found.total == plain.total
    with torch.inference_mode():
        inside = pair_of(["A1", "2C"], images(2, 1, 4, 16))
        made = Read(logits=read.logits.float() + 0, frames=read.frames + 0)
        assert term(inside, made).total == plain.total
    assert term(inside, made).total == plain.total


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: CharacterTerm(by="word"), "allowed: 'plate' or 'character'"),
        (lambda: CharacterTerm(most=0.5), "at least 1"),
        (lambda: CharacterTerm(weights=(1.0, 31.0)), "lie outside"),
        (lambda: CharacterTerm(weights=(1.0, 0.0)), "lie outside"),
        (lambda: LayoutTerm(symbols="123"), "digits and letters"),
        (lambda: LayoutTerm(symbols="A1", beta=0), "above 0"),
        (lambda: CharacterTerm(weights=(1.0,) * 35)(ONE, said("A")), "35 weights for 36"),
        (lambda: LayoutTerm(symbols="A1")(ONE, said("A")), "2 symbols, but the reader"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
