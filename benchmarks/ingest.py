"""Images per second of an ingest with Ray Data against one plain process, and of reading the shards back.

Run: ``python -m benchmarks.ingest /path/to/IIIT5K [--cpus 2] [--repeat 4]``
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from datasets.iiit5k import IIIT5K
from datasets.image import ImageSpec
from datasets.row import Row
from models.text import PRINTABLE94, Frames
from orchestrator.cluster import start_ray
from orchestrator.ingest import counted, cut, listed, make_all, make_here, rows_that_fill
from orchestrator.manifest import ShardFile
from orchestrator.prepare import Preparation, ShardSpec, make_shard
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


def make_in(pool: Executor, specs: Sequence[ShardSpec], folder: Path) -> Iterator[ShardFile]:
    """The same with plain processes: what this machine has to give at the moment."""
    return pool.map(make_shard, specs, repeat(folder))


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


def opened(specs: Sequence[ShardSpec], folder: Path) -> Shards:
    """The shards of ``specs``, made in ``folder``."""
    files = list(make_here(specs, folder))
    counted(folder, files, [], HOW, source={}, notes={})[1].write(folder)
    return Shards.open(folder, verify=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=4, help="how many times over the 5,000 words are decoded")
    asked = parser.parse_args()

    start = time.perf_counter()
    rows = copies(listed(IIIT5K(), asked.root, HOW.name)[0], asked.repeat)
    specs = cut(rows, HOW, rows_that_fill(len(rows)))
    print(f"{len(rows)} images in {len(specs)} shards, listed and cut in {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    start_ray(asked.cpus)
    print(f"Ray started in {time.perf_counter() - start:.1f} s; {asked.cpus} CPUs")

    print(f"images/s  {'one process':>14}{f'{asked.cpus} processes':>14}{'Ray Data':>14}{'a core':>10}{'of one':>16}")
    with ProcessPoolExecutor(asked.cpus, mp_context=get_context("spawn")) as pool:
        for turn in ("first", "second", "third"):
            alone = len(rows) / seconds_to_make(specs, make_here)
            pooled = len(rows) / seconds_to_make(specs, partial(make_in, pool))
            by_ray = len(rows) / seconds_to_make(specs, make_all)
            a_core = by_ray / asked.cpus
            print(f"{turn:10}{alone:14.0f}{pooled:14.0f}{by_ray:14.0f}{a_core:10.0f}{a_core / alone:16.0%}")

    with tempfile.TemporaryDirectory() as folder:
        shards = opened(specs, Path(folder))
        for width in (64, 128, 256):
            print(f"gather 256 x {width:3}: {gathered_per_second(shards, batch=256, width=width):9.0f} images/s")


if __name__ == "__main__":
    main()
