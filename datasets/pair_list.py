"""Pairs that a list names: RodoSol-SR, PKU-SR and others made like them, as lpr-rsr-ext and lpsr-lacd read them.

The licence is that of the photographs. The root holds the list, one pair in each line, and the pictures it names by
their paths below the root, with the notes of :mod:`datasets.plate_notes` beside the high-resolution one::

    HR/img_000001.jpg;LR/img_000001.jpg;training
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from datasets.image import FORMATS, ImageFile, inside
from datasets.on_disk import existing_folder, first_of_each, rejected
from datasets.plate_notes import listed_lines, notes_beside
from datasets.plate_pairs import without_leaks
from datasets.plate_text import BadLabel, PlateLabels
from datasets.rectify import Rectified
from datasets.register import Register, Registered
from datasets.row import BadImage, ImageRef, Reject, Row, SourceError


@dataclass(frozen=True, kw_only=True)
class PairList:
    """The pairs of one list, in its splits, less every row whose plate a later split has too (``plate_held_out``).

    Attributes:
        pairs: path of the list, below the root.
        labels: which texts can be right.
        rectify: make both pictures of a pair upright by the noted corners, which were measured in the high-resolution
            one. The published sets are cut out already.
        margin: kept around a plate that is made upright, as a share of it.
        register: bring the high resolution of each pair onto the low one; as they come when none.
    """

    pairs: str = "split.txt"
    labels: PlateLabels = field(default_factory=PlateLabels)
    rectify: bool = False
    margin: float = 0.03
    register: Register | None = None

    def rows(self, root: Path | None) -> Iterator[Row | Reject]:
        folder = existing_folder(root, source="PairList")
        lines = listed_lines(self._path(folder), 2)
        yield from without_leaks(first_of_each(self._row(folder, high, low, split) for _, (high, low), split in lines))

    def describe(self, root: Path | None) -> Mapping[str, object]:
        return {"name": "listed pairs of plates", "licence": "not stated", "list": self.pairs}

    def _path(self, folder: Path) -> Path:
        try:
            path = inside(folder, self.pairs)
        except BadImage as error:
            raise SourceError(f"PairList: pairs {self.pairs!r}: {error.detail}") from error
        if not path.is_file():
            there = ", ".join(sorted(other.name for other in folder.glob("*.txt"))) or "none"
            raise SourceError(f"PairList: {path} is not there; set pairs= to one of the lists in the root: {there}")
        return path

    def _row(self, root: Path, high: str, low: str, split: str) -> Row | Reject:
        try:
            images = [ImageFile(str(inside(root, name))) for name in (low, high)]
            notes = notes_beside(root, high)
            plate, layout = self.labels.read(notes.plate, notes.layout)
            if self.rectify and notes.corners is None:
                raise BadImage("bad_corners", "no corners are noted, so the plate cannot be made upright")
            refs: list[ImageRef] = list(images)
            if self.rectify and notes.corners is not None:
                size = size_of(images[1])
                refs = [Rectified(image, notes.corners, self.margin, size) for image in images]
        except BadLabel as error:
            return error.reject(low)
        except BadImage as error:
            return rejected(low, error)
        extras = {"type": notes.kind, "layout": layout, "rectified": self.rectify}
        target = refs[1]
        if self.register is not None:
            target = Registered(image=target, onto=refs[0], how=self.register, strict=split == "train")
        return Row(id=low, image=refs[0], target=target, text=plate, group=plate, split=split, extras=extras)


def size_of(image: ImageFile) -> tuple[int, int]:
    """Height and width from the header alone. Raises :class:`BadImage` (missing, unreadable)."""
    try:
        data = Path(image.path).read_bytes()
    except OSError as error:
        raise BadImage("missing", f"{image.path}: {error.strerror}") from error
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as header:
            return header.height, header.width
    except Exception as error:  # damaged bytes make Pillow's readers raise anything
        raise BadImage("unreadable", f"{image.path}: not an image ({type(error).__name__})") from error
