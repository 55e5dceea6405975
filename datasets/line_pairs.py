"""Images of text lines beside their transcriptions, as kraken, Calamari, OCRopus and OCR-D (tesstrain) keep them.

The licence is yours to know. The root holds, at any depth, an image and a UTF-8 file with one line of text for each::

    0001/010001.png          0001/010001.gt.txt

Where images come as ``010001.bin.png`` beside ``010001.gt.txt``, name ``".bin.png"`` in ``extensions``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets.image import inside
from datasets.on_disk import existing_folder, file_bytes, labelled_file, rejected, storable, utf8_text
from datasets.row import BadImage, Reject, Row, SourceError
from datasets.splits import check_shares, split_by_share

LABEL = ".gt.txt"


@dataclass(frozen=True, kw_only=True)
class LinePairs:
    """Every image below the root that has a transcription beside it.

    Attributes:
        extensions: endings of image files; what stands before one is the name of the pair.
        group_pattern: regular expression searched in the path below the root; its first parenthesis, or else the whole
            match, is the group. Empty: the group is the folder.
        valid_share: share of the rows held out for validation, whole groups at a time.
        test_share: likewise for test.
        seed: which groups those are.
    """

    extensions: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
    group_pattern: str = ""
    valid_share: float = 0.1
    test_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_shares("LinePairs", valid_share=self.valid_share, test_share=self.test_share)
        if not self.extensions or not all(ending.startswith(".") for ending in self.extensions):
            raise ValueError(f"LinePairs: extensions are {self.extensions}; name some, each with its dot, like '.png'")
        try:
            re.compile(self.group_pattern)
        except re.error as error:
            raise ValueError(
                f"LinePairs: group_pattern {self.group_pattern!r} is no regular expression: {error}"
            ) from error

    def rows(self, root: Path | None) -> Iterator[Row | Reject]:
        folder = existing_folder(root, source="LinePairs")
        pairs = list(self._pairs(folder))
        groups = [pair.group for pair in pairs if isinstance(pair, _Pair)]
        try:
            splits = split_by_share(groups, valid_share=self.valid_share, test_share=self.test_share, seed=self.seed)
        except SourceError as error:
            cure = f"its groups come from group_pattern={self.group_pattern!r} (empty: the folder)"
            raise SourceError(f"{folder}: {error}; {cure}") from error
        for pair in pairs:
            yield _row(folder, pair, split=splits[pair.group]) if isinstance(pair, _Pair) else pair

    def describe(self, root: Path | None) -> Mapping[str, object]:
        return {
            "name": "line images with transcriptions",
            "licence": "not stated",
            "labels": f"files ending in {LABEL}",
            "group": f"match of {self.group_pattern}" if self.group_pattern else "folder",
        }

    def _pairs(self, folder: Path) -> Iterator[_Pair | Reject]:
        """Every image with its partner, and a reject for whatever has none, in the order of their paths."""
        files = _files(folder)
        labels = {file for file in files if file.endswith(LABEL)}
        taken: dict[str, str] = {}
        for image, stem in [(file, stem) for file in files if (stem := self._stem(file)) is not None]:
            first = taken.setdefault(stem + LABEL, image)
            yield self._pair(image, stem + LABEL, first, labels)
        for label in sorted(labels - taken.keys()):
            detail = f"no image beside it; looked for {', '.join(self.extensions)}"
            yield Reject(id=storable(label), reason="missing_image", detail=detail)

    def _stem(self, file: str) -> str | None:
        """The name of the pair an image belongs to; none for what is no image."""
        endings = sorted((ending for ending in self.extensions if file.lower().endswith(ending)), key=len)
        return file[: -len(endings[-1])] if endings else None

    def _pair(self, image: str, label: str, first: str, labels: set[str]) -> _Pair | Reject:
        if label not in labels:
            return Reject(id=storable(image), reason="missing_label", detail=storable(f"no {label} beside it"))
        if first != image:
            return Reject(id=storable(image), reason="duplicate_label", detail=storable(f"{label} belongs to {first}"))
        group = self._group(image)
        if not group:
            return Reject(id=storable(image), reason="ungrouped", detail=f"{self.group_pattern!r} is not in its path")
        return _Pair(image=image, label=label, group=group)

    def _group(self, image: str) -> str:
        """The group of an image; empty where the pattern finds none."""
        if not self.group_pattern:
            return image.rpartition("/")[0] or "."
        match = re.search(self.group_pattern, image)
        return (match[1 if match.re.groups else 0] or "") if match else ""


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """An image and its transcription, both as paths below the root."""

    image: str
    label: str
    group: str


def _files(folder: Path) -> list[str]:
    """Every file below ``folder`` as a path below it, sorted; linked folders are not entered."""

    def refuse(error: OSError) -> None:
        raise SourceError(f"{error.filename}: cannot be listed ({error.strerror}); check its permissions") from error

    parents = os.walk(folder, onerror=refuse)
    return sorted(
        (Path(parent) / name).relative_to(folder).as_posix() for parent, _, names in parents for name in names
    )


def _row(folder: Path, pair: _Pair, *, split: str) -> Row | Reject:
    try:
        text = utf8_text(file_bytes(inside(folder, pair.label)), name=pair.label).rstrip("\r\n")
    except BadImage as error:
        return rejected(pair.image, error)
    except SourceError as error:  # one transcription that cannot be read costs one row, and is counted
        return Reject(id=storable(pair.image), reason="bad_text", detail=storable(str(error)))
    if "\n" in text:
        return Reject(
            id=storable(pair.image), reason="several_lines", detail=f"{pair.label} must hold one line of text"
        )
    return labelled_file(folder, pair.image, text, id=pair.image, group=pair.group, split=split)
