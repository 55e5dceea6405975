"""Rendered words as shards, and a stage that learns them: what several figures work on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from datasets.iiit5k import IIIT5K
from datasets.image import ImageSpec
from datasets.rendered import RenderedWords
from datasets.row import Row
from models.losses.text import ctc
from models.recognizers.crnn import FRAMES
from models.text import ALNUM62
from orchestrator.batches import Samples, TrainingData, chosen_buckets, samples_of
from orchestrator.ingest import ingest, make_here
from orchestrator.plan import Augment, Best, Mix, Optim, Stage, Term
from orchestrator.ranks import Ranks
from orchestrator.shards import Shards

NAME = "rendered"
PLAIN = RenderedWords(count=20_000, style="plain")


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """The word photographs of IIIT-5K, all for training, ``times`` over under new ids: the work of a larger set."""

    times: int = 1

    def rows(self, root: Path | None) -> Iterator[Row]:
        words = [row for row in IIIT5K().rows(root) if isinstance(row, Row)]
        for copy in range(self.times):
            yield from (replace(row, id=f"{copy}/{row.id}", split="train") for row in words)

    def describe(self, root: Path | None) -> Mapping[str, object]:
        return IIIT5K().describe(root)


def word_shards(store: Path, source: Any, root: Path | None = None, *, image: ImageSpec | None = None) -> Shards:
    """``source`` ingested below ``store`` in this process, and opened."""
    folder = ingest(
        source, root, name=NAME, image=image or ImageSpec(), alphabet=ALNUM62, frames=FRAMES, store=store,
        make=make_here,
    )  # fmt: skip
    return Shards.open(folder, verify=False)


def train_samples(shards: Shards) -> Samples:
    return samples_of({NAME: shards}, {NAME: "train"}, ALNUM62, FRAMES)


def a_stage(batch_size: int, **changes: Any) -> Stage:
    """A stage in which everything learns, with no augmentation."""
    settings: Mapping[str, Any] = {
        "name": "pretrain", "learn": ("cnn", "rnn"), "terms": {"ctc": Term(loss=ctc)},
        "optim": Optim(lr=1e-3), "epochs": 1, "batch_size": batch_size, "data": Mix(shares={NAME: 1.0}),
        "augment": Augment(), "validate": {NAME: "valid"}, "best": (Best(metric=f"{NAME}/loss", mode="min"),),
    }  # fmt: skip
    return Stage(**(settings | changes))


def training_data(samples: Samples, batch_size: int, *, buckets: tuple[int, ...] = ()) -> TrainingData:
    """What the loop trains from: shuffled batches, each as wide as its bucket."""
    return TrainingData(
        stage=a_stage(batch_size), samples=samples, buckets=buckets or chosen_buckets(samples), seed=0,
        ranks=Ranks(), device=torch.device("cpu"),
    )  # fmt: skip
