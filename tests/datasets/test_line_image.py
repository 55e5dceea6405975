"""Pairs of lines: one height, any width, both halves in one place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.line_image import LineSpec
from datasets.row import BadImage


@given(height=st.integers(4, 200), width=st.integers(4, 2000))
def test_both_halves_have_one_size_within_the_limits(height: int, width: int):
    spec = LineSpec(height=64, max_width=512)
    low, high = spec.prepare(np.zeros((height, width), np.uint8), np.zeros((2 * height, 2 * width), np.uint8))
    assert high is not None and low.shape == high.shape and low.dtype == high.dtype == np.uint8
    assert low.shape[0] == 64 and 32 <= low.shape[1] <= 512
    assert spec.box(height, width) == (0, 0, *low.shape)


def test_the_aspect_is_kept_between_the_limits():
    low, _ = LineSpec(height=64).prepare(np.zeros((32, 333), np.uint8), None)
    assert low.shape == (64, 666)


@pytest.mark.parametrize("size", [(64, 300), (90, 421), (40, 200)])
def test_both_halves_lie_exactly_on_each_other(size: tuple[int, int]):
    line = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    low, high = LineSpec(height=64).prepare(line, line)
    assert high is not None and np.array_equal(low, high)


def test_colour_becomes_grey():
    line = np.zeros((20, 60, 3), np.uint8)
    line[..., 0] = 255
    low, _ = LineSpec(height=20).prepare(line, None)
    assert low.shape == (20, 60) and (low == 76).all()  # 0.299 of red


def test_halves_of_other_aspects_are_refused():
    with pytest.raises(BadImage, match="out_of_register: 20x60 pixels degraded, 20x70 clean"):
        LineSpec().prepare(np.zeros((20, 60), np.uint8), np.zeros((20, 70), np.uint8))


def test_wide_lines_are_squeezed_or_refused():
    wide = np.zeros((20, 400), np.uint8)
    assert LineSpec(height=20, max_width=300).prepare(wide, None)[0].shape == (20, 300)
    with pytest.raises(BadImage, match="too_wide: 400 columns"):
        LineSpec(height=20, max_width=300, wider="reject").prepare(wide, None)


def test_specks_are_refused():
    with pytest.raises(BadImage, match="too_small: clean line"):
        LineSpec().prepare(np.zeros((20, 20), np.uint8), np.zeros((3, 3), np.uint8))


def test_senseless_limits_are_refused():
    with pytest.raises(ValueError, match="min_width 40, max_width 20"):
        LineSpec(min_width=40, max_width=20)


def test_every_setting_changes_the_identity():
    assert len({LineSpec().sha256, LineSpec(height=64).sha256, LineSpec(wider="reject").sha256}) == 3
