"""Rows of Arrow shards -> tensors: gather, pad to the bucket, normalise, augment. Pure given (seed, epoch, sample)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from models.batch import Batch
from models.text import Alphabet, Frames
from orchestrator.collated import Collated, High, on_device
from orchestrator.labels import Labels
from orchestrator.order import Step, bucket_widths, draws_per_epoch, epoch_samples, of_rank, steps_of
from orchestrator.plan import Augment, Stage
from orchestrator.prefetch import ahead
from orchestrator.ranks import Ranks
from orchestrator.shards import Shards
from orchestrator.worn_anew import WornAnew

BUCKETS = 8
PREFETCH = 2


class Samples:
    """Chosen rows of one or more ingested sources, numbered through.

    Attributes:
        sizes: how many samples each source gives.
        widths: ``(n,)`` int32 valid columns of each sample.
        scale: how many times higher and wider the target of pairs is; 0 for single images.
    """

    def __init__(self, parts: Sequence[tuple[Shards, np.ndarray]], alphabet: Alphabet, frames: Frames) -> None:
        self._parts = parts
        self._alphabet, self._frames = alphabet, frames
        self.sizes = [len(rows) for _, rows in parts]
        self._starts = np.cumsum([0, *self.sizes])
        self.widths = np.concatenate([shards.widths[rows] for shards, rows in parts])
        self.scale = max((shards.scale for shards, _ in parts), default=0)  # one recipe, one image: all are the same

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def height(self) -> int:
        """Of every image, in pixels."""
        return int(self._parts[0][0].manifest.image["height"])

    def located(self, sample: int) -> tuple[Shards, int]:
        """The source of a sample and its row there."""
        part = int(np.searchsorted(self._starts, sample, side="right")) - 1
        shards, rows = self._parts[part]
        return shards, int(rows[sample - self._starts[part]])

    def text(self, sample: int) -> str:
        shards, row = self.located(sample)
        return shards.texts[row]

    def group(self, sample: int) -> str:
        """What a sample has in common with others of its source: its page, writer, track ..."""
        shards, row = self.located(sample)
        return shards.groups[row]

    def words(self, sample: int, key: str) -> list[str]:
        """The words that came with a sample under ``key``, none when its source has none."""
        found = self.extras(sample).get(key, [])
        return [str(word) for word in found] if isinstance(found, list) else []

    def extras(self, sample: int) -> dict[str, object]:
        """What the source knows of a sample besides its label: track, frame, layout ..."""
        shards, row = self.located(sample)
        return shards.extras(row)

    def pixels(self, samples: np.ndarray, width: int) -> np.ndarray:
        """``(n, H, width, C)`` uint8, zero past each image's valid width."""
        found = self._gathered(samples, lambda shards, rows: shards.gather(rows, width))
        return found if found is not None else np.zeros((0, 0, width, 1), np.uint8)

    def targets(self, samples: np.ndarray, width: int | None = None) -> np.ndarray:
        """``(n, scale * H, scale * width, C)`` uint8, zero past each target. Raises ``ValueError`` where one has none.

        Args:
            width: of the images, valid or not; all must be equally wide when it is omitted.
        """
        found = self._gathered(samples, lambda shards, rows: shards.gather_targets(rows, width))
        return found if found is not None else np.zeros((0, 0, 0, 3), np.uint8)

    def boxes(self, samples: np.ndarray) -> np.ndarray:
        """``(n, 4)`` top, left, height and width of each picture within its pixels; around it is padding."""
        found = self._gathered(samples, lambda shards, rows: shards.boxes[rows])
        return found if found is not None else np.zeros((0, 4), np.int16)

    def _gathered(self, samples: np.ndarray, of: Callable[[Shards, np.ndarray], np.ndarray]) -> np.ndarray | None:
        """What ``of`` gives for the rows of each source, in the order of ``samples``; none for none."""
        part_of = np.searchsorted(self._starts, samples, side="right") - 1
        out: np.ndarray | None = None
        for part in np.unique(part_of):
            shards, rows = self._parts[part]
            here = np.flatnonzero(part_of == part)
            gathered = of(shards, rows[samples[here] - self._starts[part]])
            if len(here) == len(samples):
                return gathered
            out = np.zeros((len(samples), *gathered.shape[1:]), gathered.dtype) if out is None else out
            out[here] = gathered
        return out

    @cached_property
    def labels(self) -> Labels:
        """All labels, encoded; made when they are first asked for."""
        return Labels.together([shards.labels(rows, self._alphabet) for shards, rows in self._parts])

    @cached_property
    def counted(self) -> np.ndarray:
        """``(n,)`` whether CTC can be asked for each label: it can be spelled, and in the frames there are."""
        frames = self.widths * max(self.scale, 1) // self._frames.stride + self._frames.offset
        return (self.labels.lengths > 0) & (self.labels.needed <= frames)

    @cached_property
    def textless(self) -> np.ndarray:
        """``(n,)`` whether a sample has no text at all: it can be restored and compared, but not read."""
        return np.concatenate([shards.textless[rows] for shards, rows in self._parts])

    @cached_property
    def blind(self) -> np.ndarray:
        """``(n,)`` whether a pair lacks its high resolution: it can be restored and read, but not compared."""
        if not self.scale:
            return np.zeros(len(self), bool)
        return np.concatenate([~shards.has_target[rows] for shards, rows in self._parts])

    @property
    def multiple(self) -> int:
        """Batches are as wide as a multiple of this; plates all have one width."""
        return 1 if self.scale > 1 else 4

    @cached_property
    def pad(self) -> tuple[int, ...]:
        """Red, green and blue of what lies around the picture of a pair; nothing where it fills its array."""
        return tuple(self._parts[0][0].manifest.image.get("pad", ()))

    def collated(self, step: Step) -> Collated:
        """The samples of ``step`` as arrays; NumPy alone, so that a thread can make it beside a training step.

        Pairs all of which have their target bring it. Where no sample has a text there are tokens of no column.
        """
        paired = bool(self.scale) and not self.blind[step.samples].any()
        needed = self.labels.needed[step.samples].astype(np.int64)
        return Collated(
            pixels=self.pixels(step.samples, step.width),
            widths=self.widths[step.samples].astype(np.int64),
            least=(needed - self._frames.offset) * self._frames.stride,
            tokens=self.labels.tokens(step.samples)[:, : 0 if self.textless[step.samples].all() else None],
            lengths=self.labels.lengths[step.samples].astype(np.int64),
            counted=self.counted[step.samples],
            ids=tuple(step.samples.tolist()),
            high=High(self.targets(step.samples, step.width), self.boxes(step.samples), self.pad) if paired else None,
        )

    def batch(self, step: Step, *, device: torch.device) -> Batch:
        """The samples of ``step`` as tensors on ``device``, unchanged."""
        return on_device(self.collated(step), device)


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What a stage learns from, as this rank sees it: :class:`orchestrator.loop.StageData`.

    Attributes:
        worn: wears lines anew in every epoch; None where the stored damage is learned from.
    """

    stage: Stage
    samples: Samples
    buckets: tuple[int, ...]
    seed: int
    ranks: Ranks
    device: torch.device
    worn: WornAnew | None = None

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

    @property
    def size(self) -> int:
        return len(self.samples)

    def steps(self, epoch: int, drawn: np.ndarray | None = None) -> list[Step]:
        """The steps of an epoch over all ranks: of the samples that were ``drawn``, where somebody else drew them."""
        if drawn is None:
            drawn = epoch_samples(self.samples.sizes, self.draws, epoch=epoch, seed=(self.seed,))
        return steps_of(drawn, self.samples.widths[drawn], self.buckets, self.stage.batch_size)

    def source_ids(self, samples: Sequence[int]) -> list[str]:
        """What the samples are called where they come from."""
        places = [self.samples.located(sample) for sample in samples]
        return [shards.ids[row] for shards, row in places]

    @contextmanager
    def batches(self, epoch: int, first_step: int, drawn: np.ndarray | None = None) -> Iterator[Iterator[list[Batch]]]:
        """This rank's micro-batches of each step from ``first_step`` on.

        A thread gathers ahead, with NumPy alone: Torch operations there would start a second team of OpenMP threads,
        which spin for work that the training step needs the cores for.
        """

        def gathered() -> Iterator[list[Collated]]:
            for step in self.steps(epoch, drawn)[first_step:]:
                mine = of_rank(step, rank=self.ranks.rank, ranks=self.ranks.count)
                micro = min(self.stage.optim.accumulate, len(mine.samples))
                parts = np.array_split(mine.samples, micro)
                yield [self.collated(Step(part, step.width), epoch) for part in parts]

        with ahead(gathered(), depth=PREFETCH) as steps:
            yield ([self._batch(collated, epoch) for collated in step] for step in steps)

    def batch_of(self, step: Step) -> Batch:
        """The samples of ``step``, whatever rank this is, augmented as in the first epoch."""
        return self._batch(self.collated(step, 0), 0)

    def collated(self, step: Step, epoch: int) -> Collated:
        """The samples of ``step`` as they are seen in ``epoch``; NumPy and OpenCV alone."""
        collated = self.samples.collated(step)
        if self.worn is None:
            return collated
        pixels = collated.pixels.copy()
        for image, sample in zip(pixels, collated.ids, strict=True):
            shards, row = self.samples.located(sample)
            if shards is self.worn.lines:
                line = self.worn.line(row, epoch)
                image[:, : line.shape[1], 0] = line
        return replace(collated, pixels=pixels)

    def _batch(self, collated: Collated, epoch: int) -> Batch:
        augment = self.stage.augment
        again = len(self.samples) if augment == Augment() else 0
        return on_device(collated, self.device, augment=augment, epoch=epoch, seed=self.seed, again=again)


def chosen_buckets(samples: Samples) -> tuple[int, ...]:
    """The :data:`BUCKETS` widths that pad these samples least."""
    return bucket_widths(np.bincount(samples.widths), BUCKETS, multiple=samples.multiple)


def in_order(samples: Samples, *, batch_size: int, ranks: Ranks) -> Iterator[Step]:
    """This rank's share of all samples, once each, in steps of like widths; apart what lacks a target or a text."""
    by_width = np.argsort(samples.widths, kind="stable")[ranks.rank :: ranks.count]
    blind, textless = samples.blind[by_width], samples.textless[by_width]
    for alike in (by_width[~blind & ~textless], by_width[blind], by_width[~blind & textless]):
        for start in range(0, len(alike), batch_size):
            chunk = alike[start : start + batch_size]
            widest = int(samples.widths[chunk].max())
            yield Step(chunk, -(-widest // samples.multiple) * samples.multiple)


def samples_of(shards: Mapping[str, Shards], splits: Mapping[str, str], alphabet: Alphabet, frames: Frames) -> Samples:
    """The rows of each named source that are in the split named with it."""
    return Samples([(shards[name], shards[name].rows_of(split)) for name, split in splits.items()], alphabet, frames)
