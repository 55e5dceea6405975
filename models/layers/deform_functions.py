"""The two sums every deformable convolution comes down to, each keeping nothing but its operands for the backward."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.layers import deform_reference, deform_torch
from models.layers.deform_backends import Backend, Gather, Sampler, sampler
from models.layers.deform_points import Points

AT_ONCE = 2**18  # numbers of the images done at a time on CPU


def aggregate(value: Tensor, offset: Tensor, mask: Tensor, points: Points, backend: Backend) -> Tensor:
    """What DCNv3 and DCNv4 sum: each group's channels, weighted point by point, ``(B, C, H, W)``.

    Args:
        value: ``(B, C, H, W)``.
        offset: ``(B, G, K, 2, H, W)``.
        mask: ``(B, G, K, H, W)``.
    """
    with torch.autocast(value.device.type, enabled=False):
        if plain := _plain(backend):
            return plain(value, offset, mask, points)
        return _Aggregate.apply(value, offset, mask, points, sampler(backend))


def dense(x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, points: Points, backend: Backend) -> Tensor:
    """What DCNv1 and DCNv2 sum: a full matrix ``weight[:, :, k]`` per point, ``(B, C_out, H, W)``.

    Args:
        x: ``(B, C, H, W)``.
        offset: ``(B, G, K, 2, H, W)``.
        mask: ``(B, G, K, H, W)``; one where omitted.
        weight: ``(C_out, C, k, k)``.
    """
    with torch.autocast(x.device.type, enabled=False):
        weight = weight.to(x.dtype)
        if plain := _plain(backend):
            return _convolved(x, offset, mask, weight, points, plain)
        if backend == "torch" and mask is None and offset.shape[1] == 1:
            return _Mixed.apply(x, offset, weight, points)
        return _Dense.apply(x, offset, mask, weight, points, sampler(backend))


def _plain(backend: Backend) -> Gather | None:
    """Sampling by operations that autograd and exporters know, where that is what is wanted."""
    if backend == "reference":
        return deform_reference.gather
    exporting = torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
    return deform_torch.gather if exporting else None


class _Aggregate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, offset: Tensor, mask: Tensor, points: Points, by: Sampler) -> Tensor:
        ctx.save_for_backward(value, offset, mask)
        ctx.points, ctx.by = points, by
        parts = [
            by.gather(value[some], offset[some], mask[some], points)
            for some in _portions(value, offset, whole=by.whole)
        ]  # fmt: skip
        return _joined(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, offset, mask = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            parts = [
                ctx.by.scatter(grad[some], value[some], offset[some], mask[some], ctx.points)
                for some in _portions(value, offset, whole=ctx.by.whole)
            ]  # fmt: skip
        return *map(_joined, zip(*parts, strict=True)), None, None


class _Dense(torch.autograd.Function):
    """Point by point: what a point reads is multiplied by its matrix and forgotten, and read again in the backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, points: Points, by: Sampler
    ) -> Tensor:
        ctx.save_for_backward(x, offset, mask, weight)
        ctx.points, ctx.by = points, by
        x = x.contiguous(memory_format=by.layout)
        parts = [
            _convolved(x[some], offset[some], None if mask is None else mask[some], weight, points, by.gather)
            for some in _portions(x, offset)
        ]  # fmt: skip
        return _joined(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, offset, mask, weight = ctx.saved_tensors
        x, grad = x.contiguous(memory_format=ctx.by.layout), grad.contiguous(memory_format=ctx.by.layout)
        to_x, to_offset, to_weight = torch.zeros_like(x), torch.empty_like(offset), torch.zeros_like(weight)
        to_mask = None if mask is None else torch.empty_like(mask)
        with torch.autocast(grad.device.type, enabled=False):
            for some in _portions(x, offset):
                for k in range(len(ctx.points)):
                    point = ctx.points.only(k)
                    operands = (x[some], offset[some, :, k, None], None if mask is None else mask[some, :, k, None])
                    slope, part, _ = torch.ops.aten.convolution_backward(
                        grad[some], ctx.by.gather(*operands, point), _matrix(weight, k), None,
                        [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, False],
                    )  # fmt: skip
                    to_weight.flatten(2)[:, :, k] += part[:, :, 0, 0]
                    part, to_offset[some, :, k, None], by_mask = ctx.by.scatter(slope, *operands, point)
                    to_x[some] += part
                    if to_mask is not None and by_mask is not None:
                        to_mask[some, :, k, None] = by_mask
        return to_x, to_offset, to_mask, to_weight, None, None


class _Mixed(torch.autograd.Function):
    """DCNv1 in one group by plain Torch, a few images at a time; in half precision it is computed in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Tensor, weight: Tensor, points: Points) -> Tensor:
        ctx.save_for_backward(x, offset, weight)
        ctx.points = points
        wide = weight.to(deform_torch.at_least_float32(weight.dtype))
        parts = [
            deform_torch.mixed(x[some].to(wide.dtype).contiguous(), offset[some], wide, points).to(x.dtype)
            for some in _portions(x, offset, times=len(points))
        ]
        return _joined(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, offset, weight = ctx.saved_tensors
        wide = weight.to(deform_torch.at_least_float32(weight.dtype))
        to_x, to_offset, to_weight = torch.empty_like(x), torch.empty_like(offset), torch.zeros_like(wide)
        with torch.autocast(grad.device.type, enabled=False):
            for some in _portions(x, offset, times=len(ctx.points)):
                down, image = grad[some].to(wide.dtype).contiguous(), x[some].to(wide.dtype).contiguous()
                to_x[some], to_offset[some], part = deform_torch.mixed_backward(
                    down, image, offset[some], wide, ctx.points
                )
                to_weight += part
        return to_x, to_offset, to_weight.to(weight.dtype), None


def _convolved(
    x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, points: Points, gather: Gather
) -> Tensor:
    total = None
    for k in range(len(points)):
        read = gather(x, offset[:, :, k, None], None if mask is None else mask[:, :, k, None], points.only(k))
        part = F.conv2d(read, _matrix(weight, k))
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


def _matrix(weight: Tensor, k: int) -> Tensor:
    """``(C_out, C, 1, 1)``: the matrix of point ``k``, points row by row."""
    return weight.flatten(2)[:, :, k, None, None]


def _portions(x: Tensor, offset: Tensor, *, whole: bool = False, times: int = 1) -> Iterator[slice]:
    """All images in turn; on CPU, unless ``whole``, so few at a time as stay in the cache and keep the threads busy.

    Args:
        times: as many numbers are at work as an image has, and as many pieces that threads can share.
    """
    images = x.shape[0]
    few = max(AT_ONCE // (times * x[0].numel()), math.ceil(2 * torch.get_num_threads() / (times * offset.shape[1])))
    step = images if whole or x.device.type != "cpu" else few
    for start in range(0, images, step):
        yield slice(start, start + step)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
