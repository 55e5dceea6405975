"""The tails of a clipped CTC: values and gradient factors that can be worked out on paper."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from models.losses.clip import Clip, ClippedCTC, nats_of
from models.losses.text import ctc
from tests.models.pairs import images, pair_of, reader, restored, said

TAILS = ("log_tail", "root_tail")
ONE = torch.tensor([1])


def clipped(mode, x, value=300.0, unit="label"):
    """Value and derivative of the clip at ``x`` nats of a label of one character."""
    nats = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    out = Clip(mode=mode, value=value, unit=unit)(nats, ONE)
    (gradient,) = torch.autograd.grad(out.sum(), nats)
    return out.item(), gradient.item()


@pytest.mark.parametrize(
    ("mode", "value", "gradient"),
    [
        ("none", 629, 1),
        ("log_tail", 300 * (1 + math.log(629 / 300)), 300 / 629),
        ("root_tail", 300 * math.sqrt(2 * 629 / 300 - 1), 1 / math.sqrt(2 * 629 / 300 - 1)),
        ("hard", 300, 0),
    ],
)
def test_a_loss_of_629_clipped_at_300(mode, value, gradient):
    assert clipped(mode, 629.0) == (pytest.approx(value), pytest.approx(gradient))


@given(st.sampled_from(TAILS), st.floats(0.1, 1000), st.floats(0.01, 1000))
def test_tails_rise_and_are_the_loss_itself_below_the_ceiling(mode, value, x):
    found, gradient = clipped(mode, x, value)
    assert gradient > 0 and found <= x * (1 + 1e-12)
    assert (found, gradient) == (x, 1) if x <= value else found > value


@pytest.mark.parametrize("mode", TAILS)
def test_tails_leave_the_straight_line_without_a_corner(mode):
    assert clipped(mode, 300 * (1 + 1e-9))[1] == pytest.approx(1)


def test_nothing_is_clamped_unless_it_is_asked_for_by_name():
    assert Clip().mode == "none" and ClippedCTC().clip.mode == "none"
    assert Clip(value=1.0)(torch.tensor([9.0]), ONE) == 9


def test_a_ceiling_is_per_character_or_per_label():
    nats, lengths = torch.tensor([40.0, 40.0]), torch.tensor([2, 8])
    assert Clip(mode="hard", value=10)(nats, lengths).tolist() == [10, 5]
    assert Clip(mode="hard", value=10, unit="label")(nats, lengths).tolist() == [5, 1.25]
    assert Clip(mode="log_tail", value=10).above(nats, lengths).tolist() == [True, False]
    assert Clip(mode="log_tail", value=10, unit="label").above(nats, lengths).tolist() == [True, True]


@pytest.mark.parametrize("wrong", [{"mode": "soft"}, {"unit": "plate"}, {"value": 0}, {"value": math.inf}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="Clip"):
        Clip(**wrong)


def test_without_clipping_it_is_ctc():
    target = images(2, 1, 12, 40)
    batch, read = pair_of(["ABC1D23", "AA1"], target), reader(target)
    assert ClippedCTC()(batch, read) == ctc(batch, read)
    assert ClippedCTC()(batch, restored(target)) == ctc(batch, read)


def test_each_plate_is_clipped_alone_and_the_hard_one_goes_on_learning():
    # The mean of both is above the ceiling: clamping the mean would have stopped the easy plate too.
    logits = torch.cat([said("AB", sure=30.0).logits, said("12", sure=160.0).logits]).requires_grad_()
    batch, read = pair_of(["AB", "AB"], images(2, 1, 2, 8)), said("AB", "AB")
    read = type(read)(logits=logits, frames=read.frames)
    hard, easy = nats_of(batch, read)[1].item(), nats_of(batch, read)[0].item()
    assert easy < 1 and hard > 300
    for mode, factor in (("log_tail", 300 / hard), ("root_tail", (2 * hard / 300 - 1) ** -0.5), ("hard", 0)):
        term = ClippedCTC(clip=Clip(mode=mode, value=300, unit="label"))
        (plain,) = torch.autograd.grad(ctc(batch, read).total, logits)
        (soft,) = torch.autograd.grad(term(batch, read).total, logits)
        assert_close(soft[0], plain[0])
        assert_close(soft[1], plain[1] * factor)
        assert term.clipped(batch, read).tolist() == [False, True]
    assert ClippedCTC().clipped(batch, read).tolist() == [False, False]


def test_a_plate_that_cannot_be_spelled_is_neither_counted_nor_clipped():
    target = images(2, 1, 12, 6)
    batch, read = pair_of(["ABC1D23", "AB"], target), reader(target)
    term = ClippedCTC(clip=Clip(mode="log_tail", value=0.01))
    assert term(batch, read).count == 1 and term.clipped(batch, read).tolist() == [False, True]
    left_out = pair_of(["AB", "AB"], target, counted=[False, True])
    assert term(left_out, read).count == 1 and term.clipped(left_out, read).tolist() == [False, True]


@pytest.mark.parametrize("mode", TAILS)
def test_the_gradient_is_the_numerical_one(mode):
    target = images(2, 1, 4, 8, dtype=torch.float64)
    batch, term = pair_of(["A1B", "22"], target), ClippedCTC(clip=Clip(mode=mode, value=1.0))
    assert term.clipped(batch, reader(target)).all()
    assert torch.autograd.gradcheck(lambda image: term(batch, restored(image)).total, target.requires_grad_())
