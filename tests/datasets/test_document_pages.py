"""Tiles of pages cover every pixel, keep a page in one split, and can be put together again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.document_lines import DocumentLines
from datasets.document_pages import DocumentPages, assembled, starts
from datasets.row import SourceError
from datasets.thresholds import otsu, sauvola
from tests.datasets.made_up import reasons_of, rows_of
from tests.datasets.test_document_lines import SPLITS, corpus

SOURCE = DocumentPages(
    height=32, width=64, stride_down=24, stride_across=48, valid_share=0.17, test_share=0.17, empty_share=9
)


@given(length=st.integers(1, 500), size=st.integers(1, 200), data=st.data())
def test_tiles_cover_all_and_end_at_the_end(length: int, size: int, data: st.DataObject):
    stride = data.draw(st.integers(1, size))
    places = starts(length, size, stride)
    assert places == sorted(set(places)) and places[0] == 0 and places[-1] == max(length - size, 0)
    assert {pixel for place in places for pixel in range(place, place + size)} >= set(range(length))


def test_pages_outside_the_root_are_refused(tmp_path: Path):
    root = corpus(tmp_path)
    (root / "inner").mkdir()
    with pytest.raises(SourceError, match="outside_root"):
        list(replace(SOURCE, folder="../pairs").rows(root / "inner"))
    (root / "inner" / "p9_clean.png").symlink_to(root / "pairs" / "p1_clean.png")
    with pytest.raises(SourceError, match="outside_root"):
        list(replace(SOURCE, folder=".").rows(root / "inner"))
    with pytest.raises(SourceError, match="outside_root"):
        list(DocumentLines(pages="../..").rows(root))


def test_a_page_is_the_sum_of_its_tiles_and_in_one_split(tmp_path: Path):
    root = corpus(tmp_path)
    rows = rows_of(SOURCE.rows(root))
    splits = {group: {row.split for row in rows if row.group == group} for group in {row.group for row in rows}}
    assert len(splits) == 6 and all(len(of) == 1 for of in splits.values())
    assert set().union(*splits.values()) == set(SPLITS)
    page = [row for row in rows if row.group == "p2"]
    assert all(row.text == "" and row.image.load().shape == row.target.load().shape == (32, 64) for row in page)
    whole = cv2.imread(str(root / "pairs/p2_clean.png"), cv2.IMREAD_GRAYSCALE)
    tiles = {tuple(row.extras["tile"]): row.target.load() for row in page}
    assert np.array_equal(assembled(tiles, *whole.shape), whole) and page[0].extras["page_size"] == list(whole.shape)
    tiles.pop((8, 0))
    with pytest.raises(ValueError, match="in none of"):
        assembled(tiles, *whole.shape)


def test_small_pages_go_on_mirrored(tmp_path: Path):
    row = rows_of(DocumentPages(valid_share=0.17, test_share=0.17).rows(corpus(tmp_path)))[0]
    clean = row.target.load()
    assert clean.shape == (128, 1024) and np.array_equal(clean[40:80], clean[39::-1])


def test_pages_and_paper_are_split_alike(tmp_path: Path):
    root = corpus(tmp_path)
    pages = {row.group: row.split for row in rows_of(SOURCE.rows(root))}
    lines = DocumentLines(pages="pairs", paper_valid_share=0.17, paper_test_share=0.17).rows(root)
    for row in rows_of(lines):
        assert {pages[pair.name] for pair in row.image.paper.pages} == {row.split}


def test_empty_tiles_are_few_in_train_and_counted(tmp_path: Path):
    root = corpus(tmp_path)
    for number in range(6):
        for half, tone in (("clean.png", 255), ("degraded.jpg", 150)):
            path = str(root / f"pairs/p{number}_{half}")
            page = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
            cv2.imwrite(path, np.vstack([page, np.full((400, page.shape[1]), tone, np.uint8)]))
    sparse = DocumentPages(height=32, width=64, stride_down=32, stride_across=64, empty_share=0.5, **SHARES)
    found = list(sparse.rows(root))
    rejected = [id for id, reason in reasons_of(found).items() if reason == "empty_tile"]
    train = [row for row in rows_of(found) if row.split == "train"]
    empty = [row for row in train if (row.target.load() == 255).mean() > 0.998]
    assert rejected and empty and len(empty) <= 0.5 * (len(train) - len(empty))
    held = [row for row in rows_of(found) if row.split == "test"]
    assert len(held) == len(sparse.places(440, 270)) * len({row.group for row in held})


SHARES = {"valid_share": 0.17, "test_share": 0.17}


def test_pages_that_do_not_fit_are_rejected(tmp_path: Path):
    root = corpus(tmp_path)
    cv2.imwrite(str(root / "pairs/p0_clean.png"), np.zeros((9, 9), np.uint8))
    (root / "pairs/p1_clean.png").unlink()
    assert reasons_of(SOURCE.rows(root)) == {"p0": "out_of_register", "p1": "missing_pair"}


def test_senseless_settings_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="stride_down is 200"):
        DocumentPages(stride_down=200)
    (tmp_path / "pairs").mkdir()
    with pytest.raises(SourceError, match="no page pairs"):
        list(DocumentPages().rows(tmp_path))


def test_otsu_parts_two_tones_and_sauvola_follows_the_light():
    page = np.tile(np.linspace(60, 240, 200), (60, 1))
    ink = np.zeros((60, 200), bool)
    ink[28:32, ::20] = ink[28:32, 1::20] = True
    shaded = np.where(ink, 0.4 * page, page).astype(np.uint8)
    assert np.array_equal(otsu(np.where(ink, 50, 200).astype(np.uint8)), ink)
    assert np.array_equal(sauvola(shaded), ink) and (otsu(shaded) != ink).mean() > 0.2


def test_sauvola_is_its_formula():
    page = np.random.default_rng(0).integers(0, 256, (30, 30), np.uint8)
    window = page[10:15, 10:15].astype(float)
    threshold = window.mean() * (1 + 0.3 * (window.std() / 128 - 1))
    assert sauvola(page, window=5, k=0.3)[12, 12] == (page[12, 12] <= threshold)
    with pytest.raises(ValueError, match="odd number"):
        sauvola(page, window=4)
