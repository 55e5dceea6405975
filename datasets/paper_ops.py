"""What age does to paper and ink, with fixed settings: plain data that does the same to the same line again.

All work on ``(h, w)`` uint8, dark ink on light paper, and keep size and place. Lengths are in heights of the picture
unless said otherwise. Blur, noise, compression and contrast are those of :mod:`datasets.degrade_ops`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np

from datasets.degrade_ops import Contrast, GaussianBlur, Jpeg, MotionBlur, Noise
from datasets.paper_light import cloud, darkened, inked, levels, piece

VERSION = 1  # raise it when the same settings give other pixels


def no_page(name: str) -> np.ndarray:
    raise KeyError(f"paper {name!r} is asked for, but no pages were given")


@dataclass(frozen=True, kw_only=True)
class Around:
    """What a line's damage needs besides the line.

    Attributes:
        page: name -> ``(H, W)`` uint8 of a page of old paper without its text.
        back: ``(h, w)`` uint8 line on the other side of the leaf; none leaves bleed-through without effect.
    """

    page: Callable[[str], np.ndarray] = field(default=no_page)
    back: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Thicken:
    """Ink runs: strokes ``radius`` pixels wider to every side, mixed with the line as it was by ``share``."""

    radius: int
    share: float

    def apply(self, image: np.ndarray) -> np.ndarray:
        return _mixed(image, cv2.erode(image, _disc(self.radius)), self.share)


@dataclass(frozen=True, kw_only=True)
class Thin:
    """Ink flakes off: strokes ``radius`` pixels thinner, mixed with the line as it was by ``share``."""

    radius: int
    share: float

    def apply(self, image: np.ndarray) -> np.ndarray:
        return _mixed(image, cv2.dilate(image, _disc(self.radius)), self.share)


@dataclass(frozen=True, kw_only=True)
class Fade:
    """Ink pales in places: by up to ``strength`` of its darkness, over patches of about ``patch``."""

    strength: float
    patch: float
    seed: int

    def apply(self, image: np.ndarray) -> np.ndarray:
        pale = cloud(image.shape, self.patch * image.shape[0], octaves=3, seed=self.seed)
        left = 1 - np.float32(self.strength) * np.clip(2 * pale - 0.5, 0, 1)
        return 255 - cv2.multiply(255 - image, left, dtype=cv2.CV_8U)


@dataclass(frozen=True, kw_only=True)
class OnPaper:
    """Written on a piece of real paper, which it darkens to the share ``ink`` where the ink is full.

    Attributes:
        page: name of the page.
        down: where the piece lies in the page: 0 at the top, 1 at the bottom.
        across: likewise from left to right.
        zoom: page pixels per pixel of the line.
        mirrored: whether the piece is turned over, left to right.
    """

    page: str
    down: float
    across: float
    zoom: float
    mirrored: bool
    ink: float

    def apply_around(self, image: np.ndarray, around: Around) -> np.ndarray:
        paper = piece(around.page(self.page), image.shape, self.down, self.across, self.zoom)
        return inked(paper[:, ::-1] if self.mirrored else paper, image, self.ink)


@dataclass(frozen=True, kw_only=True)
class OnMadePaper:
    """Written on made paper of grey ``tone``, cloudy by ``uneven`` and fibrous by ``fibre`` grey levels."""

    tone: float
    uneven: float
    fibre: float
    ink: float
    seed: int

    def apply(self, image: np.ndarray) -> np.ndarray:
        height = image.shape[0]
        clouds = cloud(image.shape, 2.5 * height, octaves=4, seed=self.seed) - 0.5
        grain = np.random.default_rng(self.seed).standard_normal(image.shape, dtype=np.float32)
        fibres = cv2.GaussianBlur(grain, (0, 0), 0.8)
        paper = self.tone + np.float32(2 * self.uneven) * clouds + np.float32(2 * self.fibre) * fibres
        return inked(levels(np.minimum(paper, 250)), image, self.ink)


@dataclass(frozen=True, kw_only=True)
class BleedThrough:
    """The line on the back shows through, mirrored and blurred, ``across`` and ``down`` heights away."""

    strength: float
    blur: float
    across: float
    down: float

    def apply_around(self, image: np.ndarray, around: Around) -> np.ndarray:
        if around.back is None:
            return image
        height, width = image.shape
        back = around.back[:, ::-1]
        fit = height / back.shape[0]
        moved = np.array([[fit, 0, self.across * height], [0, fit, self.down * height]], np.float32)
        back = cv2.warpAffine(back, moved, (width, height), flags=cv2.INTER_LINEAR, borderValue=255)
        back = cv2.GaussianBlur(back, (0, 0), max(self.blur * height, 0.3))
        return darkened(image, (255 - back) * np.float32(self.strength / 255))


@dataclass(frozen=True, kw_only=True)
class Stains:
    """Water and dirt: clouds above ``threshold`` darken by ``strength``, more at their tide line."""

    strength: float
    patch: float
    octaves: int
    threshold: float
    tide: float
    seed: int

    def apply(self, image: np.ndarray) -> np.ndarray:
        clouds = cloud(image.shape, self.patch * image.shape[0], octaves=self.octaves, seed=self.seed)
        above = clouds - np.float32(self.threshold)
        wet = np.clip(above * 8, 0, 1)
        edge = np.clip(1 - np.abs(above - 0.02) * 60, 0, 1)
        return darkened(image, np.float32(self.strength) * wet + np.float32(self.strength * self.tide) * edge)


@dataclass(frozen=True, kw_only=True)
class Foxing:
    """``spots`` small brown spots, their radius up to ``radius``."""

    spots: int
    radius: float
    strength: float
    seed: int

    def apply(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape
        lots = np.random.default_rng(self.seed).random((self.spots, 4))
        spots = np.zeros((height, width), np.uint8)
        for across, down, size, dark in lots.tolist():
            place = round(across * 8 * width), round(down * 8 * height)
            reach = round(8 * max((0.25 + 0.75 * size) * self.radius * height, 0.6))
            cv2.circle(spots, place, reach, round(255 * (0.4 + 0.6 * dark)), -1, cv2.LINE_AA, 3)
        soft = cv2.GaussianBlur(spots, (0, 0), max(0.3 * self.radius * height, 0.5))
        return darkened(image, soft * np.float32(self.strength / 255))


@dataclass(frozen=True, kw_only=True)
class Fold:
    """A crease from edge to edge: dark by ``strength``, its one side lit. ``at`` and ``slant`` in widths and degrees.

    ``slant`` 0 is upright; ``width`` is in heights.
    """

    at: float
    slant: float
    width: float
    strength: float

    def apply(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape
        angle = math.radians(self.slant)
        x = (np.arange(width, dtype=np.float32) - self.at * width) * math.cos(angle)
        y = (np.arange(height, dtype=np.float32) - height / 2) * math.sin(angle)
        away = (x + y[:, None]) / np.float32(max(self.width * height, 0.7))
        np.clip(away, -8, 8, out=away)
        crease = np.exp(-0.5 * away * away)
        lit = np.exp(-0.5 * (away - 2.5) ** 2)
        return cv2.multiply(image, 1 - np.float32(self.strength) * (crease - 0.25 * lit), dtype=cv2.CV_8U)


@dataclass(frozen=True, kw_only=True)
class Hole:
    """A worm hole or burnt spot with a ragged edge: what is under it turns to grey ``tone``."""

    across: float
    down: float
    radius: float
    tone: int
    seed: int

    def apply(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape
        turn = np.linspace(0, 2 * math.pi, 13)[:-1]
        reach = self.radius * height * (0.6 + 0.8 * np.random.default_rng(self.seed).random(12))
        edge = np.stack([self.across * width + reach * np.cos(turn), self.down * height + reach * np.sin(turn)], 1)
        hole = np.zeros((height, width), np.uint8)
        cv2.fillPoly(hole, [np.rint(8 * edge).astype(np.int32)], 255, cv2.LINE_AA, 3)
        soft = cv2.GaussianBlur(hole, (0, 0), 1.0)
        return _mixed_by(image, np.full_like(image, self.tone), soft * np.float32(1 / 255))


@dataclass(frozen=True, kw_only=True)
class MedianBlur:
    """Each pixel the median of ``size`` x ``size`` pixels; ``size`` is odd."""

    size: int

    def apply(self, image: np.ndarray) -> np.ndarray:
        return cv2.medianBlur(image, self.size)


@dataclass(frozen=True, kw_only=True)
class Streaks:
    """``count`` upright lines one or two pixels wide, darker or lighter by up to ``strength``, as scanners leave."""

    count: int
    strength: float
    seed: int

    def apply(self, image: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        gain = np.ones(image.shape[1], np.float32)
        places = rng.integers(0, image.shape[1], self.count)
        changes = rng.uniform(-1, 0.5, self.count).astype(np.float32) * self.strength
        for place, change, two in zip(places.tolist(), changes.tolist(), rng.integers(1, 3, self.count), strict=True):
            gain[place : place + int(two)] += change
        return cv2.multiply(image, np.broadcast_to(np.maximum(gain, 0), image.shape).copy(), dtype=cv2.CV_8U)


PlainOp = (
    Thicken | Thin | Fade | OnMadePaper | Stains | Foxing | Fold | Hole | MedianBlur | Streaks
    | GaussianBlur | MotionBlur | Noise | Jpeg | Contrast
)  # fmt: skip
PaperOp = PlainOp | OnPaper | BleedThrough
PAPER_OPS: Mapping[str, type[PaperOp]] = {
    kind.__name__: kind
    for kind in (
        Thicken, Thin, Fade, OnPaper, OnMadePaper, BleedThrough, Stains, Foxing, Fold, Hole, MedianBlur, Streaks,
        GaussianBlur, MotionBlur, Noise, Jpeg, Contrast,
    )
}  # fmt: skip


def paper_ops_from(data: Sequence[Mapping[str, Any]]) -> tuple[PaperOp, ...]:
    """The operations that :func:`plain_paper_ops` wrote. Raises ``ValueError`` for what is none."""
    ops: list[PaperOp] = []
    for item in data:
        settings = {name: value for name, value in item.items() if name != "op"}
        try:
            ops.append(PAPER_OPS[item["op"]](**settings))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{item} is no operation on paper; known: {', '.join(PAPER_OPS)}") from error
    return tuple(ops)


def plain_paper_ops(ops: Sequence[PaperOp]) -> list[dict[str, Any]]:
    """The operations as JSON data."""
    return [{"op": type(op).__name__, **asdict(op)} for op in ops]


def worn(ops: Sequence[PaperOp], image: np.ndarray, around: Around) -> np.ndarray:
    """``(h, w)`` uint8 after all operations, as large as before."""
    for op in ops:
        image = op.apply_around(image, around) if isinstance(op, OnPaper | BleedThrough) else op.apply(image)
    return image


def _disc(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def _mixed(image: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    return cv2.addWeighted(image, 1 - share, other, share, 0)


def _mixed_by(image: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    return levels(image + (other.astype(np.float32) - image) * share)
