"""Structural similarity (Wang, Bovik, Sheikh, Simoncelli 2004): Gaussian window of 11 x 11, sigma 1.5, valid region.

A separable blur is a product with a banded matrix on either side, ``G_h x G_w^T``. Dense products of small matrices are
several times as fast as a depthwise convolution, forward and backward, and exact all the same.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from models.tensors import wide

SIDE = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03


def similarity(
    image: Tensor, target: Tensor, widths: Tensor | None = None, *, low: float = -1.0, high: float = 1.0
) -> Tensor:
    """``(B,)`` the mean of the similarity over channels and all windows that lie within the valid columns.

    0 with zero gradient for an image that is narrower than a window; see :func:`fits`. Always float32 or wider.

    Args:
        image: ``(B, C, H, W)``.
        target: as ``image``.
        widths: ``(B,)`` valid columns; all when omitted.
        low: the value of black, which must be known as well as the range: brightness is compared by ratios.
        high: the value of white.
    """
    if image.shape != target.shape:
        raise ValueError(f"similarity: {tuple(image.shape)} against {tuple(target.shape)}; they must be equally large")
    if min(image.shape[2:]) < SIDE:
        raise ValueError(f"similarity: {tuple(image.shape[2:])} pixels hold no window of {SIDE} x {SIDE}; enlarge them")
    with torch.autocast(image.device.type, enabled=False):
        found = similarity_map(wide(image), wide(target), low, high).mean(dim=(1, 2))  # (B, W - 10)
    if widths is None:
        return found.mean(dim=1)
    starts = torch.arange(found.shape[1], device=found.device)
    inside = starts + SIDE <= widths[:, None]  # (B, W - 10)
    return found.where(inside, 0).sum(dim=1) / inside.sum(dim=1).clamp(min=1)


def fits(widths: Tensor) -> Tensor:
    """``(B,)`` true where at least one window lies within the valid columns."""
    return widths >= SIDE


def similarity_map(image: Tensor, target: Tensor, low: float, high: float) -> Tensor:
    """``(B, C, H - 10, W - 10)`` the similarity in each window.

    Four moments suffice, for the two variances only occur as their sum.
    """
    moments = torch.stack([image, target, image.square() + target.square(), image * target])
    mean, other, squares, product = blurred(moments)
    c1, c2 = (K1 * (high - low)) ** 2, (K2 * (high - low)) ** 2
    structure = (2 * (product - mean * other) + c2) / (squares - mean.square() - other.square() + c2)
    mean, other = mean - low, other - low
    return structure * (2 * mean * other + c1) / (mean.square() + other.square() + c1)


def blurred(images: Tensor) -> Tensor:
    """``(..., H - 10, W - 10)`` the Gaussian mean of every window of ``(..., H, W)``."""
    rows, columns = (banded(size, images.device, images.dtype) for size in images.shape[-2:])
    return (rows @ images) @ columns.T


@lru_cache(maxsize=64)
def banded(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """``(size - 10, size)`` whose row ``i`` holds the Gaussian weights from column ``i`` on. Never write into it."""
    with torch.inference_mode(False):  # one made in inference mode could not take part in training later
        matrix = torch.zeros(size - SIDE + 1, size, dtype=dtype)
        matrix.as_strided((len(matrix), SIDE), (size + 1, 1)).copy_(torch.tensor(gaussian(), dtype=torch.float64))
        return matrix.to(device)


def gaussian() -> list[float]:
    """The window's eleven weights along one side; they sum to 1."""
    weights = [math.exp(-((place - SIDE // 2) ** 2) / (2 * SIGMA**2)) for place in range(SIDE)]
    return [weight / sum(weights) for weight in weights]
