"""Words per second of training the CRNN on one GPU: batch 512, bf16, 32 x 128, real CTC, the data set on the device.

Run: ``python -m benchmarks.gpu``; ends with exit code 2 where there is no CUDA device.

The same step (:func:`orchestrator.update.update`) in three ways: eager, with a compiled network, and with forward and
backward of the network replayed as CUDA graphs. Eager is the baseline. Model FLOPs utilisation counts forward and
backward of convolutions and LSTMs, nothing else.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import Sample, flag, interleaved, middle, options, ratio, report, verdict
from benchmarks.words import PLAIN, a_stage, train_samples, word_shards
from datasets.image import ImageSpec
from models.batch import Batch, Read
from models.recognizers.crnn import CRNNConfig
from models.tasks.read import Reader, ReadTask
from models.text import ALNUM62
from orchestrator.batches import Samples
from orchestrator.order import Step
from orchestrator.ranks import Ranks
from orchestrator.update import Trainee, trainee_of, update

WIDTH = 128
GFLOP_PER_WORD = 5.25  # forward and backward at 32 x 128: convolutions 4.76, LSTMs 0.49
LR = 1e-3


@dataclass(frozen=True)
class Resident:
    """A whole data set in the device's memory: bytes of ``(N, 1, 32, 128)`` images, and their labels."""

    pixels: Tensor
    widths: Tensor
    tokens: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, samples: Samples, device: torch.device) -> Resident:
        made = samples.collated(Step(torch.arange(len(samples)).numpy(), WIDTH))
        images = torch.from_numpy(made.pixels).permute(0, 3, 1, 2)
        arrays = (images, *map(torch.from_numpy, (made.widths, made.tokens, made.lengths)))
        return cls(*(tensor.to(device) for tensor in arrays))

    def batch(self, rows: Tensor) -> Batch:
        """The samples of ``rows`` ``(B,)``, gathered and turned to floats on the device."""
        image = self.pixels[rows].float().div_(127.5).sub_(1.0)
        return Batch(
            image=image.contiguous(memory_format=torch.channels_last), widths=self.widths[rows],
            tokens=self.tokens[rows], lengths=self.lengths[rows],
            counted=torch.ones_like(rows, dtype=torch.bool), ids=tuple(range(len(rows))),
        )  # fmt: skip


class OfTensors(nn.Module):
    """The reader with tensors in and out, which CUDA graphs ask for."""

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self.reader = reader

    def forward(self, image: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
        features, frames = self.reader.cnn(image, widths)
        return self.reader.rnn(features, frames), frames


@dataclass(frozen=True)
class Way:
    """A trainee, and how its network is run."""

    trainee: Trainee
    forward: Callable[[Batch], Read]
    data: Resident
    batch_size: int
    device: torch.device

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, cache_enabled=False)  # as graphs demand

    def train(self, steps: int) -> list[float]:
        """``steps`` updates from the first batch on; losses, read once at the end, when the device is done."""
        stage = a_stage(self.batch_size)
        draw = torch.Generator(self.device).manual_seed(0)
        measured = []
        for _ in range(steps):
            rows = torch.randint(len(self.data.widths), (self.batch_size,), generator=draw, device=self.device)
            batch = self.data.batch(rows)
            measured.append(
                update(self.trainee, stage, [batch], lr=LR, forward=self.forward, autocast=self.autocast, ranks=Ranks())
            )
        return [row[0] / row[1] for row in torch.stack(measured).tolist()]


def a_way(data: Resident, batch_size: int, device: torch.device, *, how: str, config: CRNNConfig) -> Way:
    """``how`` is ``"eager"``, ``"compiled"`` or ``"graphed"``; the weights are the same in each."""
    torch.manual_seed(0)
    reader = ReadTask(recognizer=config).build().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    way = Way(trainee_of(a_stage(batch_size), reader), reader, data, batch_size, device)
    if how == "eager":
        return way
    run: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = OfTensors(reader).train()
    if how == "compiled":
        run = torch.compile(run)
    else:
        example = data.batch(torch.arange(batch_size, device=device))
        with way.autocast():
            run = torch.cuda.make_graphed_callables(OfTensors(reader).train(), (example.image, example.widths))

    def forward(batch: Batch) -> Read:
        logits, frames = run(batch.image, batch.widths)
        return Read(logits=logits, frames=frames)

    return replace(way, forward=forward)


def rows_of(found: dict[str, list[Sample]], words: int, peak_tflops: float) -> list[list[str]]:
    """A row for each way but the first, which is the baseline, and for the first itself."""

    def rate(sample: Sample) -> float:
        return words / sample.seconds

    first = next(iter(found))
    rows = []
    for name, samples in found.items():
        speed = middle(samples, rate)
        use = speed * GFLOP_PER_WORD / (peak_tflops * 1e3)
        rows.append([
            f"words/s, batch 512, bf16, {name}, {use:.1%} of {peak_tflops:.0f} TFLOP/s",
            f"{middle(found[first], rate):,.0f}", f"{speed:,.0f}",
            f"{ratio(samples, found[first], rate):.2f}x{flag(samples)}", verdict(speed, 40_000, unit="/s"),
        ])  # fmt: skip
    return rows


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--peak-tflops", type=float, default=790.0, help="of bf16, for the utilisation")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device is visible: nothing was measured", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    steps, rounds = 20 if asked.quick else asked.steps, asked.rounds or (1 if asked.quick else 5)
    with tempfile.TemporaryDirectory() as made:
        source = replace(PLAIN, count=2_000 if asked.quick else 20_000)
        data = Resident.of(train_samples(word_shards(Path(made), source, image=ImageSpec(max_width=WIDTH))), device)
    config = CRNNConfig(classes=ALNUM62.classes)
    ways = {how: a_way(data, asked.batch, device, how=how, config=config) for how in ("eager", "graphed", "compiled")}
    losses = {how: way.train(50) for how, way in ways.items()}  # warms up, too
    for how, curve in losses.items():
        print(f"{how:9} loss after 1, 10, 50 steps: " + ", ".join(f"{curve[step]:.4f}" for step in (0, 9, 49)))
    found = interleaved({how: partial(way.train, steps) for how, way in ways.items()}, rounds)
    report(rows_of(found, asked.batch * steps, asked.peak_tflops), found["eager"], quick=asked.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
