"""Random changes to pairs: both halves move as one, light changes in the low resolution alone, padding stays."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from orchestrator.augment_pairs import augmented_line_pair, augmented_pair
from orchestrator.plan import Augment

MOVES = Augment(rotate=8, shear=0.2, stretch=0.15, shift=0.1)
LIGHT = Augment(blur=1.0, noise=0.1, contrast=0.4, brightness=0.2)
PAD = (127, 60, 200)
COLOUR = torch.tensor(PAD) / 127.5 - 1


def pairs(count: int, *, boxes: Sequence[Sequence[int]] = ((0, 0, 16, 48),), scale: int = 2) -> tuple[Tensor, ...]:
    """Smooth pictures, the low resolution the mean of the high one's squares, with padding around the box."""
    coarse = torch.rand(count, 3, 4, 9, generator=torch.Generator().manual_seed(1)) * 1.6 - 0.8
    high = F.interpolate(coarse, (16 * scale, 48 * scale), mode="bicubic").clamp(-1, 1)
    every = torch.tensor([boxes[i % len(boxes)] for i in range(count)])
    for picture, (top, left, rows, columns) in zip(high, (every * scale).tolist(), strict=True):
        kept = picture[:, top : top + rows, left : left + columns].clone()
        picture[:] = COLOUR[:, None, None]
        picture[:, top : top + rows, left : left + columns] = kept
    return F.avg_pool2d(high, scale), high, every.float()


def changed(
    image: Tensor, target: Tensor, boxes: Tensor, plan: Augment, *, samples: Sequence[int] = (), **draw: int
) -> tuple[Tensor, Tensor]:
    draw = {"epoch": 0, "seed": 0, **draw}
    return augmented_pair(image, target, boxes, plan, pad=PAD, samples=samples or range(len(image)), **draw)


def test_a_plan_without_changes_changes_nothing():
    image, target, boxes = pairs(2)
    same, same_target = changed(image, target, boxes, Augment())
    assert same is image and same_target is target


@pytest.mark.parametrize("scale", [2, 3])
def test_both_halves_move_as_one(scale):
    image, target, boxes = pairs(64, scale=scale)
    low, high = changed(image, target, boxes, MOVES)
    assert (low - image).abs().mean() > 0.1  # they do move

    def apart(dy: int, dx: int) -> float:  # the high resolution, moved by its own pixels, against the low one
        shrunk = F.avg_pool2d(torch.roll(high, (dy, dx), (2, 3)), scale)
        return float((shrunk - low)[:, :, 3:-3, 3:-3].abs().mean())

    found = {(dy, dx): apart(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
    assert min(found, key=found.get) == (0, 0)
    assert found[0, 0] < 0.01 and found[0, 0] < sorted(found.values())[1] / 3


@pytest.mark.parametrize(
    "plan", [Augment(rotate=8), Augment(shear=0.2), Augment(stretch=0.15), Augment(shift=0.1)], ids=str
)
def test_every_single_movement_keeps_the_register(plan):
    image, target, boxes = pairs(32, boxes=((0, 4, 16, 40), (2, 0, 12, 48)))
    low, high = changed(image, target, boxes, plan)
    assert (low - image).abs().mean() > 0.01
    apart = (F.avg_pool2d(high, 2) - low).abs()
    assert apart.mean() < 0.01


def test_light_changes_in_the_low_resolution_alone():
    image, target, boxes = pairs(16)
    low, high = changed(image, target, boxes, LIGHT)
    assert (low - image).abs().mean() > 0.05
    assert_close(high, target, rtol=0, atol=1e-4)


@pytest.mark.parametrize("plan", [LIGHT, Augment(invert=1.0)], ids=["light", "invert"])
def test_padding_keeps_its_colour_whatever_the_light(plan):
    image, target, boxes = pairs(8, boxes=((0, 12, 16, 24), (4, 0, 8, 48)))
    for changed_one, times in zip(changed(image, target, boxes, plan), (1, 2), strict=True):
        for picture, (top, left, rows, columns) in zip(changed_one, (boxes * times).int().tolist(), strict=True):
            around = torch.ones(picture.shape[1:], dtype=torch.bool)
            around[top : top + rows, left : left + columns] = False
            assert_close(picture[:, around], COLOUR[:, None].expand(3, int(around.sum())), rtol=0, atol=1e-4)


def test_padding_comes_in_from_outside_and_never_black():
    image = torch.ones(64, 3, 16, 48)
    low, high = changed(image, torch.ones(64, 3, 32, 96), torch.tensor([[0.0, 0, 16, 48]]).repeat(64, 1), MOVES)
    for each in (low, high):
        assert (each >= COLOUR[:, None, None] - 1e-4).all() and (each < 0.99).any()


def test_inverting_swaps_black_and_white_of_both():
    image, target, boxes = pairs(4)
    low, high = changed(image, target, boxes, Augment(invert=1.0))
    assert_close(low, -image, rtol=0, atol=1e-4)
    assert_close(high, -target, rtol=0, atol=1e-4)


def test_stretching_stops_at_the_edge_of_the_image():
    marks = torch.full((200, 3, 16, 48), -0.5)
    marks[..., 0] = marks[..., -1] = 0.9  # the first and the last column of the picture
    low, _ = changed(marks, F.interpolate(marks, scale_factor=2.0), torch.tensor([[0.0, 0, 16, 48]]).repeat(200, 1),
                     Augment(stretch=0.3))  # fmt: skip
    assert (low[:, 0, 8, :24].amax(1) > 0).all() and (low[:, 0, 8, 24:].amax(1) > 0).all()
    assert (low[:, 0, 8, 0] < 0.5).any()  # and it does shrink


def test_a_sample_looks_the_same_in_whatever_company_it_comes():
    image, target, boxes = pairs(4, boxes=((0, 0, 16, 48), (2, 0, 12, 48)))
    plan = Augment(rotate=8, shear=0.2, stretch=0.15, shift=0.1, blur=1.0, noise=0.1, contrast=0.4, invert=0.5)
    together = changed(image, target, boxes, plan, samples=[7, 3, 9, 1], epoch=2, seed=5)
    for row, sample in enumerate([7, 3, 9, 1]):
        alone = changed(
            image[[row]], target[[row]], boxes[[row]], plan, samples=[sample], epoch=2, seed=5
        )  # fmt: skip
        for one, all_of_them in zip(alone, together, strict=True):
            assert_close(one[0], all_of_them[row], rtol=0, atol=1e-5)


@pytest.mark.parametrize("other", [{"epoch": 1}, {"seed": 1}, {"samples": [2, 3]}])
def test_another_epoch_seed_or_sample_looks_different(other):
    image, target, boxes = pairs(2)
    first, second = changed(image, target, boxes, MOVES), changed(image, target, boxes, MOVES, **other)
    assert all((a - b).abs().mean() > 0.01 for a, b in zip(first, second, strict=True))


def test_nothing_is_ever_mirrored():
    *_, boxes = pairs(1)
    ramp = torch.linspace(-0.9, 0.9, 96).expand(1, 3, 32, 96)
    for epoch in range(200):
        low, high = changed(F.avg_pool2d(ramp, 2), ramp, boxes, MOVES, epoch=epoch)
        for each in (low, high):
            third = each.shape[3] // 3
            assert each[0, :, :, :third].mean() < each[0, :, :, -third:].mean()


LINE_WIDTHS = torch.tensor([64, 40, 52, 23])


def line_pairs() -> tuple[Tensor, Tensor]:
    """Smooth clean lines, and the same a little darker, black past their widths."""
    coarse = torch.rand(4, 1, 4, 9, generator=torch.Generator().manual_seed(2)) * 1.2 - 0.5
    clean = F.interpolate(coarse, (16, 64), mode="bicubic").clamp(-0.7, 0.8)
    inside = torch.arange(64) < LINE_WIDTHS[:, None, None, None]
    return torch.where(inside, clean - 0.15, -1.0), torch.where(inside, clean, -1.0)


def lines_changed(plan: Augment, **draw: int) -> tuple[Tensor, Tensor, Tensor]:
    image, target = line_pairs()
    draw = {"epoch": 0, "seed": 0, **draw}
    low, high = augmented_line_pair(image, target, LINE_WIDTHS, plan, samples=range(4), **draw)
    return low, high, torch.arange(64) < LINE_WIDTHS[:, None, None, None]


@pytest.mark.parametrize(
    "plan",
    [Augment(rotate=3), Augment(shear=0.2), Augment(stretch=0.2), Augment(shift=0.1), Augment(invert=1.0), MOVES],
    ids=str,
)
def test_lines_move_as_one_with_their_twins_and_padding_stays_black(plan):
    low, high, inside = lines_changed(plan)
    image, target = line_pairs()
    assert (high - target).abs().mean() > 0.01  # they do move
    sign = -1 if plan.invert else 1
    apart = (high - low - sign * 0.15).abs()
    assert apart[inside.expand_as(apart)].max() < 1e-5  # what one half does, the other does too, to the very edge
    assert (low[~inside.expand_as(low)] == -1).all() and (high[~inside.expand_as(high)] == -1).all()
    assert image.shape == low.shape and target.shape == high.shape


def test_what_comes_in_beside_a_line_is_its_own_edge():
    _, high, inside = lines_changed(Augment(shift=0.3, rotate=4))
    assert high[inside.expand_as(high)].min() >= -0.7 - 1e-5  # nothing of the padding's black


def test_light_changes_in_the_degraded_line_alone():
    low, high, inside = lines_changed(LIGHT)
    image, target = line_pairs()
    assert torch.allclose(high, target, atol=1e-5) and (low - image).abs()[inside.expand_as(low)].mean() > 0.02
    assert (low[~inside.expand_as(low)] == -1).all()


def test_lines_are_only_narrowed_and_never_pushed_out():
    marked = torch.full((64, 1, 16, 40), 0.5)
    marked[:, :, :, 1:3] = marked[:, :, :, 37:39] = -0.5  # a stroke near either end
    widths = torch.full((64,), 40)
    plan = Augment(stretch=0.3)
    _, high = augmented_line_pair(marked, marked, widths, plan, samples=range(64), epoch=0, seed=0)
    ink = (high[:, 0, 8] < 0).int()
    assert (ink.diff(dim=1, prepend=torch.zeros(64, 1).int()) == 1).sum(1).tolist() == [2] * 64  # both are still there
    assert len({tuple(row) for row in ink.tolist()}) > 10


def test_a_line_depends_on_its_own_sample_alone():
    image, target = line_pairs()
    draw = {"epoch": 3, "seed": 5}
    low, high = augmented_line_pair(image, target, LINE_WIDTHS, MOVES, samples=range(4), **draw)
    other, twin = augmented_line_pair(image[2:3], target[2:3], LINE_WIDTHS[2:3], MOVES, samples=[2], **draw)
    assert_close(other, low[2:3]), assert_close(twin, high[2:3])
    wider = F.pad(image[2:3], (0, 16), value=-1.0), F.pad(target[2:3], (0, 16), value=-1.0)
    padded, _ = augmented_line_pair(*wider, LINE_WIDTHS[2:3], MOVES, samples=[2], **draw)
    assert_close(padded[..., :64], low[2:3], atol=1e-4, rtol=0)  # nor on how wide the bucket is
    assert augmented_line_pair(image, target, LINE_WIDTHS, Augment(), samples=range(4), **draw) == (image, target)
