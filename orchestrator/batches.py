"""Rows of Arrow shards -> tensors: gather, pad to the bucket, normalise, augment. Pure given (seed, epoch, sample)."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch

from models.batch import Batch
from models.text import Alphabet, Frames
from orchestrator.augment import augmented
from orchestrator.labels import Labels
from orchestrator.order import Step, bucket_widths, draws_per_epoch, epoch_samples, of_rank, steps_of
from orchestrator.plan import Augment, Stage
from orchestrator.ranks import Ranks
from orchestrator.shards import Shards

T = TypeVar("T")
BUCKETS = 8
PREFETCH = 2


class Samples:
    """Chosen rows of one or more ingested sources, numbered through.

    Attributes:
        sizes: how many samples each source gives.
        widths: ``(n,)`` int32 valid columns of each sample.
    """

    def __init__(self, parts: Sequence[tuple[Shards, np.ndarray]], alphabet: Alphabet, frames: Frames) -> None:
        self._parts = parts
        self._alphabet, self._frames = alphabet, frames
        self.sizes = [len(rows) for _, rows in parts]
        self._starts = np.cumsum([0, *self.sizes])
        self.widths = np.concatenate([shards.widths[rows] for shards, rows in parts])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def located(self, sample: int) -> tuple[Shards, int]:
        """The source of a sample and its row there."""
        part = int(np.searchsorted(self._starts, sample, side="right")) - 1
        shards, rows = self._parts[part]
        return shards, int(rows[sample - self._starts[part]])

    def text(self, sample: int) -> str:
        shards, row = self.located(sample)
        return shards.texts[row]

    def words(self, sample: int, key: str) -> list[str]:
        """The words that came with a sample under ``key``, none when its source has none."""
        shards, row = self.located(sample)
        found = shards.extras(row).get(key, [])
        return [str(word) for word in found] if isinstance(found, list) else []

    def pixels(self, samples: np.ndarray, width: int) -> np.ndarray:
        """``(n, H, width, C)`` uint8, zero past each image's valid width."""
        part_of = np.searchsorted(self._starts, samples, side="right") - 1
        out: np.ndarray | None = None
        for part in np.unique(part_of):
            shards, rows = self._parts[part]
            here = np.flatnonzero(part_of == part)
            gathered = shards.gather(rows[samples[here] - self._starts[part]], width)
            if len(here) == len(samples):
                return gathered
            out = np.zeros((len(samples), *gathered.shape[1:]), np.uint8) if out is None else out
            out[here] = gathered
        return out if out is not None else np.zeros((0, 0, width, 1), np.uint8)

    @cached_property
    def labels(self) -> Labels:
        """All labels, encoded; made when they are first asked for."""
        return Labels.together([shards.labels(rows, self._alphabet) for shards, rows in self._parts])

    @cached_property
    def counted(self) -> np.ndarray:
        """``(n,)`` whether CTC can be asked for each label: it can be spelled, and in the frames there are."""
        frames = self.widths // self._frames.stride + self._frames.offset
        return (self.labels.lengths > 0) & (self.labels.needed <= frames)

    def collated(self, step: Step) -> Collated:
        """The samples of ``step`` as arrays; NumPy alone, so that a thread can make it beside a training step."""
        needed = self.labels.needed[step.samples].astype(np.int64)
        return Collated(
            pixels=self.pixels(step.samples, step.width),
            widths=self.widths[step.samples].astype(np.int64),
            least=(needed - self._frames.offset) * self._frames.stride,
            tokens=self.labels.tokens(step.samples),
            lengths=self.labels.lengths[step.samples].astype(np.int64),
            counted=self.counted[step.samples],
            ids=tuple(step.samples.tolist()),
        )

    def batch(self, step: Step, *, device: torch.device) -> Batch:
        """The samples of ``step`` as tensors on ``device``, unchanged."""
        return on_device(self.collated(step), device)


@dataclass(frozen=True, kw_only=True)
class Collated:
    """A batch in host memory. See :class:`models.batch.Batch`; ``least`` columns are what each label needs.

    Attributes:
        pixels: ``(B, H, W, C)`` uint8, zero past ``widths``.
    """

    pixels: np.ndarray
    widths: np.ndarray
    least: np.ndarray
    tokens: np.ndarray
    lengths: np.ndarray
    counted: np.ndarray
    ids: tuple[int, ...]


def on_device(
    collated: Collated, device: torch.device, *, augment: Augment | None = None, epoch: int = 0, seed: int = 0
) -> Batch:
    """Tensors on ``device``: bytes travel, floats are made there; then augmented where a plan says so."""

    def moved(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    image = moved(collated.pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)  # (B, C, H, W); black is -1
    widths = moved(collated.widths)
    if augment is not None:
        least = torch.minimum(moved(collated.least), widths)
        image, widths = augmented(image, widths, least, augment, samples=collated.ids, epoch=epoch, seed=seed)
    return Batch(
        image=image.contiguous(memory_format=torch.channels_last),
        widths=widths,
        tokens=moved(collated.tokens),
        lengths=moved(collated.lengths),
        counted=moved(collated.counted),
        ids=collated.ids,
    )


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What a stage learns from, as this rank sees it: :class:`orchestrator.loop.StageData`."""

    stage: Stage
    samples: Samples
    buckets: tuple[int, ...]
    seed: int
    ranks: Ranks
    device: torch.device

    @property
    def draws(self) -> list[int]:
        """Samples of each source in an epoch."""
        mix = self.stage.data
        return draws_per_epoch(self.samples.sizes, list(mix.shares.values()), mix.epoch_samples)

    @property
    def samples_per_epoch(self) -> int:
        return sum(self.draws)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.samples_per_epoch // self.stage.batch_size)  # steps_of always cuts an epoch into this many

    def steps(self, epoch: int) -> list[Step]:
        """The steps of an epoch over all ranks."""
        drawn = epoch_samples(self.samples.sizes, self.draws, epoch=epoch, seed=(self.seed,))
        return steps_of(drawn, self.samples.widths[drawn], self.buckets, self.stage.batch_size)

    def source_ids(self, samples: Sequence[int]) -> list[str]:
        """What the samples are called where they come from."""
        places = [self.samples.located(sample) for sample in samples]
        return [shards.ids[row] for shards, row in places]

    @contextmanager
    def batches(self, epoch: int, first_step: int) -> Iterator[Iterator[list[Batch]]]:
        """This rank's micro-batches of each step from ``first_step`` on.

        A thread gathers ahead, with NumPy alone: Torch operations there would start a second team of OpenMP threads,
        which spin for work that the training step needs the cores for.
        """

        def gathered() -> Iterator[list[Collated]]:
            for step in self.steps(epoch)[first_step:]:
                mine = of_rank(step, rank=self.ranks.rank, ranks=self.ranks.count)
                micro = min(self.stage.optim.accumulate, len(mine.samples))
                parts = np.array_split(mine.samples, micro)
                yield [self.samples.collated(Step(part, step.width)) for part in parts]

        with ahead(gathered(), depth=PREFETCH) as steps:
            yield ([self._batch(collated, epoch) for collated in step] for step in steps)

    def batch_of(self, step: Step) -> Batch:
        """The samples of ``step``, whatever rank this is, augmented as in the first epoch."""
        return self._batch(self.samples.collated(step), 0)

    def _batch(self, collated: Collated, epoch: int) -> Batch:
        return on_device(collated, self.device, augment=self.stage.augment, epoch=epoch, seed=self.seed)


def chosen_buckets(samples: Samples, *, multiple: int = 4) -> tuple[int, ...]:
    """The :data:`BUCKETS` widths that pad these samples least."""
    return bucket_widths(np.bincount(samples.widths), BUCKETS, multiple=multiple)


def in_order(samples: Samples, *, batch_size: int, ranks: Ranks, multiple: int = 4) -> Iterator[Step]:
    """This rank's share of all samples, once each, in steps of like widths."""
    by_width = np.argsort(samples.widths, kind="stable")[ranks.rank :: ranks.count]
    for start in range(0, len(by_width), batch_size):
        chunk = by_width[start : start + batch_size]
        widest = int(samples.widths[chunk].max())
        yield Step(chunk, -(-widest // multiple) * multiple)


@contextmanager
def ahead(items: Iterable[T], *, depth: int) -> Iterator[Iterator[T]]:
    """The same items, made by a thread that keeps ``depth`` of them ready. Its errors are raised here."""
    ready: queue.Queue[list[T] | BaseException] = queue.Queue(depth)  # an empty list is the end
    closed = threading.Event()

    def put(entry: list[T] | BaseException) -> bool:
        while not closed.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put([item]):
                    return
            put([])
        except BaseException as error:
            put(error)

    def taken() -> Iterator[T]:
        while entry := ready.get():
            if isinstance(entry, BaseException):
                raise entry
            yield from entry

    thread = threading.Thread(target=work, name="batches-ahead", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        closed.set()
        thread.join()


def samples_of(shards: Mapping[str, Shards], splits: Mapping[str, str], alphabet: Alphabet, frames: Frames) -> Samples:
    """The rows of each named source that are in the split named with it."""
    return Samples([(shards[name], shards[name].rows_of(split)) for name, split in splits.items()], alphabet, frames)
