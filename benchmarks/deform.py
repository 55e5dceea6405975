"""Deformable convolution, forward and backward: each backend against nine stacked ``grid_sample`` calls.

Timed is the sampling and its sum alone, from given offsets: 64 channels, 9 points; ``dcnv1`` with one group, as the
seed has it, and ``dcnv4`` with four. The memory is what autograd keeps between forward and backward, operands included.

Run: ``python -m benchmarks.deform [--kinds dcnv4] [--quick]``
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Sample, flag, interleaved, middle, options, ratio, report, verdict
from models.layers.deform_backends import Backend, Kind, why_not
from models.layers.deform_functions import aggregate, dense
from models.layers.deform_points import column_major, row_major

SHAPES = {"16x48": (16, 16, 48), "34x62": (16, 34, 62), "32x96": (64, 32, 96)}  # images, height, width
CHANNELS, GROUPS = 64, {"dcnv1": 1, "dcnv2": 4, "dcnv3": 4, "dcnv4": 4}
BACKENDS: tuple[Backend, ...] = ("torch", "native", "triton", "torchvision")
BASELINE = "stacked"
FASTER = {"torch": 1.2}
LEAST_S = 0.2  # of work in one sample


@dataclass(frozen=True)
class Operands:
    """What a forward takes and, in ``grad``, what its backward does."""

    x: Tensor
    offset: Tensor
    mask: Tensor
    weight: Tensor
    grad: Tensor

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return (self.x, self.offset, self.mask, self.weight)


def operands(kind: Kind, shape: Sequence[int], device: str) -> Operands:
    """Offsets of about a pixel, in the layout that a convolution gives them."""
    images, height, width = shape
    groups, at = GROUPS[kind], {"device": device, "generator": torch.Generator(device).manual_seed(0)}
    x, offset, mask, grad = (
        torch.randn(images, channels, height, width, **at)  # type: ignore[arg-type]
        for channels in (CHANNELS, groups * 18, groups * 9, CHANNELS)
    )
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3, **at) / 24  # type: ignore[arg-type]
    offset, mask = offset.unflatten(1, (groups, 9, 2)), mask.unflatten(1, (groups, 9))
    return Operands(*(each.requires_grad_() for each in (x, offset, mask, weight)), grad)


def stacked(kind: Kind, given: Operands) -> Tensor:
    """The seed's way: every point's samples by one ``grid_sample``, all nine stacked, then summed."""
    images, groups, count, _, height, width = given.offset.shape
    points = row_major(3) if kind in ("dcnv1", "dcnv2") else column_major(3)
    grouped = given.x.reshape(images * groups, -1, height, width)
    first, second = given.offset.flatten(0, 1).unbind(2)
    dx, dy = (first, second) if points.x_first else (second, first)
    columns, rows = torch.arange(width, device=dx.device), torch.arange(height, device=dx.device)[:, None]
    samples = []
    for k, (x, y) in enumerate(points.at):
        across, down = columns + x + dx[:, k], rows + y + dy[:, k]
        grid = torch.stack([(2 * across + 1) / width - 1, (2 * down + 1) / height - 1], dim=3)
        samples.append(F.grid_sample(grouped, grid, align_corners=False))
    read = torch.stack(samples, dim=2).view(images, groups, -1, count, height, width)
    if kind != "dcnv1":
        read = read * given.mask[:, :, None]
    if kind in ("dcnv3", "dcnv4"):
        return read.sum(dim=3).flatten(1, 2)
    return torch.einsum("bckhw,ock->bohw", read.flatten(1, 2), given.weight.flatten(2))


def ours(kind: Kind, backend: Backend, given: Operands) -> Tensor:
    if kind in ("dcnv3", "dcnv4"):
        return aggregate(given.x, given.offset, given.mask, column_major(3), backend)
    mask = None if kind == "dcnv1" else given.mask
    if backend == "torchvision":
        from models.layers.deform_backends import torchvision_dense

        offset, flat = given.offset.flatten(1, 3), None if mask is None else mask.flatten(1, 2)
        return torchvision_dense(given.x, offset, flat, given.weight, torch.zeros(CHANNELS).to(given.x), 1)
    return dense(given.x, given.offset, mask, given.weight, row_major(3), backend)


def step(forward: Callable[[Operands], Tensor], given: Operands) -> None:
    """Forward and backward once, gradients thrown away."""
    forward(given).backward(given.grad)
    for leaf in given.leaves:
        leaf.grad = None
    if given.x.is_cuda:
        torch.cuda.synchronize()


def repeated(forward: Callable[[Operands], Tensor], given: Operands, times: int) -> int:
    for _ in range(times):
        step(forward, given)
    return times


def kept(forward: Callable[[Operands], Tensor], given: Operands) -> float:
    """MB that autograd keeps from forward to backward, each storage counted once."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = forward(given)
    out.backward(given.grad)  # only now may a storage's address be used again
    return sum(storages.values()) / 1e6


def ways(kind: Kind, device: str) -> dict[str, Callable[[Operands], Tensor]]:
    """The baseline and every backend present, by name."""
    found: dict[str, Callable[[Operands], Tensor]] = {BASELINE: lambda given: stacked(kind, given)}
    for backend in BACKENDS:
        reason = why_not(backend, device, torch.float32, kind)
        if reason is None:
            found[backend] = lambda given, backend=backend: ours(kind, backend, given)  # type: ignore[misc]
        else:
            print(f"{kind}: no {backend}: {reason}")
    found["plain conv3x3"] = lambda given: F.conv2d(given.x, given.weight, padding=1)
    return found


def times_of(forward: Callable[[Operands], Tensor], given: Operands) -> int:
    """Repetitions that fill a sample, after one that warms up."""
    step(forward, given)
    start = time.perf_counter()
    step(forward, given)
    return max(round(LEAST_S / (time.perf_counter() - start)), 1)


def per_step(sample: Sample) -> float:
    return 1000 * sample.seconds / float(sample.result)


def rows_of(kind: Kind, shape: Sequence[int], device: str, asked: Any) -> tuple[list[list[str]], list[Sample]]:
    given, forwards = operands(kind, shape, device), ways(kind, device)
    times = {name: 1 if asked.quick else times_of(forward, given) for name, forward in forwards.items()}
    memory = {name: kept(forward, given) for name, forward in forwards.items()}
    works = {name: (lambda name=name: repeated(forwards[name], given, times[name])) for name in forwards}  # type: ignore[misc]
    found = interleaved(works, asked.rounds or (1 if asked.quick else 5), tell=False)
    base, rows = found.pop(BASELINE), []
    what = f"{kind} {shape[1]}x{shape[2]}, {shape[0]} images"
    for name, samples in found.items():
        times_faster = ratio(base, samples, per_step)
        goal = verdict(times_faster, FASTER[name]) if name in FASTER else ""
        rows.append([f"{what}: {name}, ms", f"{middle(base, per_step):.1f}", f"{middle(samples, per_step):.1f}",
                     f"{times_faster:.2f}x{flag(base, samples)}", goal])  # fmt: skip
        share = memory[name] / memory[BASELINE]
        goal = verdict(share, 1 / 3, least=False) if name in FASTER else ""
        rows.append([f"{what}: {name}, MB", f"{memory[BASELINE]:.1f}", f"{memory[name]:.1f}", f"{share:.2f}x", goal])
    return rows, [base, *found.values()]  # type: ignore[return-value]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--kinds", nargs="+", choices=list(GROUPS), default=["dcnv1", "dcnv4"])
    parser.add_argument("--sizes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    rows: list[list[str]] = []
    samples: list[Sample] = []
    for kind in asked.kinds:
        for shape in ((2, 16, 48),) if asked.quick else [SHAPES[name] for name in asked.sizes]:
            more, series = rows_of(kind, shape, asked.device, asked)
            rows += more
            samples += [sample for each in series for sample in each]  # type: ignore[attr-defined]
    report(rows, samples, quick=asked.quick)


if __name__ == "__main__":
    main()
