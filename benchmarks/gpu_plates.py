"""Plates on one GPU: the sampling kernels against the bytes they must move, and plates per second of the generator.

Run: ``python -m benchmarks.gpu_plates``; ends with exit code 2 where there is no CUDA device.

The sampling is DCNv4's at 64 channels, 4 groups, 9 points, on 64 images of 32 x 96 in bfloat16: forward, backward, and
both against nine stacked ``grid_sample`` calls; the second-level cache is overwritten before each. The generator's
training step (the recipe's ``warmup`` stage in bfloat16, its batch resident), eager and compiled, stands beside the
seed's formulation in fp32. Goals are computed from memory traffic on an H200; none was measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks import deform, generator_step
from benchmarks.measure import Sample, flag, interleaved, middle, options, ratio, report, verdict
from benchmarks.plain_plates import PlainRecipe, with_weights_of
from models.batch import Pair
from models.layers.deform_backends import why_not
from models.layers.deform_points import column_major
from orchestrator.ranks import Ranks
from orchestrator.update import Trainee, trainee_of, update

IMAGES, ROWS, COLUMNS, BATCH = 64, 32, 96, 256
FLUSHED = 2**28  # bytes written to push everything else out of the cache; an H200 has 50 MB of it
KERNEL_GOALS_US = {"forward": 62.0, "backward": 250.0}
STEP_GOALS = {"16x48": 8_000.0, "34x62": 3_000.0}  # plates per second


def microseconds(work: Callable[[], Any], repeats: int) -> float:
    """The middle time of ``work`` on the device, each time with a cold cache."""
    cache = torch.empty(FLUSHED, dtype=torch.uint8, device="cuda")
    spans = []
    for _ in range(repeats + 3):  # the first ones compile and warm up
        cache.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        spans.append((start, end))
    torch.cuda.synchronize()
    return 1000 * median(start.elapsed_time(end) for start, end in spans[3:])


def moved(*tensors: Tensor) -> int:
    """Bytes of all, each read or written once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def operands(dtype: torch.dtype, device: str, images: int = IMAGES) -> deform.Operands:
    """As :func:`benchmarks.deform.operands`, in ``dtype`` and channels last where the kernels want it."""
    given = deform.operands("dcnv4", (images, ROWS, COLUMNS), device)
    narrow = [each.detach().to(dtype) for each in (*given.leaves, given.grad)]
    for at in (0, 4):
        narrow[at] = narrow[at].contiguous(memory_format=torch.channels_last)
    return deform.Operands(*(each.requires_grad_() for each in narrow[:4]), narrow[4])


def kernel_rows(repeats: int, bandwidth: float) -> list[list[str]]:
    """The kernels beside the time that their bytes take at ``bandwidth`` GB/s, then both ways of sampling."""
    from models.layers import deform_triton  # only where Triton is

    given, points = operands(torch.bfloat16, "cuda"), column_major(3)
    x, offset, mask = (each.detach() for each in (given.x, given.offset, given.mask))
    works = {
        "forward": partial(deform_triton.gather, x, offset, mask, points),
        "backward": partial(deform_triton.scatter, given.grad, x, offset, mask, points),
    }
    rows = []
    for way, work in works.items():
        out = work()
        written = (out,) if isinstance(out, Tensor) else tuple(each for each in out if each is not None)
        read = (x, offset, mask) if way == "forward" else (x, offset, mask, given.grad)
        least = moved(*read, *written) / bandwidth / 1e3
        took = microseconds(work, repeats)
        rows.append([f"DCNv4 {way}, Triton, bf16, {moved(*read, *written) / 1e6:.0f} MB at {bandwidth:.0f} GB/s",
                     f"{least:.0f} us", f"{took:.0f} us", f"{least / took:.0%} of what the bytes allow",
                     verdict(took, KERNEL_GOALS_US[way], least=False, unit=" us")])  # fmt: skip
    seeds = operands(torch.float32, "cuda")
    stacked = microseconds(lambda: deform.stacked("dcnv4", seeds).backward(seeds.grad), repeats)
    for name, by in (("fp32", seeds), ("bf16", given)):
        ours = microseconds(lambda by=by: deform.ours("dcnv4", "triton", by).backward(by.grad), repeats)  # type: ignore[misc]
        rows.append([f"DCNv4 forward + backward, Triton {name}, against nine stacked grid_samples in fp32",
                     f"{stacked:.0f} us", f"{ours:.0f} us", f"{stacked / ours:.1f}x",
                     verdict(stacked / ours, 8.0)])  # fmt: skip
    return rows


@dataclass(frozen=True)
class Way:
    """A trainee of the recipe's ``warmup`` on a batch that stays on the device."""

    trainee: Trainee
    forward: Callable[[Pair], Any]
    batch: Pair
    dtype: torch.dtype

    def train(self, steps: int) -> int:
        """``steps`` updates; how many plates they saw, when the device is done."""
        stage, device = generator_step.stage_of("warmup"), self.batch.image.device.type
        autocast = partial(torch.autocast, device, dtype=self.dtype, enabled=self.dtype != torch.float32)
        for _ in range(steps):
            update(self.trainee, stage, [self.batch], lr=1e-4, forward=self.forward, autocast=autocast, ranks=Ranks())
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
    return replace(batch, **{n: t.contiguous(memory_format=layout) if t.ndim == 4 else t for n, t in laid.items()})


def ways(
    size: str, batch_size: int, device: torch.device, *, features: int = 64, blocks: int = 12, compiled: bool = True
) -> dict[str, Way | PlainWay]:
    """The seed's step, ours eager, and ours with a compiled generator."""
    height, width, _ = generator_step.SIZES[size]
    batch = next(generator_step.batches(height, width, batch_size))
    same = generator_step.restorer("dcnv1", features=features, blocks=blocks)
    plain = with_weights_of(same.generator, features=features, blocks=blocks).to(device)
    laid = on(batch, device, torch.channels_last)
    found: dict[str, Way | PlainWay] = {
        "plain fp32": PlainWay(PlainRecipe(plain, lr=1e-4, clip_norm=1.0), on(batch, device, torch.contiguous_format))
    }
    for how in ("eager", "compiled") if compiled else ("eager",):
        restorer = generator_step.restorer("dcnv4", features=features, blocks=blocks).to(device)
        restorer = restorer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        trainee = trainee_of(generator_step.stage_of("warmup"), restorer)
        forward = restorer if how == "eager" else torch.compile(restorer)
        found[f"bf16, {how}"] = Way(trainee, forward, laid, torch.bfloat16)
    return found


def per_second(sample: Sample) -> float:
    return float(sample.result) / sample.seconds


def step_rows(size: str, asked: argparse.Namespace) -> tuple[list[list[str]], list[Sample]]:
    runners = ways(size, asked.batch, torch.device("cuda"))
    for runner in runners.values():
        runner.train(3)  # compiles and warms up
    steps = 3 if asked.quick else asked.steps
    found = interleaved({name: partial(each.train, steps) for name, each in runners.items()},
                        asked.rounds or (1 if asked.quick else 5))  # fmt: skip
    base, rows = found["plain fp32"], []
    for name, samples in list(found.items())[1:]:
        speed, times = middle(samples, per_second), ratio(samples, base, per_second)
        rows.append([f"plates/s, {size}, batch {asked.batch}, {name}", f"{middle(base, per_second):,.0f}",
                     f"{speed:,.0f}", f"{times:.2f}x{flag(samples, base)}",
                     f"{verdict(speed, STEP_GOALS[size], unit='/s')}; {verdict(times, 3.0)}"])  # fmt: skip
    return rows, [sample for each in found.values() for sample in each]


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--steps", type=int, default=20, help="a sample (default: 20)")
    parser.add_argument("--bandwidth", type=float, default=4300.0, help="GB/s of the device (default: an H200's 4300)")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device is visible: nothing was measured", file=sys.stderr)
        return 2
    if reason := why_not("triton", "cuda", torch.bfloat16, "dcnv4"):
        print(f"the Triton kernels do not run here ({reason}): nothing was measured", file=sys.stderr)
        return 2
    table, samples = kernel_rows(5 if asked.quick else 50, asked.bandwidth), []
    for size in STEP_GOALS:
        rows, more = step_rows(size, asked)
        table += rows
        samples += more
    report(table, samples, quick=asked.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
