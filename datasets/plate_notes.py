"""The small text file beside a picture of a vehicle, as RodoSol-ALPR and the sets made from it have them::

type: car
plate: ABC1234
layout: Brazilian
corners: 10,20 110,22 109,52 9,50
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from datasets.image import inside
from datasets.on_disk import file_bytes, utf8_text
from datasets.rectify import Corners, corners_of
from datasets.row import BadImage, SourceError

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
SPLITS = {"training": "train", "validation": "valid", "testing": "test"}


@dataclass(frozen=True, kw_only=True)
class PlateNotes:
    """What is noted of one plate.

    Attributes:
        kind: of vehicle, such as ``"car"``.
        plate: the text as it is noted.
        corners: of the plate in the picture, where they are noted.
    """

    kind: str
    plate: str
    layout: str
    corners: Corners | None


def notes_beside(root: Path, image: str) -> PlateNotes:
    """The notes of ``image``, a path below ``root``. Raises :class:`BadImage` (missing_label, bad_annotations)."""
    name = str(Path(image).with_suffix(".txt"))
    path = inside(root, name)
    if not path.is_file():
        raise BadImage("missing_label", f"no {name} beside the picture")
    try:
        return notes_of(utf8_text(file_bytes(path), name=name))
    except SourceError as error:  # one file that cannot be read costs one row
        raise BadImage("bad_annotations", str(error)) from error


def notes_of(text: str) -> PlateNotes:
    """The notes in ``text``. Raises :class:`BadImage` (bad_annotations, bad_corners)."""
    lines = (line.partition(":") for line in text.splitlines() if line.strip())
    found = {name.strip().lower(): value.strip() for name, _, value in lines}
    if "plate" not in found:
        raise BadImage("bad_annotations", f"no line 'plate: ...', only {', '.join(found) or 'nothing'}")
    corners = None
    if found.get("corners"):
        numbers = [float(number) for number in NUMBER.findall(found["corners"])]
        corners = corners_of(list(zip(numbers[::2], numbers[1::2], strict=False)) if len(numbers) == 8 else [numbers])
    return PlateNotes(kind=found.get("type", ""), plate=found["plate"], layout=found.get("layout", ""), corners=corners)


def listed_lines(path: Path, columns: int) -> list[tuple[int, list[str], str]]:
    """Number, paths and split of each line ``path;...;training|validation|testing`` of an official list.

    Raises :class:`SourceError` naming the line that is none.
    """
    lines = []
    for number, line in enumerate(utf8_text(file_bytes(path), name=str(path)).splitlines(), 1):
        if not line.strip():
            continue
        *paths, split = (cell.strip() for cell in line.split(";"))
        if len(paths) != columns or split not in SPLITS:
            raise SourceError(
                f"{path}:{number}: {line[:120]!r}; expected {columns} path{'s' if columns > 1 else ''} and one of "
                f"{', '.join(SPLITS)}, divided by semicolons"
            )
        lines.append((number, [str(Path(item)) for item in paths], SPLITS[split]))
    return lines
