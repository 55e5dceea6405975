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


def _grouped(value: Tensor, groups: int) -> Tensor:
    """``(B, C, H, W)`` as ``(B * G, C / G, H, W)``, at least float32."""
    batch, channels, height, width = value.shape
    wide = value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    return wide.reshape(batch * groups, channels // groups, height, width)


def _grid(offset: Tensor, points: Points, k: int) -> Tensor:
    """``(B * G, H, W, 2)`` where point ``k`` reads, in ``grid_sample``'s units: -1 and 1 are the outer edges."""
    height, width = offset.shape[-2:]
    moved = offset[:, :, k].flatten(0, 1)
    wide = moved.float() if moved.dtype in (torch.bfloat16, torch.float16) else moved
    dx, dy = wide.unbind(1) if points.x_first else reversed(wide.unbind(1))
    x, y = points.at[k]
    columns = torch.arange(width, dtype=wide.dtype, device=wide.device) + points.scale * x
    rows = (torch.arange(height, dtype=wide.dtype, device=wide.device) + points.scale * y)[:, None]
    # Two pixels outside everything is zero, and so is every slope; further out an integer might overflow.
    across = (columns + points.scale * dx).clamp(-2, width + 1)
    down = (rows + points.scale * dy).clamp(-2, height + 1)
    return torch.stack([(2 * across + 1) / width - 1, (2 * down + 1) / height - 1], dim=3)


def _weight(mask: Tensor | None, k: int) -> Tensor | float:
    """``(B * G, 1, H, W)`` weight of point ``k``."""
    if mask is None:
        return 1.0
    weight = mask[:, :, k].flatten(0, 1)[:, None]
    return weight.float() if weight.dtype in (torch.bfloat16, torch.float16) else weight
