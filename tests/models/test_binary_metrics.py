"""Scores of pages: cases small enough for paper, and another program's figures where it is installed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.metrics.binary import (
    binary_psnr,
    binary_scores,
    drd,
    f_measure,
    mixed_blocks,
    pseudo_f_measure,
    skeleton,
)


def page(text: str) -> np.ndarray:
    """Rows of ``#`` and ``.``."""
    return np.array([[symbol == "#" for symbol in row] for row in text.split()])


def made(seed: int, shape: tuple[int, int] = (24, 40)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < 0.3


def test_f_measure_counts_pixels():
    # Two of three found are ink, two of four ink are found: 2 * 2/3 * 1/2 / (2/3 + 1/2).
    assert f_measure(page("##.# ...."), page("#### ....")) == pytest.approx(6 / 7)
    assert f_measure(page("##.. #..."), page("#### ....")) == pytest.approx(4 / 7)
    assert f_measure(page(".... ...."), page("#### ....")) == 0


def test_pseudo_f_measure_forgives_thin_strokes_but_not_fat_ones():
    truth = page("......... .#######. .#######. .#######. .........")
    thin = page("......... ......... .#######. ......... .........")
    fat = page("######### ######### ######### ######### #########")
    assert np.array_equal(skeleton(truth) & ~thin, np.zeros_like(thin))  # the skeleton lies inside the thin stroke
    assert pseudo_f_measure(thin, truth) == 1 > f_measure(thin, truth)
    assert pseudo_f_measure(fat, truth) == pytest.approx(2 * (21 / 45) / (1 + 21 / 45))
    assert pseudo_f_measure(np.zeros_like(truth), truth) == 0


def test_drd_of_a_lone_wrong_pixel_is_the_weight_of_what_differs_around_it():
    truth = np.zeros((16, 16), bool)
    truth[0, 0] = True  # one mixed block
    found = truth.copy()
    found[8, 8] = True  # all 24 neighbours are paper: the whole weight differs
    assert drd(found, truth) == pytest.approx(1)
    found = truth.copy()
    found[0, 2] = True  # ink at distance 2 is the same; rows above the page are not there
    around = [(y, x) for y in (-2, -1, 0, 1, 2) for x in (-2, -1, 0, 1, 2) if (y, x) != (0, 0)]
    whole = sum(1 / math.hypot(*at) for at in around)
    differs = sum(1 / math.hypot(*at) for at in around if at[0] >= 0 and at != (0, -2))
    assert drd(found, truth) == pytest.approx(differs / whole)


def test_drd_is_shared_between_the_mixed_blocks():
    truth = np.zeros((17, 24), bool)
    truth[7, 7] = truth[8:16, 8:16] = truth[3, 20] = True
    truth[16, 3] = True  # in no whole block
    assert mixed_blocks(truth) == 2  # the full block is not mixed
    found = truth.copy()
    found[3, 12] = True
    assert drd(found, truth) == pytest.approx(0.5)


def test_psnr_of_binary_pages_is_the_share_of_wrong_pixels():
    truth = np.zeros((10, 10), bool)
    found = truth.copy()
    found[0, 0] = True
    assert binary_psnr(found, truth) == pytest.approx(20)
    assert binary_psnr(truth, truth) == 100


@given(seed=st.integers(0, 200))
def test_a_skeleton_is_thin_inside_and_touches_every_component(seed: int):
    ink = made(seed)
    ink[:8, :8] |= made(seed, (8, 8)) | made(seed + 1, (8, 8))
    bones = skeleton(ink)
    assert not (bones & ~ink).any() and np.array_equal(skeleton(bones), bones)
    left = ink.copy()
    reached = bones.copy()
    for _ in range(ink.size):  # grow the bones inside the ink: all of it is reached
        grown = np.zeros_like(reached)
        padded = np.pad(reached, 1)
        for y, x in np.ndindex(3, 3):
            grown |= padded[y : y + ink.shape[0], x : x + ink.shape[1]]
        grown &= ink
        if np.array_equal(grown, reached):
            break
        reached = grown
    assert np.array_equal(reached, left)


def test_a_bar_thins_to_a_line():
    ink = np.zeros((9, 30), bool)
    ink[2:7, 3:27] = True
    bones = skeleton(ink)
    assert (bones.sum(0) <= 1).all() and bones[4].sum() >= 18


def test_pages_count_once_and_those_without_ink_are_named():
    truth, empty = made(1), np.zeros((24, 40), bool)
    perfect, missed, blank = (binary_scores(truth, truth), binary_scores(empty, truth), binary_scores(empty, empty))
    scores = perfect + missed + blank
    assert (
        scores.values()["f_measure"] == 0.5 and scores.counts()["f_measure_n"] == 2 and scores.counts()["psnr_n"] == 3
    )
    assert scores.values()["psnr"] == pytest.approx((200 + binary_psnr(empty, truth)) / 3)
    assert math.isnan(blank.values()["drd"]) and math.isnan(f_measure(empty, empty))


def test_grey_pages_and_other_sizes_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        f_measure(np.zeros((2, 2), np.uint8), np.zeros((2, 2), bool))
    with pytest.raises(ValueError, match="one size"):
        drd(np.zeros((2, 2), bool), np.zeros((2, 3), bool))


def test_the_same_figures_as_doxapy():
    doxapy = pytest.importorskip("doxapy", reason="doxapy is not installed")
    truth = np.zeros((64, 96), bool)
    truth[10:30, 5:60] = truth[40:44, 20:90] = True
    found = truth ^ (np.random.default_rng(0).random(truth.shape) < 0.02)
    theirs = doxapy.calculate_performance(*(np.where(ink, 0, 255).astype(np.uint8) for ink in (truth, found)))
    assert f_measure(found, truth) == pytest.approx(theirs["fm"] / 100, abs=1e-5)
    assert binary_psnr(found, truth) == pytest.approx(theirs["psnr"], abs=1e-4)
    speckled = (
        np.random.default_rng(1).random((64, 96)) < 0.5
    )  # doxapy 0.9.2 leaves out each block's last row and column
    found = speckled ^ (np.random.default_rng(2).random(speckled.shape) < 0.02)
    theirs = doxapy.calculate_performance(*(np.where(ink, 0, 255).astype(np.uint8) for ink in (speckled, found)))
    assert drd(found, speckled) == pytest.approx(theirs["drdm"], abs=1e-4)
