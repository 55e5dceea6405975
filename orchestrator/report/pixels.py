"""Pixels as a picture that stands in a page."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image


def picture(pixels: np.ndarray) -> str:
    """``(H, W)`` or ``(H, W, C)`` uint8 as a PNG in a ``data:`` address."""
    gray = pixels.ndim == 3 and pixels.shape[2] == 1
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if gray else pixels).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
