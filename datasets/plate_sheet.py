"""The sheet that a number plate is drawn on: colours, marks, small print and the plate's own characters."""

from __future__ import annotations

import colorsys
from pathlib import Path
from random import Random

import cv2
import numpy as np

from datasets.fonts import shipped_paths
from datasets.lettering import ellipse, inked

TALL = 104  # pixels; every plate is drawn this high, before it is photographed
Colour = tuple[float, float, float]  # red, green and blue from 0 to 255
Box = tuple[float, float, float, float]  # top, left, bottom and right, in shares of the sheet


def tinted(rng: Random, level: float, spread: float) -> Colour:
    """Nearly grey."""
    red, green, blue = (min(level * rng.uniform(1 - spread, 1 + spread), 255) for _ in range(3))
    return red, green, blue


def vivid(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = (255 * part for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


def mixed(one: Colour, other: Colour, share: float) -> Colour:
    """``one`` with a ``share`` of ``other``."""
    red, green, blue = (a + share * (b - a) for a, b in zip(one, other, strict=True))
    return red, green, blue


def shipped(name: str) -> str:
    """The path of a face that comes with the project's dependencies."""
    return next(str(path) for path in shipped_paths() if path.name == name)


def plain_font() -> str:
    return shipped("DejaVuSans-Bold.ttf")


def empty(aspect: float, paper: Colour) -> np.ndarray:
    sheet = np.empty((TALL, round(TALL * aspect), 3), np.float32)
    sheet[:] = paper
    return sheet


def pixels(sheet: np.ndarray, box: Box) -> tuple[int, int, int, int]:
    """``box`` as rows and columns: top, left, bottom, right."""
    height, width = sheet.shape[:2]
    return round(box[0] * height), round(box[1] * width), round(box[2] * height), round(box[3] * width)


def block(sheet: np.ndarray, colour: Colour, *, box: Box) -> None:
    top, left, bottom, right = pixels(sheet, box)
    sheet[top:bottom, left:right] = colour


def dot(sheet: np.ndarray, place: tuple[float, float], radius: float, colour: Colour) -> None:
    """A disc; ``place`` in shares of height and width, ``radius`` of the height."""
    centre = (round(place[1] * sheet.shape[1] * 8), round(place[0] * sheet.shape[0] * 8))
    cv2.circle(sheet, centre, round(radius * sheet.shape[0] * 8), colour, -1, cv2.LINE_AA, 3)


def framed(sheet: np.ndarray, colour: Colour, *, inset: float, thick: float) -> None:
    """A border; ``inset`` and ``thick`` in heights."""
    height, width = sheet.shape[:2]
    stroke = max(round(thick * height), 1)
    start = round(inset * height) + stroke // 2
    cv2.rectangle(sheet, (start, start), (width - 1 - start, height - 1 - start), colour, stroke)


def laid(sheet: np.ndarray, mask: np.ndarray, top: int, left: int, colour: Colour) -> None:
    """``mask`` ``(h, w)`` uint8 laid onto the sheet in one colour, cut where it leaves it."""
    mask = mask[: sheet.shape[0] - top, : sheet.shape[1] - left]
    part = sheet[top : top + mask.shape[0], left : left + mask.shape[1]]
    part += mask[..., None].astype(np.float32) / np.float32(255) * (np.array(colour, np.float32) - part)


def resized(mask: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return cv2.resize(mask, (max(columns, 1), max(rows, 1)), interpolation=cv2.INTER_AREA)


def line(sheet: np.ndarray, text: str, font: str, colour: Colour, *, box: Box) -> None:
    """Small print that fills the height of ``box`` as far as its width allows, in its middle."""
    top, left, bottom, right = pixels(sheet, box)
    mask = inked(text, font)
    fit = min((bottom - top) / mask.shape[0], (right - left) / mask.shape[1])
    mask = resized(mask, round(mask.shape[0] * fit), round(mask.shape[1] * fit))
    laid(sheet, mask, (top + bottom - mask.shape[0]) // 2, (left + right - mask.shape[1]) // 2, colour)


def heavy(symbol: str, font: str) -> np.ndarray:
    """``(h, w)`` uint8 one character; light faces are drawn as bold as plates have them."""
    mask = inked(symbol, font)
    if "bold" in Path(font).stem.lower():
        return mask
    return cv2.dilate(cv2.copyMakeBorder(mask, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=0), ellipse(4))


def characters(sheet: np.ndarray, text: str, font: str, colour: Colour, *, box: Box) -> None:
    """The plate's own characters, as high as ``box``, each in the middle of an equal part of its width."""
    top, left, bottom, right = pixels(sheet, box)
    cell, tall = (right - left) / len(text), bottom - top
    zero = heavy("0", font)
    # One stretch for all, so that I and 1 stay narrow; what is wider than its part is squeezed alone.
    stretch = min(0.74 * cell / zero.shape[1], 1.15 * tall / zero.shape[0])
    for place, symbol in enumerate(text):
        mask = heavy(symbol, font)
        mask = resized(mask, tall, round(min(mask.shape[1] * stretch, 0.9 * cell)))
        laid(sheet, mask, top, round(left + cell * (place + 0.5) - mask.shape[1] / 2), colour)
