"""Training lines worn anew in every epoch: lines per second of a core's time, and what share of a step that is.

Run: ``python -m benchmarks.worn_anew [--sizes 64x512 128x1024] [--lines 64]``

Drawn lines and tiles of made pages are ingested as a recipe's are; then batches are gathered with the damage that is
stored, and with damage drawn anew on strips of those pages and on made paper, as the thread that gathers ahead does it.
The share is of the CPU-time of our adversarial step of :mod:`benchmarks.document_step` in bf16, for one
line. The thread works beside the step, so that with a core to spare nothing waits for it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.document_step import ALPHABET, STAGE, Ours, batch_of, restoration, task_of
from benchmarks.lines import clean_line
from benchmarks.measure import Sample, flag, interleaved, middle, options, ratio, report
from benchmarks.wear import SIZES, page, per_cpu_second
from datasets.document_pages import DocumentPages
from datasets.line_image import LineSpec
from datasets.row import Row
from datasets.worn_paper import PaperChain
from orchestrator.batches import TrainingData, samples_of
from orchestrator.ingest import ingest, make_here
from orchestrator.order import Step
from orchestrator.plan import Mix, Wear
from orchestrator.ranks import Ranks
from orchestrator.shards import Shards
from orchestrator.worn_anew import WornAnew

STRIPS = 8


@dataclass(frozen=True)
class Line:
    """A drawn line."""

    number: int
    height: int
    width: int

    def load(self) -> np.ndarray:
        return clean_line(self.number, self.height, self.width)[0]

    def stamp(self) -> str:
        return f"{self}"


@dataclass(frozen=True)
class Tile:
    """A piece of made paper, or the white that it is once it is clean."""

    top: int
    left: int
    height: int
    width: int
    clean: bool

    def load(self) -> np.ndarray:
        sheet = page(STRIPS * self.height, 2 * self.width)
        cut = sheet[self.top : self.top + self.height, self.left : self.left + self.width]
        return np.full_like(cut, 255) if self.clean else cut

    def stamp(self) -> str:
        return f"{self}"


@dataclass(frozen=True)
class Drawn:
    """Rows given as they are."""

    items: tuple[Row, ...]

    def rows(self, root: Path | None) -> Iterator[Row]:
        yield from self.items

    def describe(self, root: Path | None) -> Mapping[str, object]:
        return {}


def shards_in(store: Path, height: int, width: int, lines: int) -> dict[str, Shards]:
    """Training lines, and the tiles of a page of :data:`STRIPS` strips."""
    rows, tiles = [], []
    for number in range(lines):
        line, text = Line(number, height, width), clean_line(number, height, width)[1]
        rows.append(Row(id=f"{number}", image=line, target=line, text=text, group=f"{number}", split="train"))
    tiling = DocumentPages(height=height, width=width, stride_down=height, stride_across=width)
    for top, left in tiling.places(STRIPS * height, 2 * width):
        image, target = (Tile(top, left, height, width, clean) for clean in (False, True))
        extras = {"page": "made", "tile": [top, left], "tile_size": [height, width]}
        tiles.append(Row(
            id=f"{top},{left}", image=image, target=target, text="", group="made", split="train", textless=True,
            extras=extras,
        ))  # fmt: skip
    spec, frames = LineSpec(height=height, max_width=width), task_of("unet", 0.5, height).frames
    how: dict[str, Any] = {"image": spec, "alphabet": ALPHABET, "frames": frames, "store": store, "make": make_here}
    made = {"lines": Drawn(tuple(rows)), "pages": Drawn(tuple(tiles))}
    return {name: Shards.open(ingest(source, None, name=name, **how), verify=False) for name, source in made.items()}


def ways_of(shards: Mapping[str, Shards], lines: int, width: int) -> dict[str, Any]:
    """Gathering all lines once, by where their damage comes from; every call is another epoch."""
    frames = task_of("unet", 0.5, int(shards["lines"].manifest.image["height"])).frames
    samples = samples_of(shards, {"lines": "train"}, ALPHABET, frames)
    step, found = Step(np.arange(lines), width), {}
    for name, wear in (
        ("stored", None),
        ("on pages", Wear(lines="lines", chain=PaperChain(), paper="pages")),
        ("on made paper", Wear(lines="lines", chain=PaperChain())),
    ):
        stage = replace(STAGE, wear=wear, data=Mix(shares={"lines": 1.0}))
        data = TrainingData(
            stage=stage, samples=samples, buckets=(width,), seed=0, ranks=Ranks(), device=torch.device("cpu"),
            worn=WornAnew.of(stage, shards, seed=0),
        )  # fmt: skip
        epochs = iter(range(10**9))
        found[name] = partial(lambda data, epochs: len(data.collated(step, next(epochs)).ids), data, epochs)
    return found


def rows_of(size: str, asked: Any) -> tuple[list[list[str]], list[Sample]]:
    (height, width), lines = SIZES[size], 8 if asked.quick else asked.lines
    batch = batch_of(height, width, 1)
    ours = Ours.of(restoration(task_of("enhanced", 0.125 if asked.quick else 0.5, height)), bf16=True)

    def step() -> int:
        ours.step(batch)
        return 1

    with tempfile.TemporaryDirectory() as store:
        ways = ways_of(shards_in(Path(store), height, width, lines), lines, width)
        for way in (step, *ways.values()):
            way()  # the first step is slower, and paper is freed of its ink once
        found = interleaved({"step": step, **ways}, asked.rounds or (1 if asked.quick else 5))
    base, rows = found["stored"], []
    for name in list(ways)[1:]:
        share = 1 / (1 + 1 / ratio(found["step"], found[name], per_cpu_second))
        rows.append([f"{size}, worn anew {name}, lines per second of a core", f"{middle(base, per_cpu_second):,.0f}",
                     f"{middle(found[name], per_cpu_second):,.0f}",
                     f"{share:.1%} of a step's CPU-time{flag(found[name], found['step'])}", ""])  # fmt: skip
    return rows, [sample for samples in found.values() for sample in samples]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--lines", type=int, default=64)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    cv2.setNumThreads(1)
    table, samples = [], []
    for size in asked.sizes:
        rows, more = rows_of(size, asked)
        table += rows
        samples += more
    report(table, samples, quick=asked.quick)


if __name__ == "__main__":
    main()
