"""SynthText, made up in its own layout."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from made_up import cells, encoded, reasons_of, rows_of

from datasets.row import BadImage, SourceError
from datasets.synthtext import Crop, SynthText, check_corners


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """``(2, 4)`` corners of an upright word."""
    return np.array([[left, right, right, left], [top, top, bottom, bottom]], np.float32)


def photo() -> np.ndarray:
    """40x60 pixels whose red is the column and whose green is the row."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(60), np.arange(40)[:, None]
    return image


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "8").mkdir()
    for name in "ab":
        (tmp_path / f"8/{name}.png").write_bytes(encoded(photo()))
    return tmp_path


def write(root: Path, *, names: list[str], boxes: list[object], texts: list[object]) -> Path:
    scipy.io.savemat(root / "gt.mat", {"imnames": cells(*names), "wordBB": cells(*boxes), "txt": cells(*texts)})
    return root


TWO = np.stack([box(5, 4, 25, 14), box(30, 4, 50, 14)], axis=2)


def test_words_of_all_lines_meet_their_boxes_in_order(root: Path):
    three = np.stack([box(0, 0, 20, 10), box(0, 10, 20, 20), box(0, 20, 20, 30)], axis=2)
    texts = [np.array(["Lines:\nlost   ", "Kevin "]), np.array(["Lines:\nI lost ", "Kevin"])]
    found = list(SynthText().rows(write(root, names=["8/a.png", "8/b.png"], boxes=[three, three], texts=texts)))
    assert [row.text for row in rows_of(found)] == ["Lines:", "lost", "Kevin"]
    assert [row.id for row in rows_of(found)] == ["8/a.png#0", "8/a.png#1", "8/a.png#2"]
    assert {row.group for row in rows_of(found)} == {"8/a.png"}
    assert reasons_of(found) == {"8/b.png": "word_count"}


def test_crops_of_one_word_and_of_two_survive_pickling(root: Path):
    boxes, texts = [box(5, 4, 25, 14), TWO, np.empty((0, 0))], ["word", "two words", ""]
    rows = rows_of(SynthText().rows(write(root, names=["8/a.png", "8/b.png", "8/c.png"], boxes=boxes, texts=texts)))
    images = pickle.loads(pickle.dumps([row.image for row in rows]))
    assert [row.text for row in rows] == ["word", "two", "words"]
    np.testing.assert_array_equal(images[0].load(), photo()[4:14, 5:25])
    np.testing.assert_array_equal(images[2].load(), photo()[4:14, 30:50])
    assert images[2].stamp() == rows[2].image.stamp()


def test_a_box_that_runs_over_the_edge_is_clipped(root: Path):
    crop = Crop(str(root / "8/a.png"), ((-5, -5), (10, -5), (10, 8), (-5, 8)), "box")
    np.testing.assert_array_equal(crop.load(), photo()[:8, :10])


@pytest.mark.parametrize("how", ["box", "perspective"])
def test_a_box_wholly_outside_is_a_bad_image(root: Path, how: str):
    crop = Crop(str(root / "8/a.png"), ((60, 0), (80, 0), (80, 10), (60, 10)), how)
    with pytest.raises(BadImage, match="outside_image"):
        crop.load()


def test_perspective_straightens_what_box_leaves_slanted(root: Path):
    slanted = ((10.0, 5.0), (30.0, 15.0), (25.0, 25.0), (5.0, 15.0))
    upright = Crop(str(root / "8/a.png"), slanted, "perspective").load()
    across = round(np.hypot(20, 10))
    assert upright.shape == (round(np.hypot(5, 10)), across, 3)
    np.testing.assert_allclose(upright[0, 0, :2], (10, 5), atol=1)
    np.testing.assert_allclose(upright[-1, -1, :2], (25, 25), atol=1)
    assert Crop(str(root / "8/a.png"), slanted, "box").load().shape == (20, 25, 3)


def test_perspective_over_the_edge_repeats_the_edge(root: Path):
    crop = Crop(str(root / "8/a.png"), ((-10, 0), (9, 0), (9, 9), (-10, 9)), "perspective").load()
    assert crop.shape[1] == 19 and (crop[:, 0, 0] == 0).all()


@pytest.mark.parametrize(
    ("corners", "crop", "reason"),
    [
        (box(5, 4, float("nan"), 14), "box", "bad_box"),
        (box(5, 4, float("inf"), 14), "perspective", "bad_box"),
        (box(5, 4, 1e30, 14), "perspective", "bad_box"),
        (box(5, 4, 25, 5), "box", "too_small"),
        (box(5, 4, 5, 14), "perspective", "too_small"),
        (box(5, 4, 25, 14)[:, [0, 2, 1, 3]], "perspective", "bad_box"),
        (box(5, 4, 25, 14)[:, ::-1], "perspective", "bad_box"),
    ],
)
def test_a_box_nothing_can_be_cropped_from_is_refused(corners: np.ndarray, crop: str, reason: str):
    with pytest.raises(BadImage, match=reason):
        check_corners(corners.T, how=crop, min_side=3)


def test_an_image_with_a_bad_annotation_is_rejected_and_the_next_is_not(root: Path):
    names = ["../a.png", "8/a.png", "8/b.png", "8/c.png", "8/d.png", "8/b.png"]
    boxes = [TWO, np.ones((3, 3)), TWO, cells(TWO, 1.0), box(5, 4, np.nan, 14), TWO]
    texts = ["two words", "word", "two words", "two words", "word", "two words"]
    found = list(SynthText().rows(write(root, names=names, boxes=boxes, texts=texts)))
    assert [row.id for row in rows_of(found)] == ["8/b.png#0", "8/b.png#1"]
    assert reasons_of(found) == {
        "../a.png": "outside_root",
        "8/a.png": "bad_annotation",
        "8/c.png": "bad_annotation",
        "8/d.png#0": "bad_box",
        "8/b.png#0": "duplicate_id",
        "8/b.png#1": "duplicate_id",
    }


def test_a_share_of_the_images_is_held_out_whole(root: Path):
    write(root, names=["8/a.png", "8/b.png"], boxes=[TWO] * 2, texts=["two words"] * 2)
    splits = [row.split for row in rows_of(SynthText(valid_share=0.5).rows(root))]
    assert sorted(splits) == ["train", "train", "valid", "valid"] and splits[0] == splits[1]


def test_lists_of_different_length_are_refused(root: Path):
    write(root, names=["8/a.png", "8/b.png"], boxes=[TWO], texts=["two words"])
    with pytest.raises(SourceError, match=r"as many entries each, found .*'imnames': 2, 'wordBB': 1"):
        list(SynthText().rows(root))


def test_an_image_that_is_none_is_rejected_at_load(root: Path):
    (root / "8/a.png").write_bytes(b"no image")
    with pytest.raises(BadImage, match="unreadable"):
        Crop(str(root / "8/a.png"), ((5, 4), (25, 4), (25, 14), (5, 14)), "box").load()


def test_an_unknown_crop_is_refused():
    with pytest.raises(ValueError, match="crop 'tight'"):
        SynthText(crop="tight")


def test_the_crop_is_a_fact_of_the_data():
    assert SynthText(crop="perspective").describe(None)["crop"] == "perspective"
