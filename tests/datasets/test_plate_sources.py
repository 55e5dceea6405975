"""RodoSol-ALPR, lists of pairs, and plain folders of plates."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_up import encoded, image_at, reasons_of, rows_of

from datasets.degrade import Chain, Shrink
from datasets.degraded import Degraded
from datasets.pair_image import PairSpec
from datasets.pair_list import PairList
from datasets.plate_folder import PlateFolder
from datasets.plate_text import PlateLabels
from datasets.rodosol import RodoSol
from datasets.row import SourceError

REAL = Path(os.environ.get("PLUMBLINE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "plates"
CORNERS = ((30, 20), (90, 20), (90, 40), (30, 40))
ALL_TRAIN = RodoSol(valid_share=0, test_share=0, margin=0)
SMALL = Chain(steps=(Shrink(rows=(10, 10)),))


def vehicle(root: Path, name: str, plate: str = "ABC1234", *, kind: str = "car", layout: str = "Brazilian",
            corners: str | None = None, scale: int = 1) -> Path:  # fmt: skip
    """A picture with a white plate, and its notes."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.zeros((60 * scale, 120 * scale, 3), np.uint8)
    cv2.fillConvexPoly(image, np.array(CORNERS, np.int32) * scale, (255, 255, 255))
    path.write_bytes(encoded(image))
    where = " ".join(f"{x},{y}" for x, y in CORNERS) if corners is None else corners
    path.with_suffix(".txt").write_text(f"type: {kind}\nplate: {plate}\nlayout: {layout}\ncorners: {where}\n")
    return path


def test_rodosol_gives_upright_plates_with_a_degraded_twin(tmp_path: Path):
    vehicle(tmp_path, "images/cars-br/img_000001.png")
    (row,) = rows_of(ALL_TRAIN.rows(tmp_path))
    assert row.target is not None and row.target.load().shape == (20, 60, 3)
    assert row.target.load()[2:-2, 2:-2].min() > 200
    assert row.image.load().shape[0] <= 20 and isinstance(row.image, Degraded)
    assert (row.text, row.extras) == ("ABC1234", {"type": "car", "layout": "Brazilian", "rows": 1})


def test_rodosol_refuses_what_lies_outside_the_root(tmp_path: Path):
    root = tmp_path / "root"
    vehicle(tmp_path, "elsewhere.png")
    vehicle(root, "img_1.png")
    (root / "img_2.png").symlink_to(tmp_path / "elsewhere.png")
    (root / "img_3.png").write_bytes((root / "img_1.png").read_bytes())
    (root / "img_3.txt").symlink_to(tmp_path / "elsewhere.txt")
    assert reasons_of(ALL_TRAIN.rows(root)) == {"img_2.png": "outside_root", "img_3.png": "outside_root"}
    (root / "split.txt").write_text("../elsewhere.png;training\nimg_1.png;training\n")
    assert reasons_of(ALL_TRAIN.rows(root))["../elsewhere.png"] == "outside_root"


def test_rodosol_refuses_two_rows_unless_asked(tmp_path: Path):
    vehicle(tmp_path, "a.png", kind="motorcycle")
    assert reasons_of(ALL_TRAIN.rows(tmp_path)) == {"a.png": "two_rows"}
    (row,) = rows_of(RodoSol(valid_share=0, test_share=0, motorcycles=True).rows(tmp_path))
    assert row.extras["rows"] == 2


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"plate": "ABC123"}, "wrong_length"),
        ({"plate": "ABC1D23"}, "contradicts_layout"),
        ({"layout": "Lunar"}, "unknown_layout"),
        ({"corners": ""}, "bad_corners"),
        ({"corners": "1,2 3,4"}, "bad_corners"),
    ],
)
def test_rodosol_refuses_what_cannot_be_right(tmp_path: Path, settings: dict, reason: str):
    vehicle(tmp_path, "a.png", **settings)
    assert reasons_of(ALL_TRAIN.rows(tmp_path)) == {"a.png": reason}


def test_rodosol_refuses_a_picture_without_notes_or_with_other_notes(tmp_path: Path):
    image_at(tmp_path / "a.png")
    image_at(tmp_path / "b.png")
    (tmp_path / "b.txt").write_text("type: car\n")
    assert reasons_of(ALL_TRAIN.rows(tmp_path)) == {"a.png": "missing_label", "b.png": "bad_annotations"}


def test_rodosol_takes_the_official_list_less_plates_that_it_has_in_a_later_split(tmp_path: Path):
    for number, plate in enumerate(("AAA1111", "BBB2222", "CCC3333", "AAA1111", "DDD4444")):
        vehicle(tmp_path, f"images/cars-br/img_{number}.png", plate)
    lines = [f"./images/cars-br/img_{number}.png;{split}" for number, split in
             enumerate(("training", "training", "validation", "testing"))]  # fmt: skip
    (tmp_path / "split.txt").write_text("\n".join(lines))
    found = list(RodoSol(versions=2).rows(tmp_path))
    assert reasons_of(found) == {
        "images/cars-br/img_0.png": "plate_held_out",
        "images/cars-br/img_4.png": "not_in_split",
    }
    assert [(row.id[-7:], row.split) for row in rows_of(found)] == [
        ("g_1.png", "train"),
        ("1.png#2", "train"),
        ("g_2.png", "valid"),
        ("g_3.png", "test"),
    ]


def test_an_official_list_that_is_none_is_an_error(tmp_path: Path):
    vehicle(tmp_path, "a.png")
    (tmp_path / "split.txt").write_text("a.png;trainig\n")
    with pytest.raises(SourceError, match=r"split.txt:1: .*training, validation, testing"):
        list(RodoSol().rows(tmp_path))


def pair(root: Path, stem: str, plate: str = "ABC1234") -> str:
    vehicle(root, f"HR/{stem}.png", plate)
    (root / "LR").mkdir(exist_ok=True)
    (root / f"LR/{stem}.png").write_bytes(encoded(np.zeros((30, 60, 3), np.uint8)))
    return f"HR/{stem}.png;LR/{stem}.png"


def test_a_list_of_pairs_is_read(tmp_path: Path):
    lines = [f"{pair(tmp_path, 'a', 'AAA1111')};training", f"{pair(tmp_path, 'b', 'BBB2222')};validation",
             f"{pair(tmp_path, 'c', 'CCC3333')};testing", f"{pair(tmp_path, 'd', 'CCC3333')};training"]  # fmt: skip
    (tmp_path / "split.txt").write_text("\n".join(lines) + "\n")
    found = list(PairList().rows(tmp_path))
    assert [(row.id, row.text, row.split) for row in rows_of(found)] == [
        ("LR/a.png", "AAA1111", "train"),
        ("LR/b.png", "BBB2222", "valid"),
        ("LR/c.png", "CCC3333", "test"),
    ]
    assert reasons_of(found) == {"LR/d.png": "plate_held_out"}
    first = rows_of(found)[0]
    assert first.target is not None
    assert first.image.load().shape == (30, 60, 3) and first.target.load().shape == (60, 120, 3)


def test_both_halves_are_made_upright_by_the_corners_of_the_high_one(tmp_path: Path):
    (tmp_path / "split.txt").write_text(f"{pair(tmp_path, 'a')};training\n")
    (row,) = rows_of(PairList(rectify=True, margin=0).rows(tmp_path))
    assert row.target is not None
    assert row.image.load().shape == (10, 30, 3) and row.target.load().shape == (20, 60, 3)


def test_a_pair_that_cannot_be_used_costs_only_itself(tmp_path: Path):
    pairs = [pair(tmp_path, stem, plate) for stem, plate in (("a", "ABC1234"), ("b", "ABC12"), ("c", "ABC1234"))]
    (tmp_path / "HR/c.txt").unlink()
    lines = [*pairs, "../HR/a.png;LR/d.png", pairs[0]]
    (tmp_path / "split.txt").write_text("\n".join(f"{line};training" for line in lines))
    assert reasons_of(PairList().rows(tmp_path)) == {
        "LR/b.png": "wrong_length",
        "LR/c.png": "missing_label",
        "LR/d.png": "outside_root",
        "LR/a.png": "duplicate_id",
    }


def test_a_list_that_is_not_there_names_those_that_are(tmp_path: Path):
    (tmp_path / "split_all.txt").write_text("")
    with pytest.raises(SourceError, match=r"one of the lists in the root: split_all\.txt"):
        list(PairList().rows(tmp_path))


@pytest.mark.parametrize("line", ["a.png;training", "a.png;b.png;c.png;training", "a.png;b.png;test"])
def test_a_line_that_is_no_pair_is_an_error(tmp_path: Path, line: str):
    (tmp_path / "split.txt").write_text(line)
    with pytest.raises(SourceError, match=r"split.txt:1: .* expected 2 paths"):
        list(PairList().rows(tmp_path))


def folder(root: Path, lines: list[str]) -> Path:
    for line in lines:
        image_at(root / line.split("\t")[0])
    (root / "labels.tsv").write_text("\n".join(lines) + "\n")
    return root


def test_a_folder_of_plates_gives_versions_in_train_and_one_elsewhere(tmp_path: Path):
    root = folder(tmp_path, [f"{number}.png\tAB{number:03d}" for number in range(40)])
    source = PlateFolder(versions=3, chain=SMALL)
    rows = rows_of(source.rows(root))
    assert Counter(row.split for row in rows) == {"train": 96, "valid": 4, "test": 4}
    one, other, third = [row for row in rows if row.split == "train"][:3]
    assert (other.id, third.id) == (f"{one.id}#2", f"{one.id}#3") and one.group == other.group == third.group
    assert one.image.stamp() != other.image.stamp() and one.target == other.target
    assert one.image.load().shape[0] == 10


def test_versions_of_one_picture_are_damaged_differently(tmp_path: Path):
    root = folder(tmp_path, ["a.png\tAB1"])
    rows = rows_of(PlateFolder(versions=8, valid_share=0, test_share=0).rows(root))
    assert len({row.image.load().tobytes() for row in rows}) == 8


def test_plates_are_never_shared_between_splits_look_alikes_included(tmp_path: Path):
    texts = [f"A{'O' if number % 2 else '0'}{number // 2:03d}" for number in range(60)]
    root = folder(tmp_path, [f"us_{number}.png\t{text}" for number, text in enumerate(texts)])
    source = PlateFolder(layout_pattern=r"^(us|eu)_", alike={"us": ("0O",)}, valid_share=0.2, test_share=0.2)
    rows = rows_of(source.rows(root))
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row.text.replace("O", "0"), set()).add(row.split)
        assert row.extras == {"layout": "us", "alike": ["0O"]}
    assert len(splits) == 30 and all(len(found) == 1 for found in splits.values())
    assert {row.text for row in rows} == set(texts)  # labels stay as they are


def test_the_layout_comes_from_its_column_or_the_path(tmp_path: Path):
    image_at(tmp_path / "us_1.png")
    image_at(tmp_path / "us_2.png")
    (tmp_path / "labels.tsv").write_text("file\ttext\tlayout\nus_1.png\tAB1\tde\nus_2.png\tAB2\t\n")
    rows = rows_of(PlateFolder(layout_pattern="us|eu", valid_share=0, test_share=0).rows(tmp_path))
    assert [row.extras["layout"] for row in rows] == ["de", "us"]


def test_labels_are_judged_at_once(tmp_path: Path):
    root = folder(tmp_path, ["a.png\tABC1234", "b.png\tABC12", "c.png\tABC1D23", "d.png\tABC12?4", "e.png\t "])
    source = PlateFolder(plates=PlateLabels(layouts={"br": ("LLLNNNN",)}), valid_share=0, test_share=0)
    assert reasons_of(source.rows(root)) == {
        "b.png": "wrong_length",
        "c.png": "contradicts_layout",
        "d.png": "outside_charset",
        "e.png": "unlabelled",
    }


def test_a_split_column_is_taken_only_when_asked(tmp_path: Path):
    for name in "abc":
        image_at(tmp_path / f"{name}.png")
    lines = ["file\ttext\tsplit", "a.png\tAB1\ttrain", "b.png\tAB2\ttest", "c.png\tAB2\ttrain"]
    (tmp_path / "labels.tsv").write_text("\n".join(lines))
    with pytest.raises(SourceError, match="splits='listed'"):
        list(PlateFolder().rows(tmp_path))
    found = list(PlateFolder(splits="listed").rows(tmp_path))
    assert [(row.id, row.split) for row in rows_of(found)] == [("a.png", "train"), ("b.png", "test")]
    assert reasons_of(found) == {"c.png": "plate_held_out"}


@pytest.mark.data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real plates are not at {REAL}")
def test_the_real_plates_are_all_read():
    source = PlateFolder(
        plates=PlateLabels(layouts={"us": (), "eu": ()}),
        layout_pattern=r"^(?:e2e_)?(us|eu)_",
        alike={"us": ("0O",)},
    )
    rows = rows_of(source.rows(REAL))
    assert len(rows) == 1081 and Counter(row.extras["layout"] for row in rows) == {"us": 973, "eu": 108}
    assert len({row.group for row in rows}) == 1032
    held = Counter((row.extras["layout"], row.split) for row in rows)
    assert held == {
        ("us", "train"): 773,
        ("us", "valid"): 100,
        ("us", "test"): 100,
        ("eu", "train"): 87,
        ("eu", "valid"): 10,
        ("eu", "test"): 11,
    }
    for row in rows[::60]:
        assert row.target is not None
        low, high = PairSpec().prepare(row.image.load(), row.target.load())
        assert high is not None and low.std() > 0 and high.std() > low.std() / 4
