"""Trees of tracks as LRLPR-26 and UFPR-SR-Plates have them, and everything their annotations get wrong."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_up import encoded, reasons_of, rows_of

from datasets.plates_tracks import PlateTracks
from datasets.row import Reject, SourceError

WHOLE = PlateTracks(valid_share=0, test_share=0)
NAMED = ("top-left", "top-right", "bottom-right", "bottom-left")
LOW, HIGH = ((4, 3), (36, 3), (36, 13), (4, 13)), ((8, 6), (72, 6), (72, 26), (8, 26))
PLATE = {"plate_text": "ABC1234", "plate_layout": "Brazilian"}


def picture(corners: tuple, size: tuple[int, int]) -> np.ndarray:
    """A white plate on black."""
    image = np.zeros((*size, 3), np.uint8)
    return cv2.fillConvexPoly(image, np.array(corners, np.int32), (255, 255, 255))


def track(
    root: Path,
    name: str = "Scenario-A/Brazilian/track_00001",
    notes: object = PLATE,
    *,
    frames: int = 2,
    ending: str = ".png",
    high: bool = True,
) -> Path:
    """A track on disk; ``notes`` may be text as it stands, or none."""
    folder = root / name
    folder.mkdir(parents=True)
    for frame in range(1, frames + 1):
        (folder / f"lr-{frame:03d}{ending}").write_bytes(encoded(picture(LOW, (16, 40)), ending))
        if high:
            (folder / f"hr-{frame:03d}{ending}").write_bytes(encoded(picture(HIGH, (32, 80)), ending))
    if notes is not None:
        (folder / "annotations.json").write_text(notes if isinstance(notes, str) else json.dumps(notes))
    return folder


def plates(number: int) -> str:
    return f"ABC{number:04d}"


def test_a_frame_or_note_that_is_a_link_out_of_the_root_is_refused(tmp_path: Path):
    elsewhere = track(tmp_path / "elsewhere", frames=1)
    here = track(tmp_path / "root", frames=2)
    (here / "lr-002.png").unlink()
    (here / "lr-002.png").symlink_to(elsewhere / "lr-001.png")
    rows = list(WHOLE.rows(tmp_path / "root"))
    assert [row.id for row in rows_of(rows)] == ["Scenario-A/Brazilian/track_00001/001"]
    assert reasons_of(rows) == {"Scenario-A/Brazilian/track_00001/002": "outside_root"}
    (here / "annotations.json").unlink()
    (here / "annotations.json").symlink_to(elsewhere / "annotations.json")
    assert set(reasons_of(WHOLE.rows(tmp_path / "root")).values()) == {"outside_root"}


def test_a_frame_is_a_pair(tmp_path: Path):
    track(tmp_path)
    first, second = rows_of(WHOLE.rows(tmp_path))
    assert (first.id, second.id) == ("Scenario-A/Brazilian/track_00001/001", "Scenario-A/Brazilian/track_00001/002")
    assert first.target is not None
    assert first.image.load().shape == (16, 40, 3) and first.target.load().shape == (32, 80, 3)
    assert (first.text, first.group) == ("ABC1234", "ABC1234")
    assert first.extras == {
        "track": "Scenario-A/Brazilian/track_00001",
        "frame": 1,
        "scenario": "Scenario-A",
        "layout": "Brazilian",
        "rectified": False,
    }


def test_png_and_jpg_both_count(tmp_path: Path):
    track(tmp_path, frames=3)
    track(tmp_path, "Scenario-B/Mercosur/track_00002", {"plate_text": "ABC1D23"}, frames=5, ending=".jpg")
    assert Counter(row.extras["scenario"] for row in rows_of(WHOLE.rows(tmp_path))) == {
        "Scenario-A": 3,
        "Scenario-B": 5,
    }


def named(points: tuple) -> dict[str, list[int]]:
    return {name: list(point) for name, point in zip(NAMED, points, strict=True)}


@pytest.mark.parametrize("form", [named, list])
def test_corners_as_object_or_list_make_both_frames_upright(tmp_path: Path, form):
    corners = {"lr-001.png": form(LOW), "hr-001.png": form(HIGH), "lr-002.png": form(LOW), "hr-002.png": form(HIGH)}
    track(tmp_path, notes=PLATE | {"corners": corners})
    for row in rows_of(PlateTracks(valid_share=0, test_share=0, margin=0).rows(tmp_path)):
        assert row.extras["rectified"] is True and row.target is not None
        low, high = row.image.load(), row.target.load()
        assert low.shape == (10, 32, 3) and high.shape == (20, 64, 3)
        assert low[1:-1, 1:-1].min() > 200 and high[1:-1, 1:-1].min() > 200


def test_corners_of_one_half_alone_are_not_used(tmp_path: Path):
    track(tmp_path, notes=PLATE | {"corners": {"hr-001.png": named(HIGH)}}, frames=1)
    (row,) = rows_of(WHOLE.rows(tmp_path))
    assert row.target is not None and row.target.load().shape == (32, 80, 3) and row.extras["rectified"] is False


@pytest.mark.parametrize("corners", [None, [], [list(point) for point in LOW], {}])
def test_missing_corners_and_a_bare_list_are_accepted_and_the_frames_taken_whole(tmp_path: Path, corners):
    track(tmp_path, notes=PLATE | {"corners": corners})
    rows = rows_of(WHOLE.rows(tmp_path))
    assert len(rows) == 2 and not any(row.extras["rectified"] for row in rows)


@pytest.mark.parametrize("corners", [{"top-left": [0, 0]}, [[0, 0], [1, 1]], "here", [[0, 0]] * 4, [[0, 0, 0]] * 4])
def test_corners_that_are_none_cost_their_frame_alone(tmp_path: Path, corners):
    track(tmp_path, notes=PLATE | {"corners": {"lr-001.png": corners}})
    found = list(WHOLE.rows(tmp_path))
    assert list(reasons_of(found).values()) == ["bad_corners"] and len(rows_of(found)) == 1


@pytest.mark.parametrize(
    ("notes", "reason"),
    [
        ("{", "bad_annotations"),
        ("[1]", "bad_annotations"),
        ("[" * 100_000, "bad_annotations"),
        (None, "no_annotations"),
        ({}, "unlabelled"),
        ({"plate_text": None}, "unlabelled"),
        ({"plate_text": "ABC12\u00df4"}, "outside_charset"),
        ({"plate_text": "ABC123"}, "wrong_length"),
        ({"plate_text": "ABC1D23", "plate_layout": "Brazilian"}, "contradicts_layout"),
        ({"plate_text": "ABC1D23", "plate_layout": "Mercosur"}, "contradicts_layout"),  # it lies in Brazilian
        ({"plate_text": "ABC1234", "plate_layout": "Lunar"}, "unknown_layout"),
    ],
)
def test_a_bad_annotation_costs_its_track_and_says_why(tmp_path: Path, notes: object, reason: str):
    track(tmp_path, notes=notes)
    track(tmp_path, "Scenario-A/Brazilian/track_00002")
    found = list(WHOLE.rows(tmp_path))
    assert Counter(reasons_of(found).values()) == {reason: 2} and len(rows_of(found)) == 2


def test_an_annotation_that_is_no_text_is_quarantined(tmp_path: Path):
    (track(tmp_path) / "annotations.json").write_bytes(b"\xff\xfe\x00")
    assert set(reasons_of(WHOLE.rows(tmp_path)).values()) == {"bad_annotations"}


def test_a_frame_without_its_other_half_is_refused(tmp_path: Path):
    folder = track(tmp_path, frames=3)
    (folder / "hr-001.png").unlink()
    (folder / "lr-002.png").unlink()
    found = list(WHOLE.rows(tmp_path))
    assert {id[-3:]: reason for id, reason in reasons_of(found).items()} == {"001": "no_pair", "002": "no_pair"}
    assert [row.extras["frame"] for row in rows_of(found)] == [3]


def test_a_frame_that_is_there_twice_is_refused(tmp_path: Path):
    folder = track(tmp_path)
    (folder / "lr-001.jpg").write_bytes(encoded(picture(LOW, (16, 40)), ".jpg"))
    assert list(reasons_of(WHOLE.rows(tmp_path)).values()) == ["duplicate_frame"]


def test_tracks_without_high_resolution_are_test_and_have_no_target(tmp_path: Path):
    track(tmp_path, "Scenario-B/Brazilian/track_00001", PLATE, high=False)
    track(tmp_path, "Scenario-B/Brazilian/track_00002", {"plate_text": "XYZ9876"})
    rows = rows_of(WHOLE.rows(tmp_path))
    assert {(row.text, row.split, row.target is None) for row in rows} == {
        ("ABC1234", "test", True),
        ("XYZ9876", "train", False),
    }


def test_a_vehicle_of_a_test_track_is_a_test_vehicle_everywhere(tmp_path: Path):
    track(tmp_path, "Scenario-B/Brazilian/track_00001", PLATE, high=False)
    track(tmp_path, "Scenario-A/Brazilian/track_00002", PLATE)
    assert {row.split for row in rows_of(WHOLE.rows(tmp_path))} == {"test"}


def test_neither_track_nor_plate_is_in_two_splits_and_strata_keep_their_shares(tmp_path: Path):
    for number in range(60):
        scenario = "AB"[number % 2]
        notes = {"plate_text": plates(number // 2 if number < 20 else number)}  # ten plates seen twice, once in each
        track(tmp_path, f"Scenario-{scenario}/Brazilian/track_{number:05d}", notes, frames=5)
    rows = rows_of(PlateTracks(valid_share=0.2, test_share=0.2).rows(tmp_path))
    assert len(rows) == 300
    for key in (lambda row: row.group, lambda row: row.extras["track"]):
        assert all(len({row.split for row in rows if key(row) == value}) == 1 for value in {key(row) for row in rows})
    for scenario in ("Scenario-A", "Scenario-B"):
        held = Counter(row.split for row in rows if row.extras["scenario"] == scenario)
        assert 20 <= held["valid"] <= 40 and 20 <= held["test"] <= 40


def test_the_order_is_fixed_and_rejects_are_counted_where_they_stand(tmp_path: Path):
    track(tmp_path, "Scenario-A/Brazilian/track_00002", "{")
    track(tmp_path, "Scenario-A/Brazilian/track_00001")
    track(tmp_path, "Scenario-A/Brazilian/track_00003")
    kinds = [(row.id[-5:-4], isinstance(row, Reject)) for row in WHOLE.rows(tmp_path)]
    assert kinds == [("1", False)] * 2 + [("2", True)] * 2 + [("3", False)] * 2


def test_a_root_without_tracks_is_an_error(tmp_path: Path):
    with pytest.raises(SourceError, match="no folder track_"):
        list(WHOLE.rows(tmp_path))
