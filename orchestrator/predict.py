"""Reading image files, and restoring them where a task does so: lines for a person, a folder of results for programs.

RESULTS/
    predictions.json    what was read in each image, what was not and why, and what the frames of each track agree on
    ...png              each image restored, at the same place as in the folder it came from

Where the plan knows layouts, ``text`` stays what was really read, and ``text_constrained`` beside it is the likeliest
that a layout allows; a track votes on both. A recipe that restores lines of documents restores pages too: in tiles, at
their own size, without reading them.
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

from datasets.image import ImageFile
from datasets.line_image import LineSpec
from datasets.row import BadImage
from models.metrics.plates import vote
from orchestrator.files import write_json
from orchestrator.pages import is_page, restore_page
from orchestrator.pictures import Picture, Pictures, targets
from orchestrator.reader import Allowed, Reader, Restoration, read_images, restore_images

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


def restore_pictures(
    reader: Reader, pictures: Pictures, to: Path, *, as_json: bool, pages: bool = False, flip_vote: bool = False
) -> Predicted:
    """Restore and read each image; pictures and ``predictions.json`` go to ``to``, a table or JSON lines are printed.

    Files of ``to`` are written over only where an earlier ``predictions.json`` there names them.

    Args:
        pages: every image is a whole page, whatever its shape; else those that look like one are.
        flip_vote: of pages, see :func:`orchestrator.pages.restore_page`.
    """
    to.mkdir(parents=True, exist_ok=True)
    found = pictures.found
    places = targets(found, to, ours=_written_before(to))
    shown = _Lines.of(found, reader, as_json=as_json)
    images: list[dict[str, Any]] = []
    unreadable: list[dict[str, str]] = []
    results = _results(reader, [picture.path for picture in found], pages=pages, flip_vote=flip_vote)
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
    if shrunk := [each for each in images if each["restored"][0] < each["height"]]:
        high, wide = shrunk[0]["restored"]
        print(
            f"{len(shrunk)} of {len(images)} images came with more pixels than the network restores, and were shrunk "
            f"first: {shrunk[0]['source']} from {shrunk[0]['width']}x{shrunk[0]['height']}, restored {wide}x{high}",
            file=sys.stderr,
        )
    return Predicted(read=len(images), failed=len(unreadable))


@dataclass(frozen=True, kw_only=True)
class RestoredPage:
    """A page without padding, ``(h, w)`` uint8 as large as it came, and from how many tiles."""

    picture: np.ndarray
    tiles: int


Result = Restoration | RestoredPage | BadImage


def _results(
    reader: Reader, paths: Sequence[Path], *, pages: bool, flip_vote: bool
) -> Iterator[tuple[Path, Result]]:  # fmt: skip
    """What becomes of each image, in order: pages one by one, what lies between two of them some at once."""
    lines: list[Path] = []
    for path in paths:
        page = _page(reader, path, every=pages)
        if page is None:
            lines.append(path)
            continue
        yield from restore_images(reader, lines)
        lines = []
        picture, tiles = restore_page(reader, page, flip_vote=flip_vote)
        yield path, RestoredPage(picture=picture, tiles=tiles)
    yield from restore_images(reader, lines)


def _page(reader: Reader, path: Path, *, every: bool) -> np.ndarray | None:
    """The image where it is a page; None for lines, plates and what cannot be read."""
    if not isinstance(reader.recipe.image, LineSpec):
        return None
    try:
        image = ImageFile(str(path)).load()
    except BadImage:
        return None  # told with the reason when it is restored like a line
    return image if every or is_page(reader, *image.shape[:2]) else None


def say_passed(passed: Sequence[tuple[Path, str]]) -> None:
    """How many files of the folders were not looked at, by reason, and the first of them by name."""
    for reason in dict.fromkeys(why for _, why in passed):
        paths = [str(path) for path, why in passed if why == reason]
        more = f" and {len(paths) - PASSED_SHOWN} more" if len(paths) > PASSED_SHOWN else ""
        files = "file" if len(paths) == 1 else "files"
        print(f"passed over {len(paths)} {files} ({reason}): {', '.join(paths[:PASSED_SHOWN])}{more}", file=sys.stderr)


def _told(picture: Picture, result: Restoration | RestoredPage, target: Path) -> dict[str, Any]:
    height, width = result.picture.shape[:2] if isinstance(result, RestoredPage) else result.size
    track = {"track": picture.track} if picture.track else {}
    told = {
        "source": str(picture.path), **track, "height": height, "width": width, "picture": target.as_posix(),
        "restored": list(result.picture.shape[:2]),
    }  # fmt: skip
    if isinstance(result, RestoredPage):
        return {**told, "tiles": result.tiles}
    return {
        **told, "text": result.reading.text, "confidence": round(result.reading.confidence, 6),
        "confidences": [round(sure, 6) for sure in result.confidences], **_told_allowed(result.allowed),
    }  # fmt: skip


def _told_allowed(allowed: Allowed | None) -> dict[str, Any]:
    if allowed is None:
        return {}
    return {
        "text_constrained": allowed.text, "confidence_constrained": round(allowed.confidence, 6),
        "confidences_constrained": [round(sure, 6) for sure in allowed.confidences],
    }  # fmt: skip


def _tracks(images: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """What the frames of each track agree on; its confidence is the mean of those of its characters."""
    for name in dict.fromkeys(image["track"] for image in images if "track" in image and "text" in image):
        frames = [image for image in images if image.get("track") == name and "text" in image]
        kinds = ("", "_constrained") if "text_constrained" in frames[0] else ("",)
        votes = [_vote(frames, kind) for kind in kinds]
        yield {"track": name, "frames": len(frames)} | {key: value for each in votes for key, value in each.items()}


def _vote(frames: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Any]:
    text, sure = vote([(frame[f"text{kind}"], frame[f"confidences{kind}"]) for frame in frames])
    return {
        f"text{kind}": text, f"confidence{kind}": round(float(np.mean(sure)), 6) if sure else 0.0,
        f"confidences{kind}": [round(each, 6) for each in sure],
    }  # fmt: skip


@dataclass
class _Lines:
    """A table that grows line by line, or a JSON object a line; ``long`` texts stand at the end of their line.

    ``layouts``: beside what was read stands what a layout allows.
    """

    width: int
    as_json: bool
    long: bool = False
    layouts: bool = False
    within: str = ""

    @staticmethod
    def of(pictures: Sequence[Picture], reader: Reader, *, as_json: bool) -> _Lines:
        names = [str(picture.path) for picture in pictures] + [picture.track for picture in pictures]
        return _Lines(
            width=max(map(len, names), default=0), as_json=as_json, long=isinstance(reader.recipe.image, LineSpec),
            layouts=reader.constrained is not None,
        )  # fmt: skip

    def image(self, told: Mapping[str, Any]) -> None:
        self._row("image", told, told["source"], f"{told['width']}x{told['height']}", told["picture"])

    def track(self, told: Mapping[str, Any]) -> None:
        self._row("track", told, told["track"], str(told["frames"]), "")

    def _row(self, kind: str, told: Mapping[str, Any], name: str, size: str, picture: str) -> None:
        if self.as_json:
            print(json.dumps(told, ensure_ascii=False))
            return
        if self.within != kind:
            gap, second, last = ("\n", "frames", "") if kind == "track" else ("", "size", "picture")
            print(gap + self._line(kind, second, ("text", "by layout"), "sure", "least sure", last))
        self.within = kind
        if "text" not in told:
            print(self._line(name, size, ("", ""), "", f"{told['tiles']} tiles", picture))
            return
        texts = told["text"], told.get("text_constrained", "")
        print(self._line(name, size, texts, f"{told['confidence']:.3f}", _least_sure(told), picture))

    def _line(self, name: str, size: str, texts: tuple[str, str], sure: str, least: str, picture: str) -> str:
        text, allowed = texts
        facts = f"{sure:>6s}  {least:12s} {picture}"
        if self.long:
            line = f"{facts:46s} {text}"
        else:
            line = f"{text:10s} {allowed:10s} {facts}" if self.layouts else f"{text:10s} {facts}"
        return f"{name:{self.width}s}  {size:>9s}  {line}".rstrip()


def _least_sure(told: Mapping[str, Any]) -> str:
    """The character that is most likely wrong, as ``4. 8 0.52``."""
    confidences = told["confidences"]
    if not confidences:
        return "-"
    place = int(np.argmin(confidences))
    return f"{place + 1}. {told['text'][place]} {confidences[place]:.2f}"


def _write_picture(path: Path, picture: np.ndarray) -> None:
    """``(h, w, 3)`` RGB, ``(h, w, 1)`` or ``(h, w)`` grey uint8 as a PNG; any letters may be in ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = picture.ndim == 3 and picture.shape[2] == 3
    path.write_bytes(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if colour else picture)[1].tobytes())


def _written_before(to: Path) -> list[Path]:
    """The pictures that an earlier run wrote here; none where its list is gone or is not one."""
    try:
        images = json.loads((to / RESULTS).read_text(encoding="utf-8"))["images"]
        return [to / image["picture"] for image in images]
    except (OSError, ValueError, KeyError, TypeError):
        return []
