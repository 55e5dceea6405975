"""RodoSol-ALPR: 20,000 photographs of vehicles at Brazilian pay tolls, with the corners of every plate.

Given for research after a signed agreement; cite Laroca et al., "On the Cross-dataset Generalization in License Plate
Recognition", VISAPP 2022. The root holds ``img_000001.jpg`` with ``img_000001.txt`` beside it, at any depth (officially
``images/cars-br`` and so on), and the official split, ``PATH;training|validation|testing`` in each line, as one of
:data:`LISTS`. Only high resolution is there: the low one is made by a chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets.degrade import Chain
from datasets.image import ImageFile, inside
from datasets.on_disk import existing_folder, first_of_each, rejected, storable
from datasets.plate_notes import listed_lines, notes_beside
from datasets.plate_pairs import check_versions, versions, without_leaks
from datasets.plate_splits import stratified_splits
from datasets.plate_text import BadLabel, PlateLabels
from datasets.rectify import Rectified
from datasets.row import BadImage, Reject, Row, SourceError
from datasets.splits import check_shares

LISTS = ("split.txt", "splits/split.txt", "images/splits/split.txt", "images/split.txt")
PICTURES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, kw_only=True)
class RodoSol:
    """Plates cut out by their corners and made upright, each with a degraded twin.

    With the official list its splits are taken, less every row whose plate a later split has too (``plate_held_out``):
    the official split was drawn by picture. Without, plates are held out, in proportion from each type and layout.

    Attributes:
        labels: which texts can be right.
        chain: what makes the low resolution.
        versions: pairs of each plate in train, each degraded in another way.
        motorcycles: take their plates of two rows too; else they are refused (``two_rows``).
        margin: kept around a plate, as a share of it.
        valid_share: share of the plates held out for validation where there is no official list.
        test_share: likewise for test.
        seed: of splits and degradation.
    """

    labels: PlateLabels = field(default_factory=PlateLabels)
    chain: Chain = field(default_factory=Chain)
    versions: int = 1
    motorcycles: bool = False
    margin: float = 0.03
    valid_share: float = 0.1
    test_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_shares("RodoSol", valid_share=self.valid_share, test_share=self.test_share)
        check_versions("RodoSol", self.versions)

    def rows(self, root: Path | None) -> Iterator[Row | Reject]:
        folder = existing_folder(root, source="RodoSol")
        official = official_list(folder)
        found = list(first_of_each(self._listed(folder, official) if official else self._plates(folder)))
        for row in without_leaks(found) if official else self._split(found):
            if isinstance(row, Row):
                yield from versions(row, self.chain, seed=self.seed, count=self.versions)
            else:
                yield row

    def describe(self, root: Path | None) -> Mapping[str, object]:
        official = official_list(existing_folder(root, source="RodoSol"))
        return {
            "name": "RodoSol-ALPR",
            "licence": "academic research only, by signed agreement",
            "citation": "Laroca et al., On the Cross-dataset Generalization in License Plate Recognition, VISAPP 2022",
            "split": official.name if official else "by plate",
        }

    def _plates(self, folder: Path) -> Iterator[Row | Reject]:
        """Every picture, for now in train."""
        pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
        if not pictures:
            raise SourceError(f"{folder}: no picture {' or '.join(PICTURES)} below it; is this the root?")
        for path in pictures:
            yield self._plate(folder, path.relative_to(folder).as_posix(), "train")

    def _listed(self, folder: Path, official: Path) -> Iterator[Row | Reject]:
        """What the official list names, then a reject for each picture that it does not."""
        named = set()
        for _, (picture,), split in listed_lines(official, 1):
            named.add(picture)
            yield self._plate(folder, picture, split)
        for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES):
            name = path.relative_to(folder).as_posix()
            if name not in named:
                yield Reject(id=storable(name), reason="not_in_split", detail=f"{official.name} does not name it")

    def _plate(self, root: Path, picture: str, split: str) -> Row | Reject:
        try:
            file = ImageFile(str(inside(root, picture)))
            notes = notes_beside(root, picture)
            two_rows = notes.kind.lower().startswith("motorcycle")
            if two_rows and not self.motorcycles:
                raise BadImage("two_rows", "a motorcycle's plate has two rows; set motorcycles=true to take it")
            if notes.corners is None:
                raise BadImage("bad_corners", "no corners are noted, so the plate cannot be found in the photograph")
            plate, layout = self.labels.read(notes.plate, notes.layout)
        except BadLabel as error:
            return error.reject(picture)
        except BadImage as error:
            return rejected(picture, error)
        image = Rectified(file, notes.corners, self.margin)
        extras = {"type": notes.kind, "layout": layout, "rows": 2 if two_rows else 1}
        return Row(id=picture, image=image, text=plate, group=plate, split=split, extras=extras)

    def _split(self, found: list[Row | Reject]) -> Iterator[Row | Reject]:
        plates = [(row.group, f"{row.extras['type']}/{row.extras['layout']}") for row in found if isinstance(row, Row)]
        splits = stratified_splits(plates, valid_share=self.valid_share, test_share=self.test_share, seed=self.seed)
        for row in found:
            yield replace(row, split=splits[row.group]) if isinstance(row, Row) else row


def official_list(folder: Path) -> Path | None:
    """The official split below ``folder``, if it is there."""
    return next((folder / name for name in LISTS if (folder / name).is_file()), None)
