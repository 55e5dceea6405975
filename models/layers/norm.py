"""Batch normalisation that does not notice over how many workers a batch is spread."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from models.collective import sum_over_ranks


class RankBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose training statistics are those of the batch of all ranks together.

    Two workers therefore train like one, uneven batches included, and end with equal running
    statistics. With one worker, or in ``eval()``, it is ``nn.BatchNorm2d`` itself. Unlike
    ``nn.SyncBatchNorm`` it also runs on CPU. Every rank has to bring at least one image.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` in and out."""
        if not (self.training and spread()):
            return super().forward(x)
        mean, var, count = statistics_over_ranks(x)
        self._track(mean.detach(), var.detach() * count / (count - 1))
        weight = torch.rsqrt(var + self.eps) if self.weight is None else torch.rsqrt(var + self.eps) * self.weight
        normal = (x - column(mean)) * column(weight)
        return (normal if self.bias is None else normal + column(self.bias)).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


def spread() -> bool:
    """Whether the batch is spread over several ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def statistics_over_ranks(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``(C,)`` mean, ``(C,)`` biased variance and ``()`` number of values a channel has, over all ranks.

    Args:
        x: ``(B, C, H, W)`` the images of this rank; ``B`` may differ between ranks.
    """
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    var, mean = torch.var_mean(wide, dim=(0, 2, 3), correction=0)
    count = mean.new_full((1,), x.numel() / x.shape[1], dtype=torch.float64)
    # E[x^2] - E[x]^2 cancels; in float64, on C numbers, that costs nothing and loses nothing.
    var, mean = var.double(), mean.double()
    sums = SumOverRanks.apply(torch.cat([mean * count, (var + mean * mean) * count, count]))
    first, second, count = sums.split([x.shape[1], x.shape[1], 1])
    mean = first / count
    var = (second / count - mean * mean).clamp(min=0)
    return mean.to(wide.dtype), var.to(wide.dtype), count[0].detach().to(wide.dtype)


class SumOverRanks(torch.autograd.Function):
    """Sum over all ranks; its gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: FunctionCtx, local: Tensor) -> Tensor:
        return sum_over_ranks(local.clone())

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        return sum_over_ranks(grad.clone(memory_format=torch.contiguous_format))


def column(values: Tensor) -> Tensor:
    """``(C,)`` as ``(1, C, 1, 1)``."""
    return values[None, :, None, None]
