"""Reading image files, and restoring them where a task does so: lines for a person, a folder of results for programs.

RESULTS/
    predictions.json    what was read in each image, what was not and why, and what the frames of each track agree on
    ...png              each image in high resolution, at the same place as in the folder it came from
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datasets.row import BadImage
from models.metrics.plates import vote
from orchestrator.files import write_json
from orchestrator.pictures import Picture, Pictures, targets
from orchestrator.reader import Reader, Restoration, read_images, restore_images

RESULTS = "predictions.json"
PASSED_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """How many images were read, and how many could not be."""

    read: int
    failed: int


def read_pictures(reader: Reader, pictures: Pictures, *, as_json: bool) -> Predicted:
    """One line for each image: its file, its text, and the probability of that text."""
    failed = 0
    for path, reading in read_images(reader, [picture.path for picture in pictures.found]):
        if isinstance(reading, BadImage):
            failed += 1
            print(f"{path}: {reading}", file=sys.stderr)
        elif as_json:
            print(json.dumps({"image": str(path), "text": reading.text, "confidence": round(reading.confidence, 6)}))
        else:
            print(f"{path}\t{reading.text}\t{reading.confidence:.3f}")
    return Predicted(read=len(pictures.found) - failed, failed=failed)


def restore_pictures(reader: Reader, pictures: Pictures, to: Path, *, as_json: bool) -> Predicted:
    """Restore and read each image; pictures and ``predictions.json`` go to ``to``, a table or JSON lines are printed.

    Files of ``to`` are written over only where an earlier ``predictions.json`` there names them.
    """
    to.mkdir(parents=True, exist_ok=True)
    found = pictures.found
    places = targets(found, to, ours=_written_before(to))
    shown = _Lines.of(found, as_json=as_json)
    images: list[dict[str, Any]] = []
    unreadable: list[dict[str, str]] = []
    results = restore_images(reader, [picture.path for picture in found])
    for picture, target, (path, result) in zip(found, places, results, strict=True):
        if isinstance(result, BadImage):
            unreadable.append({"source": str(path), "reason": result.reason, "detail": str(result)})
            print(f"{path}: {result}", file=sys.stderr)
            continue
        _write_picture(target, result.picture)
        images.append(_told(picture, result, target.relative_to(to)))
        shown.image(images[-1])
    tracks = list(_tracks(images))
    for track in tracks:
        shown.track(track)
    passed = [{"source": str(path), "reason": why} for path, why in pictures.passed]
    write_json(to / RESULTS, {
        "recipe": reader.recipe.name, "weights": reader.checkpoint.name, "images": images, "tracks": tracks,
        "unreadable": unreadable, "passed_over": passed,
    })  # fmt: skip
    return Predicted(read=len(images), failed=len(unreadable))


def say_passed(passed: Sequence[tuple[Path, str]]) -> None:
    """How many files of the folders were not looked at, by reason, and the first of them by name."""
    for reason in dict.fromkeys(why for _, why in passed):
        paths = [str(path) for path, why in passed if why == reason]
        more = f" and {len(paths) - PASSED_SHOWN} more" if len(paths) > PASSED_SHOWN else ""
        files = "file" if len(paths) == 1 else "files"
        print(f"passed over {len(paths)} {files} ({reason}): {', '.join(paths[:PASSED_SHOWN])}{more}", file=sys.stderr)


def _told(picture: Picture, result: Restoration, target: Path) -> dict[str, Any]:
    height, width = result.size
    track = {"track": picture.track} if picture.track else {}
    return {
        "source": str(picture.path), **track, "height": height, "width": width, "picture": target.as_posix(),
        "text": result.reading.text, "confidence": round(result.reading.confidence, 6),
        "confidences": [round(sure, 6) for sure in result.confidences],
    }  # fmt: skip


def _tracks(images: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """What the frames of each track agree on; its confidence is the mean of those of its characters."""
    for name in dict.fromkeys(image["track"] for image in images if "track" in image):
        frames = [image for image in images if image.get("track") == name]
        text, sure = vote([(frame["text"], frame["confidences"]) for frame in frames])
        yield {
            "track": name, "frames": len(frames), "text": text,
            "confidence": round(float(np.mean(sure)), 6) if sure else 0.0,
            "confidences": [round(each, 6) for each in sure],
        }  # fmt: skip


@dataclass
class _Lines:
    """A table that grows line by line, or a JSON object a line."""

    width: int
    as_json: bool
    within: str = ""

    @staticmethod
    def of(pictures: Sequence[Picture], *, as_json: bool) -> _Lines:
        names = [str(picture.path) for picture in pictures] + [picture.track for picture in pictures]
        return _Lines(width=max(map(len, names), default=0), as_json=as_json)

    def image(self, told: Mapping[str, Any]) -> None:
        size, sure = f"{told['width']}x{told['height']}", _least_sure(told)
        self._row("image", told, told["source"], f"{size:>9s}", sure, told["picture"])

    def track(self, told: Mapping[str, Any]) -> None:
        self._row("track", told, told["track"], f"{told['frames']:9d}", _least_sure(told), "")

    def _row(self, kind: str, told: Mapping[str, Any], name: str, size: str, sure: str, picture: str) -> None:
        if self.as_json:
            print(json.dumps(told, ensure_ascii=False))
            return
        if self.within != kind:
            gap, second, last = ("\n", "frames", "") if kind == "track" else ("", "size", "picture")
            head = f"{kind:{self.width}s}  {second:>9s}  {'text':10s} {'sure':>6s}  {'least sure':12s} {last}"
            print(f"{gap}{head.rstrip()}")
        self.within = kind
        line = f"{name:{self.width}s}  {size}  {told['text']:10s} {told['confidence']:6.3f}  {sure:12s} {picture}"
        print(line.rstrip())


def _least_sure(told: Mapping[str, Any]) -> str:
    """The character that is most likely wrong, as ``4. 8 0.52``."""
    confidences = told["confidences"]
    if not confidences:
        return "-"
    place = int(np.argmin(confidences))
    return f"{place + 1}. {told['text'][place]} {confidences[place]:.2f}"


def _write_picture(path: Path, picture: np.ndarray) -> None:
    """``(h, w, 3)`` RGB uint8 as a PNG; any letters may be in ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes())


def _written_before(to: Path) -> list[Path]:
    """The pictures that an earlier run wrote here; none where its list is gone or is not one."""
    try:
        images = json.loads((to / RESULTS).read_text(encoding="utf-8"))["images"]
        return [to / image["picture"] for image in images]
    except (OSError, ValueError, KeyError, TypeError):
        return []
