"""Drawn plates: the same from their seed, evenly spread over their layouts, no plate in two splits."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from random import Random

import cv2
import numpy as np
import pytest

from datasets.plate_drawing import DRAWINGS
from datasets.plate_text import DIGITS, LETTERS, PlateLabels, matches
from datasets.rendered_plates import PATTERNS, RenderedPlates, drawn_text
from datasets.vocabulary import split_of

SMALL = RenderedPlates(tracks=6, valid=3, test=3, height=32)


def test_tracks_of_frames_in_every_split():
    rows = list(SMALL.rows(None))
    assert Counter(row.split for row in rows) == {"train": 30, "valid": 15, "test": 15}
    assert len({row.id for row in rows}) == 60
    assert Counter(row.extras["layout"] for row in rows) == {"Brazilian": 20, "Mercosur": 20, "US": 20}
    by_track: dict[object, set[str]] = {}
    for row in rows:
        by_track.setdefault(row.extras["track"], set()).add(row.text)
    assert len(by_track) == 12 and all(len(texts) == 1 for texts in by_track.values())


def test_a_plate_belongs_to_one_split_whatever_the_seed():
    rows = [row for seed in (0, 1) for row in replace(SMALL, seed=seed).rows(None)]
    assert all(split_of(row.group) == row.split for row in rows)


def test_labels_follow_their_layout():
    labels = PlateLabels(layouts=PATTERNS)
    for row in SMALL.rows(None):
        assert labels.read(row.text, str(row.extras["layout"])) == (row.text, row.extras["layout"])


def test_texts_are_spread_evenly_over_their_layout():
    rng = Random(0)
    texts = [drawn_text(rng, "Mercosur", "train") for _ in range(3000)]
    assert all(matches(text, "LLLNLNN") for text in texts)
    for place, symbols in ((0, LETTERS), (3, DIGITS), (4, LETTERS)):
        counts = Counter(text[place] for text in texts)
        expected = len(texts) / len(symbols)
        chi = sum((counts[symbol] - expected) ** 2 / expected for symbol in symbols)
        assert chi < 2.2 * len(symbols)  # far beyond the 99.9th percentile


def test_pictures_depend_on_their_fields_alone():
    rows = list(SMALL.rows(None))[:3]
    for row, again in zip(rows, SMALL.rows(None), strict=False):
        assert row.target is not None and again.target is not None
        sent = pickle.loads(pickle.dumps(again))
        assert np.array_equal(row.target.load(), again.target.load())
        assert np.array_equal(row.image.load(), sent.image.load())


def test_the_first_tracks_stay_when_more_are_drawn():
    more = list(replace(SMALL, tracks=20, valid=3).rows(None))
    assert [row.id for row in more[:30]] == [row.id for row in list(SMALL.rows(None))[:30]]
    assert [row.image for row in more[:30]] == [row.image for row in list(SMALL.rows(None))[:30]]


def coarse(image: np.ndarray) -> np.ndarray:
    """What is left of a picture when small movements no longer matter, as one vector."""
    return cv2.resize(image, (12, 6), interpolation=cv2.INTER_AREA).astype(float).ravel()


def test_frames_of_a_track_are_alike_but_not_the_same():
    targets = [row.target.load() for row in SMALL.rows(None) if row.target is not None]
    tracks = [targets[start : start + 5] for start in range(0, len(targets), 5)]
    for frames in tracks:
        assert len({frame.tobytes() for frame in frames}) == 5
        widths = [frame.shape[1] for frame in frames]
        assert max(widths) - min(widths) < 0.2 * min(widths)
        assert min(np.corrcoef([coarse(frame) for frame in frames]).ravel()) > 0.85


@pytest.mark.parametrize("layout", DRAWINGS)
def test_plates_have_their_shape_and_contrast(layout: str):
    source = RenderedPlates(tracks=12, frames=1, layouts=(layout,), height=48)
    for row in source.rows(None):
        assert row.target is not None
        image = row.target.load()
        aspect = image.shape[1] / image.shape[0]
        assert image.shape[0] == 48 and image.dtype == np.uint8
        assert (1.5 < aspect < 2.5) if layout == "US" else (2.1 < aspect < 3.6)
        middle = image[12:-10, image.shape[1] // 8 : -image.shape[1] // 8]
        assert np.ptp(np.percentile(middle, (2, 98))) > 35


def test_a_mercosur_plate_is_blue_above_and_pale_below():
    sheet = DRAWINGS["Mercosur"]("ABC1D23", next(iter(SMALL.faces(None))).path, Random(0))
    band, body = sheet[10:20, 40:90].mean(axis=(0, 1)), np.percentile(sheet[35:100], 70, axis=(0, 1))
    assert band[2] > band[0] + 80 and body.min() > 190


def test_every_symbol_is_drawn_differently_on_a_plate():
    face = next(iter(SMALL.faces(None))).path
    sheets = {DRAWINGS["Mercosur"](f"ABC1D2{symbol}", face, Random(3)).tobytes() for symbol in DIGITS + LETTERS}
    assert len(sheets) == 36


def test_the_low_resolution_is_that_of_the_chain():
    for row in list(SMALL.rows(None))[:10]:
        assert 12 <= row.image.load().shape[0] <= 20


def test_what_it_is_made_of_is_told():
    told = SMALL.describe(None)
    assert told["patterns"]["Brazilian"] == ["LLLNNNN"] and "DejaVuSans-Bold.ttf" in told["fonts"]["names"]
    assert SMALL.stamp(None) == SMALL.stamp(None)


@pytest.mark.parametrize(
    "settings", [{"tracks": -1}, {"frames": 0}, {"height": 10}, {"layouts": ("Lunar",)}, {"layouts": ()}]
)
def test_settings_that_make_no_sense_are_refused(settings: dict):
    with pytest.raises(ValueError, match="RenderedPlates: "):
        RenderedPlates(**({"tracks": 1} | settings))
