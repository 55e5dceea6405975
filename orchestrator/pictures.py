"""Which image files a person means by files and folders, which track each belongs to, and where its result goes."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.plates_tracks import FRAME

ENDINGS = (
    ".png", ".jpg", ".jpeg", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif", ".pbm", ".pgm", ".ppm", ".jp2", ".avif"
)  # fmt: skip
TRACK = "track_"  # how folders of one plate are called where frames are lr-001.png ...


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image file.

    Attributes:
        within: the place it was found through: the file itself, or a folder above it.
        track: the folder whose pictures all show one plate, ``""`` where nothing says so.
    """

    path: Path
    within: Path
    track: str = ""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What was found: images in the order of the places, and within a folder by name; and what is not read, and why."""

    found: Sequence[Picture]
    passed: Sequence[tuple[Path, str]]


def pictures_in(places: Sequence[Path], *, tracks: bool = False, leave: Path | None = None) -> Pictures:
    """The image files among ``places``, and in those that are folders, however deep.

    A file that is named itself is always taken, whatever it is called. Of a track's folder (``track_*`` with frames
    like ``lr-001.png``) the high resolutions are passed over.

    Args:
        tracks: the images of one folder show one plate, whatever it is called.
        leave: a folder that is not looked into, such as the one results go to.
    """
    found: list[Picture] = []
    passed: list[tuple[Path, str]] = []
    seen: set[Path] = set()
    for place in places:
        for path in _files(place, leave) if place.is_dir() else [place]:
            why = _why_not(path) if place.is_dir() else ""
            if not why and path.resolve() in seen:
                why = "it was named before"
            if why:
                passed.append((path, why))
                continue
            seen.add(path.resolve())
            track = str(path.parent) if tracks or _frame_of_track(path) else ""
            found.append(Picture(path=path, within=place, track=track))
    return Pictures(found=found, passed=passed)


def targets(pictures: Sequence[Picture], to: Path, *, ours: Collection[Path] = ()) -> list[Path]:
    """For each picture a PNG below ``to``: unlike any other's, no picture itself, and no file that is there already.

    A picture found in a folder keeps its way within it; where several places were given, behind the name of its place.

    Args:
        ours: files that may be written over.
    """
    several = len({picture.within for picture in pictures if picture.within != picture.path}) > 1
    taken = {str(picture.path.resolve()).casefold() for picture in pictures}
    free = {str(path.resolve()) for path in ours}
    chosen = []
    for picture in pictures:
        inner = Path(picture.path.name)
        if picture.within != picture.path:
            inner = picture.path.relative_to(picture.within)
            inner = Path(picture.within.resolve().name) / inner if several else inner
        for target in _numbered(to / inner.with_suffix("")):
            whole = str(target.resolve())
            if whole.casefold() not in taken and (whole in free or not target.exists()):
                taken.add(whole.casefold())
                chosen.append(target)
                break
    return chosen


def _files(folder: Path, leave: Path | None) -> Iterator[Path]:
    """Every file below ``folder``, sorted; folders that are links are not followed."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if leave is None or not _same(Path(root, name), leave))
        yield from (Path(root, name) for name in sorted(names))


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _why_not(path: Path) -> str:
    if path.suffix.lower() not in ENDINGS or path.name.startswith("."):
        return "no image by its name"
    return "a track's high resolution" if _frame_of_track(path).lower() == "hr" else ""


def _frame_of_track(path: Path) -> str:
    """``lr`` or ``hr`` for a frame of a track, ``""`` for any other file."""
    frame = FRAME.fullmatch(path.name)
    return frame[1] if frame and path.parent.name.startswith(TRACK) else ""


def _numbered(path: Path) -> Iterator[Path]:
    yield path.with_name(f"{path.name}.png")
    number = 2
    while True:
        yield path.with_name(f"{path.name}-{number}.png")
        number += 1
