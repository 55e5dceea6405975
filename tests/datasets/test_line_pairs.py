"""Images of lines beside their transcriptions."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import image_at, reasons_of, rows_of

from datasets.line_pairs import LinePairs
from datasets.row import SourceError

ALL_TRAIN = LinePairs(valid_share=0, test_share=0)


def pair(root: Path, name: str, text: str | bytes = "a line", ending: str = ".png") -> None:
    image_at(root / f"{name}{ending}")
    (root / f"{name}.gt.txt").write_bytes(text if isinstance(text, bytes) else text.encode())


def test_a_row_is_an_image_and_the_line_beside_it(tmp_path: Path):
    pair(tmp_path, "0001/01", "Ein Satz.\n")
    pair(tmp_path, "0001/02", "\ufeffNoch einer.", ending=".TIF")
    rows = rows_of(ALL_TRAIN.rows(tmp_path))
    assert [(row.id, row.text, row.group) for row in rows] == [
        ("0001/01.png", "Ein Satz.", "0001"),
        ("0001/02.TIF", "Noch einer.", "0001"),
    ]
    assert rows[0].image.load().shape == (12, 30, 3)


def test_whatever_lacks_its_partner_is_rejected(tmp_path: Path):
    image_at(tmp_path / "01.png")
    (tmp_path / "02.gt.txt").write_text("a line")
    (tmp_path / "notes.txt").write_text("nothing to do with it")
    assert reasons_of(ALL_TRAIN.rows(tmp_path)) == {"01.png": "missing_label", "02.gt.txt": "missing_image"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [("\n", "unlabelled"), ("", "unlabelled"), (b"caf\xe9", "bad_text"), ("one\ntwo\n", "several_lines")],
)
def test_a_transcription_that_is_no_line_of_text_is_rejected(tmp_path: Path, text: str | bytes, reason: str):
    pair(tmp_path, "01", text)
    pair(tmp_path, "02")
    found = list(ALL_TRAIN.rows(tmp_path))
    assert reasons_of(found) == {"01.png": reason} and [row.id for row in rows_of(found)] == ["02.png"]


def test_of_two_images_with_one_transcription_the_first_counts(tmp_path: Path):
    pair(tmp_path, "01", ending=".jpg")
    pair(tmp_path, "01", ending=".png")
    assert reasons_of(ALL_TRAIN.rows(tmp_path)) == {"01.png": "duplicate_label"}


def test_compound_endings_are_named(tmp_path: Path):
    pair(tmp_path, "01", ending=".bin.png")
    assert "01.bin.png" in reasons_of(ALL_TRAIN.rows(tmp_path))
    binary = LinePairs(extensions=(".png", ".bin.png"), valid_share=0, test_share=0)
    assert [row.id for row in rows_of(binary.rows(tmp_path))] == ["01.bin.png"]


def test_a_pattern_names_the_group_and_splits_follow_groups(tmp_path: Path):
    for page in range(10):
        for line in range(2):
            pair(tmp_path, f"page{page}_line{line}")
    rows = rows_of(LinePairs(group_pattern=r"page(\d+)").rows(tmp_path))
    assert {row.group for row in rows} == set("0123456789")
    assert Counter(row.split for row in rows) == {"train": 16, "valid": 2, "test": 2}
    assert all(len({row.split for row in rows if row.group == group}) == 1 for group in "0123456789")


def test_an_image_the_pattern_does_not_find_a_group_in_is_rejected(tmp_path: Path):
    pair(tmp_path, "cover")
    source = LinePairs(group_pattern=r"page(\d*)", valid_share=0, test_share=0)
    assert reasons_of(source.rows(tmp_path)) == {"cover.png": "ungrouped"}


def test_one_folder_cannot_be_cut_and_the_message_names_the_cure(tmp_path: Path):
    for line in range(10):
        pair(tmp_path, f"line{line}")
    with pytest.raises(SourceError, match=r"smallest of 1 groups left has 10 rows .* group_pattern=''"):
        list(LinePairs().rows(tmp_path))


def test_links_out_of_the_root_are_rejected(tmp_path: Path):
    pair(tmp_path / "out", "01", "secret")
    pair(tmp_path / "root", "a")
    pair(tmp_path / "root", "b")
    (tmp_path / "root/a.png").unlink()
    (tmp_path / "root/b.gt.txt").unlink()
    (tmp_path / "root/a.png").symlink_to(tmp_path / "out/01.png")
    (tmp_path / "root/b.gt.txt").symlink_to(tmp_path / "out/01.gt.txt")
    found = list(ALL_TRAIN.rows(tmp_path / "root"))
    assert reasons_of(found) == {"a.png": "outside_root", "b.png": "outside_root"} and not rows_of(found)


def test_a_file_name_that_is_not_utf8_is_rejected_under_a_name_that_is(tmp_path: Path):
    try:
        pair(tmp_path, "caf\udce9")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert reasons_of(ALL_TRAIN.rows(tmp_path)) == {"caf\\udce9.png": "bad_text"}


def test_an_empty_folder_has_no_rows(tmp_path: Path):
    assert list(LinePairs().rows(tmp_path)) == []


def test_endings_without_a_dot_and_broken_patterns_are_refused():
    with pytest.raises(ValueError, match="each with its dot"):
        LinePairs(extensions=("png",))
    with pytest.raises(ValueError, match="no regular expression"):
        LinePairs(group_pattern="(")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=40))
def test_random_transcriptions_give_a_row_or_a_reject(tmp_path: Path, data: bytes):
    pair(tmp_path, "01", data)
    with suppress(SourceError):
        assert len(list(ALL_TRAIN.rows(tmp_path))) == 1
