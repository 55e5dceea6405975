"""Pairs of pictures: the aspect is kept, both halves lie in the same place, and what is around them is padding."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.pair_image import PairSpec
from datasets.row import BadImage

SPEC = PairSpec()


def disc(height: int, width: int) -> np.ndarray:
    """A white disc in the middle of black, whose roundness shows every squash."""
    image = np.zeros((height, width, 3), np.uint8)
    return cv2.circle(image, (width // 2, height // 2), min(height, width) * 2 // 5, (255, 255, 255), -1)


def extent(array: np.ndarray) -> tuple[int, int]:
    """Rows and columns of what is brighter than middle grey."""
    rows, columns = np.nonzero(array[..., 0] > 200)
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


@given(height=st.integers(3, 200), width=st.integers(3, 200), scale=st.integers(1, 4))
def test_both_arrays_have_fixed_sizes(height: int, width: int, scale: int):
    spec = PairSpec(scale=scale, max_aspect=100)
    image = np.zeros((height, width, 3), np.uint8)
    low, high = spec.prepare(image, image)
    assert high is not None
    assert low.shape == (16, 48, 3) and high.shape == (16 * scale, 48 * scale, 3)
    assert low.dtype == high.dtype == np.uint8


@given(height=st.integers(8, 200), width=st.integers(8, 200))
def test_the_aspect_is_kept_to_within_half_a_pixel(height: int, width: int):
    top, left, rows, columns = SPEC.box(height, width)
    assert rows == 16 or columns == 48
    assert abs(columns - rows * width / height) <= max(0.5 * width / height, 0.5) + 1e-9 or min(rows, columns) == 1
    assert abs((16 - rows) - 2 * top) <= 1 and abs((48 - columns) - 2 * left) <= 1


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 128), (30, 150), (12, 20)])
def test_a_disc_stays_round(height: int, width: int):
    low, high = PairSpec(height=32, width=96).prepare(disc(height, width), disc(height * 2, width * 2))
    assert high is not None
    for array in (low, high):
        rows, columns = extent(array)
        assert abs(rows - columns) <= 2


def test_what_is_left_is_padding():
    spec = PairSpec(pad=(10, 20, 30))
    low, high = spec.prepare(np.full((20, 20, 3), 255, np.uint8), np.full((40, 40, 3), 255, np.uint8))
    assert high is not None
    assert (low[:, :16] == (10, 20, 30)).all() and (low[:, 32:] == (10, 20, 30)).all() and (low[:, 16:32] == 255).all()
    assert (high[:, :32] == (10, 20, 30)).all() and (high[:, 32:64] == 255).all()


def test_high_lies_exactly_where_low_does_even_when_their_aspects_differ():
    low, high = SPEC.prepare(np.full((18, 50, 3), 255, np.uint8), np.full((40, 118, 3), 255, np.uint8))
    assert high is not None
    assert np.array_equal(np.repeat(np.repeat(low, 2, axis=0), 2, axis=1), high)


def test_without_a_target_there_is_none():
    low, high = SPEC.prepare(disc(18, 50), None)
    assert high is None and np.array_equal(low, SPEC.prepare(disc(18, 50), disc(36, 100))[0])


def test_a_grey_picture_becomes_rgb():
    low, _ = SPEC.prepare(disc(18, 54)[..., 0], None)
    assert low.shape == (16, 48, 3) and (np.ptp(low, axis=2) == 0).all()


def test_an_exact_fit_is_not_touched():
    image = np.random.default_rng(0).integers(0, 256, (16, 48, 3), dtype=np.uint8)
    assert np.array_equal(SPEC.prepare(image, None)[0], image)


def test_shrinking_averages_or_picks_as_asked():
    fine = np.tile(np.array([0, 255], np.uint8)[None, :, None], (64, 96, 3))
    area, _ = SPEC.prepare(fine, None)
    bicubic, _ = replace(SPEC, shrink="bicubic").prepare(fine[:, 1:-2], None)
    assert np.ptp(area.astype(int)) <= 1 and np.ptp(bicubic.astype(int)) > 50


def test_enlarging_is_bicubic_or_bilinear_as_asked():
    edge = np.zeros((8, 24, 3), np.uint8)
    edge[:, 12:] = 200
    assert SPEC.prepare(edge, None)[0].max() > 200  # a cubic overshoots at an edge
    assert replace(SPEC, enlarge="bilinear").prepare(edge, None)[0].max() == 200


def test_cutting_gives_the_picture_without_padding():
    low, high = SPEC.prepare(np.full((20, 30, 3), 255, np.uint8), np.full((40, 60, 3), 255, np.uint8))
    assert high is not None
    assert (SPEC.cut(low, 20, 30) == 255).all() and SPEC.cut(low, 20, 30).shape == (16, 24, 3)
    assert (SPEC.cut(high, 20, 30) == 255).all() and SPEC.cut(high, 20, 30).shape == (32, 48, 3)


@pytest.mark.parametrize(
    ("low", "high", "reason"),
    [((2, 50), (40, 100), "too_small"), ((20, 50), (40, 2), "too_small"), ((4, 100), (8, 200), "bad_aspect")],
)
def test_pictures_that_are_no_plate_are_refused(low: tuple[int, int], high: tuple[int, int], reason: str):
    with pytest.raises(BadImage, match=reason):
        SPEC.prepare(np.zeros((*low, 3), np.uint8), np.zeros((*high, 3), np.uint8))


def test_every_setting_is_part_of_the_identity():
    others = [
        PairSpec(height=20),
        PairSpec(width=40),
        PairSpec(scale=4),
        PairSpec(pad=(0, 0, 0)),
        PairSpec(enlarge="bilinear"),
        PairSpec(shrink="bicubic"),
        PairSpec(min_side=4),
        PairSpec(max_aspect=5),
    ]
    assert len({SPEC.sha256, *(other.sha256 for other in others)}) == 9 and PairSpec().sha256 == SPEC.sha256


@pytest.mark.parametrize("settings", [{"height": 0}, {"scale": 0}, {"pad": (1, 2)}, {"pad": (0, 0, 256)}])
def test_settings_that_make_no_sense_are_refused(settings: dict):
    with pytest.raises(ValueError, match="PairSpec: "):
        PairSpec(**settings)
