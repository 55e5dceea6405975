"""Enlarging: the bicubic baseline, sub-pixel convolution, and a range that never stops the gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

TINY = 1e-8  # bound of the last weights: moves no pixel by 1e-6, yet lets a gradient through to every layer


def bicubic(image: Tensor, scale: int) -> Tensor:
    """``(B, C, H, W)`` in ``[-1, 1]`` as ``(B, C, scale * H, scale * W)`` in ``[-1, 1]``: what a restorer has to beat.

    The cubic has a = -0.75, samples at pixel centres and is not antialiased; where it overshoots it is cut off.
    """
    large = F.interpolate(image, scale_factor=scale, mode="bicubic", align_corners=False) if scale > 1 else image
    return large.clamp(-1, 1)


class Bounded(torch.autograd.Function):
    """``clamp(x, -1, 1)`` whose gradient stops only where following it would lead further out.

    The plain clamp sends no gradient from a pixel outside, not even one that says it should come back: on a
    white plate, where bicubic overshoots, such pixels would stay white.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad * ((x.abs() <= 1) | (x * grad > 0))


def bounded(x: Tensor) -> Tensor:
    """``x`` cut to ``[-1, 1]``, with the gradient of :class:`Bounded`."""
    return Bounded.apply(x)


class SubPixel(nn.Module):
    """Features to an image, ``scale`` times as large, by convolutions and pixel shuffles that double both sides."""

    def __init__(self, features: int, channels: int, scale: int) -> None:
        super().__init__()
        doublings = scale.bit_length() - 1
        self.between = nn.ModuleList(nn.Conv2d(features, 4 * features, 3, padding=1) for _ in range(doublings - 1))
        self.last = nn.Conv2d(features, channels * (4 if doublings else 1), 3, padding=1)
        self.factor = 2 if doublings else 1

    def forward(self, x: Tensor) -> Tensor:
        """``(B, F, H, W)`` in, ``(B, C, scale * H, scale * W)`` out."""
        for conv in self.between:
            x = F.relu(F.pixel_shuffle(conv(x), 2))  # both sides doubled
        return F.pixel_shuffle(self.last(x), self.factor)


def start_tiny(conv: nn.Conv2d) -> None:
    """Let ``conv`` begin with next to nothing, so that what it adds to an image is nothing at first.

    Weights of exactly 0 would do that too, but then no layer before it gets any gradient in the first step.
    """
    nn.init.uniform_(conv.weight, -TINY, TINY)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
