"""How a text line and its clean twin become two grey arrays of one height, any width, in exact register."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import cv2
import numpy as np

from datasets.row import BadImage

Box = tuple[int, int, int, int]  # top, left, height, width in pixels
WHITE = 255  # what stands to the right of a line in a batch: paper, not ink


@dataclass(frozen=True, kw_only=True)
class LineSpec:
    """The shape of every stored pair of lines. Part of a checkpoint's identity.

    The height is fixed and the aspect ratio kept: ``w = ceil(height * W / H)`` of the degraded line, between
    ``min_width`` and ``max_width``. The clean line, which must have the same aspect, becomes exactly as large.

    Attributes:
        height: pixels; what the networks are built for.
        min_width: narrower lines are stretched to this many columns.
        max_width: wider lines follow ``wider``.
        wider: ``"squeeze"`` to ``max_width`` (counted in the manifest) or ``"reject"``.
        min_side: originals with a side under this many pixels are rejected as too small.
    """

    height: int = 128
    min_width: int = 32
    max_width: int = 1024
    wider: Literal["squeeze", "reject"] = "squeeze"
    min_side: int = 4
    scale: ClassVar[int] = 1
    channels: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 0 < self.min_width <= self.max_width or min(self.height, self.min_side) < 1:
            raise ValueError(
                f"LineSpec: height {self.height}, min_width {self.min_width}, max_width {self.max_width}, min_side "
                f"{self.min_side}; all must be positive and min_width <= max_width"
            )
        if self.wider not in ("squeeze", "reject"):
            raise ValueError(f"LineSpec: wider is {self.wider!r}; allowed: squeeze, reject")

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def natural_width(self, height: int, width: int) -> int:
        """Columns of an original of ``height`` x ``width`` before the limits apply."""
        return math.ceil(self.height * width / height)

    def box(self, height: int, width: int) -> Box:
        """Where an original of ``height`` x ``width`` lies in its array: all of it, as nothing is padded."""
        return 0, 0, self.height, min(max(self.natural_width(height, width), self.min_width), self.max_width)

    def prepare(self, image: np.ndarray, target: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Both arrays of a pair, ``(height, w)`` uint8 each, dark ink on light paper as the originals have it.

        Args:
            image: the degraded line, ``(h, w)`` or ``(h, w, 3)`` RGB uint8 of any size.
            target: the clean line, likewise; none where only the degraded one is known.

        Raises :class:`BadImage` (too_small, too_wide, out_of_register).
        """
        height, width = image.shape[:2]
        natural = self._checked(height, width, "degraded line")
        if natural > self.max_width and self.wider == "reject":
            raise BadImage("too_wide", f"{natural} columns at height {self.height}; at most {self.max_width}")
        columns = self.box(height, width)[3]
        if target is None:
            return self._resized(image, columns), None
        other = self._checked(target.shape[0], target.shape[1], "clean line")
        if abs(other - natural) > 1:  # one column is rounding, two are another cut
            raise BadImage(
                "out_of_register",
                f"{height}x{width} pixels degraded, {target.shape[0]}x{target.shape[1]} clean; "
                "one aspect is needed, or letters would not lie on each other",
            )
        return self._resized(image, columns), self._resized(target, columns)

    def _checked(self, height: int, width: int, which: str) -> int:
        if min(height, width) < self.min_side:
            raise BadImage("too_small", f"{which}: {height}x{width} pixels; each side needs {self.min_side}")
        return self.natural_width(height, width)

    def _resized(self, image: np.ndarray, columns: int) -> np.ndarray:
        """``(height, columns)`` grey; shrunk by area, enlarged bilinearly."""
        if image.ndim == 3:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        height, width = image.shape
        how = cv2.INTER_AREA if height > self.height or width > columns else cv2.INTER_LINEAR
        return cv2.resize(image, (columns, self.height), interpolation=how)
