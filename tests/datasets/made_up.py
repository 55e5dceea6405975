"""Made-up images and MATLAB arrays for the tests of sources."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from datasets.row import Reject, Row

NOISE = np.random.default_rng(0).integers(0, 256, (12, 30, 3), dtype=np.uint8)


def encoded(image: np.ndarray, ending: str = ".png") -> bytes:
    """``image`` (RGB or grey) as the bytes of an image file."""
    return cv2.imencode(ending, image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


def image_at(path: Path) -> Path:
    """``path`` with an image in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(NOISE))
    return path


def cells(*values: object) -> np.ndarray:
    """A 1xN MATLAB cell array, as ``savemat`` takes it."""
    array = np.empty((1, len(values)), object)
    array[0, :] = values
    return array


def structs(**fields: list[object]) -> np.ndarray:
    """A 1xN MATLAB struct array, as ``savemat`` takes it."""
    array = np.empty((1, len(next(iter(fields.values())))), [(name, object) for name in fields])
    for name, values in fields.items():
        for index, value in enumerate(values):
            array[name][0, index] = value
    return array


def rows_of(found: Iterable[Row | Reject]) -> list[Row]:
    return [row for row in found if isinstance(row, Row)]


def reasons_of(found: Iterable[Row | Reject]) -> dict[str, str]:
    """Id and reason of everything rejected."""
    return {row.id: row.reason for row in found if isinstance(row, Reject)}
