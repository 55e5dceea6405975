"""Deformable sampling written out as it is defined: slow, any floating type, differentiated by autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from models.layers.deform_points import Points


def gather(value: Tensor, offset: Tensor, mask: Tensor | None, points: Points) -> Tensor:
    """The weighted sum over a kernel's points of what they read, ``(B, C, H, W)``.

    Args:
        value: ``(B, C, H, W)``; consecutive channels form ``G`` groups of equal size.
        offset: ``(B, G, K, 2, H, W)`` pixels, in the order that ``points`` says.
        mask: ``(B, G, K, H, W)`` weight of each point; one where omitted.
        points: the ``K`` points.
    """
    batch, groups, _, _, height, width = offset.shape
    grouped = value.reshape(batch, groups, -1, height, width)
    total = torch.zeros_like(grouped)
    for k in range(len(points)):
        read = bilinear(grouped, *positions(offset, points, k))
        total = total + (read if mask is None else read * mask[:, :, k, None])
    return total.reshape(value.shape)


def positions(offset: Tensor, points: Points, k: int) -> tuple[Tensor, Tensor]:
    """Columns and rows ``(B, G, H, W)`` at which point ``k`` of each pixel reads."""
    dx, dy = offset[:, :, k].unbind(2) if points.x_first else reversed(offset[:, :, k].unbind(2))
    columns = torch.arange(offset.shape[-1], dtype=offset.dtype, device=offset.device)
    rows = torch.arange(offset.shape[-2], dtype=offset.dtype, device=offset.device)[:, None]
    x, y = points.at[k]
    return columns + points.scale * (x + dx), rows + points.scale * (y + dy)


def bilinear(grouped: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """``(B, G, D, H, W)`` read at columns ``x`` and rows ``y`` ``(B, G, H, W)``, zeros outside.

    At a whole position the slope is the one towards larger positions, as in all backends.
    """
    height, width = grouped.shape[-2:]
    left, top = x.detach().floor(), y.detach().floor()
    total = torch.zeros_like(grouped)
    for column, across in ((left, 1 - (x - left)), (left + 1, x - left)):
        for row, down in ((top, 1 - (y - top)), (top + 1, y - top)):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            wanted = index.flatten(2)[:, :, None].expand(-1, -1, grouped.shape[2], -1)  # (B, G, D, H * W)
            read = grouped.flatten(3).gather(3, wanted).reshape(grouped.shape)
            total = total + read * (across * down * inside)[:, :, None]
    return total
