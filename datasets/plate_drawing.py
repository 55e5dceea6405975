"""Draws number plates as a camera sees them: old Brazilian, Mercosur, and the kind that states of the USA have."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

import cv2
import numpy as np

from datasets.drawing import field, noise_tile, part_of
from datasets.fonts import name_and_size
from datasets.lettering import ellipse
from datasets.plate_sheet import (
    Box,
    Colour,
    block,
    characters,
    dot,
    empty,
    framed,
    line,
    mixed,
    plain_font,
    shipped,
    tinted,
    vivid,
)

VERSION = 1  # raise it when the same arguments draw other pixels

TOWNS = (
    "SP - SAO PAULO",
    "SP - CAMPINAS",
    "RJ - RIO DE JANEIRO",
    "RJ - NITEROI",
    "ES - VITORIA",
    "ES - VILA VELHA",
    "PR - CURITIBA",
    "BA - SALVADOR",
    "PE - RECIFE",
    "MG - BETIM",
)
LANDS = ("Green Valley", "Northland", "Red River", "Lakeside", "Silver Coast", "HIGHLAND", "PRAIRIE", "EASTPORT")
MOTTOS = ("The Sunny State", "LAND OF LAKES", "First in Spirit", "Wild and Wide", "visit us", "OCEAN DRIVE")


@dataclass(frozen=True)
class DrawnPlate:
    """One frame of a track, drawn when it is loaded: the same pixels from the same fields in every process.

    Attributes:
        font: path of the face of the characters.
        seed: of the track: the plate, its colours, where it is seen from.
        frame: of the track; frames differ by small movements and noise.
        height: of the picture in pixels; the width follows the layout.
    """

    text: str
    layout: str
    font: str
    seed: int
    frame: int
    height: int

    def load(self) -> np.ndarray:
        """``(height, w, 3)`` RGB uint8."""
        sheet = DRAWINGS[self.layout](self.text, self.font, Random(self.seed))
        return photographed(sheet, Random(self.seed + 1), Random(self.seed + 2 + self.frame), self.height)

    def stamp(self) -> str:
        fields = (self.text, self.layout, self.seed, self.frame, self.height, VERSION, name_and_size(self.font))
        return "\n".join(map(str, fields))


def brazilian(text: str, font: str, rng: Random) -> np.ndarray:
    """``(h, w, 3)`` float32: grey with black characters, or red with white ones, below state and town."""
    if rng.random() < 0.82:
        paper, ink = tinted(rng, rng.uniform(165, 215), 0.05), tinted(rng, rng.uniform(15, 50), 0.1)
    else:
        paper, ink = (rng.uniform(150, 185), rng.uniform(25, 45), rng.uniform(30, 50)), tinted(rng, 225, 0.04)
    sheet = empty(3.08, paper)
    framed(sheet, mixed(paper, ink, 0.75), inset=0.03, thick=0.02)
    line(sheet, rng.choice(TOWNS), plain_font(), mixed(paper, ink, 0.85), box=(0.09, 0.13, 0.25, 0.87))
    gap = 0.055
    characters(sheet, text[:3], font, ink, box=(0.33, 0.06, 0.9, 0.43 - gap / 2))
    characters(sheet, text[3:], font, ink, box=(0.33, 0.43 + gap / 2, 0.9, 0.95))
    dot(sheet, (0.6, 0.43), 0.035, ink)
    for x in (0.07, 0.93):
        dot(sheet, (0.17, x), 0.025, mixed(paper, (40, 40, 40), 0.7))
    return sheet


def mercosur(text: str, font: str, rng: Random) -> np.ndarray:
    """``(h, w, 3)`` float32: white below a blue band, with characters in black or the colour of a service."""
    paper = tinted(rng, rng.uniform(205, 245), 0.03)
    kinds: tuple[Colour, ...] = ((25, 25, 30), (165, 25, 35), (20, 60, 150), (20, 110, 60))
    ink = rng.choices(kinds, (0.82, 0.12, 0.03, 0.03))[0]
    sheet = empty(3.08, paper)
    blue = (rng.uniform(10, 35), rng.uniform(50, 80), rng.uniform(140, 175))
    band = round(0.25 * sheet.shape[0])
    sheet[:band] = blue
    line(sheet, "BRASIL", plain_font(), (235, 235, 240), box=(0.05, 0.36, 0.2, 0.64))
    block(sheet, (30, 140, 70), box=(0.05, 0.9, 0.21, 0.965))
    dot(sheet, (0.13, 0.9325), 0.05, (235, 205, 40))
    for place in range(4):
        dot(sheet, (0.08 + 0.045 * (place % 2), 0.05 + 0.018 * place), 0.013, (215, 220, 225))
    characters(sheet, text, font, ink, box=(0.34, 0.1, 0.91, 0.955))
    line(sheet, "BR", plain_font(), ink, box=(0.78, 0.03, 0.91, 0.08))
    block(sheet, mixed(paper, (0, 0, 0), 0.6), box=(0.36, 0.035, 0.5, 0.08))
    framed(sheet, mixed(blue, ink, 0.3), inset=0.0, thick=0.025)
    return sheet


def american(text: str, font: str, rng: Random) -> np.ndarray:
    """``(h, w, 3)`` float32: any two colours, a state's name above, a motto below, often hills or a sun between."""
    hue = rng.random()
    if rng.random() < 0.85:
        paper = vivid(hue, rng.uniform(0, 0.3), rng.uniform(0.82, 1))
        ink = vivid(rng.choice((0.6, 0.63, 0.0, 0.35, rng.random())), rng.uniform(0.3, 0.95), rng.uniform(0.12, 0.5))
    else:
        paper, ink = vivid(hue, rng.uniform(0.5, 0.9), rng.uniform(0.25, 0.5)), vivid(0.15, rng.uniform(0, 0.3), 0.97)
    other = vivid(rng.random(), rng.uniform(0.3, 0.9), rng.uniform(0.35, 0.8))
    sheet = empty(2.0, paper)
    scenery(sheet, rng, mixed(paper, other, rng.uniform(0.3, 0.6)))
    accent = rng.choice((ink, mixed(other, ink, 0.5)))
    style = rng.choice(("DejaVuSerif-Bold.ttf", "DejaVuSerif-Italic.ttf", "DejaVuSans-Bold.ttf", "cmb10.ttf"))
    half = rng.uniform(0.17, 0.3)
    line(sheet, rng.choice(LANDS), shipped(style), accent, box=(0.06, 0.5 - half, 0.23, 0.5 + half))
    if rng.random() < 0.8:
        half = rng.uniform(0.15, 0.28)
        line(sheet, rng.choice(MOTTOS), shipped(style), accent, box=(0.83, 0.5 - half, 0.95, 0.5 + half))
    for left in (0.05, 0.79):
        if rng.random() < 0.45:
            sticker(sheet, rng, box=(0.06, left, 0.22, left + 0.16))
    edge = rng.uniform(0.04, 0.07)
    marked = rng.random() < 0.35 and len(text) > 5  # a dot, a dash or a gap in the middle, which is not read
    box = (rng.uniform(0.26, 0.29), edge, rng.uniform(0.76, 0.8), 1 - edge)
    if marked:
        half_text = len(text) - 4 if len(text) == 7 else 3
        apart(sheet, text, half_text, font, ink, box=box, mark=rng.choice(("dot", "dash", "none")))
    else:
        characters(sheet, text, font, ink, box=box)
    for x in (0.13, 0.87):
        for y in (0.07, 0.93):
            dot(sheet, (y, x), 0.03, mixed(paper, (30, 30, 30), 0.75))
    if rng.random() < 0.6:
        framed(sheet, mixed(paper, ink, 0.6), inset=0.015, thick=0.015)
    return sheet


DRAWINGS: Mapping[str, Callable[[str, str, Random], np.ndarray]] = {
    "Brazilian": brazilian,
    "Mercosur": mercosur,
    "US": american,
}


def apart(sheet: np.ndarray, text: str, at: int, font: str, colour: Colour, *, box: Box, mark: str) -> None:
    """Characters in two groups with a mark between them."""
    top, left, bottom, right = box
    gap = 0.06
    middle = left + (right - left - gap) * at / len(text)
    characters(sheet, text[:at], font, colour, box=(top, left, bottom, middle))
    characters(sheet, text[at:], font, colour, box=(top, middle + gap, bottom, right))
    place = ((top + bottom) / 2, middle + gap / 2)
    if mark == "dot":
        dot(sheet, place, 0.04, colour)
    elif mark == "dash":
        block(sheet, colour, box=(place[0] - 0.03, place[1] - 0.02, place[0] + 0.03, place[1] + 0.02))


def scenery(sheet: np.ndarray, rng: Random, colour: Colour) -> None:
    """Nothing, a gradient, hills, or a sun, paler than the characters."""
    height, width = sheet.shape[:2]
    kind = rng.choice(("none", "none", "gradient", "hills", "sun"))
    if kind == "gradient":
        ramp = np.linspace(0, 1, height, dtype=np.float32)[:, None, None] ** rng.uniform(0.7, 3)
        sheet += (ramp if rng.random() < 0.5 else ramp[::-1]) * (np.array(colour, np.float32) - sheet)
    elif kind == "hills":
        x = np.arange(width)
        steps, shift = rng.uniform(1, 3), rng.uniform(0, 6)
        ridge = height * (0.7 + 0.12 * np.sin(x / width * math.tau * steps + shift))
        outline = np.stack((x, ridge), 1).astype(np.int32).tolist()
        corners = np.array([*outline, [width - 1, height - 1], [0, height - 1]], np.int32)
        cv2.fillPoly(sheet, [corners], colour, cv2.LINE_AA)
    elif kind == "sun":
        dot(sheet, (rng.uniform(0.35, 0.6), rng.uniform(0.3, 0.7)), rng.uniform(0.15, 0.3), colour)


def sticker(sheet: np.ndarray, rng: Random, *, box: Box) -> None:
    block(sheet, vivid(rng.random(), rng.uniform(0.4, 0.9), rng.uniform(0.5, 0.95)), box=box)
    inner = (box[0] + 0.025, box[1] + 0.02, box[2] - 0.025, box[3] - 0.02)
    line(sheet, f"{rng.randrange(100):02d}", plain_font(), (250, 250, 250), box=inner)


def photographed(sheet: np.ndarray, track: Random, frame: Random, height: int) -> np.ndarray:
    """``(height, w, 3)`` uint8: the plate on a vehicle, from somewhere, in some light.

    Args:
        track: what all frames share: from where, how lit, on what.
        frame: what changes from frame to frame.
    """
    tall, wide = sheet.shape[:2]
    corners = np.array(((0, 0), (wide, 0), (wide, tall), (0, tall)), np.float32)
    turn, lean = track.gauss(0, 0.03) + frame.gauss(0, 0.006), track.gauss(0, 0.05) + frame.gauss(0, 0.008)
    seen = corners - np.array((wide / 2, tall / 2), np.float32)
    seen[:, 0] += lean * seen[:, 1]
    seen = seen @ np.array(((math.cos(turn), math.sin(turn)), (-math.sin(turn), math.cos(turn))), np.float32)
    seen += np.array([track.gauss(0, 0.018) + frame.gauss(0, 0.005) for _ in range(8)], np.float32).reshape(4, 2) * tall
    low, high = seen.min(axis=0), seen.max(axis=0)
    edges = np.array([max(track.gauss(0.05, 0.03) + frame.gauss(0, 0.01), 0.005) for _ in range(4)], np.float32) * tall
    size = high - low + edges[:2] + edges[2:]
    scale = height / float(size[1])
    places = (seen - low + edges[:2]) * scale
    columns = max(round(float(size[0]) * scale), 1)
    matrix = cv2.getPerspectiveTransform(corners, places.astype(np.float32))
    if scale < 0.8:
        sheet = cv2.GaussianBlur(sheet, (0, 0), 0.35 / scale)  # bilinear sampling alone would drop thin strokes
    shape = (columns, height)
    plate = cv2.warpPerspective(sheet, matrix, shape, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    there = cv2.warpPerspective(rounded(tall, wide), matrix, shape, flags=cv2.INTER_LINEAR)[..., None]
    return lit(plate, there, track, frame)


def lit(plate: np.ndarray, there: np.ndarray, track: Random, frame: Random) -> np.ndarray:
    """``(h, w, 3)`` uint8: the plate where ``there`` is 1, the vehicle around it, light, dirt, blur and noise."""
    height, width = plate.shape[:2]
    body = np.array(tinted(track, track.choice((30, 60, 110, 180)), 0.2), np.float32)
    behind = body * field(track, (height, width), 0.5, 1.1)[..., None]
    light = field(track, (height, width), 0.75, 1.08)[..., None]
    bright = np.float32(track.uniform(0.65, 1.1) * frame.uniform(0.95, 1.05))
    image = (behind + there * (plate - behind)) * light * bright + np.float32(track.uniform(0, 14))
    if track.random() < 0.25:
        dirt = part_of(noise_tile(), track, image[::8, ::8, 0])
        dirt = cv2.resize(dirt, (width, height), interpolation=cv2.INTER_CUBIC)
        image *= 1 - np.float32(track.uniform(0.05, 0.14)) * np.clip(dirt, 0, 2)[..., None]
    image = cv2.GaussianBlur(image, (0, 0), track.uniform(0.25, 0.45) * height / 64 + frame.uniform(0, 0.08))
    image += np.float32(frame.uniform(0.3, 1.5)) * part_of(noise_tile(), frame, image)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def rounded(height: int, width: int) -> np.ndarray:
    """``(height, width)`` float32 that is 1 inside a plate with rounded corners."""
    mask = np.zeros((height, width), np.float32)
    edge = height // 12
    mask[edge:-edge, edge:-edge] = 1
    return cv2.dilate(mask, ellipse(2 * edge + 1))
