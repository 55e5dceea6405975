"""The operations of degradation, with fixed settings: plain data that does the same to the same picture again.

Lengths are in heights of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import cv2
import numpy as np

VERSION = 1  # raise it when the same settings give other pixels


@dataclass(frozen=True, kw_only=True)
class GaussianBlur:
    """Out of focus; ``sigma`` in heights of the picture."""

    sigma: float

    def apply(self, image: np.ndarray) -> np.ndarray:
        sigma = self.sigma * image.shape[0]
        return cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0.05 else image


@dataclass(frozen=True, kw_only=True)
class MotionBlur:
    """Moved by ``length`` heights of the picture in the direction of ``angle`` degrees."""

    length: float
    angle: float

    def apply(self, image: np.ndarray) -> np.ndarray:
        half = self.length * image.shape[0] / 2
        if half < 0.1:
            return image
        return cv2.filter2D(image, -1, _streak(half, math.radians(self.angle)), borderType=cv2.BORDER_REPLICATE)


def _streak(half: float, angle: float) -> np.ndarray:
    """``(n, n)`` float32 that sums to 1: a line through the middle, ``half`` pixels to either side."""
    reach = math.ceil(half)
    along = np.linspace(-half, half, 8 * reach + 1)
    x, y = reach + along * math.cos(angle), reach + along * math.sin(angle)
    kernel = np.zeros((2 * reach + 2, 2 * reach + 2), np.float32)
    left, top = np.floor(x + 1e-9).astype(int), np.floor(y + 1e-9).astype(int)
    right, below = x - left, y - top  # each point is shared between the four pixels around it
    for rows, columns, part in (
        (top, left, (1 - below) * (1 - right)),
        (top, left + 1, (1 - below) * right),
        (top + 1, left, below * (1 - right)),
        (top + 1, left + 1, below * right),
    ):
        np.add.at(kernel, (rows, columns), part)
    return kernel[:-1, :-1] / np.float32(len(along))


@dataclass(frozen=True, kw_only=True)
class Downsample:
    """Made ``rows`` pixels high, aspect kept: as the mean of the area, or by bicubic samples, which alias.

    A picture that is no higher already stays as it is.
    """

    rows: int
    how: Literal["area", "bicubic"]

    def apply(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        if self.rows >= height:
            return image
        size = (max(round(width * self.rows / height), 1), self.rows)
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA if self.how == "area" else cv2.INTER_CUBIC)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Gaussian noise of ``deviation`` grey levels, the same in all channels where ``grey``."""

    deviation: float
    grey: bool
    seed: int

    def apply(self, image: np.ndarray) -> np.ndarray:
        shape = image.shape if image.ndim == 2 or not self.grey else (*image.shape[:2], 1)
        noise = np.random.default_rng(self.seed).standard_normal(shape, dtype=np.float32)
        return _levels(image + np.float32(self.deviation) * noise)


@dataclass(frozen=True, kw_only=True)
class Jpeg:
    """Compressed and decoded again; ``quality`` from 1 to 100."""

    quality: int

    def apply(self, image: np.ndarray) -> np.ndarray:
        colour = image.ndim == 3
        stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if colour else image
        _, data = cv2.imencode(".jpg", stored, (cv2.IMWRITE_JPEG_QUALITY, self.quality))
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB if colour else cv2.IMREAD_GRAYSCALE)
        assert decoded is not None  # it was encoded two lines above
        return decoded


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Contrast times ``gain`` around middle grey, then ``brightness`` grey levels brighter."""

    gain: float
    brightness: float

    def apply(self, image: np.ndarray) -> np.ndarray:
        levels = (np.arange(256, dtype=np.float32) - 128) * self.gain + 128 + self.brightness
        return cv2.LUT(image, _levels(levels))


Op = GaussianBlur | MotionBlur | Downsample | Noise | Jpeg | Contrast
OPS: Mapping[str, type[Op]] = {
    kind.__name__: kind for kind in (GaussianBlur, MotionBlur, Downsample, Noise, Jpeg, Contrast)
}


def _levels(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def plain_ops(ops: Sequence[Op]) -> list[dict[str, Any]]:
    """The operations as JSON data."""
    return [{"op": type(op).__name__, **asdict(op)} for op in ops]


def ops_from(data: Sequence[Mapping[str, Any]]) -> tuple[Op, ...]:
    """The operations that :func:`plain_ops` wrote. Raises ``ValueError`` for what is none."""
    ops: list[Op] = []
    for item in data:
        settings = {name: value for name, value in item.items() if name != "op"}
        try:
            ops.append(OPS[item["op"]](**settings))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{item} is no operation; known: {', '.join(OPS)}") from error
    return tuple(ops)


def applied(ops: Sequence[Op], image: np.ndarray) -> np.ndarray:
    """``(h, w)`` or ``(h, w, 3)`` uint8 after all operations, at the size the last one leaves."""
    for op in ops:
        image = op.apply(image)
    return image
