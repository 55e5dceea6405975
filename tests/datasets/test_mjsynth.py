"""MJSynth, made up in its own layout."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import image_at, reasons_of, rows_of

from datasets.mjsynth import MJSynth
from datasets.row import BadImage, SourceError


def write(root: Path, *lines: str, part: str = "train") -> Path:
    for name in ("train", "val", "test"):
        (root / f"annotation_{name}.txt").touch()
    (root / f"annotation_{part}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def test_the_label_is_the_middle_of_the_name_in_true_case(tmp_path: Path):
    write(tmp_path, "./3000/7/182_slinking_71711.jpg 71711", "./1/2/3_REMODELERS_64390.jpg 64390")
    rows = rows_of(MJSynth().rows(tmp_path))
    assert [row.text for row in rows] == ["slinking", "REMODELERS"]
    assert rows[0].id == rows[0].group == "3000/7/182_slinking_71711.jpg"
    assert rows[0].extras == {"lexicon_index": 71711}


def test_each_annotation_file_is_its_split(tmp_path: Path):
    for part in ("train", "val", "test"):
        (tmp_path / f"annotation_{part}.txt").write_text(f"./{part}/1_word_2.jpg 2\n")
    assert [row.split for row in rows_of(MJSynth().rows(tmp_path))] == ["train", "valid", "test"]
    assert [row.split for row in rows_of(MJSynth(parts=("val",)).rows(tmp_path))] == ["valid"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("./1/1_word_2.jpg", "bad_line"),
        ("./1/1_word_2.jpg two", "bad_line"),
        ("./1/1_word_2.jpg ²", "bad_line"),
        ("./1/1_word_2.jpg " + "9" * 5000, "bad_line"),
        ("./1/word.jpg 2", "bad_name"),
        ("./1/1_word.jpg 2", "bad_name"),
        ("./1/1__2.jpg 2", "unlabelled"),
        ("../1/1_word_2.jpg 2", "outside_root"),
        ("./1/1_wo\0rd_2.jpg 2", "bad_path"),
    ],
)
def test_a_line_that_is_no_row_is_rejected_with_its_reason(tmp_path: Path, line: str, reason: str):
    assert list(reasons_of(MJSynth().rows(write(tmp_path, line))).values()) == [reason]


def test_an_image_in_two_splits_counts_once(tmp_path: Path):
    for part in ("train", "val", "test"):
        (tmp_path / f"annotation_{part}.txt").write_text("./1/1_word_2.jpg 2\n")
    found = list(MJSynth().rows(tmp_path))
    assert [row.split for row in rows_of(found)] == ["train"]
    assert reasons_of(found) == {"1/1_word_2.jpg": "duplicate_id"}


def test_a_broken_and_a_missing_image_are_rejected_at_load(tmp_path: Path):
    write(tmp_path, "./1/1_good_2.jpg 2", "./1/2_bad_2.jpg 2", "./1/3_gone_2.jpg 2")
    image_at(tmp_path / "1/1_good_2.jpg")
    (tmp_path / "1/2_bad_2.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    good, bad, gone = rows_of(MJSynth().rows(tmp_path))
    assert good.image.load().shape == (12, 30, 3)
    with pytest.raises(BadImage, match="unreadable"):
        bad.image.load()
    with pytest.raises(BadImage, match="missing"):
        gone.image.load()


def test_a_missing_or_foreign_annotation_file_is_named(tmp_path: Path):
    with pytest.raises(SourceError, match=r"annotation_train.txt: cannot be read"):
        list(MJSynth().rows(tmp_path))
    write(tmp_path, "./1/1_a_2.jpg 2")
    (tmp_path / "annotation_train.txt").write_bytes(b"./1/1_a_2.jpg 2\n./1/\xe9 2\n")
    with pytest.raises(SourceError, match=r"annotation_train.txt:2.*0xe9 is not UTF-8"):
        list(MJSynth().rows(tmp_path))


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="name each of"):
        MJSynth(parts=("valid",))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=120) | st.text(alphabet="./_ 12a\n\0é", max_size=60).map(str.encode))
def test_random_annotations_give_rows_rejects_or_a_source_error(tmp_path: Path, data: bytes):
    write(tmp_path)
    (tmp_path / "annotation_val.txt").write_bytes(data)
    with suppress(SourceError):
        list(MJSynth().rows(tmp_path))
