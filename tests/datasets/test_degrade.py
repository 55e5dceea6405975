"""Degradation: the same from seed and id alone, on record, and as similar to the original as it says."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.degrade import Blur, Chain, Compress, Grain, Light, Shrink, degradation
from datasets.degrade_ops import (
    Contrast,
    Downsample,
    GaussianBlur,
    Jpeg,
    MotionBlur,
    Noise,
    applied,
    ops_from,
    plain_ops,
)
from datasets.degraded import Degraded, Told
from datasets.row import BadImage
from datasets.ssim import ssim

BARS = np.where(np.arange(180)[None, :, None] // 6 % 2, 220, 30) * np.ones((60, 1, 3))
PLATE = BARS.astype(np.uint8)


class Kept:
    """A picture in memory."""

    def __init__(self, image: np.ndarray | None) -> None:
        self.image = image

    def load(self) -> np.ndarray:
        if self.image is None:
            raise BadImage("missing", "gone")
        return self.image

    def stamp(self) -> str:
        return "kept"


def test_the_same_seed_and_id_do_the_same():
    first, again = Chain().degrade(PLATE, 3, "a"), Chain().degrade(PLATE, 3, "a")
    assert first.ops == again.ops and np.array_equal(first.image, again.image) and first.ssim == again.ssim


def test_another_id_or_seed_does_something_else():
    ops = Chain().ops(3, "a")
    assert Chain().ops(3, "b") != ops and Chain().ops(4, "a") != ops


def test_changing_one_step_leaves_the_lots_of_the_others():
    plain = Chain(steps=(Light(share=1), Blur(share=1, motion=0), Shrink(), Grain(share=1), Compress(share=1)))
    heavy = replace(plain, steps=(*plain.steps[:1], Blur(share=0), *plain.steps[2:]))
    kept = [op for op in plain.ops(0, "x") if not isinstance(op, GaussianBlur)]
    assert list(heavy.ops(0, "x")) == kept and len(kept) == 4


def test_what_is_stored_does_the_same_again():
    made = Chain().degrade(PLATE, 1, "stored")
    told = json.loads(json.dumps(made.facts()))
    assert np.array_equal(applied(ops_from(told["ops"]), PLATE), made.image)
    assert told["ssim"] == pytest.approx(made.ssim, abs=1e-4) and told["reached"] is True


def test_every_operation_survives_storing():
    ops = (
        Contrast(gain=0.5, brightness=3.0),
        GaussianBlur(sigma=0.02),
        MotionBlur(length=0.2, angle=12.5),
        Downsample(rows=12, how="bicubic"),
        Noise(deviation=3.0, grey=True, seed=7),
        Jpeg(quality=40),
    )
    assert ops_from(json.loads(json.dumps(plain_ops(ops)))) == ops


@pytest.mark.parametrize("data", [{"op": "Sharpen"}, {"sigma": 1}, {"op": "Jpeg", "qualtiy": 3}])
def test_an_unknown_operation_is_refused(data: dict[str, object]):
    with pytest.raises(ValueError, match="no operation; known: GaussianBlur"):
        ops_from([data])


@pytest.mark.parametrize("grey", [False, True])
def test_every_operation_keeps_type_and_depth(grey: bool):
    image = PLATE[..., 0] if grey else PLATE
    for op in Chain(steps=(Light(share=1), Blur(share=1), Shrink(), Grain(share=1), Compress(share=1))).ops(0, "a"):
        image = op.apply(image)
        assert image.dtype == np.uint8 and image.ndim == (2 if grey else 3)


def test_downsampling_keeps_the_aspect_and_never_enlarges():
    assert Downsample(rows=20, how="area").apply(PLATE).shape == (20, 60, 3)
    assert Downsample(rows=80, how="area").apply(PLATE) is PLATE


def test_area_averages_where_bicubic_picks():
    stripes = np.tile(np.array([0, 255], np.uint8), (12, 60))
    small = Downsample(rows=4, how="area").apply(np.tile(stripes, (1, 1)))
    assert small.std() < 45  # three columns of stripes become one third or two thirds of white
    assert Downsample(rows=4, how="bicubic").apply(stripes).std() > 2 * small.std()


def test_contrast_turns_around_middle_grey():
    image = np.array([[0, 128, 228]], np.uint8)
    assert Contrast(gain=0.5, brightness=10).apply(image).tolist() == [[74, 138, 188]]


def test_noise_has_its_deviation_and_may_be_grey():
    flat = np.full((100, 100, 3), 128, np.uint8)
    noisy = Noise(deviation=6, grey=False, seed=1).apply(flat).astype(float)
    assert noisy.std() == pytest.approx(6, rel=0.03) and np.ptp(noisy, axis=2).max() > 0
    assert np.ptp(Noise(deviation=6, grey=True, seed=1).apply(flat), axis=2).max() == 0


def test_motion_blurs_along_its_angle_only():
    across = MotionBlur(length=0.3, angle=0).apply(PLATE)
    along = MotionBlur(length=0.3, angle=90).apply(PLATE)
    assert across.std() < 0.6 * PLATE.std() and np.array_equal(along, PLATE)


@pytest.mark.parametrize("angle", [0, 17, 45, 90, -30])
def test_motion_keeps_the_brightness_and_the_place(angle: float):
    spot = np.zeros((61, 61), np.uint8)
    spot[30, 30] = 255
    moved = MotionBlur(length=0.2, angle=angle).apply(spot).astype(float)
    assert moved.sum() == pytest.approx(255, rel=0.1)
    rows, columns = np.indices(spot.shape)
    assert (moved * rows).sum() / moved.sum() == pytest.approx(30, abs=0.2)
    assert (moved * columns).sum() / moved.sum() == pytest.approx(30, abs=0.2)


def test_blur_is_in_heights_so_resolution_does_not_matter():
    large = np.repeat(np.repeat(PLATE, 2, axis=0), 2, axis=1)
    op = GaussianBlur(sigma=0.05)
    assert abs(op.apply(large).std() - op.apply(PLATE).std()) < 1


def test_jpeg_keeps_red_red():
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    assert np.abs(Jpeg(quality=90).apply(red).astype(int) - red).max() < 6


@settings(max_examples=15, deadline=None)
@given(id=st.text(max_size=8), target=st.sampled_from([0.75, 0.5, 0.25]))
def test_a_target_is_reached_or_the_row_says_not(id: str, target: float):
    made = Chain(ssim=target).degrade(PLATE, 0, id)
    assert made.reached == (made.ssim <= target) and made.reached
    assert degradation(made.ops, PLATE).ssim == made.ssim


def test_no_more_blur_than_the_target_needs():
    chain = Chain(steps=(Shrink(rows=(60, 60)),), ssim=0.5)
    made = chain.degrade(PLATE, 0, "a")
    assert isinstance(made.ops[0], GaussianBlur)
    less = replace(made.ops[0], sigma=made.ops[0].sigma / 1.25)
    assert degradation((less, *made.ops[1:]), PLATE).ssim > 0.5 >= made.ssim


def test_a_target_adds_to_the_blur_that_was_drawn():
    chain = Chain(steps=(Blur(share=1, motion=0, sigma=(0.01, 0.01)), Shrink(rows=(60, 60))), ssim=0.5)
    assert [type(op) for op in chain.degrade(PLATE, 0, "a").ops] == [GaussianBlur, Downsample]


def test_a_target_out_of_reach_leaves_the_picture_as_drawn_and_says_so():
    flat = np.full((40, 100, 3), 200, np.uint8)
    made = Chain(steps=(Shrink(),), ssim=0.3).degrade(flat, 0, "a")
    assert not made.reached and made.ops == Chain(steps=(Shrink(),)).ops(0, "a") and made.facts()["reached"] is False


def test_without_a_target_nothing_is_added():
    assert Chain().degrade(PLATE, 0, "a").ops == Chain().ops(0, "a")


def test_achieved_similarity_is_that_of_the_enlarged_result():
    assert degradation((), PLATE).ssim == pytest.approx(1, abs=1e-6)
    assert degradation((Downsample(rows=8, how="area"),), PLATE).ssim < 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Chain(ssim=1.5), "ssim is 1.5"),
        (lambda: Chain(most=0), "most is 0"),
        (lambda: Chain(steps=(Blur(share=2),)), "Blur: share is 2"),
        (lambda: Chain(steps=(Blur(sigma=(0.2, 0.1)),)), "least and a greatest"),
        (lambda: Chain(steps=(Shrink(rows=(0, 5)),)), "Shrink: rows is .* at least 1"),
        (lambda: Chain(steps=(Compress(quality=(90,)),)), "least and a greatest"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_degraded_image_tells_how_it_was_made():
    image = Degraded(Kept(PLATE), Chain(), 5, "row")
    pixels, told = image.load_told()
    assert isinstance(image, Told) and np.array_equal(pixels, image.load())
    facts = told["degraded"]
    assert isinstance(facts, dict) and facts["seed"] == 5 and facts["id"] == "row" and facts["ssim"] < 1
    assert np.array_equal(applied(ops_from(facts["ops"]), PLATE), pixels)
    assert np.array_equal(pickle.loads(pickle.dumps(replace(image, image=Kept(PLATE)))).load(), pixels)


def test_the_stamp_changes_with_chain_seed_and_id():
    image = Degraded(Kept(PLATE), Chain(), 5, "row")
    others = [replace(image, seed=6), replace(image, id="other"), replace(image, chain=Chain(ssim=0.5))]
    assert len({image.stamp(), *(other.stamp() for other in others)}) == 4


def test_a_missing_original_is_a_bad_image():
    with pytest.raises(BadImage, match="missing"):
        Degraded(Kept(None), Chain(), 0, "x").load()


def slow_ssim(one: np.ndarray, other: np.ndarray) -> float:
    """SSIM straight from its definition, window by window, in float64."""
    weights = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    window = np.outer(weights, weights) / weights.sum() ** 2
    values = []
    for top in range(one.shape[0] - 10):
        for left in range(one.shape[1] - 10):
            x, y = (a[top : top + 11, left : left + 11].astype(float) for a in (one, other))
            mean_x, mean_y = (window * x).sum(), (window * y).sum()
            var_x, var_y = (window * x * x).sum() - mean_x**2, (window * y * y).sum() - mean_y**2
            shared = (window * x * y).sum() - mean_x * mean_y
            c1, c2 = 2.55**2, 7.65**2
            values.append(
                (2 * mean_x * mean_y + c1) * (2 * shared + c2) / (mean_x**2 + mean_y**2 + c1) / (var_x + var_y + c2)
            )
    return float(np.mean(values))


def test_ssim_is_its_definition():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (17, 23), dtype=np.uint8)
    for spread in (2, 40, 200):
        other = np.clip(one + rng.normal(0, spread, one.shape), 0, 255).astype(np.uint8)
        assert ssim(one, other) == pytest.approx(slow_ssim(one, other), abs=1e-5)


def test_ssim_of_a_colour_picture_is_the_mean_of_its_channels():
    rng = np.random.default_rng(1)
    one, other = rng.integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    assert ssim(one, other) == pytest.approx(np.mean([ssim(one[..., c], other[..., c]) for c in range(3)]), abs=1e-6)


def test_ssim_of_equal_pictures_is_one_even_when_tiny():
    rng = np.random.default_rng(2)
    for shape in ((64, 128, 3), (5, 30), (1, 1)):
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        assert ssim(image, image) == pytest.approx(1, abs=1e-5)


def test_ssim_of_shapes_that_differ_is_refused():
    with pytest.raises(ValueError, match="both must be uint8 alike"):
        ssim(PLATE, PLATE[:-1])
