"""Deformable sampling in plain Torch, on any device: one ``grid_sample`` per point, summed as it goes.

Nothing is kept between forward and backward but the operands: :func:`scatter` samples again. Where rounding takes a
point of whole coordinates to the other side of its pixel, the slope is that of the other side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.layers.deform_points import Points


def gather(value: Tensor, offset: Tensor, mask: Tensor | None, points: Points) -> Tensor:
    """As :func:`models.layers.deform_reference.gather`; half precision is computed in float32."""
    grouped, total = _grouped(value, offset.shape[1]), None
    for k in range(len(points)):
        grid, weight = _grid(offset, points, k), _weight(mask, k)
        read = F.grid_sample(grouped, grid, align_corners=False)
        total = read * weight if total is None else total.add_(read * weight)
    assert total is not None
    return total.reshape(value.shape).to(value.dtype)


def scatter(
    grad: Tensor, value: Tensor, offset: Tensor, mask: Tensor | None, points: Points
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients to ``value``, ``offset`` and ``mask`` of :func:`gather`, given that to its result."""
    batch, groups, _, _, height, width = offset.shape
    grouped, slope = _grouped(value, groups), _grouped(grad, groups)
    to_value, to_offset = torch.zeros_like(grouped), torch.empty_like(offset)
    to_mask = None if mask is None else torch.empty_like(mask)
    unit = points.scale * 2 / torch.tensor([width, height], dtype=grouped.dtype, device=grouped.device)
    for k in range(len(points)):
        grid, weight = _grid(offset, points, k), _weight(mask, k)
        if to_mask is not None:
            read = F.grid_sample(grouped, grid, align_corners=False)
            to_mask[:, :, k] = read.mul_(slope).sum(1).view(batch, groups, height, width)
        part, to_grid = torch.ops.aten.grid_sampler_2d_backward(
            slope * weight, grouped, grid, 0, 0, False, [True, True]
        )  # fmt: skip
        to_value += part
        moved = (to_grid * unit).view(batch, groups, height, width, 2).permute(0, 1, 4, 2, 3)
        to_offset[:, :, k] = moved if points.x_first else moved.flip(2)
    return to_value.reshape(value.shape).to(value.dtype), to_offset, to_mask


def mixed(x: Tensor, offset: Tensor, weight: Tensor, points: Points) -> Tensor:
    """DCNv1 in one group, ``(B, C_out, H, W)``: mixed by each point's matrix first, then sampled and summed.

    Sampling treats all channels of a group alike, so that it may come last. Then its backward needs no samples.

    Args:
        x: ``(B, C, H, W)``.
        offset: ``(B, 1, K, 2, H, W)``.
        weight: ``(C_out, C, k, k)``.
    """
    read = F.grid_sample(_mixed(x, weight), _grids(offset, points), align_corners=False)
    return read.unflatten(0, (-1, len(points))).sum(1)


def mixed_backward(
    grad: Tensor, x: Tensor, offset: Tensor, weight: Tensor, points: Points
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to ``x``, ``offset`` and ``weight`` of :func:`mixed`, given that to its result."""
    batch, _, count, _, height, width = offset.shape
    slope = grad[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)
    to_mixed, to_grid = torch.ops.aten.grid_sampler_2d_backward(
        slope, _mixed(x, weight), _grids(offset, points), 0, 0, False, [True, True]
    )  # fmt: skip
    unit = points.scale * 2 / torch.tensor([width, height], dtype=grad.dtype, device=grad.device)
    moved = (to_grid * unit).view(batch, 1, count, height, width, 2).permute(0, 1, 2, 5, 3, 4)
    rows = to_mixed.view(batch, -1, height * width)  # (B, K * C_out, H * W)
    to_x = (_matrices(weight).T @ rows).view(x.shape)
    to_weight = (rows @ x.flatten(2).transpose(1, 2)).sum(0)
    to_weight = to_weight.view(count, *weight.shape[:2]).permute(1, 2, 0).reshape(weight.shape)
    return to_x, moved if points.x_first else moved.flip(3), to_weight


def _mixed(x: Tensor, weight: Tensor) -> Tensor:
    """``(B * K, C_out, H, W)``: each image by the matrix of each point."""
    return (_matrices(weight) @ x.flatten(2)).view(-1, len(weight), *x.shape[2:])


def _matrices(weight: Tensor) -> Tensor:
    """``(K * C_out, C)``: the matrices of all points, one below the other."""
    return weight.flatten(2).permute(2, 0, 1).flatten(0, 1)


def _grouped(value: Tensor, groups: int) -> Tensor:
    """``(B, C, H, W)`` as ``(B * G, C / G, H, W)``, at least float32."""
    batch, channels, height, width = value.shape
    wide = value.to(at_least_float32(value.dtype))
    return wide.reshape(batch * groups, channels // groups, height, width)


def _grid(offset: Tensor, points: Points, k: int) -> Tensor:
    """``(B * G, H, W, 2)`` where point ``k`` reads, in ``grid_sample``'s units: -1 and 1 are the outer edges."""
    return _grids(offset[:, :, k : k + 1], points.only(k))


def _grids(offset: Tensor, points: Points) -> Tensor:
    """``(B * G * K, H, W, 2)`` where all points read; as :func:`_grid`."""
    height, width = offset.shape[-2:]
    moved = offset.flatten(0, 1)  # (B * G, K, 2, H, W)
    wide = moved.to(at_least_float32(moved.dtype))
    dx, dy = wide.unbind(2) if points.x_first else reversed(wide.unbind(2))
    x, y = (points.scale * torch.tensor(points.at, dtype=wide.dtype, device=wide.device)).unbind(1)
    columns = torch.arange(width, dtype=wide.dtype, device=wide.device) + x[:, None, None]
    rows = torch.arange(height, dtype=wide.dtype, device=wide.device)[:, None] + y[:, None, None]
    # Two pixels outside everything is zero, and so is every slope; further out an integer might overflow.
    across = (columns + points.scale * dx).clamp(-2, width + 1)
    down = (rows + points.scale * dy).clamp(-2, height + 1)
    return torch.stack([(2 * across + 1) / width - 1, (2 * down + 1) / height - 1], dim=4).flatten(0, 1)


def _weight(mask: Tensor | None, k: int) -> Tensor | float:
    """``(B * G, 1, H, W)`` weight of point ``k``."""
    if mask is None:
        return 1.0
    weight = mask[:, :, k].flatten(0, 1)[:, None]
    return weight.to(at_least_float32(weight.dtype))


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
