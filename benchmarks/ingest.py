"""Images per second of an ingest with Ray Data against one plain process, and of reading the shards back.

Run: ``python -m benchmarks.ingest [/path/to/IIIT5K] [--cpus 2] [--repeat 4]``; without a path words are rendered, which
is drawing instead of decoding.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.measure import Sample, flag, interleaved, middle, options, ratio, report
from benchmarks.words import Photographs
from datasets.image import ImageSpec
from datasets.rendered import RenderedWords
from datasets.row import Source
from models.text import PRINTABLE94, Frames
from orchestrator.cluster import start_ray
from orchestrator.ingest import counted, cut, listed, make_all, make_here, rows_that_fill
from orchestrator.manifest import ShardFile
from orchestrator.prepare import Preparation, ShardSpec, make_shard
from orchestrator.shards import Shards

HOW = Preparation(name="words", image=ImageSpec(), alphabet=PRINTABLE94, frames=Frames(stride=4, offset=1))
Maker = Callable[[Sequence[ShardSpec], Path], Iterator[ShardFile]]


def made(specs: Sequence[ShardSpec], make: Maker) -> list[str]:
    """From shard specs to files on disk, in a fresh folder; the SHA-256 of each file, in the order of the specs."""
    with tempfile.TemporaryDirectory() as folder:
        files = {file.key: file.sha256 for file in make(specs, Path(folder))}
        return [files[spec.key] for spec in specs]


def make_in(pool: Executor, specs: Sequence[ShardSpec], folder: Path) -> Iterator[ShardFile]:
    """The same with plain processes: what this machine has to give at the moment."""
    return pool.map(make_shard, specs, repeat(folder))


def refuse_other_shards(found: dict[str, list[Sample]]) -> None:
    """Raise unless every way made the same bytes in every round."""
    if len({tuple(sample.result) for each in found.values() for sample in each}) != 1:
        raise AssertionError("the ways made different shards of the same rows")


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
    parser = options(__doc__)
    parser.add_argument("root", type=Path, nargs="?", help="where IIIT-5K lies (default: words are rendered)")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=4, help="how many times over the 5,000 words are decoded")
    asked = parser.parse_args()

    start = time.perf_counter()
    drawn = RenderedWords(count=400 if asked.quick else 5_000 * asked.repeat, style="scene")
    source: Source = Photographs(times=asked.repeat) if asked.root else drawn
    rows = listed(source, asked.root, HOW.name)[0]
    specs = cut(rows, HOW, rows_that_fill(len(rows)))
    print(f"{len(rows)} images in {len(specs)} shards, listed and cut in {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    start_ray(asked.cpus)
    print(f"Ray started in {time.perf_counter() - start:.1f} s; {asked.cpus} CPUs")
    with ProcessPoolExecutor(asked.cpus, mp_context=get_context("spawn")) as pool:
        made(specs[: asked.cpus], partial(make_in, pool))  # starts the processes
        ways: dict[str, Callable[[], list[str]]] = {
            "one process": partial(made, specs, make_here),
            f"{asked.cpus} processes": partial(made, specs, partial(make_in, pool)),
            "Ray Data": partial(made, specs, make_all),
        }
        found = interleaved(ways, asked.rounds or (1 if asked.quick else 3))
    refuse_other_shards(found)
    report(rows_of(found, len(rows), asked.cpus), [sample for each in found.values() for sample in each],
           quick=asked.quick)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        shards = opened(specs, Path(folder))
        for width in (64, 128, 256):
            print(f"gather 256 x {width:3}: {gathered_per_second(shards, batch=256, width=width):9,.0f} images/s")


def rows_of(found: dict[str, list[Sample]], images: int, cpus: int) -> list[list[str]]:
    """Images per second of each way against one process, in all and for each core."""

    def rate(sample: Sample) -> float:
        return images / sample.seconds

    alone = found["one process"]
    rows = []
    for name, samples in list(found.items())[1:]:
        speed, times = middle(samples, rate), ratio(samples, alone, rate)
        rates = [f"{middle(alone, rate):,.0f} images/s", f"{speed:,.0f}; {speed / cpus:,.0f} a core"]
        shares = f"{times:.2f}x; {times / cpus:.0%} a core{flag(samples, alone)}"
        rows.append([f"ingest, {name} against one process", *rates, shares, ""])
    return rows


if __name__ == "__main__":
    main()
