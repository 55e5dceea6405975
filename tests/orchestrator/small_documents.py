"""The task of documents at its smallest, made-up pairs of lines, and stages with two players for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from small import Quiet, a_setting
from torch import nn

from models.batch import Pair
from models.discriminators.patch import PatchConfig
from models.losses.adversarial import DiscriminatorTerm, GeneratorTerm
from models.losses.feature import feature_distance, feature_perceptual
from models.losses.image import l1
from models.losses.line_ctc import LineCTC
from models.metrics.text import cer
from models.recognizers.simple import SimpleCRNNConfig
from models.restorers.documents import UNetConfig
from models.tasks.document import DocumentTask
from orchestrator.loop import Setting, train_stage
from orchestrator.plan import Adversary, Best, Mix, Optim, Stage, Term
from orchestrator.progress import Progress

SYMBOLS = 4
TASK = DocumentTask(
    generator=UNetConfig(width=4, halvings=2), discriminator=PatchConfig(width=4),
    recognizer=SimpleCRNNConfig(classes=SYMBOLS + 1, channels=1, width=0.25, hidden=8),
)  # fmt: skip
AGAINST = Adversary(
    learn=("discriminator",), terms={"judge": Term(loss=DiscriminatorTerm())},
    optim=Optim(lr=2e-3, betas=(0.5, 0.9), clip_norm=0.7),
)  # fmt: skip
TERMS = {
    "pixel": Term(loss=l1, weight=20.0), "fool": Term(loss=GeneratorTerm(), weight=1.5),
    "feature": Term(loss=feature_distance, weight=5.0), "ctc": Term(loss=LineCTC(), weight=1.0),
    "perceptual": Term(loss=feature_perceptual, weight=0.2),
}  # fmt: skip
STEPS = 3  # of an epoch


def a_task(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return TASK.build()


def some_lines(samples: int = 4, *, seed: int = 0, first_id: int = 0) -> Pair:
    """Degraded and clean images of 32 x 64 pixels, some of them narrower, with labels of two or three symbols."""
    draw = torch.Generator().manual_seed(seed)
    target = torch.rand(samples, 1, 32, 64, generator=draw).round() * 2 - 1
    widths = torch.tensor([(64, 48)[(first_id + row) % 2] for row in range(samples)])
    outside = torch.arange(64) >= widths[:, None]
    target = target.masked_fill(outside[:, None, None], -1.0)
    noise = torch.rand(target.shape, generator=draw)
    return Pair(
        image=(0.6 * target + 0.4 * noise).masked_fill(outside[:, None, None], -1.0), widths=widths,
        tokens=torch.randint(1, SYMBOLS + 1, (samples, 3), generator=draw),
        lengths=torch.randint(2, 4, (samples,), generator=draw), counted=torch.ones(samples, dtype=torch.bool),
        ids=tuple(range(first_id, first_id + samples)), target=target,
    )  # fmt: skip


def some_of(batch: Pair, rows: slice) -> Pair:
    return replace(batch, **{name: value[rows] for name, value in vars(batch).items() if name != "again"})


def adversarial(**changes: Any) -> Stage:
    stage = Stage(
        name="adversarial", learn=("generator",), terms=TERMS, optim=Optim(lr=1e-3, clip_norm=1.0), epochs=2,
        batch_size=4, data=Mix(shares={"lines": 1.0}), validate={"lines": "valid"}, adversary=AGAINST,
        best=(Best(metric="lines/psnr"), Best(metric="lines/cer", mode="min")),
    )  # fmt: skip
    return replace(stage, **changes)


@dataclass
class Lines:
    """A few steps an epoch, each its own batch of which a rank gets its rows; a function of epoch and step alone."""

    steps_per_epoch: int = STEPS
    rows: slice = field(default_factory=lambda: slice(None))

    def source_ids(self, samples: Sequence[int]) -> list[str]:
        return [f"lines/{sample}" for sample in samples]

    @contextmanager
    def batches(self, epoch: int, first_step: int) -> Iterator[Iterator[list[Pair]]]:
        yield ([some_of(some_lines(seed=100 * epoch + step), self.rows)]
               for step in range(first_step, self.steps_per_epoch))  # fmt: skip


def measured(judged: nn.Module) -> dict[str, float]:
    """Decibels of held-out lines, and the share of symbols that the recogniser reads wrong in them."""
    held_out = some_lines(6, seed=999)
    judged.eval()
    with torch.no_grad():
        out = judged(held_out)
    error = (out.image - held_out.target).square().mean() / 4  # on the range from 0 to 1
    read, truth = [], []
    for row, (frames, length) in enumerate(zip(out.read.frames, held_out.lengths, strict=True)):
        path = torch.unique_consecutive(out.read.logits[row, :frames].argmax(1))
        read.append("".join(" abcd"[k] for k in path.tolist() if k))
        truth.append("".join(" abcd"[k] for k in held_out.tokens[row, :length].tolist()))
    return {"lines/psnr": -10 * error.log10().item(), "lines/cer": cer(read, truth).value}


def trained(
    folder: Path, stage: Stage, *, watch: Quiet | None = None, data: Any = None, task: nn.Module | None = None,
    **changes: Any,
) -> tuple[nn.Module, Progress]:  # fmt: skip
    task = task or a_task()
    changes = {"evaluate": measured} | changes
    setting: Setting = a_setting(folder, task, watch=watch, **changes)
    return task, train_stage(stage, task, data or Lines(), setting)
