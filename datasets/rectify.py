"""A plate seen from aside, made upright: cut out by its four corners with one perspective warp."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from datasets.row import BadImage, ImageRef

Corners = tuple[float, float, float, float, float, float, float, float]  # x and y of top left, then clockwise
SMALLEST = 3.0  # pixels of a plate's shortest side
FAR = 0.1  # of the picture's size: corners further outside than this were measured in another picture


def corners_of(points: Sequence[Sequence[float]]) -> Corners:
    """Four ``(x, y)``, clockwise from the top left, as :data:`Corners`. Raises :class:`BadImage` (bad_corners)."""
    try:
        quad = np.array([[float(x), float(y)] for x, y in points], np.float64)
    except (TypeError, ValueError) as error:
        raise BadImage("bad_corners", f"{str(points)[:120]}: four points (x, y) are needed") from error
    if quad.shape != (4, 2) or not np.isfinite(quad).all():
        raise BadImage("bad_corners", f"{str(points)[:120]}: four points (x, y) are needed")
    sides = np.roll(quad, -1, axis=0) - quad
    turns = sides[:, 0] * np.roll(sides[:, 1], -1) - sides[:, 1] * np.roll(sides[:, 0], -1)
    upright = sides[0, 0] > abs(sides[0, 1]) and -sides[2, 0] > abs(sides[2, 1])
    if np.hypot(*sides.T).min() < SMALLEST or (turns <= 0).any() or not upright:
        raise BadImage(
            "bad_corners",
            f"{quad.tolist()}: must be top left, top right, bottom right, bottom left of an upright plate",
        )
    x1, y1, x2, y2, x3, y3, x4, y4 = quad.ravel().tolist()
    return x1, y1, x2, y2, x3, y3, x4, y4


@dataclass(frozen=True)
class Rectified:
    """The part of a picture between four corners, as seen from straight ahead.

    The corners land on the same places of every rectified picture, in shares of its size, whatever its resolution: two
    pictures of one plate, each with its own corners, are in register.

    Attributes:
        image: the whole picture.
        corners: of the plate, in pixels.
        margin: added on each side, as a share of the plate's width and height.
        measured: height and width of the picture the corners were measured in, where it is another than ``image``.
    """

    image: ImageRef
    corners: Corners
    margin: float = 0.03
    measured: tuple[int, int] | None = None

    def load(self) -> np.ndarray:
        return rectified(self.image.load(), self.corners, self.margin, self.measured)

    def stamp(self) -> str:
        return f"{self.image.stamp()} rectified {self.corners} {self.margin} {self.measured}"


def rectified(
    image: np.ndarray, corners: Corners, margin: float = 0.0, measured: tuple[int, int] | None = None
) -> np.ndarray:
    """``(h, w)`` or ``(h, w, 3)`` uint8 in, the plate alone out, at the resolution it has in ``image``.

    Raises :class:`BadImage` (bad_corners) where the corners lie far outside the picture.
    """
    height, width = image.shape[:2]
    quad = np.array(corners, np.float32).reshape(4, 2)
    if measured is not None:
        quad *= np.array((width / measured[1], height / measured[0]), np.float32)
    low, high = quad.min(axis=0), quad.max(axis=0)
    if (low < (-FAR * width, -FAR * height)).any() or (high > ((1 + FAR) * width, (1 + FAR) * height)).any():
        raise BadImage("bad_corners", f"{quad.tolist()} lie outside the picture of {height}x{width} pixels")
    sides = np.hypot(*(np.roll(quad, -1, axis=0) - quad).T)
    wide, tall = float(sides[0] + sides[2]) / 2, float(sides[1] + sides[3]) / 2
    columns, rows = max(math.ceil(wide * (1 + 2 * margin)), 1), max(math.ceil(tall * (1 + 2 * margin)), 1)
    inner = np.array(((0, 0), (1, 0), (1, 1), (0, 1)), np.float32)
    places = (inner + margin) / (1 + 2 * margin) * np.array((columns, rows), np.float32)
    # Corners are edges between pixels, while the warp counts from the middle of the first pixel.
    matrix = cv2.getPerspectiveTransform(quad - 0.5, places - 0.5)
    return cv2.warpPerspective(image, matrix, (columns, rows), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
