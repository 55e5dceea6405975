"""A scanned line on even white paper: what a worn line is to be restored to."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from datasets.row import ImageRef
from datasets.worn_line import line_grey

VERSION = 1  # raise it when the same scan gives other pixels


@dataclass(frozen=True)
class Flattened:
    """``image`` with its paper evened out to white and its ink stretched to black."""

    image: ImageRef

    def load(self) -> np.ndarray:
        """``(h, w)`` uint8. Raises :class:`~datasets.row.BadImage`."""
        return flattened(line_grey(self.image.load()))

    def stamp(self) -> str:
        return f"{self.image.stamp()} flattened {VERSION}"


def flattened(line: np.ndarray, *, paper: float = 0.96, faintest: float = 0.8) -> np.ndarray:
    """``(h, w)`` uint8 with paper at 255 and the darkest ink at 0.

    The light of the paper is the brightest nearby, blurred; each pixel becomes its share of it, and the shares between
    the darkest fiftieth and ``paper`` are stretched over all levels.

    Args:
        line: ``(h, w)`` uint8, dark ink on lighter paper.
        paper: share of the light from which on it is paper.
        faintest: ink is never taken to be lighter than this share, so that an empty line stays white.
    """
    reach = max(line.shape[0] // 3, 3) | 1
    still = cv2.medianBlur(line, 3)  # one bright speck is not the paper
    light = cv2.blur(cv2.dilate(still, np.ones((reach, reach), np.uint8)), (reach, reach)).astype(np.float32)
    share = line / np.maximum(light, 1)
    ink = min(float(np.percentile(share, 2)), faintest)
    return np.clip(np.rint((share - ink) * (255 / (paper - ink))), 0, 255).astype(np.uint8)
