"""How a pair of pictures, low and high resolution of one thing, becomes two arrays of fixed size in exact register."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import cv2
import numpy as np

from datasets.row import BadImage

Box = tuple[int, int, int, int]  # top, left, height, width in low-resolution pixels


@dataclass(frozen=True, kw_only=True)
class PairSpec:
    """The shape of every stored pair. Part of a checkpoint's identity.

    The picture keeps its aspect ratio: it is enlarged or shrunk until it fits into ``height`` x ``width`` and stands in
    the middle; what is left is filled with ``pad``. The place is computed once, from the low-resolution picture (at
    prediction there is no other), and holds ``scale`` times as large for the high-resolution one.

    Attributes:
        height: of the low-resolution array, in pixels.
        width: likewise.
        scale: how many times higher and wider the high-resolution array is.
        pad: red, green and blue of what lies around the picture.
        enlarge: how a smaller picture is enlarged.
        shrink: how a larger one is shrunk; ``"bicubic"`` aliases.
        min_side: originals with a side under this many pixels are rejected as too small.
        max_aspect: originals wider than this many heights, or higher than this many widths, are rejected.
    """

    height: int = 16
    width: int = 48
    scale: int = 2
    pad: tuple[int, ...] = (127, 127, 127)
    enlarge: Literal["bicubic", "bilinear"] = "bicubic"
    shrink: Literal["area", "bicubic"] = "area"
    min_side: int = 3
    max_aspect: float = 12.0
    channels: ClassVar[int] = 3

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.scale, self.min_side) < 1 or not self.max_aspect >= 1:
            raise ValueError(
                f"PairSpec: height {self.height}, width {self.width}, scale {self.scale}, min_side {self.min_side}, "
                f"max_aspect {self.max_aspect}; each must be at least 1"
            )
        if len(self.pad) != 3 or not all(0 <= value <= 255 for value in self.pad):
            raise ValueError(f"PairSpec: pad is {self.pad}; red, green and blue from 0 to 255 are needed")

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def target_height(self) -> int:
        return self.scale * self.height

    @property
    def target_width(self) -> int:
        return self.scale * self.width

    def box(self, height: int, width: int) -> Box:
        """Where an original of ``height`` x ``width`` lies in the low-resolution array: top, left, height, width."""
        fit = min(self.height / height, self.width / width)
        rows = min(max(round(height * fit), 1), self.height)
        columns = min(max(round(width * fit), 1), self.width)
        return (self.height - rows) // 2, (self.width - columns) // 2, rows, columns

    def prepare(self, image: np.ndarray, target: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Both arrays of a pair.

        Args:
            image: the low-resolution original, ``(h, w)`` or ``(h, w, 3)`` RGB uint8 of any size.
            target: the high-resolution original, likewise; none where only the low resolution is known.

        Returns:
            ``(height, width, 3)`` and ``(scale * height, scale * width, 3)`` uint8, or none for the latter.

        Raises :class:`BadImage` (too_small, bad_aspect).
        """
        self._check(image, "low resolution")
        box = self.box(*image.shape[:2])
        if target is None:
            return self._laid(image, box, 1), None
        self._check(target, "high resolution")
        return self._laid(image, box, 1), self._laid(target, box, self.scale)

    def cut(self, array: np.ndarray, height: int, width: int) -> np.ndarray:
        """The picture alone, without padding, from an array that an original of ``height`` x ``width`` became.

        Args:
            array: ``(k * self.height, k * self.width, ...)``, for example a restored picture with k = ``scale``.
        """
        times = array.shape[0] // self.height
        top, left, rows, columns = (times * value for value in self.box(height, width))
        return array[top : top + rows, left : left + columns]

    def _check(self, image: np.ndarray, which: str) -> None:
        height, width = image.shape[:2]
        if min(height, width) < self.min_side:
            raise BadImage("too_small", f"{which}: {height}x{width} pixels; each side needs {self.min_side}")
        if max(height / width, width / height) > self.max_aspect:
            raise BadImage("bad_aspect", f"{which}: {height}x{width} pixels; at most {self.max_aspect:g} to 1")

    def _laid(self, image: np.ndarray, box: Box, times: int) -> np.ndarray:
        """``(times * height, times * width, 3)`` with the whole of ``image`` in ``times`` the box."""
        top, left, rows, columns = (times * value for value in box)
        if image.ndim == 2:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        array = np.empty((times * self.height, times * self.width, 3), np.uint8)
        array[:] = self.pad
        array[top : top + rows, left : left + columns] = self._resized(image, rows, columns)
        return array

    def _resized(self, image: np.ndarray, rows: int, columns: int) -> np.ndarray:
        height, width = image.shape[:2]
        if (height, width) == (rows, columns):
            return image
        if rows * columns < height * width:
            how = cv2.INTER_AREA if self.shrink == "area" else cv2.INTER_CUBIC
        else:
            how = cv2.INTER_CUBIC if self.enlarge == "bicubic" else cv2.INTER_LINEAR
        return cv2.resize(image, (columns, rows), interpolation=how)
