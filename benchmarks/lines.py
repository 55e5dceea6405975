"""Lines of text drawn for the figures: dark ink on white, and what the paper chain makes of them."""

from __future__ import annotations

import string
from random import Random

import cv2
import numpy as np

SYMBOLS = " " + string.digits + string.ascii_letters
FACE = cv2.FONT_HERSHEY_COMPLEX


def clean_line(number: int, height: int, width: int) -> tuple[np.ndarray, str]:
    """``(height, width)`` uint8 of random words across the whole width, and its text; the same for the same number."""
    rng, text = Random(number), ""
    scale = height / 60
    while cv2.getTextSize(text + "w", FACE, scale, 2)[0][0] < 0.95 * width:
        text += " " if text and text[-1] != " " and rng.random() < 0.2 else rng.choice(SYMBOLS[1:])
    image = np.full((height, width), 255, np.uint8)
    cv2.putText(image, text, (height // 8, round(0.66 * height)), FACE, scale, 0, max(height // 40, 1), cv2.LINE_AA)
    return image, text.rstrip()
