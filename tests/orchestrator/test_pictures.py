"""Files and folders as a person names them: what is read, what is passed over and why, and where results go."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.pictures import pictures_in, targets


@pytest.fixture
def tree(tmp_path) -> Path:
    names = (
        "a/x.png", "a/deep/y.JPG", "a/notes.txt", "a/.hidden.png", "b/x.png", "b/x.jpg",
        "UFPR/track_00001/lr-001.png", "UFPR/track_00001/lr-002.jpg", "UFPR/track_00001/hr-001.png",
        "UFPR/track_00001/annotations.json", "plain/lr-001.png", "plain/hr-001.png",
    )  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def names(paths, root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


def test_folders_are_searched_to_the_bottom_and_what_is_passed_over_is_named(tree):
    pictures = pictures_in([tree / "a"])
    assert names([each.path for each in pictures.found], tree) == ["a/x.png", "a/deep/y.JPG"]
    assert [(path.name, why) for path, why in pictures.passed] == [
        (".hidden.png", "no image by its name"), ("notes.txt", "no image by its name"),
    ]  # fmt: skip


def test_a_file_that_is_named_is_always_read_and_none_twice(tree):
    pictures = pictures_in([tree / "a" / "notes.txt", tree / "gone.png", tree / "a", tree / "a" / ".." / "a" / "x.png"])
    assert [each.path.name for each in pictures.found] == ["notes.txt", "gone.png", "x.png", "y.JPG"]
    assert pictures.passed[-1][1] == "it was named before"


def test_frames_of_a_track_go_together_without_its_high_resolutions(tree):
    pictures = pictures_in([tree / "UFPR"])
    assert [(each.path.name, each.track) for each in pictures.found] == [
        ("lr-001.png", str(tree / "UFPR/track_00001")), ("lr-002.jpg", str(tree / "UFPR/track_00001")),
    ]  # fmt: skip
    assert ("hr-001.png", "a track's high resolution") in [(path.name, why) for path, why in pictures.passed]


@pytest.mark.parametrize(("tracks", "expected"), [(False, ""), (True, "plain")])
def test_any_other_folder_is_one_plate_only_where_that_is_said(tree, tracks, expected):
    found = pictures_in([tree / "plain"], tracks=tracks).found
    assert [each.path.name for each in found] == ["hr-001.png", "lr-001.png"]
    assert {Path(each.track).name for each in found} == {expected}


def test_results_are_not_looked_for_images(tree):
    assert pictures_in([tree / "b"], leave=tree / "b").found  # named itself
    found = pictures_in([tree], leave=tree / "a").found
    assert not [each for each in found if each.path.parent.name in ("a", "deep")]


def test_files_of_one_name_do_not_meet(tree):
    to = tree / "to"
    pictures = pictures_in([tree / "a", tree / "b"])
    assert names(targets(pictures.found, to), to) == ["a/x.png", "a/deep/y.png", "b/x.png", "b/x-2.png"]
    pictures = pictures_in([tree / "a" / "x.png", tree / "b" / "x.png"])
    assert names(targets(pictures.found, to), to) == ["x.png", "x-2.png"]


def test_neither_an_image_nor_a_file_of_others_is_written_over(tree):
    [picture] = pictures_in([tree / "a" / "x.png"]).found
    assert names(targets([picture], tree / "a"), tree) == ["a/x-2.png"]
    assert names(targets([picture], tree / "a", ours=[tree / "a" / "x.png"]), tree) == ["a/x-2.png"]
    assert names(targets([picture], tree / "b"), tree) == ["b/x-2.png"]
    assert names(targets([picture], tree / "b", ours=[tree / "b" / "x.png"]), tree) == ["b/x.png"]
