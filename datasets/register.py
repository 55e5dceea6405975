"""Two pictures of one plate brought onto each other: for pairs that were taken at different moments.

The high resolution is moved onto the low one by the enhanced correlation coefficient (Evangelidis and Psarakis, 2008),
which does not mind another brightness or contrast. It goes uphill from where it starts, so it starts twice: as the pair
lies, and by the shift that phase correlation finds. The correlation that was reached is stored with the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import cv2
import numpy as np

from datasets.row import BadImage, ImageRef

SMOOTHED = 5  # pixels of the Gaussian window that both pictures are looked at through
LEAST_GAIN = 1e-6  # of correlation, below which another iteration is not worth it
Motion = Literal["translation", "affine", "homography"]
MOTIONS: Mapping[str, int] = {
    "translation": cv2.MOTION_TRANSLATION,
    "affine": cv2.MOTION_AFFINE,
    "homography": cv2.MOTION_HOMOGRAPHY,
}


@dataclass(frozen=True, kw_only=True)
class Register:
    """How pairs are brought into register.

    Attributes:
        motion: what may be between the two pictures.
        least: correlation, -1 to 1, below which they are not taken for two pictures of one thing.
        farthest: how far a corner may move, as a share of the picture's width and height.
        iterations: at most.
    """

    motion: Motion = "homography"
    least: float = 0.6
    farthest: float = 0.25
    iterations: int = 100

    def __post_init__(self) -> None:
        if self.motion not in MOTIONS:
            raise ValueError(f"Register: motion is {self.motion!r}; allowed: {', '.join(MOTIONS)}")
        if not -1 < self.least < 1 or not 0 < self.farthest <= 1 or self.iterations < 1:
            raise ValueError(
                f"{self}: least must lie between -1 and 1, farthest above 0 and up to 1, iterations be at least 1"
            )


@dataclass(frozen=True, kw_only=True)
class Registered:
    """The high resolution of a pair as it lies on the low one, at its own size.

    Attributes:
        image: the high resolution; ``onto`` the low one.
        strict: a pair that cannot be brought into register is refused (``unregistered``); else it stays as it came,
            and the row says so: what is held out for a test stays in the test.
    """

    image: ImageRef
    onto: ImageRef
    how: Register
    strict: bool = True

    def load(self) -> np.ndarray:
        return self.load_told()[0]

    def load_told(self) -> tuple[np.ndarray, Mapping[str, object]]:
        high, low = self.image.load(), self.onto.load()
        before = correlation(high, low)
        try:
            moved, after = registered(high, low, self.how)
        except BadImage as error:
            if self.strict:
                raise
            return high, {"registered": {"before": round(before, 4), "failed": error.detail}}
        told = {"motion": self.how.motion, "before": round(before, 4), "correlation": round(after, 4)}
        return moved, {"registered": told}

    def stamp(self) -> str:
        return f"{self.image.stamp()} registered on {self.onto.stamp()} {asdict(self.how)} {self.strict}"


def correlation(high: np.ndarray, low: np.ndarray) -> float:
    """-1 to 1 of two pictures of one place, whatever their sizes; 0 where one is all of one grey."""
    one, other = (each - each.mean() for each in _alike(high, low))
    size = float(np.sqrt((one * one).sum() * (other * other).sum()))
    return float((one * other).sum()) / size if size else 0.0


def registered(high: np.ndarray, low: np.ndarray, how: Register) -> tuple[np.ndarray, float]:
    """``high`` moved onto ``low``, of its own size, and the correlation of both then.

    Args:
        high: ``(h, w)`` or ``(h, w, 3)`` uint8.
        low: the same thing in other pixels.

    Raises :class:`BadImage` (unregistered).
    """
    seen, wanted = _alike(high, low)
    window = cv2.createHanningWindow(seen.shape[::-1], cv2.CV_32F)
    # OpenCV 5 writes the window into what it is given
    shift, _ = cv2.phaseCorrelate(wanted.copy(), seen.copy(), window)
    found = [each for start in ((0.0, 0.0), shift) if (each := _climbed(seen, wanted, start, how)) is not None]
    if not found:
        raise BadImage("unregistered", "the search found no way to bring the pair into register")
    after, matrix = max(found, key=lambda each: each[0])
    height, width = high.shape[:2]
    if after < how.least:
        raise BadImage("unregistered", f"correlation {after:.3f}; at least {how.least:g} is asked for")
    if (far := _farthest(matrix, height, width)) > how.farthest:
        raise BadImage("unregistered", f"a corner would move by {far:.2f} of the picture; at most {how.farthest:g}")
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    moved = cv2.warpPerspective(high, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return moved, after


def _climbed(
    seen: np.ndarray, wanted: np.ndarray, start: Sequence[float], how: Register
) -> tuple[float, np.ndarray] | None:
    """Correlation and ``(3, 3)`` motion at the top of the hill that the shift ``start`` is on; none without a top."""
    motion = np.eye(3, dtype=np.float32)
    motion[:2, 2] = start
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, how.iterations, LEAST_GAIN)
    motion = motion if how.motion == "homography" else motion[:2]
    try:
        after, matrix = cv2.findTransformECC(wanted, seen, motion, MOTIONS[how.motion], stop, None, SMOOTHED)  # type: ignore[call-overload]
    except cv2.error:  # it says no more than that the search did not end
        return None
    return float(after), np.vstack([matrix, [0, 0, 1]])[:3].astype(np.float64)


def _alike(high: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in grey float32 of the size of ``high``, which is made as coarse as ``low``."""
    greys = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) if each.ndim == 3 else each for each in (high, low)]
    (height, width), (rows, columns) = (grey.shape for grey in greys)
    if rows * columns < height * width:
        greys[0] = cv2.resize(greys[0], (columns, rows), interpolation=cv2.INTER_AREA)
    large = [cv2.resize(grey, (width, height), interpolation=cv2.INTER_CUBIC) for grey in greys]
    return large[0].astype(np.float32), large[1].astype(np.float32)


def _farthest(matrix: np.ndarray, height: int, width: int) -> float:
    """How far any corner moves, as a share of width or height, whichever is more."""
    corners = np.array([[[0, 0], [width, 0], [width, height], [0, height]]], np.float64)
    moved = cv2.perspectiveTransform(corners, matrix) - corners
    return float(np.abs(moved / (width, height)).max())
