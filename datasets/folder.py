"""A folder of images with one file of labels: the plainest way to bring data of your own.

The licence is yours to know. The root holds the images, at any depth, and one of these, in UTF-8::

    labels.tsv     file<TAB>text, or a first line that names the columns: file, text, split, group
    labels.csv     the same with commas; fields that hold a comma, a quote or a line end stand in double quotes
    labels.jsonl   one {"file": ..., "text": ..., "split": ..., "group": ...} per line
    gt.txt         file<TAB>text, never a first line with names

``split`` (train, valid or test) and ``group`` are optional. ``path``, ``image`` and ``filename`` mean ``file``,
``label`` means ``text``; the splits ``val``, ``validation`` and ``dev`` mean ``valid``. In ``gt.txt`` everything after
the first tab is the text, further tabs too; in ``labels.tsv`` a line with more fields than columns is rejected, as
nothing says which tab belongs to the text.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.image import inside
from datasets.on_disk import existing_folder, file_bytes, first_of_each, labelled_file, storable, utf8_text
from datasets.row import BadImage, Reject, Row, SourceError
from datasets.splits import check_shares, split_by_share

NAMES = ("labels.tsv", "labels.csv", "labels.jsonl", "gt.txt")
SUFFIXES = (".tsv", ".csv", ".jsonl", ".txt")
ALIASES = {"path": "file", "image": "file", "filename": "file", "label": "text"}
COLUMNS = ("file", "text", "split", "group")
SPLITS = ("train", "valid", "test")
SPLIT_ALIASES = {"val": "valid", "validation": "valid", "dev": "valid"}


@dataclass(frozen=True, kw_only=True)
class LabelledFolder:
    """The images a file of labels lists.

    Without a ``split`` column, whole groups are held out. Without a ``group``, an image is its own group.

    Attributes:
        labels: the file of labels below the root, or ``"auto"`` for the one of the usual names that is there.
        extra_columns: further columns to keep, as a row's extras; columns named nowhere are refused.
        valid_share: share of the rows held out for validation where no ``split`` column says.
        test_share: likewise for test.
        seed: which groups those are.
    """

    labels: str = "auto"
    extra_columns: tuple[str, ...] = ()
    valid_share: float = 0.1
    test_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_shares("LabelledFolder", valid_share=self.valid_share, test_share=self.test_share)
        if self.labels != "auto" and not self.labels.endswith(SUFFIXES):
            raise ValueError(
                f"LabelledFolder: labels is {self.labels!r}; it must be 'auto' or end in one of {SUFFIXES}"
            )

    def rows(self, root: Path | None) -> Iterator[Row | Reject]:
        folder = existing_folder(root, source="LabelledFolder")
        yield from first_of_each(self._rows(folder))

    def describe(self, root: Path | None) -> Mapping[str, object]:
        path = self._labels_file(existing_folder(root, source="LabelledFolder"))
        return {
            "name": "labelled folder",
            "licence": "not stated",
            "labels": path.name,
            "extra_columns": list(self.extra_columns),
        }

    def _rows(self, folder: Path) -> Iterator[Row | Reject]:
        path = self._labels_file(folder)
        lines = list(_lines(path, self.extra_columns))
        splits = self._splits(path, [line for line in lines if isinstance(line, _Line)])
        for line in lines:
            if isinstance(line, Reject):
                yield line
                continue
            extras = {name: line.values[name] for name in self.extra_columns if name in line.values}
            split = line.split or splits[line.group]
            yield labelled_file(folder, line.file, line.text, id=line.id, group=line.group, split=split, extras=extras)

    def _splits(self, path: Path, lines: Sequence[_Line]) -> Mapping[str, str]:
        """The split of each group, or nothing where every line names its own."""
        without = [line for line in lines if line.split is None]
        if without and len(without) < len(lines):
            raise SourceError(f"{path}:{without[0].number}: no split, though other lines have one; give all or none")
        groups = [line.group for line in without]
        return split_by_share(groups, valid_share=self.valid_share, test_share=self.test_share, seed=self.seed)

    def _labels_file(self, folder: Path) -> Path:
        if self.labels != "auto":
            return _below(folder, self.labels)
        there = [name for name in NAMES if (folder / name).is_file()]
        if len(there) != 1:
            raise SourceError(
                f"{folder}: needs one file of labels out of {list(NAMES)}, found {there or 'none'}; "
                "set labels= to the one that counts"
            )
        return _below(folder, there[0])


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One line of the labels, its columns under their own names."""

    number: int
    values: Mapping[str, object]

    @property
    def file(self) -> str:
        return str(self.values["file"])

    @property
    def id(self) -> str:
        return posixpath.normpath(self.file)

    @property
    def text(self) -> str:
        return str(self.values["text"])

    @property
    def split(self) -> str | None:
        return str(self.values["split"]) if "split" in self.values else None

    @property
    def group(self) -> str:
        return str(self.values.get("group", "")) or self.id


def _below(folder: Path, name: str) -> Path:
    try:
        return inside(folder, name)
    except BadImage as error:
        raise SourceError(f"labels {name!r}: {error.detail}; it must lie below the root") from error


def _lines(path: Path, extra_columns: Sequence[str]) -> Iterator[_Line | Reject]:
    """Every labelled line in order. Raises :class:`SourceError` for columns and splits that do not exist."""
    read = {".tsv": _tsv, ".csv": _csv, ".jsonl": _jsonl, ".txt": _gt}[path.suffix]
    for number, values in read(path, utf8_text(file_bytes(path), name=str(path))):
        if isinstance(values, str):
            yield Reject(id=f"{path.name}:{number}", reason="bad_line", detail=storable(values))
            continue
        named = {ALIASES.get(name, name): value for name, value in values.items()}
        _check_columns(f"{path}:{number}", list(values), list(named), extra_columns)
        faulty = [name for name in COLUMNS if not isinstance(named.get(name, ""), str)]
        if faulty or not named["file"]:
            found = f"{faulty[0]} is {named[faulty[0]]!r}, not a string" if faulty else "it names no file"
            yield Reject(id=f"{path.name}:{number}", reason="bad_line", detail=storable(found))
            continue
        if "split" in named:
            named["split"] = SPLIT_ALIASES.get(str(named["split"]), named["split"])
        if named.get("split", "train") not in SPLITS:
            raise SourceError(f"{path}:{number}: split is {named['split']!r}; it must be one of {list(SPLITS)}")
        yield _Line(number=number, values=named)


def _check_columns(where: str, given: list[str], named: list[str], extra_columns: Sequence[str]) -> None:
    allowed = [*COLUMNS, *extra_columns]
    unknown = [name for name in named if name not in allowed]
    missing = [name for name in ("file", "text") if name not in named]
    if unknown or missing or len(given) != len(named):
        raise SourceError(
            f"{where}: columns are {given}; file and text are needed, each column once, and only {allowed} are known: "
            "rename the column, or name it in extra_columns"
        )


def _header(cells: Sequence[str]) -> list[str] | None:
    """The columns a first line names, or none where it is a row already."""
    names = [cell.strip().lower() for cell in cells]
    known = {ALIASES.get(name, name) for name in names}
    return names if {"file", "text"} <= known else None


def _table(path: Path, lines: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, Mapping[str, object] | str]]:
    """Number and columns of every line of ``path``, or what is wrong with it."""
    columns: list[str] = []
    for number, cells in lines:
        if not columns:
            header = _header(cells)
            columns = header or ["file", "text"]
            if len(set(columns)) != len(columns):
                raise SourceError(f"{path}:{number}: columns are {columns}; each may stand there once")
            if header:
                continue
        if len(cells) == len(columns):
            yield number, dict(zip(columns, cells, strict=True))
        else:
            yield number, f"{len(cells)} fields for the {len(columns)} columns {columns}: {cells[:5]}"


def _tsv(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, object] | str]]:
    return _table(path, ((number, line.split("\t")) for number, line in _text_lines(text)))


def _csv(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, object] | str]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        yield from _table(path, ((reader.line_num, cells) for cells in reader if cells))
    except csv.Error as error:
        raise SourceError(f"{path}:{reader.line_num}: not CSV: {error}; quote fields with double quotes") from error


def _jsonl(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, object] | str]]:
    for number, line in _text_lines(text):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"not JSON: {error}"
            continue
        yield number, values if isinstance(values, dict) else f"must be a JSON object, found {type(values).__name__}"


def _gt(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, object] | str]]:
    for number, line in _text_lines(text):
        file, tab, label = line.partition("\t")
        yield number, {"file": file, "text": label} if tab else f"no tab between file and text: {line[:80]!r}"


def _text_lines(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is not empty. Only line feeds end lines: a label may hold U+2028."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip("\r"):
            yield number, line.removesuffix("\r")
