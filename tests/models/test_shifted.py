"""The difference at the best shift."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pairs import images, pair_of
from torch.testing import assert_close

from models.batch import Read, Restored
from models.losses.image import l1
from models.losses.shifted import ShiftedL1

READ = Read(logits=torch.zeros(2, 4, 3), frames=torch.tensor([4, 4]))


def pair(**changes):
    return replace(pair_of(["AB", "CD"], images(2, 3, 16, 32)), **changes)


def out(image):
    return Restored(image=image, read=READ)


@pytest.mark.parametrize(("dy", "dx"), [(0, 0), (1, -2), (-2, 2), (0, 1)])
def test_a_moved_target_costs_nothing_within_reach(dy, dx):
    batch = pair()
    moved = torch.roll(batch.target, (dy, dx), dims=(2, 3))
    assert float(ShiftedL1(reach=2)(batch, out(moved)).value) == 0
    assert float(l1(batch, out(moved)).value) > 0.1 or (dy, dx) == (0, 0)


def test_without_reach_it_is_l1():
    batch = pair()
    other = batch.target.roll(1, 0)
    assert_close(ShiftedL1(reach=0)(batch, out(other)).value, l1(batch, out(other)).value)


def test_the_gradient_is_that_of_the_best_shift():
    batch = pair()
    moved = torch.roll(batch.target, (0, 1), dims=(2, 3)).add(0.25).requires_grad_()
    loss = ShiftedL1(reach=1)(batch, out(moved)).value
    assert_close(loss.item(), 0.25, atol=1e-6, rtol=0)
    loss.backward()
    assert bool((moved.grad[:, :, :, 1:] > 0).all())
    assert moved.grad[:, :, :, 0].abs().max() == 0  # what came in from the other side has nothing to be compared with


def test_padding_counts_for_nothing():
    batch = pair(widths=torch.tensor([16, 8]))
    wrong = batch.target.clone()
    wrong[1, :, :, 16:] += 0.5
    assert float(ShiftedL1(reach=1)(batch, out(wrong)).value) == 0


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="reach: -1 is below 0"):
        ShiftedL1(reach=-1)
    batch = pair()
    with pytest.raises(ValueError, match="the smallest picture has 16 x 32; lower it"):
        ShiftedL1(reach=16)(batch, out(batch.target))
