"""What paper looks like: clouds of light and dark, pieces of real pages, and ink that takes light away."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np


def cloud(shape: Sequence[int], cell: float, *, octaves: int, seed: int) -> np.ndarray:
    """``shape`` float32 in ``[0, 1]``, 0.5 on average: random grids, each twice as fine and half as strong as the last.

    Args:
        cell: pixels between the values of the first grid.
    """
    height, width = shape
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        pixels = max(round(cell / 2**octave), 2)
        grid = rng.random((height // pixels + 3, width // pixels + 3), dtype=np.float32)
        down, across = rng.random(), int(rng.integers(pixels))
        at = (np.arange(height, dtype=np.float32)[:, None] + np.float32(down * pixels)) / pixels
        row = at.astype(np.int64)[:, 0]
        rows = grid[row] + (at - row[:, None].astype(np.float32)) * (grid[row + 1] - grid[row])  # (height, cells)
        size = (grid.shape[1] * pixels, height)
        start = pixels // 2 + across  # left of it the first value alone would count
        layer = cv2.resize(rows, size, interpolation=cv2.INTER_LINEAR)[:, start : start + width]
        total += layer * np.float32(0.5**octave)
    return total * np.float32(1 / (2 - 2 / 2**octaves))


def piece(page: np.ndarray, shape: Sequence[int], down: float, across: float, zoom: float) -> np.ndarray:
    """``shape`` uint8 cut out of ``page``, which goes on mirrored beyond its edges where it is too small."""
    rows, columns = (max(round(size * zoom), 1) for size in shape)
    below, beside = max(rows - page.shape[0], 0), max(columns - page.shape[1], 0)
    top = round(down * max(page.shape[0] - rows, 0))
    left = round(across * max(page.shape[1] - columns, 0))
    cut = page[top : top + rows, left : left + columns]
    if below or beside:
        cut = cv2.copyMakeBorder(cut, 0, below, 0, beside, cv2.BORDER_REFLECT)
    return cv2.resize(cut, (shape[1], shape[0]), interpolation=cv2.INTER_AREA if zoom > 1 else cv2.INTER_LINEAR)


def inked(paper: np.ndarray, line: np.ndarray, ink: float) -> np.ndarray:
    """``paper`` with ``line`` written on it; full ink leaves the share ``ink`` of the paper's light."""
    return darkened(paper, (255 - line) * np.float32((1 - ink) / 255))


def darkened(image: np.ndarray, by: np.ndarray) -> np.ndarray:
    """``image`` without the share ``by`` of its light."""
    return cv2.multiply(image, 1 - by, dtype=cv2.CV_8U)


def levels(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
