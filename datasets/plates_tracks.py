"""Tracks of plates, far and near: LRLPR-26 and UFPR-SR-Plates as they are handed out.

Both are given for research after a signed agreement (LRLPR-26: the ICPR 2026 competition on low-resolution licence
plates; UFPR-SR-Plates: its Scenario-A). The root holds, at any depth, folders of one plate each::

    Scenario-A/Brazilian/track_00001/lr-001.png ... hr-001.png ... annotations.json

with ``.png`` or ``.jpg`` frames and ``{"plate_text": "ABC1234", "plate_layout": "Brazilian", "corners": ...}``.
``corners`` may be missing; it may name frames, each with four points, as an object (``top-left`` ...) or as a list; or
it may be one bare list of points, which says neither which frame nor which resolution it was measured in, so that such
a track is taken without. A pair is made upright only when both its frames have corners: then each plate is cut out by
its own, and both land on the same places. Otherwise both are taken whole.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.image import ImageFile, inside
from datasets.on_disk import existing_folder, file_bytes, rejected, storable, utf8_text
from datasets.plate_splits import stratified_splits
from datasets.plate_text import BadLabel, PlateLabels
from datasets.rectify import Corners, Rectified, corners_of
from datasets.register import Register, Registered
from datasets.row import BadImage, ImageRef, Reject, Row, SourceError
from datasets.splits import check_shares

FRAME = re.compile(r"(lr|hr)-(\d+)\.(png|jpg|jpeg)", re.IGNORECASE)
POINTS = ("top-left", "top-right", "bottom-right", "bottom-left")
NOTES = "annotations.json"


@dataclass(frozen=True, kw_only=True)
class PlateTracks:
    """One row for each frame that is there in both resolutions; a track's frames stay together.

    Rows are grouped by plate text, so that neither a track nor a vehicle seen twice is in two splits, and held out in
    the same proportion of plates from each scenario and layout. A track without any high-resolution frame is a test
    track: its rows have no target.

    Attributes:
        labels: which texts can be right.
        margin: kept around plates with corners, as a share of the plate.
        register: bring the high resolution of pairs without corners onto the low one; as they come when none.
        valid_share: share of the plates held out for validation.
        test_share: likewise for test.
        seed: which plates those are.
    """

    labels: PlateLabels = field(default_factory=PlateLabels)
    margin: float = 0.03
    register: Register | None = None
    valid_share: float = 0.1
    test_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_shares("PlateTracks", valid_share=self.valid_share, test_share=self.test_share)

    def rows(self, root: Path | None) -> Iterator[Row | Reject]:
        folder = existing_folder(root, source="PlateTracks")
        found = [self._track(folder, *track) for track in _tracks(folder)]
        if not found:
            raise SourceError(f"{folder}: no folder track_* with frames like lr-001.png in it; is this the root?")
        tracks = [track for track in found if isinstance(track, _Track)]
        splits = self._splits(tracks)
        for track in found:
            if isinstance(track, _Track):
                yield from self._rows(folder, track, splits[track.plate])
            else:
                yield from track

    def describe(self, root: Path | None) -> Mapping[str, object]:
        return {
            "name": "LRLPR-26 / UFPR-SR-Plates",
            "licence": "research only, by signed agreement",
            "layouts": {name: list(patterns) for name, patterns in self.labels.layouts.items()},
        }

    def _splits(self, tracks: Iterable[_Track]) -> dict[str, str]:
        """The split of every plate; one with a track that has no high resolution is a test plate."""
        tracks = list(tracks)
        blind = {track.plate for track in tracks if not track.pairs}
        open_ones = [(track.plate, track.stratum) for track in tracks if track.plate not in blind]
        splits = stratified_splits(open_ones, valid_share=self.valid_share, test_share=self.test_share, seed=self.seed)
        return splits | dict.fromkeys(blind, "test")

    def _track(self, root: Path, folder: str, files: Mapping[str, Mapping[str, list[str]]]) -> _Track | list[Reject]:
        """The track, or its frames refused with the reason."""
        frames = sorted({*files["lr"], *files["hr"]})
        try:
            notes = _notes(root, folder)
            scenario, above = _place(folder)
            noted = str(notes.get("plate_layout") or "")
            if noted and above and self.labels.layout(noted) != self.labels.layout(above):
                raise BadLabel("contradicts_layout", f"{folder} lies in {above}, but is noted to be {noted}")
            plate, layout = self.labels.read(str(notes.get("plate_text") or ""), noted or above)
        except BadLabel as error:
            return [error.reject(f"{folder}/{frame}") for frame in frames]
        except BadImage as error:
            return [rejected(f"{folder}/{frame}", error) for frame in frames]
        return _Track(folder=folder, files=files, plate=plate, layout=layout, scenario=scenario,
                      corners=notes.get("corners"))  # fmt: skip

    def _rows(self, root: Path, track: _Track, split: str) -> Iterator[Row | Reject]:
        for frame in sorted({*track.files["lr"], *track.files["hr"]}):
            id = f"{track.folder}/{frame}"
            low, high = track.files["lr"].get(frame, []), track.files["hr"].get(frame, [])
            if len(low) > 1 or len(high) > 1:
                yield Reject(id=id, reason="duplicate_frame", detail=storable(f"{', '.join([*low, *high])}"))
            elif not low or (track.pairs and not high):
                there, missing = (high, "low") if not low else (low, "high")
                yield Reject(id=id, reason="no_pair", detail=f"{there[0]} has no {missing}-resolution frame beside it")
            else:
                yield self._row(root, track, id, split, low[0], high[0] if high else "")

    def _row(self, root: Path, track: _Track, id: str, split: str, low: str, high: str) -> Row | Reject:
        names = [low, *([high] if high else [])]
        try:
            corners = [track.corners_of(name) for name in names]
            files = [ImageFile(str(inside(root, f"{track.folder}/{name}"))) for name in names]
        except BadImage as error:
            return rejected(id, error)
        cut = [Rectified(file, quad, self.margin) for file, quad in zip(files, corners, strict=True) if quad]
        images: list[ImageRef] = list(cut) if len(cut) == len(files) else list(files)
        extras = {
            "track": track.folder,
            "frame": int(id.rpartition("/")[2]),
            "scenario": track.scenario,
            "layout": track.layout,
            "rectified": len(cut) == len(files),
        }
        target = images[1] if high else None
        if target is not None and self.register is not None and len(cut) < len(files):
            target = Registered(image=target, onto=images[0], how=self.register, strict=split == "train")
        return Row(id=id, image=images[0], target=target, text=track.plate, group=track.plate, split=split,
                   extras=extras)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Track:
    """One folder with a label that can be right; ``files`` are names by resolution and frame."""

    folder: str
    files: Mapping[str, Mapping[str, list[str]]]
    plate: str
    layout: str
    scenario: str
    corners: object

    @property
    def pairs(self) -> bool:
        """Whether there is any high resolution."""
        return bool(self.files["hr"])

    @property
    def stratum(self) -> str:
        return f"{self.scenario}/{self.layout}"

    def corners_of(self, name: str) -> Corners | None:
        """The plate's corners in one frame, or none. Raises :class:`BadImage` (bad_corners)."""
        if not isinstance(self.corners, Mapping) or self.corners.get(name) is None:
            return None
        given = self.corners[name]
        if isinstance(given, Mapping):
            missing = [point for point in POINTS if point not in given]
            if missing:
                raise BadImage("bad_corners", f"{name}: no {', '.join(missing)}")
            given = [given[point] for point in POINTS]
        if not isinstance(given, list | tuple):
            raise BadImage("bad_corners", f"{name}: {given!r:.80} are no four points")
        return corners_of(given)


def _tracks(root: Path) -> Iterator[tuple[str, dict[str, dict[str, list[str]]]]]:
    """Every folder ``track_*`` with frames, by path, with the names of its frames by resolution and number."""

    def refuse(error: OSError) -> None:
        raise SourceError(f"{error.filename}: cannot be listed ({error.strerror}); check its permissions") from error

    for parent, folders, names in os.walk(root, onerror=refuse):
        folders.sort()
        if not Path(parent).name.startswith("track_"):
            continue
        files: dict[str, dict[str, list[str]]] = {"lr": {}, "hr": {}}
        for name in sorted(names):
            frame = FRAME.fullmatch(name)
            if frame:
                files[frame[1].lower()].setdefault(frame[2], []).append(name)
        if files["lr"] or files["hr"]:
            yield Path(parent).relative_to(root).as_posix(), files


def _notes(root: Path, folder: str) -> Mapping[str, Any]:
    """What is noted of a track. Raises :class:`BadImage` (no_annotations, bad_annotations)."""
    path = inside(root, f"{folder}/{NOTES}")
    if not path.is_file():
        raise BadImage("no_annotations", f"{folder} has no {NOTES}, so nothing says what the plate reads")
    try:
        notes = json.loads(utf8_text(file_bytes(path), name=str(path)))
    except (ValueError, RecursionError) as error:  # SourceError is a ValueError; one bad file costs one track
        raise BadImage("bad_annotations", f"{folder}/{NOTES}: {error}") from error
    if not isinstance(notes, dict):
        raise BadImage("bad_annotations", f"{folder}/{NOTES}: must be a JSON object, found {type(notes).__name__}")
    return notes


def _place(folder: str) -> tuple[str, str]:
    """Scenario and layout as the folders above a track say, empty where they do not."""
    parts = folder.split("/")[:-1]
    for place, part in enumerate(parts):
        if part.lower().startswith("scenario"):
            return part, parts[place + 1] if place + 1 < len(parts) else ""
    return "", ""
