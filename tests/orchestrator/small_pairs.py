"""A recipe like that of plates, small enough to be ingested in a second, and pairs made of given pictures."""

from __future__ import annotations

import string
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from small import Listed, shards_of

from datasets.pair_image import PairSpec
from datasets.rendered_plates import RenderedPlates
from datasets.row import Row
from models.batch import Batch
from models.mean import Mean, mean_of
from models.text import Alphabet, Frames
from orchestrator.ingest import ingest, make_here
from orchestrator.plan import Augment, Best, Mix, Optim, Recipe, Stage, Term
from orchestrator.shards import Shards

PLATES = Alphabet(symbols=string.digits + string.ascii_uppercase, case="upper")
SPEC = PairSpec(height=16, width=48, scale=2)
FRAMES = Frames(stride=4, offset=0)


@dataclass(frozen=True, kw_only=True)
class Upscaler:
    """What a recipe must know of its task, and no network: nothing is trained here."""

    parts: tuple[str, ...] = ("generator", "ocr")
    classes: int = PLATES.classes
    frames: Frames = FRAMES

    def build(self) -> object:
        raise NotImplementedError


def brightness(batch: Batch, out: Any) -> Mean:
    return mean_of(out.image)


def plates_like(**changes: Any) -> Recipe:
    stage = Stage(
        name="warmup", learn=("generator", "ocr"), terms={"brightness": Term(loss=brightness)}, optim=Optim(lr=1e-3),
        epochs=2, batch_size=16, data=Mix(shares={"plates": 1.0}), validate={"plates": "valid"}, augment=Augment(),
        best=(Best(metric="plates/loss", mode="min"),),
    )  # fmt: skip
    recipe = Recipe(
        name="plates-like", task=Upscaler(), image=SPEC, alphabet=PLATES, stages=(stage,),
        sources={"plates": RenderedPlates(tracks=40, valid=6, test=6, frames=2, seed=3)},
    )  # fmt: skip
    return replace(recipe, **changes)


@cache
def rendered() -> Shards:
    """The source ``plates`` of :func:`plates_like`, ingested once."""
    return Shards.open(shards_of(plates_like(), Path(mkdtemp()))["plates"], verify=True)


@dataclass(frozen=True)
class Noisy:
    """A picture of smooth noise drawn from a seed."""

    seed: int
    height: int = 32
    width: int = 96

    def load(self) -> np.ndarray:
        return np.random.default_rng(self.seed).integers(0, 256, (self.height, self.width, 3), np.uint8)

    def stamp(self) -> str:
        return f"{self.seed} {self.height} {self.width}"


def pair_row(number: int, *, split: str = "train", seed: int | None = None, **changes: Any) -> Row:
    """Row ``pNUMBER``, low resolution from seed NUMBER, high from ``seed``; in a group of its own."""
    low, high = Noisy(number, 16, 48), Noisy(1000 + number if seed is None else seed)
    row = Row(id=f"p{number}", image=low, target=high, text="AB12", group=f"g{number}", split=split)
    return replace(row, **changes)


def pairs_of(rows: list[Row], store: Path, *, image: PairSpec = SPEC, make: Any = make_here) -> dict[str, Shards]:
    """A source ``made`` of these rows."""
    folder = ingest(
        Listed(items=tuple(rows)), None, name="made", image=image, alphabet=PLATES, frames=FRAMES, store=store,
        rows_per_shard=8, make=make,
    )  # fmt: skip
    return {"made": Shards.open(folder, verify=True)}
