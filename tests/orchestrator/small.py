"""Small things that several orchestrator tests train with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datasets.image import ImageSpec
from datasets.rendered import RenderedWords
from datasets.row import BadImage, Row
from models.batch import Batch, Read
from models.losses.text import ctc
from models.mean import Mean, mean_of
from models.text import ALNUM36, Frames
from orchestrator.ingest import ingest, make_here
from orchestrator.loop import Setting
from orchestrator.override import override
from orchestrator.plan import Best, Mix, Optim, Recipe, Stage, Term
from orchestrator.ranks import Ranks
from orchestrator.recipes.words import three_stages
from orchestrator.shards import Shards

CLASSES = 5


class Columns(nn.Module):
    """A reader without batch norm: what it says of one sample does not depend on the others."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Conv2d(1, 4, (8, 3), padding=(0, 1))
        self.rnn = nn.Linear(4, CLASSES)

    def forward(self, batch: Batch) -> Read:
        features = self.cnn(batch.image).relu().squeeze(2).transpose(1, 2)
        return Read(logits=self.rnn(features), frames=batch.widths)


def some_batch(samples: int, *, seed: int = 0, width: int = 6, first_id: int = 0, height: int = 8) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    return Batch(
        image=torch.rand(samples, 1, height, width, generator=draw),
        widths=torch.full((samples,), width),
        tokens=torch.randint(1, CLASSES, (samples, 2), generator=draw),
        lengths=torch.randint(1, 3, (samples,), generator=draw),
        counted=torch.ones(samples, dtype=torch.bool),
        ids=tuple(range(first_id, first_id + samples)),
    )


def part_of(batch: Batch, rows: slice) -> Batch:
    return Batch(**{name: getattr(batch, name)[rows] for name in Batch.__dataclass_fields__})


def a_stage(**changes: Any) -> Stage:
    stage = Stage(
        name="only", learn=("cnn", "rnn"), terms={"ctc": Term(loss=ctc)}, optim=Optim(lr=1e-2), epochs=3, batch_size=6,
        data=Mix(shares={"made": 1.0}), validate={"made": "valid"}, best=(Best(metric="made/loss", mode="min"),),
    )  # fmt: skip
    return replace(stage, **changes)


@dataclass
class MadeData:
    """Four steps an epoch, each its own batch; a function of the epoch and step alone."""

    steps_per_epoch: int = 4
    seen: list[int] = field(default_factory=list)

    def source_ids(self, samples: Sequence[int]) -> list[str]:
        return [f"made/{sample}" for sample in samples]

    @contextmanager
    def batches(self, epoch: int, first_step: int) -> Iterator[Iterator[list[Batch]]]:
        def made() -> Iterator[list[Batch]]:
            for step in range(first_step, self.steps_per_epoch):
                self.seen.append(epoch * self.steps_per_epoch + step)
                yield [some_batch(6, seed=epoch * 100 + step)]

        yield made()


@dataclass
class Quiet:
    """A watch that asks for a stop after ``steps`` updates, and remembers what it was told."""

    steps: int = 1_000_000
    asked: int = 0
    told: list[Mapping[str, Any]] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)

    def stop_asked(self) -> bool:
        self.asked += 1
        return self.asked >= self.steps

    def at(self, phase: str) -> None:
        self.phases.append(phase)

    def tell(self, status: Mapping[str, Any]) -> None:
        self.told.append(dict(status))


def a_setting(folder: Path, task: nn.Module, *, watch: Quiet | None = None, **changes: Any) -> Setting:
    held_out = some_batch(8, seed=999)

    def evaluate(judged: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            return {"made/loss": float(ctc(held_out, judged(held_out)).value)}

    folder.mkdir(parents=True, exist_ok=True)
    setting = Setting(
        folder=folder, fits={"alphabet": "a"}, seed=1, device=torch.device("cpu"), autocast=nullcontext,
        evaluate=evaluate,
        forward=task, ranks=Ranks(), watch=watch or Quiet(), checkpoint_every_s=0.0,
    )  # fmt: skip
    return replace(setting, **changes)


def not_finite(batch: Batch, out: Read) -> Mean:
    """NaN for the batch that holds sample 13, the mean logit for others."""
    bad = torch.tensor([sample == 13 for sample in batch.ids])
    return mean_of(torch.where(bad, torch.nan, out.logits.mean((1, 2))))


def weights_of(task: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in task.state_dict().items()}


def small_recipe(**changes: Any) -> Recipe:
    """The stages of `words` on a few rendered words, in seconds."""
    recipe = three_stages(
        name="small",
        rendered=RenderedWords(count=120, valid=24, style="plain", numbers=0, random=0),
        real_name="worn",
        real=RenderedWords(count=60, valid=24, test=24, seed=1, style="scene"),
        floor=0.0,
    )
    settings = {
        "task.recognizer.width": 0.0625, "task.recognizer.hidden": 8, "image.max_width": 96,
        "stages.pretrain.epochs": 2, "stages.pretrain.batch_size": 16,
        "stages.pretrain.gate": {"rendered/word_accuracy_36": 0.0},
        "stages.finetune_frozen.epochs": 1, "stages.finetune_frozen.batch_size": 16,
        "stages.finetune.epochs": 2, "stages.finetune.batch_size": 16, "stages.finetune.ema": 0.9,
    }  # fmt: skip
    return override(recipe, settings | changes)


def shards_of(recipe: Recipe, store: Path) -> dict[str, Path]:
    """Every source of ``recipe``, ingested in this process."""
    return {
        name: ingest(
            source, None, name=name, image=recipe.image, alphabet=recipe.alphabet, frames=recipe.task.frames,
            store=store, make=make_here,
        )
        for name, source in recipe.sources.items()
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A source of rows given as they are."""

    items: tuple[object, ...]

    def rows(self, root: Path | None) -> Iterator[object]:
        yield from self.items

    def describe(self, root: Path | None) -> dict[str, object]:
        return {}


@dataclass(frozen=True)
class Drawn:
    """8 x 20 pixels of noise drawn from a seed; one grey all over below 0, unreadable at 1000."""

    seed: int

    def load(self) -> np.ndarray:
        if self.seed == 1000:
            raise BadImage("unreadable", "cut short")
        if self.seed < 0:
            return np.full((8, 20), 7, np.uint8)
        return np.random.default_rng(self.seed).integers(0, 256, (8, 20), np.uint8)

    def stamp(self) -> str:
        return str(self.seed)


def numbered_row(number: int, *, seed: int | None = None, text: str = "ab", split: str = "train") -> Row:
    """Row ``pNUMBER`` in a group of its own."""
    image = Drawn(number if seed is None else seed)
    return Row(id=f"p{number}", image=image, text=text, group=f"g{number}", split=split)


def made_of(rows: list[Row], store: Path) -> dict[str, Shards]:
    """A source ``made`` of these rows, ingested for 36 letters and digits at height 8."""
    folder = ingest(
        Listed(items=tuple(rows)), None, name="made", image=ImageSpec(height=8, min_width=8, max_width=32),
        alphabet=ALNUM36, frames=Frames(stride=4, offset=0), store=store, make=make_here,
    )  # fmt: skip
    return {"made": Shards.open(folder, verify=False)}
