"""Deformable sampling on NVIDIA GPUs by two Triton kernels, forward and backward; only imported where Triton is.

A program takes a block of neighbouring pixels and one group of channels. Values are read channels last, in float32,
bfloat16 or float16; positions and sums are float32. The backward reads everything again and adds what falls on a pixel
atomically, so the last bits of the gradient to ``value`` differ from run to run. ``TRITON_INTERPRET=1`` runs both
without a GPU, slowly, to check their arithmetic.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.layers.deform_points import Points

ELEMENTS = 1024  # of one program: pixels times channels


def gather(value: Tensor, offset: Tensor, mask: Tensor | None, points: Points) -> Tensor:
    """As :func:`models.layers.deform_reference.gather`; the result is channels last in memory."""
    rows = _rows(value)
    out = torch.empty_like(rows)
    grid, block, padded = _blocks(value, offset)
    with _on(value):
        _gather_kernel[grid](
            rows, offset, offset if mask is None else mask, _at(points, value.device), out,
            value.shape[0] * value.shape[2] * value.shape[3], value.shape[2], value.shape[3], float(points.scale),
            *offset.stride(), *_mask_stride(mask),
            GROUPS=offset.shape[1], DEPTH=value.shape[1] // offset.shape[1], POINTS=len(points),
            X_FIRST=points.x_first, MASKED=mask is not None, BLOCK=block, PADDED=padded, num_warps=4,
        )  # fmt: skip
    return out.permute(0, 3, 1, 2)


def scatter(
    grad: Tensor, value: Tensor, offset: Tensor, mask: Tensor | None, points: Points
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients to ``value``, ``offset`` and ``mask`` of :func:`gather`, given that to its result."""
    rows = _rows(value)
    to_value, to_offset = torch.zeros_like(rows, dtype=torch.float32), torch.empty_like(offset)
    to_mask = None if mask is None else torch.empty_like(mask)
    grid, block, padded = _blocks(value, offset)
    with _on(value):
        _scatter_kernel[grid](
            rows, offset, offset if mask is None else mask, _at(points, value.device), _rows(grad),
            to_value, to_offset, to_offset if to_mask is None else to_mask,
            value.shape[0] * value.shape[2] * value.shape[3], value.shape[2], value.shape[3], float(points.scale),
            *offset.stride(), *_mask_stride(mask), *to_offset.stride(), *_mask_stride(to_mask),
            GROUPS=offset.shape[1], DEPTH=value.shape[1] // offset.shape[1], POINTS=len(points),
            X_FIRST=points.x_first, MASKED=mask is not None, BLOCK=block, PADDED=padded, num_warps=4,
        )  # fmt: skip
    return to_value.to(value.dtype).permute(0, 3, 1, 2), to_offset, to_mask


@triton.jit
def _position(offset, at, start, live, column, row, width, height, scale, point, axis, K, X_FIRST: tl.constexpr):  # noqa: N803
    """Where point ``K`` of each pixel reads, kept within reach of an integer, and whether that is a number."""
    first = tl.load(offset + start + K * point, mask=live, other=0.0).to(tl.float32)
    second = tl.load(offset + start + K * point + axis, mask=live, other=0.0).to(tl.float32)
    dx = first if X_FIRST else second
    dy = second if X_FIRST else first
    x = column.to(tl.float32) + scale * (tl.load(at + 2 * K) + dx)
    y = row.to(tl.float32) + scale * (tl.load(at + 2 * K + 1) + dy)
    known = (x == x) & (y == y)
    # Two pixels outside everything is zero, and so is every slope.
    x = tl.minimum(tl.maximum(tl.where(known, x, 0.0), -2.0), width + 1.0)
    y = tl.minimum(tl.maximum(tl.where(known, y, 0.0), -2.0), height + 1.0)
    return x, y, known


@triton.jit
def _corner(u, v, width, height, live, plane, step, depth, deep):
    """Addresses ``(BLOCK, PADDED)`` of the pixels at columns ``u`` and rows ``v``, and which of them there are."""
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height) & live
    start = plane + (v * width + u) * step
    return start[:, None] + depth[None, :], inside[:, None] & deep[None, :]


@triton.jit
def _gather_kernel(
    value, offset, mask, at, out, pixels, height, width, scale,
    o_image, o_group, o_point, o_axis, o_row, o_column, m_image, m_group, m_point, m_row, m_column,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POINTS: tl.constexpr, X_FIRST: tl.constexpr,  # noqa: N803
    MASKED: tl.constexpr, BLOCK: tl.constexpr, PADDED: tl.constexpr,  # noqa: N803
):  # fmt: skip
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    group = tl.program_id(1).to(tl.int64)
    live = pixel < pixels
    column, row, image = pixel % width, pixel // width % height, pixel // (width * height)
    depth = tl.arange(0, PADDED)
    deep = depth < DEPTH
    step = GROUPS * DEPTH
    plane = image * height * width * step + group * DEPTH
    offsets = image * o_image + group * o_group + row * o_row + column * o_column
    masks = image * m_image + group * m_group + row * m_row + column * m_column
    total = tl.zeros((BLOCK, PADDED), dtype=tl.float32)
    for k in tl.static_range(POINTS):
        x, y, known = _position(
            offset, at, offsets, live, column, row, width, height, scale, o_point, o_axis, k, X_FIRST
        )  # fmt: skip
        left, top = tl.floor(x), tl.floor(y)
        right, down = x - left, y - top
        u, v = left.to(tl.int32), top.to(tl.int32)
        m = tl.full((BLOCK,), 1.0, dtype=tl.float32)
        if MASKED:
            m = tl.load(mask + masks + k * m_point, mask=live, other=0.0).to(tl.float32)
        m = tl.where(known, m, float("nan"))
        for corner in tl.static_range(4):
            address, there = _corner(u + corner % 2, v + corner // 2, width, height, live, plane, step, depth, deep)
            read = tl.load(value + address, mask=there, other=0.0).to(tl.float32)
            across = right if corner % 2 else 1 - right
            below = down if corner // 2 else 1 - down
            total += (m * across * below)[:, None] * read
    address = (pixel * step + group * DEPTH)[:, None] + depth[None, :]
    tl.store(out + address, total.to(out.dtype.element_ty), mask=live[:, None] & deep[None, :])


@triton.jit
def _scatter_kernel(
    value, offset, mask, at, grad, to_value, to_offset, to_mask, pixels, height, width, scale,
    o_image, o_group, o_point, o_axis, o_row, o_column, m_image, m_group, m_point, m_row, m_column,
    to_image, to_group, to_point, to_axis, to_row, to_column, tm_image, tm_group, tm_point, tm_row, tm_column,
    GROUPS: tl.constexpr, DEPTH: tl.constexpr, POINTS: tl.constexpr, X_FIRST: tl.constexpr,  # noqa: N803
    MASKED: tl.constexpr, BLOCK: tl.constexpr, PADDED: tl.constexpr,  # noqa: N803
):  # fmt: skip
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    group = tl.program_id(1).to(tl.int64)
    live = pixel < pixels
    column, row, image = pixel % width, pixel // width % height, pixel // (width * height)
    depth = tl.arange(0, PADDED)
    deep = depth < DEPTH
    step = GROUPS * DEPTH
    plane = image * height * width * step + group * DEPTH
    offsets = image * o_image + group * o_group + row * o_row + column * o_column
    masks = image * m_image + group * m_group + row * m_row + column * m_column
    moved = to_offset + image * to_image + group * to_group + row * to_row + column * to_column
    weighed = to_mask + image * tm_image + group * tm_group + row * tm_row + column * tm_column
    address = (pixel * step + group * DEPTH)[:, None] + depth[None, :]
    slope = tl.load(grad + address, mask=live[:, None] & deep[None, :], other=0.0).to(tl.float32)
    for k in tl.static_range(POINTS):
        x, y, known = _position(
            offset, at, offsets, live, column, row, width, height, scale, o_point, o_axis, k, X_FIRST
        )  # fmt: skip
        left, top = tl.floor(x), tl.floor(y)
        right, down = x - left, y - top
        u, v = left.to(tl.int32), top.to(tl.int32)
        m = tl.full((BLOCK,), 1.0, dtype=tl.float32)
        if MASKED:
            m = tl.load(mask + masks + k * m_point, mask=live, other=0.0).to(tl.float32)
        unknown = tl.where(known, 0.0, float("nan"))
        by_x, by_y, by_m = unknown, unknown, unknown
        for corner in tl.static_range(4):
            address, there = _corner(u + corner % 2, v + corner // 2, width, height, live, plane, step, depth, deep)
            across = right if corner % 2 else 1 - right
            below = down if corner // 2 else 1 - down
            product = tl.sum(tl.load(value + address, mask=there, other=0.0).to(tl.float32) * slope, axis=1)
            by_m += across * below * product
            by_x += below * product if corner % 2 else -below * product
            by_y += across * product if corner // 2 else -across * product
            falls = (m * across * below)[:, None] * slope
            tl.atomic_add(to_value + address, falls, mask=there & known[:, None], sem="relaxed")
        first = scale * m * (by_x if X_FIRST else by_y)
        second = scale * m * (by_y if X_FIRST else by_x)
        tl.store(moved + k * to_point, first.to(to_offset.dtype.element_ty), mask=live)
        tl.store(moved + k * to_point + to_axis, second.to(to_offset.dtype.element_ty), mask=live)
        if MASKED:
            tl.store(weighed + k * tm_point, by_m.to(to_mask.dtype.element_ty), mask=live)


@cache
def _at(points: Points, device: torch.device) -> Tensor:
    """``(K, 2)`` the points as (x, y), copied to the device once."""
    return torch.tensor(points.at, dtype=torch.float32, device=device)


def _rows(value: Tensor) -> Tensor:
    """``(B, C, H, W)`` as contiguous ``(B, H, W, C)``; no copy where it is channels last already."""
    return value.permute(0, 2, 3, 1).contiguous()


def _blocks(value: Tensor, offset: Tensor) -> tuple[tuple[int, int], int, int]:
    """The grid of programs, the pixels of each, and a group's channels as a power of two."""
    groups = offset.shape[1]
    padded = triton.next_power_of_2(value.shape[1] // groups)
    block = max(ELEMENTS // padded, 16)
    return (triton.cdiv(value.shape[0] * value.shape[2] * value.shape[3], block), groups), block, padded


def _mask_stride(mask: Tensor | None) -> tuple[int, ...]:
    return (0,) * 5 if mask is None else mask.stride()


def _on(value: Tensor) -> AbstractContextManager[object]:
    return torch.cuda.device(value.device) if value.is_cuda else nullcontext()
