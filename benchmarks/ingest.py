"""Images per second of an ingest with Ray Data against one plain process, and of reading the shards back.

Run: ``python -m benchmarks.ingest /path/to/IIIT5K [--cpus 2] [--repeat 4]``
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from datasets.iiit5k import IIIT5K
from datasets.image import ImageSpec
from datasets.row import Row
from models.text import PRINTABLE94, Frames
from orchestrator.cluster import start_ray
from orchestrator.ingest import cut, ingest, listed, make_all, make_here, rows_that_fill
from orchestrator.manifest import ShardFile
from orchestrator.prepare import Preparation, ShardSpec
from orchestrator.shards import Shards

HOW = Preparation(name="iiit5k", image=ImageSpec(), alphabet=PRINTABLE94, frames=Frames(stride=4, offset=1))
Maker = Callable[[Sequence[ShardSpec], Path], Iterator[ShardFile]]


def seconds_to_make(specs: Sequence[ShardSpec], make: Maker) -> float:
    """From shard specs to files on disk, in a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for _ in make(specs, Path(folder)):
            pass
        return time.perf_counter() - start


def copies(rows: Sequence[Row], times: int) -> list[Row]:
    """``rows`` ``times`` over under new ids: the work of a larger set."""
    return [replace(row, id=f"{copy}/{row.id}") for copy in range(times) for row in rows]


def gathered_per_second(shards: Shards, *, batch: int, width: int) -> float:
    """Random images of at most ``width`` columns into padded batches; best of five passes of 50,000 images."""
    rng = np.random.default_rng(0)
    fits = np.flatnonzero(shards.widths <= width)
    steps = [rng.choice(fits, batch) for _ in range(50_000 // batch)]
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for step in steps:
            shards.gather(step, width)
        best = min(best, time.perf_counter() - start)
    return batch * len(steps) / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=4, help="how many times over the 5,000 words are decoded")
    asked = parser.parse_args()

    start = time.perf_counter()
    rows = copies(listed(IIIT5K(), asked.root, HOW.name)[0], asked.repeat)
    listing = time.perf_counter() - start
    start = time.perf_counter()
    specs = cut(rows, HOW, rows_that_fill(len(rows)))
    print(
        f"{len(rows)} images: listed in {listing:.1f} s, cut into {len(specs)} in {time.perf_counter() - start:.1f} s"
    )

    seconds_to_make(specs[:4], make_here)  # the files are in the page cache, OpenCV is loaded
    alone = seconds_to_make(specs, make_here)
    print(f"one process        {alone:6.2f} s  {len(rows) / alone:8.0f} images/s")
    start = time.perf_counter()
    start_ray(asked.cpus)
    print(f"starting Ray       {time.perf_counter() - start:6.2f} s")
    for name in ("first", "again"):
        together = seconds_to_make(specs, make_all)
        share = alone / together / asked.cpus
        rate = len(rows) / together
        print(
            f"Ray Data, {name}    {together:6.2f} s  {rate:8.0f} images/s, {rate / asked.cpus:.0f} a core: {share:.0%} of a process"
        )

    with tempfile.TemporaryDirectory() as store:
        settings = {"name": HOW.name, "image": HOW.image, "alphabet": HOW.alphabet, "frames": HOW.frames}
        folder = ingest(IIIT5K(), asked.root, store=Path(store), make=make_here, **settings)
        shards = Shards.open(folder, verify=True)
        for width in (64, 128, 256):
            print(f"gather 256 x {width:3}   {gathered_per_second(shards, batch=256, width=width):18.0f} images/s")


if __name__ == "__main__":
    main()
