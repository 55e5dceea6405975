"""SSIM as a loss, forward and backward: banded matrix products against a separable depthwise convolution.

Run: ``python -m benchmarks.ssim [--repeats 10]``

Both compute the same similarity, in the valid region with the same 11 x 11 Gaussian window; :func:`convolved` is what
most libraries do: five images blurred, each by two one-dimensional convolutions, channel by channel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Sample, flag, interleaved, middle, options, ratio, report, verdict
from models.ssim import K1, K2, gaussian, similarity

SIZES = {"plates, 64 x 3 x 32 x 96": (64, 3, 32, 96), "lines, 8 x 1 x 128 x 1024": (8, 1, 128, 1024)}
GOAL = 2.0


def convolved(image: Tensor, target: Tensor) -> Tensor:
    """``(B,)`` the similarity of images in ``[-1, 1]``, as :func:`models.ssim.similarity` has it."""
    x, y = image + 1, target + 1
    mx, my, xx, yy, xy = map(_blurred, (x, y, x * x, y * y, x * y))
    c1, c2 = (2 * K1) ** 2, (2 * K2) ** 2
    structure = (2 * (xy - mx * my) + c2) / (xx - mx * mx + yy - my * my + c2)
    return (structure * (2 * mx * my + c1) / (mx * mx + my * my + c1)).flatten(1).mean(dim=1)


def _blurred(images: Tensor) -> Tensor:
    channels = images.shape[1]
    window = images.new_tensor(gaussian()).expand(channels, 1, -1)
    columns = F.conv2d(images, window[:, :, None, :], groups=channels)
    return F.conv2d(columns, window[:, :, :, None], groups=channels)


def backwards(how: Callable[[Tensor, Tensor], Tensor], image: Tensor, target: Tensor, repeats: int) -> float:
    """The loss, after ``repeats`` times forward and backward."""
    for _ in range(repeats):
        loss = (1 - how(image, target)).mean()
        torch.autograd.grad(loss, image)
    return float(loss.detach())


def forwards(how: Callable[[Tensor, Tensor], Tensor], image: Tensor, target: Tensor, repeats: int) -> float:
    """The loss, after ``repeats`` times forward without gradient."""
    with torch.no_grad():
        for _ in range(repeats):
            loss = (1 - how(image, target)).mean()
    return float(loss.detach())


def pair(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """An image that takes gradient, and its noisy target, both in ``[-1, 1]``."""
    made = torch.Generator().manual_seed(0)
    target = torch.rand(shape, generator=made) * 2 - 1
    noisy = (target + 0.3 * torch.randn(shape, generator=made)).clamp(-1, 1)
    return noisy.requires_grad_(), target


def seconds(sample: Sample) -> float:
    return sample.seconds


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--repeats", type=int, default=10, help="passes a sample (default: 10)")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    repeats, rounds = (1, 1) if asked.quick else (asked.repeats, 9)
    table, samples = [], []
    for name, shape in SIZES.items():
        images = pair((1, *shape[1:]) if asked.quick else shape)
        for what, work, goal in (("forward", forwards, None), ("forward + backward", backwards, GOAL)):
            ways = {how.__name__: partial(work, how, *images, repeats) for how in (convolved, similarity)}
            for way in ways.values():
                way()  # the first pass lays out memory and makes the matrices
            found = interleaved(ways, asked.rounds or rounds)
            theirs, ours = found["convolved"], found["similarity"]
            apart = max(abs(a.result - b.result) for a, b in zip(theirs, ours, strict=True))
            times = ratio(theirs, ours, seconds)
            table.append(
                [f"SSIM {what}, {name}; losses {apart:.0e} apart",
                 *(f"{1e3 * middle(each, seconds) / repeats:.1f} ms" for each in (theirs, ours)),
                 f"{times:.2f}x{flag(theirs, ours)}", verdict(times, goal) if goal else ""]
            )  # fmt: skip
            samples += [*theirs, *ours]
    report(table, samples, quick=asked.quick)


if __name__ == "__main__":
    main()
