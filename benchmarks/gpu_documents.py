"""Documents on one GPU: training samples per second of the adversarial stage with the plan's full networks.

Run: ``python -m benchmarks.gpu_documents``; ends with exit code 2 where there is no CUDA device.

The step is :func:`orchestrator.update.update` on the recipe's own task and stage in bfloat16, batch 16, 128 x 1024, its
batch resident; eager, and with compiled generator and recogniser. Beside it stands the seed's recipe in fp32 on the
same batch, and the seed's own 2.66 samples/s, of unknown hardware, with validation in them. The goal of 150 is computed
for an H200; it was not measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import document_step
from benchmarks.measure import Sample, flag, interleaved, middle, options, ratio, report, verdict
from benchmarks.plain_documents import PlainRecipe, with_weights_of
from models.batch import Pair
from models.tasks.document import DocumentTask
from orchestrator.ranks import Ranks
from orchestrator.update import Trainee, trainee_of, update

HEIGHT, WIDTH, BATCH = 128, 1024, 16
GOAL, SEEDS = 150.0, 2.66  # samples per second


@dataclass(frozen=True)
class Way:
    """A trainee of the ``adversarial`` stage on a batch that stays on the device."""

    trainee: Trainee
    batch: Pair
    dtype: torch.dtype

    def train(self, steps: int) -> int:
        """``steps`` updates; how many samples they saw, when the device is done."""
        device = self.batch.image.device.type
        autocast = partial(torch.autocast, device, dtype=self.dtype, enabled=self.dtype != torch.float32)
        for _ in range(steps):
            update(self.trainee, document_step.STAGE, [self.batch], lr=document_step.LR, forward=self.trainee.task,
                   autocast=autocast, ranks=Ranks())  # fmt: skip
        if device == "cuda":
            torch.cuda.synchronize()
        return steps * len(self.batch.ids)


@dataclass(frozen=True)
class PlainWay:
    """The seed's step on the same batch."""

    recipe: PlainRecipe
    batch: Pair

    def train(self, steps: int) -> int:
        for _ in range(steps):
            self.recipe.step(self.batch)  # its .item() waits for the device
        return steps * len(self.batch.ids)


def on(batch: Pair, device: torch.device, layout: torch.memory_format) -> Pair:
    """``batch`` on ``device``, its images in ``layout``."""
    names = ("image", "target", "widths", "tokens", "lengths", "counted")
    laid: dict[str, Tensor] = {name: getattr(batch, name).to(device) for name in names}
    return replace(batch, **{n: t.contiguous(memory_format=layout) if t.ndim == 4 else t for n, t in laid.items()})  # type: ignore[arg-type]


def ways(
    task: DocumentTask, batch: Pair, device: torch.device, *, compiled: bool = True
) -> dict[str, Callable[[], Way | PlainWay]]:
    """How to build the seed's step, ours eager, and ours compiled: one after the other, as each takes much memory."""

    def plain() -> PlainWay:
        networks = with_weights_of(document_step.restoration(task), task).to(device)
        recipe = PlainRecipe(networks, lr=document_step.LR, clip_norm=document_step.CLIP)
        return PlainWay(recipe, on(batch, device, torch.contiguous_format))

    def ours(*, compile: bool) -> Way:
        made: Any = document_step.restoration(task).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compile:
            made.generator.compile()
            made.recognizer.cnn.compile()
        trainee = trainee_of(document_step.STAGE, made)
        return Way(trainee, on(batch, device, torch.channels_last), torch.bfloat16)

    found: dict[str, Callable[[], Way | PlainWay]] = {"plain fp32": plain, "bf16, eager": partial(ours, compile=False)}
    return {**found, "bf16, compiled": partial(ours, compile=True)} if compiled else found


def per_second(sample: Sample) -> float:
    return float(sample.result) / sample.seconds


def rows_of(generator: str, asked: argparse.Namespace) -> tuple[list[list[str]], list[Sample]]:
    task, device = document_step.task_of(generator, 1.0, HEIGHT), torch.device("cuda")
    batch = document_step.batch_of(HEIGHT, WIDTH, asked.batch)
    runners, memory = {}, {}
    for name, build in ways(task, batch, device).items():
        runners[name] = build()
        torch.cuda.reset_peak_memory_stats()
        runners[name].train(3)  # compiles and warms up
        memory[name] = torch.cuda.max_memory_allocated() / 2**30
    steps = 3 if asked.quick else asked.steps
    found = interleaved({name: partial(each.train, steps) for name, each in runners.items()},
                        asked.rounds or (1 if asked.quick else 5))  # fmt: skip
    base, rows = found["plain fp32"], []
    for name, samples in list(found.items())[1:]:
        speed = middle(samples, per_second)
        what = f"{generator}, 128x1024, batch {asked.batch}, {name}; at most {memory[name]:.0f} GiB"
        rows.append([what, f"{middle(base, per_second):.1f}, the seed {SEEDS}", f"{speed:.1f} samples/s",
                     f"{ratio(samples, base, per_second):.2f}x{flag(samples, base)}, {speed / SEEDS:.0f}x the seed",
                     verdict(speed, GOAL, unit="/s")])  # fmt: skip
    return rows, [sample for each in found.values() for sample in each]


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--steps", type=int, default=20, help="a sample (default: 20)")
    parser.add_argument("--generators", nargs="+", choices=["enhanced", "unet"], default=["enhanced", "unet"])
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device is visible: nothing was measured", file=sys.stderr)
        return 2
    table, samples = [], []
    for generator in asked.generators:
        rows, more = rows_of(generator, asked)
        table += rows
        samples += more
    report(table, samples, quick=asked.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
