"""Damage to lines: each operation does what it says, keeps size and polarity, and comes back from plain data."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from datasets.paper_light import cloud, piece
from datasets.paper_ops import (
    Around,
    BleedThrough,
    Fade,
    Fold,
    Foxing,
    Hole,
    MedianBlur,
    OnMadePaper,
    OnPaper,
    PaperOp,
    Stains,
    Streaks,
    Thicken,
    Thin,
    paper_ops_from,
    plain_paper_ops,
    worn,
)

WHITE = np.full((64, 400), 255, np.uint8)
LINE = cv2.putText(WHITE.copy(), "old words", (10, 45), cv2.FONT_HERSHEY_SIMPLEX, 1.4, 0, 3, cv2.LINE_AA)
PAGE = np.tile(np.linspace(120, 220, 500).astype(np.uint8), (300, 1))
AROUND = Around(page=lambda name: PAGE, back=LINE)
INK = LINE < 128

ALL: list[PaperOp] = [
    Thicken(radius=1, share=0.8),
    Thin(radius=1, share=0.4),
    Fade(strength=0.5, patch=1.0, seed=1),
    OnPaper(page="p", down=0.5, across=0.2, zoom=0.7, mirrored=True, ink=0.4),
    OnMadePaper(tone=190, uneven=20, fibre=4, ink=0.4, seed=2),
    BleedThrough(strength=0.2, blur=0.02, across=0.5, down=0.1),
    Stains(strength=0.3, patch=2, octaves=4, threshold=0.5, tide=0.3, seed=3),
    Foxing(spots=60, radius=0.03, strength=0.4, seed=4),
    Fold(at=0.5, slant=5, width=0.02, strength=0.4),
    Hole(across=0.9, down=0.5, radius=0.1, tone=40, seed=5),
    MedianBlur(size=3),
    Streaks(count=6, strength=0.3, seed=6),
]


@pytest.mark.parametrize("op", ALL, ids=lambda op: type(op).__name__)
def test_every_operation_keeps_size_and_polarity_and_repeats_itself(op: PaperOp):
    before = LINE.copy()
    first, second = worn([op], LINE, AROUND), worn([op], LINE, AROUND)
    assert first.shape == LINE.shape and first.dtype == np.uint8
    assert np.array_equal(first, second) and np.array_equal(LINE, before) and not np.array_equal(first, LINE)
    assert first[INK].mean() < first[~INK].mean() - 20


def test_operations_come_back_from_json():
    data = json.loads(json.dumps(plain_paper_ops(ALL)))
    assert paper_ops_from(data) == tuple(ALL)
    with pytest.raises(ValueError, match="no operation on paper"):
        paper_ops_from([{"op": "Burn", "all": 1}])


def test_strokes_grow_and_shrink_by_their_radius():
    line = WHITE.copy()
    line[:, 100:110] = 0
    assert (worn([Thicken(radius=2, share=1)], line, AROUND)[32] == 0).sum() == 14
    assert (worn([Thin(radius=2, share=1)], line, AROUND)[32] == 0).sum() == 6


def test_fading_leaves_paper_alone_and_never_darkens():
    made = Fade(strength=0.6, patch=0.5, seed=1).apply(LINE)
    assert (made >= LINE).all() and (made[LINE == 255] == 255).all()
    assert made[LINE == 0].max() <= 0.6 * 255 + 1


def test_full_ink_leaves_its_share_of_the_papers_light():
    flat = Around(page=lambda name: np.full((200, 900), 200, np.uint8))
    made = worn([OnPaper(page="p", down=0, across=0, zoom=1, mirrored=False, ink=0.3)], LINE, flat)
    assert (made[LINE == 0] == 60).all() and (made[LINE == 255] == 200).all()


def test_a_piece_lies_where_it_is_said_and_goes_on_mirrored():
    assert np.array_equal(piece(PAGE, (64, 100), 1, 1, 1), PAGE[236:, 400:])
    wide = piece(PAGE, (64, 600), 0, 0, 1)
    assert np.array_equal(wide[:, :500], PAGE[:64]) and np.array_equal(wide[:, 500:], PAGE[:64, :399:-1])


def test_paper_without_pages_is_an_error():
    with pytest.raises(KeyError, match="no pages were given"):
        worn([ALL[3]], LINE, Around())


def test_what_shows_through_is_the_mirrored_back_and_only_darkens():
    back = WHITE.copy()
    back[20:40, 0:50] = 0
    made = worn([BleedThrough(strength=0.2, blur=0.001, across=0, down=0)], WHITE, Around(back=back))
    assert abs(int(made[30, 375]) - 204) <= 1 and made[30, 25] == 255 and made[5, 375] == 255
    assert np.array_equal(worn([BleedThrough(strength=0.2, blur=0.01, across=0, down=0)], LINE, Around()), LINE)


def test_stains_darken_by_their_strength_where_clouds_are_thick():
    low = Stains(strength=0.3, patch=2, octaves=4, threshold=0.0, tide=0, seed=3).apply(WHITE)
    assert low.min() >= 178 and (np.abs(low.astype(int) - 178) <= 1).mean() > 0.9  # 0.7 * 255
    assert (Stains(strength=0.3, patch=2, octaves=4, threshold=1.1, tide=0, seed=3).apply(WHITE) == 255).all()


def test_spots_are_few_small_and_dark():
    made = Foxing(spots=5, radius=0.04, strength=0.5, seed=4).apply(WHITE)
    count, _, stats, _ = cv2.connectedComponentsWithStats((made < 250).astype(np.uint8))
    assert 2 <= count <= 6 and stats[1:, cv2.CC_STAT_WIDTH].max() <= 2 * (0.04 * 64 + 4)
    assert made.min() >= 127


def test_a_fold_is_dark_along_its_crease_alone():
    made = Fold(at=0.5, slant=0, width=0.02, strength=0.4).apply(np.full_like(WHITE, 200))
    assert abs(int(made[0, 200]) - 120) <= 3 and made[0, 100] == 200 and np.ptp(made[:, 200]) == 0


def test_a_hole_hides_what_is_under_it_and_nothing_else():
    made = Hole(across=0.5, down=0.5, radius=0.1, tone=40, seed=5).apply(LINE)
    assert made[32, 200] == 40
    assert np.array_equal(made[:, :180], LINE[:, :180]) and np.array_equal(made[:, 220:], LINE[:, 220:])


def test_streaks_are_upright():
    made = Streaks(count=6, strength=0.3, seed=6).apply(np.full_like(WHITE, 200))
    assert (np.ptp(made, axis=0) == 0).all() and 1 <= (made[0] != 200).sum() <= 12


def test_clouds_stay_in_range_and_vary_by_seed_and_octaves():
    for seed in range(5):
        found = cloud((64, 300), 40, octaves=4, seed=seed)
        assert found.shape == (64, 300) and found.min() >= 0 and found.max() <= 1 and 0.3 < found.mean() < 0.7
    assert not np.array_equal(cloud((9, 9), 4, octaves=2, seed=0), cloud((9, 9), 4, octaves=2, seed=1))
    steps = [np.abs(np.diff(cloud((64, 300), 40, octaves=octaves, seed=0))).mean() for octaves in (1, 4)]
    assert steps[1] > 1.2 * steps[0]
