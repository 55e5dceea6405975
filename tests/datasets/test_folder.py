"""Folders with a file of labels, and everything such files get wrong."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import image_at, reasons_of, rows_of

from datasets.folder import LabelledFolder
from datasets.row import Row, SourceError

ALL_TRAIN = LabelledFolder(valid_share=0, test_share=0)


def folder(root: Path, labels: str | bytes, name: str = "labels.tsv") -> Path:
    (root / name).write_bytes(labels if isinstance(labels, bytes) else labels.encode())
    return root


def texts_of(root: Path, source: LabelledFolder = ALL_TRAIN) -> dict[str, str]:
    return {row.id: row.text for row in rows_of(source.rows(root))}


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("labels.tsv", 'a.png\tone\nb/c.png\ttwo, "three"\n'),
        ("labels.tsv", 'file\ttext\r\na.png\tone\r\n\r\nb/c.png\ttwo, "three"'),
        ("labels.tsv", '\ufeffLabel\tPath\none\ta.png\ntwo, "three"\tb/c.png\n'),
        ("labels.csv", 'a.png,one\nb/c.png,"two, ""three"""\n'),
        ("labels.csv", 'image,label\na.png,one\nb/c.png,"two, ""three"""\n'),
        ("labels.jsonl", '{"file": "a.png", "text": "one"}\n{"file": "b/c.png", "text": "two, \\"three\\""}\n'),
        ("gt.txt", 'a.png\tone\nb/c.png\ttwo, "three"\n'),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, labels: str):
    assert texts_of(folder(tmp_path, labels, name)) == {"a.png": "one", "b/c.png": 'two, "three"'}


def test_an_image_is_found_below_the_root(tmp_path: Path):
    image_at(tmp_path / "b/c.png")
    row = rows_of(ALL_TRAIN.rows(folder(tmp_path, "b/c.png\tone\n")))[0]
    assert row.image.load().shape == (12, 30, 3) and row.group == "b/c.png"


def test_split_and_group_columns_are_kept(tmp_path: Path):
    labels = "split\tfile\tgroup\ttext\ntest\ta.png\tpage 1\tone\nval\tb.png\t\ttwo\n"
    rows = rows_of(LabelledFolder().rows(folder(tmp_path, labels)))
    assert [(row.split, row.group) for row in rows] == [("test", "page 1"), ("valid", "b.png")]


def test_without_a_split_whole_groups_are_held_out(tmp_path: Path):
    lines = [f"{index}.png\tword\tpage {index // 2}" for index in range(40)]
    rows = rows_of(LabelledFolder().rows(folder(tmp_path, "\n".join(["file\ttext\tgroup", *lines]))))
    assert Counter(row.split for row in rows) == {"train": 32, "valid": 4, "test": 4}
    assert all(len({row.split for row in rows if row.group == group}) == 1 for group in {row.group for row in rows})


def test_a_further_tab_is_text_in_gt_txt_and_rejected_in_tsv(tmp_path: Path):
    root = folder(tmp_path, "a.png\tone\ttwo\n", "gt.txt")
    assert texts_of(root) == {"a.png": "one\ttwo"}
    folder(tmp_path, "a.png\tone\ttwo\n")
    assert reasons_of(LabelledFolder(labels="labels.tsv").rows(root)) == {"labels.tsv:1": "bad_line"}


@pytest.mark.parametrize(
    ("line", "id", "reason"),
    [
        ("b.png\t ", "b.png", "unlabelled"),
        ("../b.png\ttwo", "../b.png", "outside_root"),
        ("/etc/passwd\ttwo", "/etc/passwd", "outside_root"),
        ("./a.png\ttwo", "a.png", "duplicate_id"),
        ("b.png", "labels.tsv:2", "bad_line"),
        ("\ttwo", "labels.tsv:2", "bad_line"),
        ("b\0.png\ttwo", "b\0.png", "bad_path"),
    ],
)
def test_a_line_that_is_no_row_costs_only_itself(tmp_path: Path, line: str, id: str, reason: str):
    found = list(ALL_TRAIN.rows(folder(tmp_path, f"a.png\tone\n{line}\nc.png\tthree\n")))
    assert reasons_of(found) == {id: reason}
    assert [row.id for row in rows_of(found)] == ["a.png", "c.png"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "bad_line"),
        ("{", "bad_line"),
        ("[" * 100_000, "bad_line"),
        ('{"file": "a.png", "text": 7}', "bad_line"),
        ('{"file": "a.png", "text": "\\ud800"}', "bad_text"),
        ('{"file": "\\ud800.png", "text": "x"}', "bad_path"),
    ],
)
def test_a_json_line_that_is_no_row_is_rejected(tmp_path: Path, line: str, reason: str):
    assert list(reasons_of(ALL_TRAIN.rows(folder(tmp_path, line, "labels.jsonl"))).values()) == [reason]


@pytest.mark.parametrize(
    ("labels", "name", "message"),
    [
        (b"a.png\tone\nb.png\tcaf\xe9\n", "labels.tsv", r"labels.tsv:2: byte 0xe9 is not UTF-8; .* iconv"),
        ("a.png\tone\n".encode("utf-16"), "labels.tsv", "UTF-16 text; only UTF-8"),
        ("file\ttext\tsplit\na.png\tone\tvaild\n", "labels.tsv", r"labels.tsv:2: split is 'vaild'; .*'valid'"),
        ("file\ttext\tgruop\na.png\tone\tx\n", "labels.tsv", r"columns are .*'gruop'.*extra_columns"),
        ("file\ttext\tlabel\na.png\tone\tx\n", "labels.tsv", "each column once"),
        ("file\ttext\ttext\na.png\tone\tx\n", "labels.tsv", "each may stand there once"),
        ('{"file": "a.png"}', "labels.jsonl", "file and text are needed"),
        ('a.png,"one\n', "labels.csv", "not CSV"),
        (
            '{"file": "a.png", "text": "one", "split": "train"}\n{"file": "b.png", "text": "two"}',
            "labels.jsonl",
            r"labels.jsonl:2: no split, though other lines have one",
        ),
    ],
)
def test_a_file_of_labels_that_is_broken_says_where_and_what(tmp_path: Path, labels: str, name: str, message: str):
    with pytest.raises(SourceError, match=message):
        list(ALL_TRAIN.rows(folder(tmp_path, labels, name)))


def test_no_or_two_files_of_labels_are_refused(tmp_path: Path):
    with pytest.raises(SourceError, match="found none; set labels="):
        list(ALL_TRAIN.rows(tmp_path))
    folder(folder(tmp_path, "a.png\tone\n"), "a.png\tone\n", "gt.txt")
    with pytest.raises(SourceError, match=r"found \['labels.tsv', 'gt.txt'\]"):
        list(ALL_TRAIN.rows(tmp_path))
    with pytest.raises(SourceError, match=r"lines.tsv: cannot be read"):
        list(LabelledFolder(labels="lines.tsv").rows(tmp_path))
    with pytest.raises(SourceError, match="must lie below the root"):
        list(LabelledFolder(labels="../labels.tsv").rows(tmp_path))
    with pytest.raises(ValueError, match="must be 'auto' or end in one of"):
        LabelledFolder(labels="labels.xlsx")


def test_extra_columns_are_kept_where_they_are_named(tmp_path: Path):
    root = folder(tmp_path, "file\ttext\twriter\na.png\tone\tAnne\n")
    source = LabelledFolder(extra_columns=("writer",), valid_share=0, test_share=0)
    assert rows_of(source.rows(root))[0].extras == {"writer": "Anne"}


def test_a_link_that_leads_out_of_the_root_is_rejected(tmp_path: Path):
    image_at(tmp_path / "secret.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/a.png").symlink_to(tmp_path / "secret.png")
    assert reasons_of(ALL_TRAIN.rows(folder(tmp_path / "root", "a.png\tone\n"))) == {"a.png": "outside_root"}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["labels.tsv", "labels.csv", "labels.jsonl", "gt.txt"]),
    data=st.binary(max_size=80) | st.text(alphabet='ab.\t\n\r,"{}:\0é/\ufeff', max_size=60).map(str.encode),
)
def test_random_labels_give_rows_rejects_or_a_source_error(tmp_path: Path, name: str, data: bytes):
    root = tmp_path / name
    root.mkdir(exist_ok=True)
    with suppress(SourceError):
        found = list(LabelledFolder().rows(folder(root, data, name)))
        assert all(row.id.encode() and (not isinstance(row, Row) or row.text.strip()) for row in found)
