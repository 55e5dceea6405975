"""A clean line made old: its ink worn, written on old paper, stained, folded and photographed badly; by lot, on record.

A :class:`PaperChain` says which steps there are, in order, and between which limits their settings are drawn. Drawing
from a seed and a line's id gives operations with fixed settings, stored with the line; nothing depends on where the
line stands in a list. After the published chain of GAN-HTR (Khamekhem Jemni et al., Pattern Recognition 123, 2022,
arXiv 2105.12710), with the effects that others added to it.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from random import Random

from datasets.degrade_ops import Contrast, GaussianBlur, Jpeg, MotionBlur, Noise
from datasets.paper_ops import (
    BleedThrough,
    Fade,
    Fold,
    Foxing,
    Hole,
    MedianBlur,
    OnMadePaper,
    OnPaper,
    PaperOp,
    Stains,
    Streaks,
    Thicken,
    Thin,
)

Limits = tuple[float, ...]  # least and greatest value


def _between(rng: Random, limits: Limits) -> float:
    return round(limits[0] + (limits[1] - limits[0]) * rng.random(), 4)


def _whole(rng: Random, limits: Limits) -> int:
    return rng.randint(int(limits[0]), int(limits[1]))


@dataclass(frozen=True, kw_only=True)
class Strokes:
    """Makes the strokes of a ``share`` of the lines thicker or thinner; ``thicker`` says what share of those."""

    share: float = 0.4
    thicker: float = 0.6
    amount: Limits = (0.3, 0.9)

    def draw(self, rng: Random, pages: tuple[str, ...]) -> tuple[PaperOp, ...]:
        touched, grows, amount = rng.random() < self.share, rng.random() < self.thicker, _between(rng, self.amount)
        if not touched:
            return ()
        return (Thicken(radius=1, share=amount) if grows else Thin(radius=1, share=round(0.7 * amount, 4)),)


@dataclass(frozen=True, kw_only=True)
class Fading:
    """Pales the ink of a ``share`` of the lines in places, by up to ``strength``."""

    share: float = 0.5
    strength: Limits = (0.15, 0.45)
    patch: Limits = (0.5, 3.0)

    def draw(self, rng: Random, pages: tuple[str, ...]) -> tuple[PaperOp, ...]:
        touched = rng.random() < self.share
        op = Fade(strength=_between(rng, self.strength), patch=_between(rng, self.patch), seed=rng.getrandbits(32))
        return (op,) if touched else ()


@dataclass(frozen=True, kw_only=True)
class Background:
    """Writes every line on old paper: a piece of a page where pages are given, else made paper.

    Attributes:
        ink: share of the paper's light that is left under full ink.
        zoom: page pixels per pixel of the line.
        tone: grey of made paper.
        uneven: grey levels by which made paper is cloudy.
        fibre: grey levels of its grain.
    """

    ink: Limits = (0.2, 0.6)
    zoom: Limits = (0.6, 1.2)
    tone: Limits = (135, 225)
    uneven: Limits = (8, 40)
    fibre: Limits = (2, 7)

    def draw(self, rng: Random, pages: tuple[str, ...]) -> tuple[PaperOp, ...]:
        ink = _between(rng, self.ink)
        if not pages:
            return (
                OnMadePaper(
                    tone=_between(rng, self.tone), uneven=_between(rng, self.uneven), fibre=_between(rng, self.fibre),
                    ink=ink, seed=rng.getrandbits(32),
                ),
            )  # fmt: skip
        return (
            OnPaper(
                page=rng.choice(pages), down=round(rng.random(), 4), across=round(rng.random(), 4),
                zoom=_between(rng, self.zoom), mirrored=rng.random() < 0.5, ink=ink,
            ),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Bleeding:
    """Lets another line show through a ``share`` of the lines from the back."""

    share: float = 0.5
    strength: Limits = (0.1, 0.3)
    blur: Limits = (0.01, 0.035)

    def draw(self, rng: Random, pages: tuple[str, ...]) -> tuple[PaperOp, ...]:
        touched = rng.random() < self.share
        op = BleedThrough(
            strength=_between(rng, self.strength), blur=_between(rng, self.blur),
            across=_between(rng, (-1, 3)), down=_between(rng, (-0.5, 0.5)),
        )  # fmt: skip
        return (op,) if touched else ()


@dataclass(frozen=True, kw_only=True)
class Staining:
    """Stains a ``share`` of the lines."""

    share: float = 0.4
    strength: Limits = (0.12, 0.4)
    patch: Limits = (1.2, 4.0)
    octaves: Limits = (3, 6)
    threshold: Limits = (0.48, 0.62)
    tide: Limits = (0.0, 0.5)

    def draw(self, rng: Random, pages: tuple[str, ...]) -> tuple[PaperOp, ...]:
        touched = rng.random() < self.share
        op = Stains(
            strength=_between(rng, self.strength), patch=_between(rng, self.patch), octaves=_whole(rng, self.octaves),
            threshold=_between(rng, self.threshold), tide=_between(rng, self.tide), seed=rng.getrandbits(32),
        )  # fmt: skip
        return (op,) if touched else ()


@dataclass(frozen=True, kw_only=True)
class Spots:
    """Puts small brown spots on a ``share`` of the lines."""

    share: float = 0.3
    spots: Limits = (20, 120)
    radius: Limits = (0.012, 0.04)
    strength: Limits = (0.15, 0.45)

    def draw(self, rng: Random, pages: tuple[str, ...]) -> tuple[PaperOp, ...]:
        touched = rng.random() < self.share
        op = Foxing(
            spots=_whole(rng, self.spots), radius=_between(rng, self.radius), strength=_between(rng, self.strength),
            seed=rng.getrandbits(32),
        )  # fmt: skip
        return (op,) if touched else ()


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Folds and pierces a ``share`` of the lines."""

    share: float = 0.4
    folds: Limits = (0, 3)
    width: Limits = (0.01, 0.035)
    strength: Limits = (0.15, 0.5)
    holes: Limits = (0, 2)
    radius: Limits = (0.04, 0.12)
    tone: Limits = (20, 110)

    def draw(self, rng: Random, pages: tuple[str, ...]) -> tuple[PaperOp, ...]:
        touched, folds, holes = rng.random() < self.share, _whole(rng, self.folds), _whole(rng, self.holes)
        if not touched:
            return ()
        return (*(self._fold(rng) for _ in range(folds)), *(self._hole(rng) for _ in range(holes)))

    def _fold(self, rng: Random) -> Fold:
        slant = rng.gauss(0, 6) if rng.random() < 0.7 else rng.gauss(90, 2)
        return Fold(
            at=round(rng.random(), 4), slant=round(slant, 2), width=_between(rng, self.width),
            strength=_between(rng, self.strength),
        )  # fmt: skip

    def _hole(self, rng: Random) -> Hole:
        return Hole(
            across=round(rng.random(), 4), down=round(rng.random(), 4), radius=_between(rng, self.radius),
            tone=_whole(rng, self.tone), seed=rng.getrandbits(32),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Softening:
    """Blurs a ``share`` of the lines: one third each out of focus, by a median, by movement."""

    share: float = 0.7
    sigma: Limits = (0.006, 0.022)
    length: Limits = (0.02, 0.06)

    def draw(self, rng: Random, pages: tuple[str, ...]) -> tuple[PaperOp, ...]:
        touched, kind = rng.random() < self.share, rng.choice(("focus", "median", "motion"))
        if not touched:
            return ()
        if kind == "focus":
            return (GaussianBlur(sigma=_between(rng, self.sigma)),)
        if kind == "motion":
            return (MotionBlur(length=_between(rng, self.length), angle=round(360 * rng.random(), 2)),)
        return (MedianBlur(size=3),)


@dataclass(frozen=True, kw_only=True)
class Scanning:
    """What the scanner adds: another contrast, streaks, noise and compression, each to its share of the lines."""

    contrast: float = 0.5
    gain: Limits = (0.7, 1.15)
    brightness: Limits = (-25, 15)
    streaks: float = 0.15
    count: Limits = (1, 12)
    streak: Limits = (0.05, 0.3)
    noise: float = 0.5
    deviation: Limits = (1, 6)
    jpeg: float = 0.4
    quality: Limits = (40, 90)

    def draw(self, rng: Random, pages: tuple[str, ...]) -> tuple[PaperOp, ...]:
        ops: tuple[tuple[float, PaperOp], ...] = (
            (self.contrast, Contrast(gain=_between(rng, self.gain), brightness=_between(rng, self.brightness))),
            (
                self.streaks,
                Streaks(count=_whole(rng, self.count), strength=_between(rng, self.streak), seed=rng.getrandbits(32)),
            ),
            (self.noise, Noise(deviation=_between(rng, self.deviation), grey=True, seed=rng.getrandbits(32))),
            (self.jpeg, Jpeg(quality=_whole(rng, self.quality))),
        )
        return tuple(op for share, op in ops if rng.random() < share)


PaperStep = Strokes | Fading | Background | Bleeding | Staining | Spots | Damage | Softening | Scanning


@dataclass(frozen=True, kw_only=True)
class PaperChain:
    """Steps in order, each drawn by lots of its own."""

    steps: tuple[PaperStep, ...] = (
        Strokes(), Fading(), Background(), Bleeding(), Staining(), Spots(), Damage(), Softening(), Scanning(),
    )  # fmt: skip

    def __post_init__(self) -> None:
        for step in self.steps:
            _check(step)

    def ops(self, seed: int, id: str, pages: tuple[str, ...] = ()) -> tuple[PaperOp, ...]:
        """What happens to the line ``id``; ``pages`` names the paper there is to be written on."""
        drawn = (step.draw(_lots(seed, id, place, type(step).__name__), pages) for place, step in enumerate(self.steps))
        return tuple(op for ops in drawn for op in ops)


def _lots(seed: int, id: str, place: int, step: str) -> Random:
    key = f"{seed}\0{id}\0{place}\0{step}".encode("utf-8", "surrogatepass")
    return Random(int.from_bytes(hashlib.sha256(key).digest()[:8]))


def _check(step: PaperStep) -> None:
    for name, value in vars(step).items():
        where = f"{type(step).__name__}: {name} is {value}"
        if isinstance(value, tuple):
            if len(value) != 2 or not 0 <= value[1] - value[0] < math.inf:
                raise ValueError(f"{where}; it must be a least and a greatest value")
            least = -255 if name == "brightness" else 1 if name in ("quality", "octaves") else 0
            if value[0] < least:
                raise ValueError(f"{where}; it must be at least {least}")
        elif not 0 <= value <= 1:
            raise ValueError(f"{where}; a share lies between 0 and 1")
