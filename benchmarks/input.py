"""Images per CPU-second into float batches: shards against PNG in LMDB; then stall of a training step, and memory.

Run: ``python -m benchmarks.input [--data /path/to/IIIT5K]``

The same words (20,000 rendered in colour, or the 5,000 of IIIT-5K four times over) lie as PNG in an LMDB of the usual
layout (``image-%09d``, ``label-%09d``), and as our shards. The baseline decodes, converts to grey, resizes to 32 x 128
and collates in a ``torch`` DataLoader, as the well-known trainers do. Ours is the training path itself: shuffle over
the whole set, buckets, gather, label, pad, to floats.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.measure import (
    Sample,
    flag,
    interleaved,
    measured,
    middle,
    options,
    private_bytes,
    ratio,
    report,
    verdict,
)  # fmt: skip
from benchmarks.words import NAME, Photographs, a_stage, train_samples, training_data, word_shards
from datasets.image import ImageSpec
from datasets.rendered import RenderedWords
from datasets.row import Row, Source
from models.recognizers.crnn import CRNNConfig
from models.tasks.read import ReadTask
from models.text import ALNUM62
from orchestrator.batches import Samples
from orchestrator.execution import Execution
from orchestrator.journal import lines
from orchestrator.pipeline import Machine, train_recipe
from orchestrator.plan import Mix, Recipe
from orchestrator.ranks import Ranks
from orchestrator.shards import Shards, read_shard
from orchestrator.store import Store

BATCH = 256
WORDS = RenderedWords(count=20_000, style="scene", colour=True)
EPOCHS = 3


class LmdbWordImages(Dataset[tuple[Image.Image, str]]):
    """The usual word-image data set: one PNG and one label per key, decoded when asked for."""

    def __init__(self, folder: Path) -> None:
        self.environment = lmdb.open(str(folder), readonly=True, lock=False, readahead=False, meminit=False)
        with self.environment.begin() as transaction:
            self.size = int(transaction.get(b"num-samples"))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Image.Image, str]:
        with self.environment.begin() as transaction:
            png = transaction.get(b"image-%09d" % (index + 1))
            label = transaction.get(b"label-%09d" % (index + 1))
        return Image.open(io.BytesIO(png)).convert("L"), label.decode()


def squashed_to_128(items: list[tuple[Image.Image, str]]) -> tuple[Tensor, list[str]]:
    """``(B, 1, 32, 128)`` float32 in ``[-1, 1]``, every image resized to that shape, and the labels."""
    images = [
        torch.from_numpy(np.array(image.resize((128, 32), Image.Resampling.BICUBIC)))[None].float().div_(255)
        for image, _ in items
    ]
    return torch.stack([image.sub_(0.5).div_(0.5) for image in images]), [label for _, label in items]


def write_lmdb(source: Source, root: Path | None, folder: Path) -> float:
    """Every word as PNG, in the layout that :class:`LmdbWordImages` reads; the mean bytes of one."""
    environment = lmdb.open(str(folder), map_size=1 << 34)
    count, size = 0, 0
    with environment.begin(write=True) as transaction:
        for count, row in enumerate((row for row in source.rows(root) if isinstance(row, Row)), start=1):
            png = cv2.imencode(".png", cv2.cvtColor(row.image.load(), cv2.COLOR_RGB2BGR))[1]
            transaction.put(b"image-%09d" % count, png.tobytes())
            transaction.put(b"label-%09d" % count, row.text.encode())
            size += png.size
        transaction.put(b"num-samples", str(count).encode())
    environment.close()
    return size / count


def images_of_loader(folder: Path, *, workers: int) -> int:
    """One shuffled epoch of the DataLoader; how many images came."""
    loader = DataLoader(
        LmdbWordImages(folder), batch_size=BATCH, shuffle=True, num_workers=workers, collate_fn=squashed_to_128
    )
    return sum(len(image) for image, _ in loader)


def images_of_shards(samples: Samples) -> int:
    """One shuffled epoch of the training path; how many images came."""
    with training_data(samples, BATCH).batches(0, 0) as steps:
        return sum(len(batch.image) for step in steps for batch in step)


def labels_seen(batches: Iterator[list[str]]) -> dict[str, int]:
    """How often each label came."""
    seen: dict[str, int] = {}
    for labels in batches:
        for label in labels:
            seen[label] = seen.get(label, 0) + 1
    return seen


def refuse_other_words(folder: Path, samples: Samples) -> None:
    """Raise unless both paths gave every word once: the same labels, equally often."""
    loader = DataLoader(LmdbWordImages(folder), batch_size=BATCH, shuffle=True, collate_fn=lambda items: items)
    theirs = labels_seen([ALNUM62.normalize(label) for _, label in items] for items in loader)
    with training_data(samples, BATCH).batches(0, 0) as steps:
        ours = labels_seen([samples.text(sample) for sample in batch.ids] for step in steps for batch in step)
    if ours != theirs:
        raise AssertionError(f"the two paths gave different words: {sum(ours.values())} and {sum(theirs.values())}")


@dataclass(frozen=True)
class Deaf:
    """A watch that neither stops nor shows anything."""

    def stop_asked(self) -> bool:
        return False

    def at(self, phase: str) -> None:
        pass

    def tell(self, status: Mapping[str, Any]) -> None:
        pass


def a_recipe(words: RenderedWords, *, epochs: int, width: float, hidden: int) -> Recipe:
    """One stage of reading rendered words."""
    stage = a_stage(64, epochs=epochs, data=Mix(shares={NAME: 1.0}))
    task = ReadTask(recognizer=CRNNConfig(classes=ALNUM62.classes, width=width, hidden=hidden))
    return Recipe(name="stall", task=task, image=ImageSpec(), alphabet=ALNUM62, sources={NAME: words}, stages=(stage,))


def stall_shares(folder: Path, words: RenderedWords, *, threads: int, width: float, hidden: int) -> list[float]:
    """Share of each epoch that training a CRNN waited for data, by the loop's own account."""
    shards = word_shards(folder, words)
    recipe = a_recipe(words, epochs=3, width=width, hidden=hidden)
    execution = Execution(workers=0, threads=threads)
    store = Store(folder)
    machine = Machine.of(execution, Ranks())
    train_recipe(recipe, store, {NAME: shards.folder}, execution, machine=machine, watch=Deaf())
    [speed] = folder.glob("runs/stall/*/speed.jsonl")
    return [float(line["data_wait_share"]) for line in lines(speed, "epoch")]


def repeated(shards: Shards, times: int) -> Samples:
    """``shards`` ``times`` over, as a larger set of as many files would be."""
    manifest = replace(shards.manifest, shards=shards.manifest.shards * times)
    tables = [read_shard(shards.folder / shard.file)[0] for shard in manifest.shards]
    return train_samples(Shards(shards.folder, manifest, tables))


def memory_kept(folder: Path, times: int) -> tuple[int, int, int]:
    """Rows, private bytes after one epoch of the set ``times`` over, and how many more after :data:`EPOCHS`."""
    torch.set_num_threads(1)
    images_of_shards(train_samples(Shards.open(folder, verify=False)))  # what every set needs is there now
    before = private_bytes()
    samples = repeated(Shards.open(folder, verify=False), times)
    images_of_shards(samples)
    once = private_bytes()
    for _ in range(EPOCHS - 1):
        images_of_shards(samples)
    return len(samples), once - before, private_bytes() - once


def memory_in_fresh_processes(folder: Path, sizes: Iterable[int]) -> list[tuple[int, int, int]]:
    """:func:`memory_kept` of the set so many times over, each in a process that did nothing before."""
    found = []
    for times in sizes:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found.append(pool.submit(memory_kept, folder, times).result())
    return found


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--data", type=Path, metavar="DIR", help="where IIIT-5K lies (default: words are rendered)")
    asked = parser.parse_args()
    rounds = asked.rounds or (1 if asked.quick else 4)
    words = replace(WORDS, count=600 if asked.quick else WORDS.count)
    torch.set_num_threads(1)  # decoding has no use for more, and idle ones that spin would count as work
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        source: Source = Photographs(times=1 if asked.quick else 4) if asked.data else words
        png_bytes = write_lmdb(source, asked.data, folder / "lmdb")
        shards = word_shards(folder, source, asked.data)
        print(f"{shards.size} words, a PNG of {png_bytes / 1e3:.1f} kB on the average")
        samples = train_samples(shards)
        refuse_other_words(folder / "lmdb", samples)
        each = 1 if asked.quick else 20
        ways: dict[str, Callable[[], int]] = {
            "LMDB, no workers": partial(images_of_loader, folder / "lmdb", workers=0),
            "LMDB, 2 workers": partial(images_of_loader, folder / "lmdb", workers=2),
            "shards": lambda: sum(images_of_shards(samples) for _ in range(each)),
        }
        found = interleaved(ways, rounds)
        sizes = memory_in_fresh_processes(shards.folder, (1, 10))
        torch.set_num_threads(asked.threads)
        tiny = {"width": 0.0625, "hidden": 8} if asked.quick else {"width": 0.5, "hidden": 128}
        some = replace(words, count=200 if asked.quick else 2_000, valid=64)
        stalled = measured(lambda: stall_shares(folder, some, threads=asked.threads, **tiny))  # type: ignore[arg-type]
    report(
        rows_of(found, sizes, stalled),
        [*(sample for each in found.values() for sample in each), stalled],
        quick=asked.quick,
    )


def rows_of(
    found: Mapping[str, list[Sample]], sizes: list[tuple[int, int, int]], stalled: Sample
) -> Iterator[list[str]]:
    """The table's rows: images per CPU-second and per second, stall, memory."""
    ours = found["shards"]
    for name in ("LMDB, no workers", "LMDB, 2 workers"):
        for what, value, goal in (("CPU-second", _per_cpu_second, 50.0), ("second", _per_second, None)):
            times = ratio(ours, found[name], value)
            rates = [f"{middle(each, value):,.0f}" for each in (found[name], ours)]
            aim = verdict(times, goal) if goal else ""
            yield [f"images per {what}, {name}", *rates, f"{times:.1f}x{flag(ours, found[name])}", aim]
    share = max(stalled.result[1:])
    yield ["share of an epoch that waits for data", "", f"{share:.2%}{flag([stalled])}", "",
           verdict(100 * share, 1.0, least=False, unit=" %")]  # fmt: skip
    for rows, once, grown in sizes:
        yield [f"private memory, {rows:,} rows", "", f"{once / 1e6:.1f} MB after an epoch",
               f"{grown / 1e6:+.1f} MB in {EPOCHS - 1} more", ""]  # fmt: skip
    (few, small, _), (many, large, _) = sizes
    yield ["private memory that each further row costs", "", f"{(large - small) / (many - few):.0f} bytes", "", ""]


def _per_cpu_second(sample: Sample) -> float:
    return float(sample.result) / sample.cpu


def _per_second(sample: Sample) -> float:
    return float(sample.result) / sample.seconds


if __name__ == "__main__":
    main()
