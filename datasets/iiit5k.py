"""IIIT-5K Words: 5,000 words cropped from photos and web images, with lexicons of 50 and 1,000 words each.

From https://cvit.iiit.ac.in/research/projects/cvit-projects/the-iiit-5k-word-dataset (IIIT5K-Word_V3.0.tar.gz), for
academic use; cite Mishra, Alahari and Jawahar, BMVC 2012. The root is the archive's ``IIIT5K`` folder::

    train/1009_2.png ...     traindata.mat  trainCharBound.mat
    test/1002_1.png ...      testdata.mat   testCharBound.mat

``*data.mat`` labels are upper-cased whatever the image shows; the true case is in ``chars`` of ``*CharBound.mat``.

File names are ``<photo>_<word>.png``, and the official split cuts photos in two: of the 679 photos in train, 509 are in
test as well. The benchmark's split is kept, so groups are ``train/<photo>`` and ``test/<photo>``: they keep train and
valid apart, and :meth:`IIIT5K.describe` counts what train and test share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from datasets.matlab import Value, entries_of, text_of, texts_of
from datasets.on_disk import existing_folder, first_of_each, labelled_file
from datasets.row import Reject, Row, SourceError
from datasets.splits import held_out_groups

Part = Literal["train", "test"]
WORD_FIELDS = ("ImgName", "GroundTruth", "smallLexi", "mediumLexi")
CHARACTER_FIELDS = ("ImgName", "chars", "charBB")


@dataclass(frozen=True, kw_only=True)
class IIIT5K:
    """The words of IIIT-5K with their true case.

    A row's extras are ``ground_truth`` (the official label, upper case), ``lexicon_small`` and ``lexicon_medium``.

    Attributes:
        valid_rows: how many of the train words are held out, whole photos at a time.
        seed: which photos those are.
        train_rows: words in ``traindata.mat``; another number is refused.
        test_rows: words in ``testdata.mat``.
    """

    valid_rows: int = 200
    seed: int = 0
    train_rows: int = 2000
    test_rows: int = 3000

    def __post_init__(self) -> None:
        if not 0 <= self.valid_rows < self.train_rows:
            raise ValueError(
                f"IIIT5K: valid_rows is {self.valid_rows}; it must be at least 0 and under train_rows={self.train_rows}"
            )

    def rows(self, root: Path | None) -> Iterator[Row | Reject]:
        folder = existing_folder(root, source="IIIT5K")
        yield from first_of_each(self._part(folder, "train"))
        yield from first_of_each(self._part(folder, "test"))

    def describe(self, root: Path | None) -> Mapping[str, object]:
        folder = existing_folder(root, source="IIIT5K")
        train = [photo_of(name) for name, _ in self._true_case(folder, "train")]
        test = [photo_of(name) for name, _ in self._true_case(folder, "test")]
        shared = set(train) & set(test)
        return {
            "name": "IIIT-5K Words V3.0",
            "licence": "academic use",
            "citation": "Mishra, Alahari, Jawahar: Scene Text Recognition using "
            "Higher Order Language Priors, BMVC 2012",
            "labels": "true case, from the character annotation; the official upper-case label is ground_truth",
            "group": "part and photo number; the official split shares photos between train and test",
            "photos_in_train": len(set(train)),
            "photos_in_test": len(set(test)),
            "photos_in_train_and_test": len(shared),
            "train_words_of_shared_photos": sum(photo in shared for photo in train),
            "test_words_of_shared_photos": sum(photo in shared for photo in test),
        }

    def _part(self, folder: Path, part: Part) -> Iterator[Row | Reject]:
        true_case = self._true_case(folder, part)
        groups = [f"{part}/{photo_of(name)}" for name, _ in true_case]
        held_out = held_out_groups(groups, rows=self.valid_rows, seed=self.seed) if part == "train" else frozenset()
        path = folder / f"{part}data.mat"
        words = entries_of(path, f"{part}data", fields=WORD_FIELDS, entries=self._rows_of(part))
        for index, (word, (name, text), group) in enumerate(zip(words, true_case, groups, strict=True)):
            where = f"{path}: {part}data({index + 1})"
            if (found := text_of(word[0], where=where)) != name:
                raise SourceError(
                    f"{where}: ImgName is {found!r}, but {part}CharBound({index + 1}) "
                    f"is for {name!r}; both files must list the same images in the same order: fetch them again"
                )
            yield _labelled_word(folder, word, name, text, group=group, split="valid" if group in held_out else part)

    def _true_case(self, folder: Path, part: Part) -> list[tuple[str, str]]:
        """Image name and text in true case of every word, as the character annotation has them."""
        path = folder / f"{part}CharBound.mat"
        words = entries_of(path, f"{part}CharBound", fields=CHARACTER_FIELDS, entries=self._rows_of(part))
        return [
            (text_of(name, where=f"{path}: ImgName"), text_of(characters, where=f"{path}: chars"))
            for name, characters, _ in words
        ]

    def _rows_of(self, part: Part) -> int:
        return self.train_rows if part == "train" else self.test_rows


def photo_of(name: str) -> str:
    """``"1009"`` for ``"train/1009_2.png"``: the photo a word was cut from."""
    return name.rpartition("/")[2].partition("_")[0]


def _labelled_word(folder: Path, word: list[Value], name: str, text: str, *, group: str, split: str) -> Row | Reject:
    _, ground_truth, small, medium = word
    official = text_of(ground_truth, where=f"{name}: GroundTruth")
    if official.casefold() != text.casefold():
        detail = f"GroundTruth is {official!r} but the character annotation says {text!r}"
        return Reject(id=name, reason="labels_disagree", detail=detail)
    extras = {
        "ground_truth": official,
        "lexicon_small": texts_of(small, where=f"{name}: smallLexi"),
        "lexicon_medium": texts_of(medium, where=f"{name}: mediumLexi"),
    }
    return labelled_file(folder, name, text, id=name, group=group, split=split, extras=extras)
