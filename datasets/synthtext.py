"""SynthText: 7 million words drawn into 858,750 photos, of which each word is cropped.

From https://www.robots.ox.ac.uk/~vgg/data/scenetext/ (SynthText.zip), for non-commercial research; cite Gupta, Vedaldi
and Zisserman, CVPR 2016. The root is the archive's ``SynthText`` folder::

    gt.mat                   imnames, wordBB and txt; its charBB is not read
    8/ballet_106_0.jpg ...

Going through ``gt.mat`` takes minutes: do it once, in one process. Scaled up from a made-up one of 40,000 images, the
child that reads it takes 2 GB of memory, and what it writes down for this process 1.2 GB of ``TMPDIR``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from datasets.image import MAX_PIXELS, ImageFile, inside
from datasets.matlab import Value, entries_of, text_of, texts_of
from datasets.on_disk import existing_folder, first_of_each, labelled, rejected
from datasets.row import BadImage, Reject, Row, SourceError
from datasets.splits import check_shares, held_out_groups

How = Literal["box", "perspective"]
Corners = tuple[tuple[float, float], ...]
FARTHEST = 1e6  # pixels; a corner beyond is no place in any photo


@dataclass(frozen=True)
class Crop:
    """A word inside a larger image.

    Attributes:
        path: the image file.
        corners: four ``(x, y)`` pixels: top left, top right, bottom right, bottom left of the word as it is read.
        how: ``"box"`` is the upright rectangle around the corners, clipped to the image; ``"perspective"`` straightens
            the word, and repeats the image's edge where the word runs over it.
    """

    path: str
    corners: Corners
    how: How

    def load(self) -> np.ndarray:
        image = _photo(self.path, self.stamp())
        x, y = np.array(self.corners).T  # (4,) each
        height, width = image.shape[:2]
        if x.max() <= 0 or y.max() <= 0 or x.min() >= width or y.min() >= height:
            raise BadImage(
                "outside_image", f"{self.path}: the word at {self.corners} is outside {width}x{height} pixels"
            )
        return self._upright(image) if self.how == "box" else self._straightened(image)

    def stamp(self) -> str:
        return ImageFile(self.path).stamp()

    def _upright(self, image: np.ndarray) -> np.ndarray:
        x, y = np.array(self.corners).T
        left, top = max(math.floor(x.min()), 0), max(math.floor(y.min()), 0)
        return image[top : math.ceil(y.max()), left : math.ceil(x.max())].copy()

    def _straightened(self, image: np.ndarray) -> np.ndarray:
        across, down = sides_of(self.corners)
        if across * down > MAX_PIXELS:
            raise BadImage(
                "too_large", f"{self.path}: a word of {across:.0f}x{down:.0f} pixels; at most {MAX_PIXELS:,}"
            )
        width, height = round(across), round(down)
        upright = np.array([(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)], np.float32)
        matrix = cv2.getPerspectiveTransform(np.array(self.corners, np.float32), upright)
        try:
            return cv2.warpPerspective(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
        except cv2.error as error:
            raise BadImage("unreadable", f"{self.path}: the word at {self.corners}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class SynthText:
    """The words of SynthText; a group is an image.

    Attributes:
        crop: how words are cut out, see :class:`Crop`. The two make different data sets.
        min_side: words with a side under this many pixels are rejected.
        valid_share: share of the images held out for validation; the rest is train.
        seed: which images those are.
    """

    crop: How = "box"
    min_side: float = 3
    valid_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_shares("SynthText", valid_share=self.valid_share)
        if self.crop not in ("box", "perspective") or self.min_side < 1:
            raise ValueError(
                f"SynthText: crop {self.crop!r}, min_side {self.min_side}; "
                "crop must be 'box' or 'perspective' and min_side at least 1"
            )

    def rows(self, root: Path | None) -> Iterator[Row | Reject]:
        folder = existing_folder(root, source="SynthText")
        yield from first_of_each(self._rows(folder))

    def describe(self, root: Path | None) -> Mapping[str, object]:
        return {
            "name": "SynthText in the Wild",
            "licence": "non-commercial research",
            "citation": "Gupta, Vedaldi, Zisserman: Synthetic Data for Text Localisation in Natural Images, CVPR 2016",
            "labels": "true case, punctuation kept",
            "group": "image",
            "crop": self.crop,
        }

    def _rows(self, folder: Path) -> Iterator[Row | Reject]:
        path = folder / "gt.mat"
        held_out = self._held_out(path) if self.valid_share else frozenset()
        for index, (image, boxes, texts) in enumerate(entries_of(path, "imnames", "wordBB", "txt")):
            name = text_of(image, where=f"{path}: imnames({index + 1})")
            yield from self._words(folder, name, boxes, texts, split="valid" if name in held_out else "train")

    def _held_out(self, path: Path) -> frozenset[str]:
        names = [text_of(image, where=f"{path}: imnames") for (image,) in entries_of(path, "imnames")]
        return held_out_groups(names, rows=round(self.valid_share * len(names)), seed=self.seed)

    def _words(self, folder: Path, name: str, boxes: Value, texts: Value, *, split: str) -> Iterator[Row | Reject]:
        try:
            path = str(inside(folder, name))
            corners, words = corners_of(boxes), words_of(texts)
            if len(corners) != len(words):
                raise BadImage("word_count", f"{len(words)} words but {len(corners)} boxes; which is whose is unknown")
        except BadImage as error:
            yield rejected(name, error)
            return
        for index, (word_corners, word) in enumerate(zip(corners, words, strict=True)):
            yield self._word(path, word_corners, word, id=f"{name}#{index}", group=name, split=split)

    def _word(self, path: str, corners: np.ndarray, word: str, *, id: str, group: str, split: str) -> Row | Reject:
        try:
            check_corners(corners, how=self.crop, min_side=self.min_side)
        except BadImage as error:
            return rejected(id, error)
        image = Crop(path, tuple((float(x), float(y)) for x, y in corners), self.crop)
        return labelled(image, word, id=id, group=group, split=split)


def corners_of(boxes: Value) -> np.ndarray:
    """``(n, 4, 2)`` corners of the words of one image from its ``(2, 4, n)`` or, for one word, ``(2, 4)`` wordBB."""
    try:
        found = np.array(boxes)  # (2, 4, n) or (2, 4)
    except ValueError as error:
        raise BadImage("bad_annotation", f"wordBB must be numbers: {error}") from error
    if found.size == 0:
        return np.empty((0, 4, 2))
    if found.shape[:2] != (2, 4) or found.ndim > 3 or found.dtype.kind not in "if":
        raise BadImage("bad_annotation", f"wordBB must be (2, 4, words) numbers, found {found.dtype} {found.shape}")
    return found.reshape(2, 4, -1).astype(np.float64).transpose(2, 1, 0)


def words_of(texts: Value) -> list[str]:
    """The words of one image in the order of its boxes: every string of txt, cut at blanks and line ends."""
    try:
        return " ".join(texts_of(texts, where="txt")).split()
    except SourceError as error:
        raise BadImage("bad_annotation", str(error)) from error


def check_corners(corners: np.ndarray, *, how: How, min_side: float) -> None:
    """Raises :class:`BadImage` (bad_box, too_small) for ``(4, 2)`` corners nothing can be cropped from."""
    found = f"corners {corners.tolist()}"
    if not np.isfinite(corners).all() or np.abs(corners).max() > FARTHEST:
        raise BadImage("bad_box", f"{found} are not all places in an image")
    across, down = np.ptp(corners, axis=0) if how == "box" else sides_of(corners)
    if min(across, down) < min_side:
        raise BadImage("too_small", f"{across:.1f}x{down:.1f} pixels; each side needs {min_side}")
    if how == "perspective" and not turns_right(corners):
        raise BadImage("bad_box", f"{found} do not go round the word clockwise from its top left")


def sides_of(corners: Corners | np.ndarray) -> tuple[float, float]:
    """The longer of the two sides across the word, and of the two sides down."""
    edges = [math.dist(corners[index], corners[(index + 1) % 4]) for index in range(4)]
    return max(edges[0], edges[2]), max(edges[1], edges[3])


def turns_right(corners: np.ndarray) -> bool:
    """Whether ``(4, 2)`` corners are a convex quadrilateral, clockwise with y pointing down."""
    edges = np.roll(corners, -1, axis=0) - corners  # (4, 2)
    onward = np.roll(edges, -1, axis=0)
    return bool((edges[:, 0] * onward[:, 1] - edges[:, 1] * onward[:, 0] > 0).all())


@lru_cache(maxsize=1)  # an image's words are rows one after the other: decode it once, not eight times
def _photo(path: str, stamp: str) -> np.ndarray:
    image = ImageFile(path).load()
    image.setflags(write=False)
    return image
