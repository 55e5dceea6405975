"""IIIT-5K, made up in its own layout, and the real one where it is at hand."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import cells, image_at, reasons_of, rows_of, structs

from datasets.iiit5k import IIIT5K
from datasets.row import BadImage, SourceError

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


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_part(tmp_path, "train", TRAIN, chars=["You", "are", "HERE", "now", "a", "1st"])
    write_part(tmp_path, "test", TEST, chars=["Two", "more", "X"])
    return tmp_path


def test_a_row_has_its_true_case_and_the_official_label_and_lexicons(root: Path):
    row = rows_of(SMALL.rows(root))[0]
    assert (row.id, row.text, row.group) == ("train/1_1.png", "You", "train/1")
    assert row.extras == {"ground_truth": "YOU", "lexicon_small": ["YOU", "OTHER"], "lexicon_medium": ["YOU", "OTHER"]}
    assert row.image.load().shape == (12, 30, 3)


def test_valid_is_one_whole_photo_and_the_same_every_time(root: Path):
    rows = rows_of(SMALL.rows(root))
    valid = {row.group for row in rows if row.split == "valid"}
    assert Counter(row.split for row in rows) == {"train": 4, "valid": 2, "test": 3}
    assert len(valid) == 1 and not valid & {row.group for row in rows if row.split == "train"}
    assert [row.split for row in rows] == [row.split for row in SMALL.rows(root)]


def test_photos_in_both_train_and_test_are_counted(root: Path):
    facts = SMALL.describe(root)
    assert facts["photos_in_train_and_test"] == 2
    assert (facts["train_words_of_shared_photos"], facts["test_words_of_shared_photos"]) == (4, 2)


def test_labels_that_disagree_in_more_than_case_are_rejected(root: Path):
    write_part(root, "test", TEST, chars=["Two", "more", "X"], truth=["TWO", "LESS", "X"])
    assert reasons_of(SMALL.rows(root)) == {"test/2_3.png": "labels_disagree"}


def test_blank_labels_double_names_and_paths_out_of_the_root_are_rejected(root: Path):
    write_part(root, "test", ["test/1_3.png", "test/1_3.png", "../x_1.png"], chars=["Two", "Two", "X"])
    assert reasons_of(SMALL.rows(root)) == {"test/1_3.png": "duplicate_id", "../x_1.png": "outside_root"}
    write_part(root, "test", TEST, chars=["Two", "", "X"])
    assert reasons_of(SMALL.rows(root)) == {"test/2_3.png": "unlabelled"}


def test_a_missing_image_is_named_when_it_is_loaded(root: Path):
    (root / "train/1_1.png").unlink()
    with pytest.raises(BadImage, match=r"missing: .*train/1_1.png"):
        rows_of(SMALL.rows(root))[0].image.load()


def test_another_number_of_words_is_refused(root: Path):
    with pytest.raises(SourceError, match=r"trainCharBound must have 2,000 entries, found 6; is the set complete\?"):
        list(IIIT5K().rows(root))


def test_files_that_list_other_images_are_refused(root: Path):
    characters = structs(ImgName=TEST[::-1], chars=["Two", "more", "X"], charBB=[0, 0, 0])
    scipy.io.savemat(root / "testCharBound.mat", {"testCharBound": characters})
    with pytest.raises(SourceError, match=r"testdata\(1\): ImgName is 'test/1_3.png', but testCharBound\(1\) is for"):
        list(SMALL.rows(root))


def test_fields_in_another_order_or_of_another_type_are_refused(root: Path):
    swapped = structs(GroundTruth=["A"] * 3, ImgName=TEST, smallLexi=[0] * 3, mediumLexi=[0] * 3)
    scipy.io.savemat(root / "testdata.mat", {"testdata": swapped})
    with pytest.raises(SourceError, match=r"struct array with the fields .*'ImgName', 'GroundTruth'"):
        list(SMALL.rows(root))
    numbers = structs(ImgName=TEST, GroundTruth=[7.0, 7.0, 7.0], smallLexi=[0] * 3, mediumLexi=[0] * 3)
    scipy.io.savemat(root / "testdata.mat", {"testdata": numbers})
    with pytest.raises(SourceError, match=r"must be one string, found .* numbers"):
        list(SMALL.rows(root))


@pytest.mark.parametrize("name", ["traindata.mat", "trainCharBound.mat", "testdata.mat", "testCharBound.mat"])
def test_a_file_cut_short_or_missing_is_named(root: Path, name: str):
    data = (root / name).read_bytes()
    (root / name).write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(SourceError, match=f"{name}.*(damaged|cut short)"):
        list(SMALL.rows(root))
    (root / name).unlink()
    with pytest.raises(SourceError, match=f"{name}: cannot be read"):
        list(SMALL.rows(root))


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path):
    with pytest.raises(SourceError, match="no root given"):
        list(SMALL.rows(None))
    with pytest.raises(SourceError, match="must be a folder, found nothing"):
        list(SMALL.rows(tmp_path / "absent"))


def test_more_valid_rows_than_there_are_is_refused():
    with pytest.raises(ValueError, match="valid_rows is 2000"):
        IIIT5K(valid_rows=2000)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["testdata.mat", "testCharBound.mat"]), where=st.floats(0, 1), value=st.integers(0, 255))
def test_one_changed_byte_gives_rows_rejects_or_a_source_error(root: Path, name: str, where: float, value: int):
    data = (root / name).read_bytes()
    damaged = bytearray(data)
    damaged[int(where * (len(data) - 1))] = value
    (root / name).write_bytes(damaged)
    with suppress(SourceError):
        list(SMALL.rows(root))
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
