"""Ink or paper, by classical thresholds: what a learned restorer of documents has to beat."""

from __future__ import annotations

import cv2
import numpy as np


def otsu(page: np.ndarray) -> np.ndarray:
    """``(H, W)`` bool, true for ink, of ``(H, W)`` uint8: one threshold for the page (Otsu, 1979)."""
    level, _ = cv2.threshold(page, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return page <= level


def sauvola(page: np.ndarray, *, window: int = 25, k: float = 0.2, span: float = 128.0) -> np.ndarray:
    """``(H, W)`` bool, true for ink, of ``(H, W)`` uint8: a threshold per pixel (Sauvola and Pietikainen, 2000).

    The threshold is ``mean * (1 + k * (deviation / span - 1))`` over ``window`` x ``window`` pixels, mirrored at edges.
    """
    if window < 3 or window % 2 == 0:
        raise ValueError(f"sauvola: window is {window}; an odd number of at least 3 is needed")
    values = page.astype(np.float64)
    mean = cv2.blur(values, (window, window), borderType=cv2.BORDER_REFLECT_101)
    square = cv2.sqrBoxFilter(values, cv2.CV_64F, (window, window), borderType=cv2.BORDER_REFLECT_101)
    deviation = np.sqrt(np.maximum(square - mean * mean, 0))
    return values <= mean * (1 + k * (deviation / span - 1))
