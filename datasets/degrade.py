"""A good picture made bad on purpose: blurred, made small, noisy, compressed, pale; in order, by lot, and on record.

A :class:`Chain` says which steps there are and between which limits their settings are drawn. Drawing from a seed and a
sample's id gives operations with fixed settings, which are plain data: they are stored with the row and do the same to
the same picture again. Lengths are in heights of the picture, so that one chain suits crops of any resolution.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import cv2
import numpy as np

from datasets.degrade_ops import (
    Contrast,
    Downsample,
    GaussianBlur,
    Jpeg,
    MotionBlur,
    Noise,
    Op,
    applied,
    plain_ops,
)
from datasets.ssim import ssim

LEAST_BLUR = 0.008  # heights of the picture
GROWTH = 1.25
Limits = tuple[float, ...]  # least and greatest value


@dataclass(frozen=True, kw_only=True)
class Blur:
    """Blurs a ``share`` of the pictures; ``motion`` says what share of those by movement."""

    share: float = 0.8
    sigma: Limits = (0.005, 0.03)
    motion: float = 0.25
    length: Limits = (0.03, 0.15)

    def draw(self, rng: Random) -> Op | None:
        touched, moved = rng.random() < self.share, rng.random() < self.motion
        amount, angle = rng.random(), round(rng.gauss(0, 20), 2)  # cars mostly pass from side to side
        if not touched:
            return None
        if moved:
            return MotionBlur(length=_between(self.length, amount), angle=angle)
        return GaussianBlur(sigma=_between(self.sigma, amount))


@dataclass(frozen=True, kw_only=True)
class Shrink:
    """Makes every picture some number of ``rows`` high; ``bicubic`` says what share of them without averaging."""

    rows: Limits = (12, 20)
    bicubic: float = 0.3

    def draw(self, rng: Random) -> Op | None:
        aliased, amount = rng.random() < self.bicubic, rng.random()
        return Downsample(rows=round(_between(self.rows, amount)), how="bicubic" if aliased else "area")


@dataclass(frozen=True, kw_only=True)
class Grain:
    """Adds noise to a ``share`` of the pictures; ``grey`` says what share of those without colour."""

    share: float = 0.7
    deviation: Limits = (1.0, 6.0)
    grey: float = 0.5

    def draw(self, rng: Random) -> Op | None:
        touched, grey = rng.random() < self.share, rng.random() < self.grey
        amount, seed = rng.random(), rng.getrandbits(32)
        return Noise(deviation=_between(self.deviation, amount), grey=grey, seed=seed) if touched else None


@dataclass(frozen=True, kw_only=True)
class Compress:
    """Compresses a ``share`` of the pictures."""

    share: float = 0.7
    quality: Limits = (40, 95)

    def draw(self, rng: Random) -> Op | None:
        touched, amount = rng.random() < self.share, rng.random()
        return Jpeg(quality=round(_between(self.quality, amount))) if touched else None


@dataclass(frozen=True, kw_only=True)
class Light:
    """Changes contrast and brightness of a ``share`` of the pictures."""

    share: float = 0.5
    gain: Limits = (0.6, 1.1)
    brightness: Limits = (-20.0, 20.0)

    def draw(self, rng: Random) -> Op | None:
        touched, gain, brightness = rng.random() < self.share, rng.random(), rng.random()
        if not touched:
            return None
        return Contrast(gain=_between(self.gain, gain), brightness=_between(self.brightness, brightness))


Step = Blur | Shrink | Grain | Compress | Light


def _between(limits: Limits, amount: float) -> float:
    return round(limits[0] + (limits[1] - limits[0]) * amount, 4)


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """What was done to one picture.

    Attributes:
        image: ``(h', w')`` or ``(h', w', 3)`` uint8 at its low resolution.
        ops: all that was done, in order.
        ssim: of the result, enlarged bicubically to the original's size, with the original.
        reached: whether ``ssim`` is at or below what the chain aims at; true where it aims at nothing.
    """

    image: np.ndarray
    ops: tuple[Op, ...]
    ssim: float
    reached: bool

    def facts(self) -> dict[str, object]:
        """What is stored with the row, as JSON data."""
        return {"ops": plain_ops(self.ops), "ssim": round(self.ssim, 4), "reached": self.reached}


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Steps in order, each drawn by lot.

    Attributes:
        steps: what happens, first to last.
        ssim: where given, Gaussian blur is added until the result is at most this similar to the original.
        most: grades of blur, each a quarter wider than the one before. Where the last does not reach the target either,
            the picture stays as it was drawn, and is marked so: blur without end would leave nothing to restore.
    """

    steps: tuple[Step, ...] = (Light(), Blur(), Shrink(), Grain(), Compress())
    ssim: float | None = None
    most: int = 18

    def __post_init__(self) -> None:
        if self.ssim is not None and not 0 < self.ssim < 1:
            raise ValueError(f"Chain: ssim is {self.ssim}; it must lie between 0 and 1, or be None")
        if self.most < 1:
            raise ValueError(f"Chain: most is {self.most}; it must be at least 1")
        for step in self.steps:
            _check(step)

    def ops(self, seed: int, id: str) -> tuple[Op, ...]:
        """What happens to the sample ``id``: a function of seed and id, each step's lot apart from the others'."""
        drawn = [step.draw(_lots(seed, id, place, type(step).__name__)) for place, step in enumerate(self.steps)]
        return tuple(op for op in drawn if op is not None)

    def degrade(self, image: np.ndarray, seed: int, id: str) -> Degradation:
        """``image``, ``(h, w)`` or ``(h, w, 3)`` uint8, made bad the way ``id`` draws."""
        ops = self.ops(seed, id)
        made = degradation(ops, image, self.ssim)
        return made if made.reached else self._blurrier(ops, image) or made

    def _blurrier(self, ops: tuple[Op, ...], image: np.ndarray) -> Degradation | None:
        """The least of :attr:`most` grades of blur that reaches the target, or none: pale pictures stay similar.

        More blur is less similar, so grades 1, 2, 4, 8 ... are tried until one does, then those between halved.
        """
        tried: dict[int, Degradation] = {}

        def reaches(grade: int) -> bool:
            tried[grade] = degradation(_blurred(ops, LEAST_BLUR * GROWTH**grade), image, self.ssim)
            return tried[grade].reached

        low, high = 0, 1  # the last grade that does not reach it, the next to try
        while not reaches(high):
            if high == self.most:
                return None
            low, high = high, min(2 * high, self.most)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if reaches(middle) else (middle, high)
        return tried[high]


def degradation(ops: Sequence[Op], image: np.ndarray, target: float | None = None) -> Degradation:
    """``image`` after ``ops``, and how similar it still is."""
    small = applied(ops, image)
    large = cv2.resize(small, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_CUBIC)
    found = ssim(large, image)
    return Degradation(image=small, ops=tuple(ops), ssim=found, reached=target is None or found <= target)


def _blurred(ops: tuple[Op, ...], sigma: float) -> tuple[Op, ...]:
    """``ops`` with more blur: added to the Gaussian blur that is there, as variances add, else before all others."""
    for place, op in enumerate(ops):
        if isinstance(op, GaussianBlur):
            return (*ops[:place], GaussianBlur(sigma=round(math.hypot(op.sigma, sigma), 4)), *ops[place + 1 :])
    return (GaussianBlur(sigma=round(sigma, 4)), *ops)


def _lots(seed: int, id: str, place: int, step: str) -> Random:
    key = f"{seed}\0{id}\0{place}\0{step}".encode("utf-8", "surrogatepass")
    return Random(int.from_bytes(hashlib.sha256(key).digest()[:8]))


def _check(step: Step) -> None:
    for name, value in vars(step).items():
        where = f"{type(step).__name__}: {name} is {value}"
        if isinstance(value, tuple):
            if len(value) != 2 or not 0 <= value[1] - value[0] < math.inf:
                raise ValueError(f"{where}; it must be a least and a greatest value")
            least = -255 if name == "brightness" else 1 if name in ("rows", "quality") else 0
            if value[0] < least:
                raise ValueError(f"{where}; it must be at least {least}")
        elif not 0 <= value <= 1:
            raise ValueError(f"{where}; a share lies between 0 and 1")
