"""Random changes to images: drawn from (seed, epoch, sample), inside the valid width, never past what a label needs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from models.batch import BLACK
from orchestrator.augment import augmented, uniforms
from orchestrator.plan import Augment
from orchestrator.recipes.words import SCENE

MOVES = Augment(rotate=10, shear=0.3, stretch=0.4, shift=0.2)
quick = settings(deadline=None, max_examples=30)


def images(widths, *, columns=48, channels=1, seed=0):
    """``(B, C, 16, columns)`` noise in [-1, 1], black past each image's width, and the widths."""
    widths = torch.tensor(widths)
    noise = 2 * torch.rand(len(widths), channels, 16, columns, generator=torch.Generator().manual_seed(seed)) - 1
    return torch.where(torch.arange(columns) < widths[:, None, None, None], noise, BLACK), widths


def changed(image, widths, plan, *, least=None, samples=None, epoch=0, seed=0):
    least = torch.ones_like(widths) if least is None else torch.tensor(least)
    samples = range(len(widths)) if samples is None else samples
    return augmented(image, widths, least, plan, samples=samples, epoch=epoch, seed=seed)


def test_a_plan_without_changes_changes_nothing():
    image, widths = images([20, 48])
    same, same_widths = changed(image, widths, Augment())
    assert torch.equal(same, image) and torch.equal(same_widths, widths)


@pytest.mark.parametrize("plan", [SCENE, MOVES], ids=["scene", "moves"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_sample_looks_the_same_in_whatever_company_it_comes(plan, channels):
    image, widths = images([20, 30, 48, 41, 9], channels=channels)
    together, new = changed(image, widths, plan, samples=[7, 3, 9, 1, 4], epoch=2, seed=5)
    for row, sample in enumerate([7, 3, 9, 1, 4]):
        alone, width = changed(image[[row]], widths[[row]], plan, samples=[sample], epoch=2, seed=5)
        assert torch.equal(width[0], new[row])
        assert_close(alone[0], together[row], rtol=0, atol=1e-6)


def test_padding_to_a_wider_bucket_moves_no_pixel():
    # Noise is left out: its field is cut to the bucket, so that it follows the bucket's width. Stretching is, too: an
    # image may grow into a wider bucket.
    plan = Augment(rotate=10, shear=0.3, shift=0.2, blur=1.0, contrast=0.4, brightness=0.2, invert=0.5)
    image, widths = images([20, 30], columns=32)
    wider = torch.nn.functional.pad(image, (0, 32), value=BLACK)
    narrow, wide = (changed(each, widths, plan)[0] for each in (image, wider))
    assert_close(wide[..., :32], narrow, rtol=0, atol=1e-4)
    assert (wide[..., 32:] == BLACK).all()


@pytest.mark.parametrize("other", [{"epoch": 1}, {"seed": 1}, {"samples": [2, 3]}])
def test_another_epoch_seed_or_sample_looks_different(other):
    image, widths = images([30, 48])
    first, second = changed(image, widths, SCENE)[0], changed(image, widths, SCENE, **other)[0]
    assert all((a - b).abs().mean() > 0.01 for a, b in zip(first, second, strict=True))


strengths = st.builds(
    Augment, rotate=st.floats(0, 45), shear=st.floats(0, 1), stretch=st.floats(0, 0.5), shift=st.floats(0, 0.5),
    blur=st.floats(0, 5), noise=st.floats(0, 1), contrast=st.floats(0, 0.95), brightness=st.floats(0, 1),
    invert=st.floats(0, 1),
)  # fmt: skip


@quick
@given(strengths, st.lists(st.integers(4, 40), min_size=1, max_size=5), st.integers(0, 1000))
def test_any_change_keeps_range_padding_and_widths(plan, widths, epoch):
    image, before = images(widths, columns=40)
    least = [max(width - 5, 1) for width in widths]
    out, after = changed(image, before, plan, least=least, epoch=epoch)
    assert out.shape == image.shape and out.dtype == torch.float32
    assert out.min() >= -1 and out.max() <= 1
    assert (after >= torch.tensor(least).clamp(min=4)).all() and (after <= 40).all()
    past = torch.arange(40) >= after[:, None, None, None]
    assert (out.masked_select(past) == BLACK).all()


def test_stretching_stops_where_the_label_could_no_longer_be_spelled():
    image, widths = images([32] * 200)
    free = changed(image, widths, Augment(stretch=0.5))[1]
    held = changed(image, widths, Augment(stretch=0.5), least=[30] * 200)[1]
    assert free.min() < 20 and free.max() > 44  # 16 .. 48 columns are drawn
    assert held.min() == 30
    assert torch.equal(held, free.clamp(min=30))


def test_inverting_for_sure_flips_valid_pixels_and_no_padding():
    image, widths = images([20, 48])
    out, after = changed(image, widths, Augment(invert=1.0))
    inside = torch.arange(48) < widths[:, None, None, None]
    assert torch.equal(after, widths)
    assert_close(out, torch.where(inside, -image, BLACK), rtol=0, atol=1e-5)


def test_inverting_now_and_then_flips_that_share():
    image, widths = images([8] * 400, columns=8)
    out = changed(image, widths, Augment(invert=0.25))[0]
    flipped = ((out + image).abs().amax((1, 2, 3)) < 1e-4).float().mean()
    assert 0.18 < flipped < 0.32


def test_brightness_contrast_and_noise_do_what_their_units_say():
    grey, widths = torch.zeros(400, 1, 8, 8), torch.full((400,), 8)
    half = torch.full_like(grey, 0.5)
    shift = changed(grey, widths, Augment(brightness=0.25))[0].mean((1, 2, 3))
    assert -0.5 <= shift.min() < -0.45 and 0.45 < shift.max() <= 0.5  # a quarter of the range from -1 to 1, either way
    scale = changed(half, widths, Augment(contrast=0.5))[0].mean((1, 2, 3)) / 0.5
    assert 0.5 <= scale.min() < 0.55 and 1.45 < scale.max() <= 1.5
    spread = changed(grey, widths, Augment(noise=0.1))[0].std((1, 2, 3))
    assert spread.min() < 0.02 and 0.15 < spread.max() < 0.27  # up to a tenth of 2, give or take 64 draws


def test_shifting_moves_an_image_and_repeats_its_border():
    image = torch.full((200, 1, 16, 16), -0.5)
    image[:, :, 8:] = 0.5  # dark above, bright below
    out = changed(image, torch.full((200,), 16), Augment(shift=0.25))[0]
    rows = (out[:, 0, :, 8] > 0).sum(1)
    assert rows.min() == 4 and rows.max() == 12  # a quarter of 16 rows, up or down
    assert (out > -0.51).all()  # no black comes in


def test_uniforms_look_uniform_and_independent():
    u = uniforms(range(4000), epoch=3, seed=11)
    assert u.shape == (4000, 12) and u.dtype == np.float32
    assert u.min() >= 0 and u.max() < 1
    assert np.allclose(u.mean(0), 1 / 2, atol=0.025)
    assert np.allclose(u.var(0), 1 / 12, atol=0.006)
    columns = np.corrcoef(u.T) - np.eye(12)
    assert np.abs(columns).max() < 0.08
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 0.08  # neighbours in the data
    for other in (uniforms(range(4000), epoch=4, seed=11), uniforms(range(4000), epoch=3, seed=12)):
        assert abs(np.corrcoef(u.ravel(), other.ravel())[0, 1]) < 0.02


def test_a_uniform_belongs_to_its_sample_not_to_its_place():
    assert np.array_equal(uniforms([5, 2**40], epoch=1, seed=2)[::-1], uniforms([2**40, 5], epoch=1, seed=2))
    assert np.array_equal(uniforms([5], epoch=1, seed=2, draws=3), uniforms([5], epoch=1, seed=2)[:, :3])
