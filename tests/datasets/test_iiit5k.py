"""IIIT-5K, made up in its own layout, and the real one where it is at hand."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import cells, image_at, reasons_of, rows_of, structs

from datasets.iiit5k import IIIT5K
from datasets.row import Reject, Row, SourceError

SMALL = IIIT5K(valid_rows=2, train_rows=6, test_rows=3)
TRAIN = [f"train/{photo}_{word}.png" for photo in (1, 2, 3) for word in (1, 2)]
TEST = [f"test/{photo}_3.png" for photo in (1, 2, 9)]
REAL = Path(os.environ.get("PLUMBLINE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "iiit5k"


def write_part(root: Path, part: str, names: list[str], *, chars: list[str], truth: list[str] | None = None) -> None:
    """One part of the set: both ``.mat`` files and the images."""
    truth = truth or [text.upper() for text in chars]
    lexicons = [cells(text, "OTHER") for text in truth]
    words = structs(ImgName=names, GroundTruth=truth, smallLexi=lexicons, mediumLexi=lexicons)
    boxes = [np.ones((len(text), 4), np.float32) for text in chars]
    scipy.io.savemat(root / f"{part}data.mat", {f"{part}data": words})
    characters = {f"{part}CharBound": structs(ImgName=names, chars=chars, charBB=boxes)}
    scipy.io.savemat(root / f"{part}CharBound.mat", characters, do_compression=True)
    for name in names:
        if not name.startswith(".."):
            image_at(root / name)


def write(root: Path) -> Path:
    write_part(root, "train", TRAIN, chars=["You", "are", "HERE", "now", "a", "1st"])
    write_part(root, "test", TEST, chars=["Two", "more", "X"])
    return root


def train_of(root: Path) -> list[Row | Reject]:
    """What the train part gives; the test part is not even opened."""
    return list(islice(SMALL.rows(root), len(TRAIN)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """All rows of a set without faults, read once: every reading starts four processes."""
    return rows_of(SMALL.rows(write(tmp_path_factory.mktemp("iiit5k"))))


def test_a_row_has_its_true_case_and_the_official_label_and_lexicons(rows: list[Row]):
    row = rows[0]
    assert (row.id, row.text, row.group) == ("train/1_1.png", "You", "train/1")
    assert row.extras == {"ground_truth": "YOU", "lexicon_small": ["YOU", "OTHER"], "lexicon_medium": ["YOU", "OTHER"]}
    assert row.image.load().shape == (12, 30, 3)


def test_valid_is_one_whole_photo_and_the_same_every_time(rows: list[Row], root: Path):
    valid = {row.group for row in rows if row.split == "valid"}
    assert Counter(row.split for row in rows) == {"train": 4, "valid": 2, "test": 3}
    assert len(valid) == 1 and not valid & {row.group for row in rows if row.split == "train"}
    assert [row.split for row in rows_of(train_of(root))] == [row.split for row in rows[: len(TRAIN)]]


def test_photos_in_both_train_and_test_are_counted(root: Path):
    facts = SMALL.describe(root)
    assert facts["photos_in_train_and_test"] == 2
    assert (facts["train_words_of_shared_photos"], facts["test_words_of_shared_photos"]) == (4, 2)


def test_what_cannot_be_used_is_rejected_by_reason(root: Path):
    names = [*TRAIN[:2], TRAIN[1], "../x_1.png", *TRAIN[4:]]
    chars, truth = ["You", "are", "are", "now", "", "1st"], ["YOU", "ARE", "ARE", "NOW", "", "2ND"]
    write_part(root, "train", names, chars=chars, truth=truth)
    assert reasons_of(train_of(root)) == {
        TRAIN[1]: "duplicate_id",
        "../x_1.png": "outside_root",
        TRAIN[4]: "unlabelled",
        TRAIN[5]: "labels_disagree",
    }


def test_another_number_of_words_is_refused(root: Path):
    with pytest.raises(SourceError, match=r"trainCharBound must have 2,000 entries, found .* 6}; is the set"):
        list(IIIT5K().rows(root))


def test_files_that_list_other_images_are_refused(root: Path):
    characters = structs(ImgName=TRAIN[::-1], chars=["You"] * 6, charBB=[0] * 6)
    scipy.io.savemat(root / "trainCharBound.mat", {"trainCharBound": characters})
    with pytest.raises(SourceError, match=r"traindata\(1\): ImgName is 'train/1_1.png', but trainCharBound\(1\)"):
        train_of(root)


def test_fields_in_another_order_or_of_another_type_are_refused(root: Path):
    swapped = structs(GroundTruth=["A"] * 6, ImgName=TRAIN, smallLexi=[0] * 6, mediumLexi=[0] * 6)
    scipy.io.savemat(root / "traindata.mat", {"traindata": swapped})
    with pytest.raises(SourceError, match=r"struct array with the fields .*'ImgName', 'GroundTruth'"):
        train_of(root)
    numbers = structs(ImgName=TRAIN, GroundTruth=[7.0] * 6, smallLexi=[0] * 6, mediumLexi=[0] * 6)
    scipy.io.savemat(root / "traindata.mat", {"traindata": numbers})
    with pytest.raises(SourceError, match=r"GroundTruth: must be one string, found 7"):
        train_of(root)


@pytest.mark.parametrize("name", ["traindata.mat", "trainCharBound.mat"])
def test_a_file_cut_short_or_missing_is_named(root: Path, name: str):
    data = (root / name).read_bytes()
    (root / name).write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(SourceError, match=f"{name}: SciPy cannot read it"):
        train_of(root)
    (root / name).unlink()
    with pytest.raises(SourceError, match=f"{name}: cannot be read"):
        train_of(root)


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path):
    with pytest.raises(SourceError, match="no root given"):
        list(SMALL.rows(None))
    with pytest.raises(SourceError, match="must be a folder, found nothing"):
        list(SMALL.rows(tmp_path / "absent"))


def test_more_valid_rows_than_there_are_is_refused():
    with pytest.raises(ValueError, match="valid_rows is 2000"):
        IIIT5K(valid_rows=2000)


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["traindata.mat", "trainCharBound.mat"]), where=st.floats(0, 1), value=st.integers(0, 255))
def test_one_changed_byte_gives_rows_rejects_or_a_source_error(root: Path, name: str, where: float, value: int):
    data = (root / name).read_bytes()
    changed = bytearray(data)
    changed[int(where * (len(data) - 1))] = value
    (root / name).write_bytes(changed)
    with suppress(SourceError):
        train_of(root)
    (root / name).write_bytes(data)


@pytest.mark.data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real IIIT-5K is not at {REAL}; set PLUMBLINE_TEST_DATA")
def test_the_real_set_has_1800_200_and_3000_words_and_its_photos_are_in_both_parts():
    rows = rows_of(IIIT5K().rows(REAL))
    splits = defaultdict(set)
    for row in rows:
        splits[row.group].add(row.split)
    assert Counter(row.split for row in rows) == {"train": 1800, "valid": 200, "test": 3000}
    assert max(len(of_group) for of_group in splits.values()) == 1
    assert rows[0].text == "You" and rows[0].extras["ground_truth"] == "YOU"
    assert {len(row.extras["lexicon_small"]) for row in rows} == {50}
    assert all(row.extras["ground_truth"] in row.extras["lexicon_medium"] for row in rows)
    assert rows[-1].image.load().ndim == 3
    assert IIIT5K().describe(REAL)["photos_in_train_and_test"] == 509
