"""Draws one word: clean for a demo, or with what a camera, a designer and a JPEG encoder do to words in a scene."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from random import Random
from typing import Literal

import cv2
import numpy as np

from datasets.fonts import name_and_size
from datasets.lettering import ellipse, inked, warped, weighted, written

Style = Literal["plain", "scene"]

VERSION = 1  # raise it when the same arguments draw other pixels
TILE = 512  # side of the precomputed noise and texture tiles
LUMA = np.array((0.299, 0.587, 0.114), np.float32)
NEIGHBOURS = (
    "the",
    "AND",
    "Road",
    "street",
    "HOTEL",
    "sale",
    "OPEN",
    "from",
    "Bank",
    "2008",
    "COFFEE",
    "park",
    "films",
)
# Ranges of luma between paper and ink; one is drawn, so the last ones overlap where signs mostly are.
CONTRASTS = ((40, 90), (80, 170), (110, 220), (120, 240), (140, 255), (170, 255))
THIN = 0.13 * 255  # mean of a mask of hairlines, which vanish when pale or blurred
PALE = 80  # luma between paper and ink below which a picture stays sharp and evenly lit


@dataclass(frozen=True)
class Drawn:
    """A word that is drawn when it is loaded: the same pixels from the same fields in every process.

    Attributes:
        font: path of the face.
        seed: of everything else about the picture.
    """

    text: str
    font: str
    seed: int
    style: Style
    colour: bool

    def load(self) -> np.ndarray:
        """``(h, w)`` uint8, or ``(h, w, 3)`` RGB when ``colour``; h is 14 to 56."""
        draw = plain if self.style == "plain" else scene
        return draw(self.text, self.font, Random(self.seed), colour=self.colour)

    def stamp(self) -> str:
        return f"{VERSION}:{self.style}:{self.seed}:{self.colour}:{name_and_size(self.font)}:{self.text}"


@dataclass(frozen=True, kw_only=True)
class Tones:
    """What a word is drawn with.

    Attributes:
        paper: float32 ``()`` grey or ``(3,)`` RGB, 0 to 255.
        ink: as ``paper``.
        contrast: how far their luma is apart.
    """

    paper: np.ndarray
    ink: np.ndarray
    contrast: float

    def between(self, share: float) -> np.ndarray:
        """The tone ``share`` of the way from paper (0) to ink (1); below 0 lies what is beyond the paper."""
        return self.paper + np.float32(share) * (self.ink - self.paper)


def plain(text: str, font: str, rng: Random, *, colour: bool) -> np.ndarray:
    """Upright text in one tone on another, with a little noise."""
    mask = warped(inked(text, font), rng, height=rng.randint(34, 44), bend=0.15)
    tones = chosen_tones(rng, contrast=rng.uniform(90, 230), colour=colour)
    image = covered(paper_of(mask.shape, tones), ink_of(mask), tones.ink)
    image += rng.uniform(0, 5) * part_of(noise_tile(), rng, image)
    return finished(image)


def scene(text: str, font: str, rng: Random, *, colour: bool) -> np.ndarray:
    """Text as on signs, posters and screens, from clean to hardly legible."""
    hardness = rng.random() ** 1.5  # most pictures are mild; every degradation below is scaled by it
    mask = weighted(written(text, font, rng), rng)
    mask = warped(mask, rng, height=rng.randint(30, 48), bend=0.3 + 0.9 * hardness)
    contrast = rng.uniform(*rng.choice(CONTRASTS))
    if mask.mean() < THIN:
        contrast = max(contrast, 140)
    if contrast < PALE:
        hardness /= 2  # a word that nobody can read teaches nothing
    tones = chosen_tones(rng, contrast=contrast, colour=colour)
    image = lettered(background(mask.shape, font, rng, tones), mask, rng, tones)
    if contrast > PALE and rng.random() < 0.35:
        image *= as_deep(field(rng, mask.shape, 0.95 - 0.4 * hardness, 1.15), image)
    return photographed(image, rng, hardness=hardness, contrast=contrast)


def chosen_tones(rng: Random, *, contrast: float, colour: bool) -> Tones:
    """Two tones whose luma differs by ``contrast``; either may be the lighter."""
    # Designers like the ends: black, white and what is close to them.
    low = (255 - contrast) * rng.betavariate(0.5, 0.6)
    dark, light = shade(rng, low, colour), shade(rng, low + contrast, colour)
    paper, ink = (light, dark) if rng.random() < 0.48 else (dark, light)
    return Tones(paper=paper, ink=ink, contrast=contrast)


def shade(rng: Random, luma: float, colour: bool) -> np.ndarray:
    """A tone of that luma (0 to 255): grey, or somewhere between grey and the most vivid colour that has it."""
    if not colour:
        return np.asarray(luma, np.float32)
    chroma = np.array((rng.random(), rng.random(), rng.random()), np.float32)
    chroma -= chroma @ LUMA
    room = np.where(chroma > 0, 255 - luma, luma) / np.maximum(np.abs(chroma), 1e-3)
    return np.float32(luma) + chroma * np.float32(room.min() * rng.choice((0, 0.15, 0.5, 1, 1)))


def paper_of(shape: tuple[int, ...], tones: Tones) -> np.ndarray:
    """``(h, w)`` float32, or ``(h, w, 3)`` when the tones are colours: an empty sheet."""
    image = np.empty((*shape, *tones.paper.shape), np.float32)
    image[:] = tones.paper
    return image


def ink_of(mask: np.ndarray) -> np.ndarray:
    """``(h, w)`` uint8 coverage as float32 from 0 to 1."""
    return mask.astype(np.float32) / np.float32(255)


def as_deep(plane: np.ndarray, image: np.ndarray) -> np.ndarray:
    """``(h, w)`` as it is, or ``(h, w, 1)`` where it meets an RGB picture."""
    return plane[..., None] if image.ndim == 3 else plane


def covered(image: np.ndarray, alpha: np.ndarray, tone: np.ndarray) -> np.ndarray:
    """``image`` with ``tone`` (one tone, or a picture of them) laid over it as far as ``alpha`` ``(h, w)`` says."""
    return image + as_deep(alpha, image) * (tone - image)


@functools.lru_cache(maxsize=1)
def noise_tile() -> np.ndarray:
    """``(TILE, TILE)`` float32 white noise, mean 0 and deviation 1."""
    return np.random.default_rng(20).standard_normal((TILE, TILE), dtype=np.float32)


@functools.lru_cache(maxsize=1)
def texture_tiles() -> tuple[np.ndarray, ...]:
    """``(TILE, TILE)`` float32 each, mean 0 and deviation 1: grain, clouds, brushed lines, blotches, leaves."""
    rng = np.random.default_rng(21)

    def clouds(x: float, y: float) -> np.ndarray:
        return cv2.GaussianBlur(rng.standard_normal((TILE, TILE), dtype=np.float32), (0, 0), sigmaX=x, sigmaY=y)

    grain, soft, wide = clouds(1, 1), clouds(4, 4), clouds(14, 14)
    across, upright = clouds(12, 0.7), clouds(0.7, 12)
    blotches = np.sign(clouds(6, 6)) + 0.3 * np.sign(clouds(2, 2))
    leaves = np.abs(clouds(3, 3) / 0.1) + cv2.GaussianBlur(np.sign(clouds(10, 5)), (0, 0), 0.8)
    mixed = soft / soft.std() + 0.6 * wide / wide.std() + 0.4 * grain / grain.std()
    tiles = (grain, soft, wide, across, upright, blotches, leaves, mixed)
    return tuple(((tile - tile.mean()) / tile.std()).astype(np.float32) for tile in tiles)


def part_of(tile: np.ndarray, rng: Random, image: np.ndarray) -> np.ndarray:
    """A random part of a tile, as large and as deep as ``image``."""
    height, width = image.shape[:2]
    if width > TILE:
        tile = np.tile(tile, (1, width // TILE + 1))
    y, x = rng.randrange(tile.shape[0] - height + 1), rng.randrange(tile.shape[1] - width + 1)
    return as_deep(tile[y : y + height, x : x + width], image)


def field(rng: Random, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """``(h, w)`` float32 that changes smoothly between values of ``[low, high]``."""
    corners = np.array([rng.uniform(low, high) for _ in range(6)], np.float32).reshape(2, 3)
    return cv2.resize(corners, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)


def background(shape: tuple[int, ...], font: str, rng: Random, tones: Tones) -> np.ndarray:
    """``(h, w)`` or ``(h, w, 3)`` float32 what is behind the word: flat, shaded, textured, or beside others."""
    image = paper_of(shape, tones)
    if rng.random() < 0.25:
        image += as_deep(field(rng, shape, -0.2, 0.2), image) * tones.contrast
    if rng.random() < 0.35:
        strength = min(rng.expovariate(10), 0.3) * tones.contrast
        image += strength * part_of(rng.choice(texture_tiles()), rng, image)
    if rng.random() < 0.1:
        lined(image, rng, tone=tones.between(rng.uniform(0.4, 1)))
    if rng.random() < 0.1:
        beside(image, font, rng, tone=tones.between(rng.uniform(0.6, 1)))
    return image


def lined(image: np.ndarray, rng: Random, *, tone: np.ndarray) -> None:
    """Draws a border line or a filled edge along one or two sides of ``image``."""
    for _ in range(rng.choice((1, 1, 2))):
        side = turned(image, rng.randrange(4))
        gap, thick = rng.choice((0, 0, rng.randint(0, 3))), rng.randint(1, max(image.shape[0] // 12, 1))
        side[gap : gap + thick] = tone


def turned(image: np.ndarray, side: int) -> np.ndarray:
    """A view of ``image`` in which that side (0 top, 1 bottom, 2 left, 3 right) is the first row."""
    flipped = image if side < 2 else image.swapaxes(0, 1)
    return flipped[::-1] if side % 2 else flipped


def beside(image: np.ndarray, font: str, rng: Random, *, tone: np.ndarray) -> None:
    """Draws the cut edge of another word above, below, left or right of the place for ``image``'s own."""
    word, side = inked(rng.choice(NEIGHBOURS), font), rng.randrange(4)
    height = max(int(image.shape[0] * 0.8), 1)
    word = cv2.resize(word, (max(word.shape[1] * height // word.shape[0], 1), height), interpolation=cv2.INTER_AREA)
    # The other word's bottom is seen at the top of the picture, its right end at the left.
    place, strip = turned(image, side), turned(word, side ^ 1)[: rng.randint(1, max(image.shape[0] // 8, 1))][::-1]
    start = rng.randrange(abs(place.shape[1] - strip.shape[1]) + 1)
    if strip.shape[1] > place.shape[1]:
        strip = strip[:, start : start + place.shape[1]]
        start = 0
    strip = strip[: place.shape[0]]
    part = place[: strip.shape[0], start : start + strip.shape[1]]
    part[:] = covered(part, ink_of(strip), tone)


def lettered(image: np.ndarray, mask: np.ndarray, rng: Random, tones: Tones) -> np.ndarray:
    """``image`` with the word on it: shadow or outline, then the letters, flat, shaded or textured."""
    ink, effect = tones.ink, rng.random()
    if effect < 0.14:
        shadow = cv2.warpAffine(ink_of(mask), moved(rng), (mask.shape[1], mask.shape[0]))
        if rng.random() < 0.6:
            shadow = cv2.GaussianBlur(shadow, (0, 0), rng.uniform(0.6, 2.5))
        image = covered(image, shadow * rng.uniform(0.4, 1), tones.between(rng.uniform(-0.8, -0.1)))
    elif effect < 0.24:
        edge = ink_of(cv2.dilate(mask, ellipse(rng.choice((3, 3, 5)))))
        hollow = rng.random() < 0.3  # letters of the paper's tone that only their edge shows
        image = covered(image, edge, ink if hollow else tones.between(rng.uniform(-0.8, 0)))
        ink = tones.between(rng.uniform(0, 0.25)) if hollow else ink
    if rng.random() < 0.2:
        ink = ink + as_deep(field(rng, mask.shape, -0.35, 0.35), image) * tones.contrast
    elif rng.random() < 0.12:
        ink = ink + rng.uniform(0.05, 0.25) * tones.contrast * part_of(rng.choice(texture_tiles()), rng, image)
    return covered(image, ink_of(mask), ink)


def moved(rng: Random) -> np.ndarray:
    """The matrix that puts a shadow one to four pixels aside."""
    x, y = rng.choice((-1, 1)) * rng.uniform(0.7, 3.5), rng.choice((-0.3, 1, 1)) * rng.uniform(0.7, 3.5)
    return np.array(((1, 0, x), (0, 1, y)), np.float32)


def photographed(image: np.ndarray, rng: Random, *, hardness: float, contrast: float) -> np.ndarray:
    """``image`` as a camera or a web page has it: blurred, small, noisy, compressed; uint8."""
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.35, 0.6 + 1.3 * hardness))
    if rng.random() < 0.12 * hardness:
        image = cv2.filter2D(image, -1, streak(rng.randint(3, 5), rng.random() < 0.7))
    noise = 0.0
    if rng.random() < 0.5:
        noise = rng.uniform(0, 3 + 0.1 * hardness * contrast)
        image = image + noise * part_of(noise_tile(), rng, image)
    if rng.random() < 0.45:
        image = coarse(image, rng.uniform(24 - 10 * hardness, 30), sharp=rng.random() < 0.3)
    small = finished(image)
    if rng.random() < 0.55:
        quality = int(rng.uniform(75 - 55 * hardness, 95))
        _, data = cv2.imencode(".jpg", small, (cv2.IMWRITE_JPEG_QUALITY, quality))
        decoded = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        assert decoded is not None  # it was encoded two lines above
        return decoded
    return small


@functools.lru_cache(maxsize=16)
def streak(length: int, across: bool) -> np.ndarray:
    """The kernel of a camera that moved by ``length`` pixels."""
    return np.full((1, length) if across else (length, 1), 1 / length, np.float32)


def coarse(image: np.ndarray, rows: float, *, sharp: bool) -> np.ndarray:
    """``image`` at about ``rows`` rows: what a small crop has. ``sharp`` skips the smoothing a good camera does."""
    height, width = image.shape[:2]
    scale = min(rows / height, 1.0)
    size = (max(round(width * scale), 4), max(round(height * scale), 4))
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR if sharp else cv2.INTER_AREA)


def finished(image: np.ndarray) -> np.ndarray:
    """The picture as uint8."""
    return np.clip(image, 0, 255).astype(np.uint8)
