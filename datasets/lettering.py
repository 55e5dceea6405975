"""The shape of a written word: a picture of its ink alone, spaced, bent, slanted and seen from aside."""

from __future__ import annotations

import functools
import math
from random import Random

import cv2
import numpy as np
from PIL import Image, ImageDraw

from datasets.fonts import EM, opened


def inked(text: str, font: str) -> np.ndarray:
    """``(h, w)`` uint8 the text at ``EM`` pixels, cut to its ink."""
    face = opened(font)
    left, top, right, bottom = face.getbbox(text)
    image = Image.new("L", (max(int(right - left), 1) + 4, max(int(bottom - top), 1) + 4))
    ImageDraw.Draw(image).text((2 - left, 2 - top), text, fill=255, font=face)
    return cut(np.asarray(image))


def cut(picture: np.ndarray) -> np.ndarray:
    """The part of ``(h, w)`` that holds ink; all of it when there is none."""
    x, y, width, height = cv2.boundingRect(picture)
    return picture[y : y + height, x : x + width] if width else picture


def spaced(text: str, font: str, rng: Random) -> np.ndarray:
    """``(h, w)`` uint8 the text with wider or tighter letters, which may dance around the line."""
    face = opened(font)
    gap = rng.choice((rng.uniform(-0.06, 0), rng.uniform(0.05, 0.2), rng.uniform(0.1, 0.45))) * EM
    dance = rng.uniform(0.03, 0.12) * EM if rng.random() < 0.2 else 0.0
    width = int(face.getlength(text) + max(gap, 0) * len(text)) + 2 * EM
    image = Image.new("L", (width, 3 * EM))
    draw = ImageDraw.Draw(image)
    for place, letter in enumerate(text):
        x = EM / 2 + face.getlength(text[:place]) + gap * place
        draw.text((x, EM * 0.75 + rng.uniform(-dance, dance)), letter, fill=255, font=face)
    return cut(np.asarray(image))


def written(text: str, font: str, rng: Random) -> np.ndarray:
    """``(h, w)`` uint8 the text, spaced, underlined or bent along an arc now and then."""
    several = len(text) > 1
    mask = spaced(text, font, rng) if several and rng.random() < 0.22 else inked(text, font)
    if rng.random() < 0.03:
        line, drop = rng.randint(1, 4), rng.randint(1, 5)
        mask = cv2.copyMakeBorder(mask, 0, line + drop, 0, 0, cv2.BORDER_CONSTANT, value=0)
        mask[-line:] = 255
    if len(text) > 2 and rng.random() < 0.1:
        mask = cut(arched(mask, rng.choice((-1, 1)) * rng.uniform(0.15, 0.9)))
    return mask


def arched(mask: np.ndarray, angle: float) -> np.ndarray:
    """``(h, w)`` text on an arc that turns by ``angle`` radians from end to end; below zero it hangs."""
    height, width = mask.shape
    radius = width / abs(angle)
    rise = int(radius * (1 - math.cos(angle / 2)) + height * 0.3) + 2
    sign = 1.0 if angle > 0 else -1.0
    x = np.arange(-height // 2, width + height // 2, dtype=np.float32)[None] - width / 2
    y = np.arange(-rise, height + rise, dtype=np.float32)[:, None] - height / 2
    from_centre = radius - sign * y
    source_x = np.arctan2(x, from_centre) * radius + width / 2
    source_y = sign * (radius - np.hypot(x, from_centre)) + height / 2
    return cv2.remap(mask, source_x.astype(np.float32), source_y.astype(np.float32), cv2.INTER_LINEAR)


def weighted(mask: np.ndarray, rng: Random) -> np.ndarray:
    """The text bolder (a third of the time) or a little lighter."""
    kind = rng.random()
    if kind < 0.3:
        size = rng.choice((2, 2, 3, 3, 4))
        mask = cv2.copyMakeBorder(mask, size, size, size, size, cv2.BORDER_CONSTANT, value=0)
        return cut(cv2.dilate(mask, ellipse(size)))
    if kind < 0.36 and np.count_nonzero(mask) > 0.35 * mask.size:
        return cv2.erode(mask, ellipse(2))  # thin faces would fall apart
    return mask


@functools.lru_cache(maxsize=16)
def ellipse(size: int) -> np.ndarray:
    """A round structuring element ``size`` pixels wide."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))


def warped(mask: np.ndarray, rng: Random, *, height: int, bend: float) -> np.ndarray:
    """``(height, w)`` the text stretched, slanted, turned and seen from aside, between margins that may cut it.

    Args:
        bend: 0 leaves the text straight, 1 turns it by up to 8 degrees or so.
    """
    tall, wide = mask.shape
    stretch = math.exp(rng.gauss(-0.08, 0.18)) if bend > 0.2 else math.exp(rng.gauss(0, 0.08))
    slant = rng.gauss(0, 0.05 * bend) + (rng.uniform(0.1, 0.35) if rng.random() < 0.12 * bend else 0)
    # A long word turned as far as a short one would fill its box with background.
    turn = rng.gauss(0, 0.07 * bend) / max(1.0, wide / tall / 2.5)
    corners = np.array(((0, 0), (wide, 0), (wide, tall), (0, tall)), np.float32)
    x, y = corners[:, 0] * stretch - slant * (corners[:, 1] - tall), corners[:, 1]
    seen = np.stack((x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)), 1)
    if bend > 0.2:
        jitter = 0.05 * bend * tall
        seen += np.array([rng.gauss(0, jitter) for _ in range(8)], np.float32).reshape(4, 2)
    seen -= seen.min(0)
    box = seen.max(0)
    above, below, left, right = (margin(rng, bend) for _ in range(4))
    scale = height / (box[1] * (1 + above + below))
    width = max(int(scale * (box[0] + box[1] * (left + right))), 6)
    seen = (seen + box[1] * np.array((left, above))) * scale
    matrix = cv2.getPerspectiveTransform(corners, seen.astype(np.float32))
    if scale < 0.6:
        mask = cv2.blur(mask, (2, 2))  # bilinear sampling alone would drop thin strokes
    return cv2.warpPerspective(mask, matrix, (width, height), flags=cv2.INTER_LINEAR)


def margin(rng: Random, bend: float) -> float:
    """Free space at one side, in heights of the text; below zero the side is cut."""
    if bend > 0.2 and rng.random() < 0.08:
        return rng.uniform(-0.05, 0)
    return min(rng.expovariate(9), 0.5)
