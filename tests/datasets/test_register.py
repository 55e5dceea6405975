"""Pairs out of register by a shift, a slant or another point of view come back; what shows other things is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from made_up import rows_of
from test_plates_tracks import track

from datasets.pair_list import PairList
from datasets.plates_tracks import PlateTracks
from datasets.register import Register, Registered, correlation, registered
from datasets.row import BadImage

SIZE = (64, 192)
MOVES = {
    "translation": np.array([[1, 0, 9], [0, 1, -5], [0, 0, 1]], np.float64),
    "affine": np.array([[0.97, 0.05, 4], [-0.03, 1.04, 3], [0, 0, 1]], np.float64),
    "homography": np.array([[1.02, 0.04, -5], [0.02, 0.98, 3], [2e-4, -3e-4, 1]], np.float64),
}


def plate(text: str = "ABC1D23") -> np.ndarray:
    picture = np.full((*SIZE, 3), (205, 210, 215), np.uint8)
    cv2.rectangle(picture, (6, 5), (185, 58), (40, 60, 160), 2)
    cv2.putText(picture, text, (14, 46), cv2.FONT_HERSHEY_SIMPLEX, 1.25, (25, 25, 30), 4)
    return picture


def moved(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return cv2.warpPerspective(picture, matrix, SIZE[::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def low_of(picture: np.ndarray) -> np.ndarray:
    """A third as large, darker and paler: correlation minds neither."""
    small = cv2.resize(picture, (64, 21), interpolation=cv2.INTER_AREA)
    return (0.6 * small + 10).astype(np.uint8)


def inner(picture: np.ndarray) -> np.ndarray:
    return picture[10:-10, 14:-14].astype(float)


@pytest.mark.parametrize("motion", MOVES)
def test_a_made_move_is_found_and_undone(motion):
    high = moved(plate(), MOVES[motion])
    found, after = registered(high, low_of(plate()), Register(motion=motion))
    assert correlation(high, low_of(plate())) < 0.6 < 0.95 < after
    assert found.shape == high.shape
    before, left = (np.abs(inner(each) - inner(plate())).mean() for each in (high, found))
    assert left < 4 < before / 4


def test_what_lies_in_register_stays():
    found, after = registered(plate(), low_of(plate()), Register())
    assert after > 0.99 and np.abs(inner(found) - inner(plate())).mean() < 2


@pytest.mark.parametrize(
    ("low", "how", "reason"),
    [
        (low_of(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)), Register(), "correlation|no way"),
        (np.full((21, 64, 3), 90, np.uint8), Register(), "correlation|no way"),
        (low_of(moved(plate(), MOVES["translation"])), Register(farthest=0.02), "a corner would move by 0.0"),
        (low_of(plate("XYZ9876")), Register(least=0.9), "correlation .* at least 0.9"),
    ],
)
def test_what_cannot_be_brought_into_register_is_refused(low, how, reason):
    with pytest.raises(BadImage, match=reason) as refused:
        registered(plate(), low, how)
    assert refused.value.reason == "unregistered"


def test_settings_that_cannot_be_are_refused():
    for wrong in ({"motion": "flow"}, {"least": 1.0}, {"farthest": 0.0}, {"iterations": 0}):
        with pytest.raises(ValueError, match="Register"):
            Register(**wrong)


def a_tree(root: Path) -> Path:
    """Four tracks of one frame each, the high resolution moved; that of the last shows something else."""
    for number in range(4):
        folder = track(root, f"Scenario-B/Brazilian/track_{number:05d}", {"plate_text": f"ABC{number:04d}"}, frames=1)
        high = moved(plate(f"ABC{number:04d}"), MOVES["translation"])
        if number == 3:
            high = np.random.default_rng(1).integers(0, 256, high.shape, np.uint8)
        for name, picture in (("lr", low_of(plate(f"ABC{number:04d}"))), ("hr", high)):
            cv2.imwrite(str(folder / f"{name}-001.png"), picture[..., ::-1])
    return root


def test_tracks_are_registered_where_it_is_asked_for_and_each_says_how_well(tmp_path):
    root = a_tree(tmp_path)
    plain, asked = (
        rows_of(PlateTracks(valid_share=0, test_share=0, register=how).rows(root)) for how in (None, Register())
    )
    assert not [row for row in plain if isinstance(row.target, Registered)]
    assert all(isinstance(row.target, Registered) and row.target.strict for row in asked)
    told = [row.target.load_told()[1]["registered"] for row in asked[:3]]
    assert all(each["correlation"] > 0.95 > each["before"] + 0.1 for each in told)
    with pytest.raises(BadImage, match="unregistered"):
        asked[3].target.load()
    assert plain[0].target.stamp() != asked[0].target.stamp()


def test_what_is_held_out_stays_in_the_test_as_it_came_and_says_so(tmp_path):
    rows = rows_of(PlateTracks(valid_share=0, test_share=0.9, register=Register()).rows(a_tree(tmp_path)))
    assert rows[3].split == "test"
    picture, told = rows[3].target.load_told()
    assert "failed" in told["registered"] and np.array_equal(picture, rows[3].target.image.load())


def test_listed_pairs_are_registered_where_it_is_asked_for(tmp_path):
    for name, picture in (("HR", moved(plate("ABC1234"), MOVES["affine"])), ("LR", low_of(plate("ABC1234")))):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "a.png"), picture[..., ::-1])
    (tmp_path / "HR" / "a.txt").write_text("type: car\nplate: ABC1234\nlayout: Brazilian\n")
    (tmp_path / "split.txt").write_text("HR/a.png;LR/a.png;training\n")
    [row] = rows_of(PairList(register=Register()).rows(tmp_path))
    assert row.target.load_told()[1]["registered"]["correlation"] > 0.97
