"""Plates cut out by their corners: upright, whole, and in register with one another whatever their resolution."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import cv2
import numpy as np
import pytest

from datasets.pair_image import PairSpec
from datasets.rectify import Rectified, corners_of, rectified
from datasets.row import BadImage
from datasets.ssim import ssim

PLATE = cv2.GaussianBlur(np.random.default_rng(3).integers(0, 256, (40, 120, 3), dtype=np.uint8), (0, 0), 4)
PLATE = cv2.normalize(PLATE, None, 0, 255, cv2.NORM_MINMAX)
SEEN = np.array(((30, 20), (150, 32), (148, 70), (28, 60)), np.float32)


@dataclass(frozen=True)
class Kept:
    """A picture in memory."""

    image: np.ndarray

    def load(self) -> np.ndarray:
        return self.image

    def stamp(self) -> str:
        return "kept"


def scene(scale: float) -> tuple[np.ndarray, np.ndarray]:
    """A picture in which the plate is seen from aside, at some resolution, and its corners there."""
    corners = SEEN * scale
    flat = np.array(((0, 0), (120, 0), (120, 40), (0, 40)), np.float32)
    matrix = cv2.getPerspectiveTransform(flat - 0.5, corners - 0.5)
    size = (round(180 * scale), round(90 * scale))
    return cv2.warpPerspective(PLATE, matrix, size, flags=cv2.INTER_AREA), corners


def test_a_plate_is_made_upright():
    image, corners = scene(1.0)
    upright = rectified(image, corners_of(corners.tolist()))
    assert upright.shape == (40, 121, 3)  # the mean of its opposite sides
    assert ssim(cv2.resize(upright, (120, 40), interpolation=cv2.INTER_AREA), PLATE) > 0.93


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_two_pictures_of_one_plate_are_in_register(margin: float):
    low, high = (
        Rectified(Kept(image), corners_of(quad.tolist()), margin).load() for image, quad in (scene(0.5), scene(2.0))
    )
    small, large = PairSpec(height=20, width=60, scale=2).prepare(low, high)
    assert large is not None
    enlarged = cv2.resize(small, (120, 40), interpolation=cv2.INTER_CUBIC)
    apart = {}
    for x, y in itertools.product((-0.5, 0, 0.5), repeat=2):
        moved = cv2.warpAffine(enlarged, np.array(((1, 0, x), (0, 1, y)), np.float32), (120, 40))
        apart[x, y] = np.abs(moved.astype(float) - large)[8:-8, 8:-8].mean()
    assert min(apart, key=apart.__getitem__) == (0, 0)


def test_a_margin_shows_what_is_around():
    image, corners = scene(1.0)
    wide = rectified(image, corners_of(corners.tolist()), 0.1)
    assert wide.shape == (47, 145, 3)
    assert wide[:3].mean() < 30 < wide[8:-8].mean()


def test_corners_measured_in_another_size_are_scaled():
    image, corners = scene(1.0)
    half = cv2.resize(image, (90, 45), interpolation=cv2.INTER_AREA)
    quad = corners_of(corners.tolist())
    assert Rectified(Kept(half), quad, 0.0, (90, 180)).load().shape == (20, 61, 3)
    with pytest.raises(BadImage, match="outside the picture"):
        Rectified(Kept(half), quad, 0.0).load()


@pytest.mark.parametrize(
    "points",
    [
        [[0, 0], [10, 0], [10, 10]],
        [[0, 0], [10, 0], [10, 10], ["x", 3]],
        [[0, 0], [10, 0], [10, 10], [0, float("nan")]],
        [[0, 0], [10, 0], [0, 10], [10, 10]],  # crossed
        [[10, 0], [0, 0], [0, 10], [10, 10]],  # mirrored
        [[0, 30], [0, 0], [10, 0], [10, 30]],  # turned
        [[5, 5], [5, 5], [5, 5], [5, 5]],
        7,
    ],
)
def test_points_that_are_no_upright_plate_are_refused(points):
    with pytest.raises(BadImage, match="bad_corners"):
        corners_of(points)


def test_the_stamp_tells_corners_apart():
    quad = corners_of(SEEN.tolist())
    stamps = {Rectified(Kept(PLATE), quad, margin).stamp() for margin in (0.0, 0.1)}
    assert len(stamps) == 2
