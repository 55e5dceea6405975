"""MJSynth (Synth90k): 9 million rendered images of 90,000 English words, 32 pixels high.

From https://www.robots.ox.ac.uk/~vgg/data/text/ (mjsynth.tar.gz), for research; cite Jaderberg, Simonyan, Vedaldi and
Zisserman, NIPS Deep Learning Workshop 2014. The root is the folder ``mnt/ramdisk/max/90kDICT32px`` of the archive::

    annotation_train.txt     lines of "./3000/7/182_slinking_71711.jpg 71711"
    annotation_val.txt
    annotation_test.txt
    3000/7/182_slinking_71711.jpg ...

The label is the middle of the file name, in true case; the number after it is the word's place in the lexicon. About
32 of the images are broken: they are rejected when they are loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from datasets.on_disk import existing_folder, first_of_each, labelled_file, storable, utf8_text
from datasets.row import Reject, Row, SourceError

Part = Literal["train", "val", "test"]
SPLITS: Mapping[Part, str] = {"train": "train", "val": "valid", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class MJSynth:
    """The words of MJSynth in their official split. Images share nothing but the lexicon, so each is its own group.

    Attributes:
        parts: the annotation files to read.
    """

    parts: tuple[Part, ...] = ("train", "val", "test")

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in SPLITS]
        if unknown or not self.parts or len(set(self.parts)) != len(self.parts):
            raise ValueError(f"MJSynth: parts are {self.parts}; name each of {list(SPLITS)} at most once")

    def rows(self, root: Path | None) -> Iterator[Row | Reject]:
        folder = existing_folder(root, source="MJSynth")
        yield from first_of_each(row for part in self.parts for row in _rows_of(folder, part))

    def describe(self, root: Path | None) -> Mapping[str, object]:
        return {
            "name": "MJSynth (Synth90k)",
            "licence": "research",
            "citation": "Jaderberg, Simonyan, Vedaldi, Zisserman: Synthetic Data and Artificial Neural Networks for "
            "Natural Scene Text Recognition, NIPS Deep Learning Workshop 2014",
            "labels": "true case, from the file name",
            "group": "image",
            "parts": list(self.parts),
        }


def _rows_of(folder: Path, part: Part) -> Iterator[Row | Reject]:
    path = folder / f"annotation_{part}.txt"
    for number, line in _lines(path):
        where = f"{path.name}:{number}"
        name, _, index = line.removeprefix("./").rpartition(" ")
        before, _, rest = name.rpartition("/")[2].partition("_")
        text, last, _ = rest.rpartition("_")
        if not (name and index.isascii() and index.isdigit() and len(index) < 10):
            detail = f"{line!r} must be a path, a blank and the number of a word in the lexicon"
            yield Reject(id=where, reason="bad_line", detail=storable(detail))
        elif not (before and last):
            yield Reject(id=name, reason="bad_name", detail=f"{where}: the file must be named NUMBER_WORD_NUMBER.jpg")
        else:
            extras = {"lexicon_index": int(index)}
            yield labelled_file(folder, name, text, id=name, group=name, split=SPLITS[part], extras=extras)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is not blank. Reads on as it goes: the train file has 7 million lines."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, utf8_text(line, name=f"{path}:{number}").strip()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); the source needs this file") from error
