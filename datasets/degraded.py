"""The low-resolution twin of a good picture, made when it is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from datasets.degrade import Chain, Degradation
from datasets.degrade_ops import VERSION
from datasets.row import ImageRef


@runtime_checkable
class Told(Protocol):
    """An image that, once loaded, can say how its pixels came about: what to store beside them."""

    def load_told(self) -> tuple[np.ndarray, Mapping[str, object]]:
        """What ``load`` gives, and facts about it as JSON data."""


@dataclass(frozen=True)
class Degraded:
    """``image`` made bad by a chain: the same pixels from the same fields in every process.

    Attributes:
        id: with ``seed`` all that the chain draws from; several versions of one picture have several ids.
    """

    image: ImageRef
    chain: Chain
    seed: int
    id: str

    def made(self) -> Degradation:
        """The picture and what was done to it. Raises :class:`~datasets.row.BadImage`."""
        return self.chain.degrade(self.image.load(), self.seed, self.id)

    def load(self) -> np.ndarray:
        return self.made().image

    def load_told(self) -> tuple[np.ndarray, Mapping[str, object]]:
        made = self.made()
        return made.image, {"degraded": {"seed": self.seed, "id": self.id, **made.facts()}}

    def stamp(self) -> str:
        how = hashlib.sha256(f"{VERSION}\0{self.chain!r}\0{self.seed}\0{self.id}".encode("utf-8", "surrogatepass"))
        return f"{self.image.stamp()} degraded {how.hexdigest()[:16]}"
