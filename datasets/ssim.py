"""Structural similarity of two uint8 pictures in NumPy and OpenCV, for data that are made before Torch is near."""

from __future__ import annotations

import cv2
import numpy as np

RANGE = 255.0
WINDOW = 11  # pixels; the Gaussian of sigma 1.5 that Wang et al. (2004) use
SIGMA = 1.5


def ssim(one: np.ndarray, other: np.ndarray) -> float:
    """The mean over the picture and its channels; 1 for equal pictures.

    Only windows that lie inside count. In a picture with a side under 11 pixels the window is the largest odd one that
    fits.

    Args:
        one: ``(h, w)`` or ``(h, w, 3)`` uint8.
        other: of the same shape.
    """
    if one.shape != other.shape or one.dtype != np.uint8 or other.dtype != np.uint8:
        raise ValueError(f"ssim of {one.dtype} {one.shape} and {other.dtype} {other.shape}; both must be uint8 alike")
    size = min(WINDOW, *one.shape[:2])
    size -= 1 - size % 2
    kernel = cv2.getGaussianKernel(size, SIGMA, cv2.CV_32F)
    # Moments about grey lose nothing, while those about 0 would cancel digits that float32 needs.
    x, y = one.astype(np.float32) - np.float32(RANGE / 2), other.astype(np.float32) - np.float32(RANGE / 2)
    edge = size // 2

    def smooth(plane: np.ndarray) -> np.ndarray:
        full = cv2.sepFilter2D(plane, cv2.CV_32F, kernel, kernel)
        return full[edge : full.shape[0] - edge, edge : full.shape[1] - edge]

    mean_x, mean_y = smooth(x), smooth(y)
    squares, product = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
    spread, shared = smooth(x * x + y * y) - squares, smooth(x * y) - product
    steady, calm = np.float32((0.01 * RANGE) ** 2), np.float32((0.03 * RANGE) ** 2)
    # The luminance term needs the true means, not those about grey.
    grey = np.float32(RANGE / 2)
    true_x, true_y = mean_x + grey, mean_y + grey
    luminance = (2 * true_x * true_y + steady) / (true_x * true_x + true_y * true_y + steady)
    return float(np.mean(luminance * (2 * shared + calm) / (spread + calm), dtype=np.float64))
