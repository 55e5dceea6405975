"""Lines of documents with their worn twins, pages of paper, and tiles of pages."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.clean_line import flattened
from datasets.degraded import Told
from datasets.document_lines import DocumentLines, backs_of, normal_text, symbols_of
from datasets.paper_ops import Around, OnMadePaper, OnPaper, paper_ops_from, worn
from datasets.paper_pages import page_pairs, without_ink
from datasets.row import Row, SourceError
from datasets.worn_line import Worn
from datasets.worn_paper import PaperChain, Strokes
from tests.datasets.made_up import reasons_of, rows_of

SPLITS = ("train", "valid", "test")


def written(text: str, tone: int = 255) -> np.ndarray:
    line = np.full((40, 30 + 20 * len(text)), tone, np.uint8)
    return cv2.putText(line, text, (8, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.9, 0, 2, cv2.LINE_AA)


def corpus(root: Path, *, order: int = 1, split: bool = True) -> Path:
    """Twelve lines on six pages, and six pages of paper."""
    lines = []
    for number in range(12):
        text = f"line {'abcdefghijkl'[number]}"
        cv2.imwrite(str(root / f"{number:02d}.png"), written(text))
        page = number // 2
        listed = [SPLITS[max(page - 3, 0)]] if split else []
        lines.append("\t".join([*listed, f"{number:02d}.png", f"page{page}", text]))
    head = "\t".join([*(["split"] if split else []), "file", "group", "text"])
    (root / "lines.tsv").write_text("\n".join([head, *lines[::order]]) + "\n", encoding="utf-8")
    (root / "pairs").mkdir(exist_ok=True)
    for number in range(6):
        clean = written("ink on paper")
        cv2.imwrite(str(root / f"pairs/p{number}_clean.png"), np.where(clean < 128, 0, 255).astype(np.uint8))
        cv2.imwrite(str(root / f"pairs/p{number}_degraded.jpg"), (clean * 0.6 + 10 * number).astype(np.uint8))
    return root


def lines_of(source: DocumentLines, root: Path) -> dict[str, Row]:
    return {row.id: row for row in rows_of(source.rows(root))}


def test_a_line_is_a_worn_image_and_its_clean_target(tmp_path: Path):
    row = lines_of(DocumentLines(), corpus(tmp_path))["03.png"]
    assert (row.text, row.group, row.split) == ("line d", "page1", "train")
    worn_image, clean = row.image.load(), row.target.load()
    assert worn_image.shape == clean.shape and worn_image.dtype == clean.dtype == np.uint8
    assert clean.min() == 0 and np.median(clean) == 255 and worn_image.mean() < clean.mean()


def test_what_was_done_is_on_record_and_does_the_same_again(tmp_path: Path):
    row = lines_of(DocumentLines(pages="pairs"), corpus(tmp_path))["03.png"]
    assert isinstance(row.image, Worn) and isinstance(row.image, Told) and row.image.paper is not None
    pixels, told = row.image.load_told()
    facts = json.loads(json.dumps(told))["degraded"]
    assert facts["id"] == "03.png" and facts["back"] in ("", "02.png")
    back = row.image.back[1].load() if facts["back"] else None
    ops = paper_ops_from(facts["ops"])
    assert np.array_equal(worn(ops, row.target.load(), Around(page=row.image.paper.page, back=back)), pixels)
    assert np.array_equal(pickle.loads(pickle.dumps(row.image)).load(), pixels)


def test_damage_and_backs_do_not_depend_on_the_order_of_the_file(tmp_path: Path):
    there, back = (tmp_path / "there", tmp_path / "back")
    there.mkdir(), back.mkdir()
    one, other = (lines_of(DocumentLines(), corpus(root, order=o)) for root, o in ((there, 1), (back, -1)))
    assert list(one) == list(reversed(other))
    for id, row in one.items():
        assert row.image.load_told()[1] == other[id].image.load_told()[1]
        assert np.array_equal(row.image.load(), other[id].image.load())


def test_lines_are_worn_differently_and_seeds_wear_them_otherwise(tmp_path: Path):
    root = corpus(tmp_path)
    ops = [str(row.image.load_told()[1]["degraded"]["ops"]) for row in lines_of(DocumentLines(), root).values()]
    assert len(set(ops)) == 12
    again = [str(row.image.load_told()[1]["degraded"]["ops"]) for row in lines_of(DocumentLines(seed=1), root).values()]
    assert not set(ops) & set(again)


def test_paper_of_one_split_is_never_that_of_another(tmp_path: Path):
    rows = lines_of(DocumentLines(pages="pairs", paper_valid_share=0.34, paper_test_share=0.34), corpus(tmp_path))
    pages = {split: {pair.name for row in rows.values() if row.split == split for pair in row.image.paper.pages}
             for split in SPLITS}  # fmt: skip
    assert all(pages.values()) and len(set().union(*pages.values())) == sum(map(len, pages.values())) == 6
    for row in rows.values():
        used = {op["page"] for op in row.image.load_told()[1]["degraded"]["ops"] if op["op"] == "OnPaper"}
        assert len(used) == 1 and used <= pages[row.split]


def test_without_pages_paper_is_made(tmp_path: Path):
    row = lines_of(DocumentLines(), corpus(tmp_path))["00.png"]
    kinds = [type(op) for op in row.image.chain.ops(0, row.id)]
    assert kinds.count(OnMadePaper) == 1 and OnPaper not in kinds


def test_versions_are_pairs_of_their_own_in_train_alone(tmp_path: Path):
    rows = lines_of(DocumentLines(versions=3), corpus(tmp_path))
    assert [id for id in rows if id.startswith("00")] == ["00.png", "00.png#2", "00.png#3"]
    assert not any("#" in row.id for row in rows.values() if row.split != "train")
    first, second = rows["00.png"], rows["00.png#2"]
    assert (first.group, first.target) == (second.group, second.target)
    assert not np.array_equal(first.image.load(), second.image.load())


def test_backs_come_from_the_same_page_or_else_the_same_split(tmp_path: Path):
    rows = list(lines_of(DocumentLines(), corpus(tmp_path)).values())
    backs = backs_of(rows, 0)
    assert all(backs[row.id].group == row.group and backs[row.id].id != row.id for row in rows)
    apart = [replace(row, group=row.id) for row in rows]
    assert all(backs_of(apart, 0)[row.id].split == row.split for row in apart)
    assert backs_of(apart[::-1], 0) == backs_of(apart, 0) != backs_of(apart, 1)
    assert backs_of(rows[:1], 0) == {}


def test_hashed_splits_hold_whole_pages_out(tmp_path: Path):
    root = corpus(tmp_path, split=False)
    with pytest.raises(SourceError, match="splits='hashed'"):
        list(DocumentLines().rows(root))
    rows = lines_of(DocumentLines(splits="hashed", valid_share=0.17, test_share=0.17), root).values()
    assert {row.split for row in rows} == set(SPLITS)
    assert all(len({row.split for row in rows if row.group == group}) == 1 for group in {row.group for row in rows})


def test_what_cannot_be_a_row_is_kept_with_its_reason(tmp_path: Path):
    root = corpus(tmp_path)
    with (root / "lines.tsv").open("a", encoding="utf-8") as file:
        file.write("train\tx.png\tpage0\t \ntrain\t../y.png\tpage0\tline\ntrain\t00.png\tpage0\tline a\nshort\n")
        file.write("train\tz.png\tpage0\tlïne\n")
    found = list(DocumentLines(symbols="abcdefghijkl ine").rows(root))
    assert reasons_of(found) == {
        "x.png": "unlabelled", "../y.png": "outside_root", "00.png": "duplicate_id", "lines.tsv:17": "bad_line",
        "z.png": "outside_alphabet",
    }  # fmt: skip
    assert len(rows_of(found)) == 12


def test_folders_choose_lines(tmp_path: Path):
    root = corpus(tmp_path)
    assert not list(DocumentLines(folders=("elsewhere",), splits="listed").rows(root))


def test_normal_text_and_the_alphabet_of_train(tmp_path: Path):
    assert normal_text(" e\u0301te\u0301\u00a0 x\t") == "été x"
    assert symbols_of(DocumentLines().rows(corpus(tmp_path))) == " abcdefghiln"  # i to l are in valid and test


def test_the_stamp_changes_with_everything_that_changes_pixels(tmp_path: Path):
    root = corpus(tmp_path)
    row = lines_of(DocumentLines(pages="pairs"), root)["00.png"]
    image = row.image
    others = [
        replace(image, seed=5), replace(image, id="x"), replace(image, paper=None), replace(image, back=None),
        replace(image, chain=PaperChain(steps=(Strokes(),))),
    ]  # fmt: skip
    used = image.paper.pages[0].clean.path
    os.utime(used, ns=(1, 1))
    touched = lines_of(DocumentLines(pages="pairs"), root)["00.png"].image
    assert len({image.stamp(), touched.stamp(), *(other.stamp() for other in others)}) == 7


def test_a_missing_folder_of_pages_is_named(tmp_path: Path):
    with pytest.raises(SourceError, match="nowhere: no folder of page pairs"):
        list(DocumentLines(pages="nowhere").rows(corpus(tmp_path)))


def test_senseless_settings_are_refused():
    with pytest.raises(ValueError, match="versions is 0"):
        DocumentLines(versions=0)
    with pytest.raises(ValueError, match="clean is 'washed'"):
        DocumentLines(clean="washed")
    with pytest.raises(ValueError, match="Strokes: share is 2"):
        PaperChain(steps=(Strokes(share=2),))
    with pytest.raises(ValueError, match="least and a greatest"):
        PaperChain(steps=(Strokes(amount=(0.9, 0.3)),))


def test_each_steps_lots_are_its_own():
    with_all, without_first = PaperChain(), PaperChain(steps=(Strokes(share=0), *PaperChain().steps[1:]))
    for id in "abcdef":
        ops = with_all.ops(0, id)
        assert without_first.ops(0, id) == tuple(op for op in ops if type(op).__name__ not in ("Thicken", "Thin"))


def test_flattening_makes_even_black_on_white():
    dim = (written("faint", 200) * np.linspace(0.5, 1, 130)).astype(np.uint8)
    made = flattened(dim)
    assert made.min() == 0 and (made[written("faint") == 255] > 230).mean() > 0.9
    assert (flattened(np.full((40, 90), 180, np.uint8)) == 255).all()  # an empty line stays white


def test_text_is_filled_with_the_paper_around_it(tmp_path: Path):
    rng = np.random.default_rng(0)
    paper = np.clip(np.linspace(120, 220, 300) + rng.normal(0, 3, (200, 300)), 0, 255).astype(np.uint8)
    ink = np.zeros((200, 300), bool)
    ink[80:100, 40:260] = True
    made = without_ink(np.where(ink, 20, paper).astype(np.uint8), ink)
    far = cv2.dilate(ink.astype(np.uint8), np.ones((11, 11))) == 0
    assert np.array_equal(made[far], paper[far])
    assert np.abs(made[ink].astype(int) - paper[ink]).max() < 30 and made[ink].std() > 15
    assert 1.5 < np.diff(made[90, 60:240].astype(float)).std() / np.sqrt(2) < 5  # its grain, too


def test_pages_without_their_twin_are_named(tmp_path: Path):
    (corpus(tmp_path) / "pairs/p3_clean.png").unlink()
    pairs, alone = page_pairs(tmp_path / "pairs")
    assert len(pairs) == 5 and alone == ["p3"]
