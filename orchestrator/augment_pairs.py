"""Random changes to pairs of training images: one movement for both, other light and blur for the poorer half alone.

Strengths are those of :class:`orchestrator.plan.Augment`, in pixels of the low resolution; ``invert`` swaps black and
white in both. Nothing is ever mirrored. Plates stand on a background that shows where they moved away; lines fill their
valid columns, and their own edges are repeated there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.batch import BLACK
from orchestrator.augment import blurred, noise_fields, uniforms
from orchestrator.plan import Augment


def augmented_pair(
    image: Tensor, target: Tensor, boxes: Tensor, plan: Augment, *,
    pad: Sequence[int], samples: Sequence[int], epoch: int, seed: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Changed low and high resolution, still in exact register; padding keeps its colour.

    Args:
        image: ``(B, 3, h, w)`` in ``[-1, 1]``.
        target: ``(B, 3, s * h, s * w)`` in ``[-1, 1]``.
        boxes: ``(B, 4)`` float32 top, left, height and width of each picture within ``image``.
        pad: red, green and blue from 0 to 255 of what lies around it.
    """
    if plan == Augment():
        return image, target
    u = torch.from_numpy(uniforms(samples, epoch=epoch, seed=seed)).to(image.device)
    colour = (image.new_tensor(pad) / 127.5 - 1)[:, None, None]
    back = _way_back(boxes, plan, 2 * u - 1, height=image.shape[2], width=image.shape[3], room=image.shape[3])
    low, inside = _moved(image, _mask(boxes, image, 1), colour, back)
    high, inside_high = _moved(target, _mask(boxes, target, target.shape[2] // image.shape[2]), colour, back)
    low = low + inside * (_other_light(low, plan, u) - low)
    flip = 2.0 * (u[:, 9] < plan.invert)[:, None, None, None]
    return (low - flip * inside * low).clamp(-1, 1), (high - flip * inside_high * high).clamp(-1, 1)


def augmented_line_pair(
    image: Tensor, target: Tensor, widths: Tensor, plan: Augment, *, samples: Sequence[int], epoch: int, seed: int
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Changed degraded and clean lines, still in exact register; each keeps its valid columns, black past them.

    What comes in from outside is the line's own edge. Stretching only narrows, as letters must not be pushed out.

    Args:
        image: ``(B, C, H, W)`` in ``[-1, 1]``, black past ``widths``.
        target: ``(B, C, s * H, s * W)`` likewise, black past ``s * widths``.
        widths: ``(B,)`` valid columns of ``image``.
    """
    if plan == Augment():
        return image, target
    u = torch.from_numpy(uniforms(samples, epoch=epoch, seed=seed)).to(image.device)
    height, width = image.shape[2:]
    columns = widths.to(image.dtype)
    boxes = torch.stack([0 * columns, 0 * columns, 0 * columns + height, columns], dim=1)
    back = _way_back(boxes, plan, 2 * u - 1, height=height, width=width, room=columns)
    light = _other_light(_moved_within(image, columns, back), plan, u)
    flip = 1 - 2.0 * (u[:, 9] < plan.invert)[:, None, None, None]
    times = target.shape[3] // width
    clean = _moved_within(target, times * columns, back)
    return _cleared(flip * light, widths), _cleared(flip * clean, times * widths)


def _moved_within(image: Tensor, columns: Tensor, back: Tensor) -> Tensor:
    """The image as ``back`` shows it, with the nearest of its first ``columns`` from outside and to their right."""
    batch, _, height, width = image.shape
    grid = F.affine_grid(back, [batch, 1, height, width], align_corners=False)  # (B, H, W, 2)
    last = ((2 * columns - 1) / width - 1)[:, None, None]  # the middle of the last valid column
    across = torch.minimum(grid[..., 0].clamp(min=1 / width - 1), last)
    return F.grid_sample(
        image, torch.stack([across, grid[..., 1]], dim=3), padding_mode="border", align_corners=False
    )  # fmt: skip


def _cleared(image: Tensor, widths: Tensor) -> Tensor:
    inside = torch.arange(image.shape[3], device=image.device) < widths[:, None, None, None]
    return torch.where(inside, image.clamp(-1, 1), BLACK)


def _way_back(
    boxes: Tensor, plan: Augment, either: Tensor, *, height: int, width: int, room: int | Tensor
) -> Tensor:  # fmt: skip
    """``(B, 2, 3)`` from a place in the changed image to the place it shows, both in ``[-1, 1]`` from edge to edge.

    Rotation, shear and stretch are about the middle of the picture; stretching stops at the edge of the image, or
    where ``room`` columns end. Edges, not the middles of pixels, are -1 and 1, so that one matrix holds at every
    resolution.
    """
    angle = either[:, 1] * math.radians(plan.rotate)
    cos, sin = torch.cos(angle), torch.sin(angle)
    top, left, rows, columns = boxes.unbind(1)
    wide = torch.minimum(1 + plan.stretch * either[:, 0], room / columns)
    tall = torch.minimum(1 + plan.stretch * either[:, 3], height / rows)
    shear = either[:, 2] * plan.shear
    along = torch.stack([cos / wide, (shear - sin) / tall], dim=1)  # (B, 2): what x and y, in pixels, add to x
    down = torch.stack([sin / wide, cos / tall], dim=1)
    turn = torch.stack([along, down], dim=1)  # (B, 2, 2)
    middle = torch.stack([left + columns / 2 - width / 2, top + rows / 2 - height / 2], dim=1)  # from that of the image
    shift = either[:, 4:6] * plan.shift * rows[:, None]
    offset = middle + shift - (turn @ middle[:, :, None])[:, :, 0]
    half = boxes.new_tensor([width / 2, height / 2])
    return torch.cat([turn * half[None, None, :] / half[None, :, None], (offset / half)[:, :, None]], dim=2)


def _moved(image: Tensor, mask: Tensor, colour: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """The image as ``back`` shows it, with ``colour`` from outside, and where the picture is then: 0 to 1."""
    batch, channels, height, width = image.shape
    grid = F.affine_grid(back, [batch, 1, height, width], align_corners=False)
    both = F.grid_sample(torch.cat([image - colour, mask], dim=1), grid, align_corners=False)  # zeros from outside
    return both[:, :channels] + colour, both[:, channels:]


def _mask(boxes: Tensor, image: Tensor, times: int) -> Tensor:
    """``(B, 1, H, W)`` 1 where the picture lies, 0 on padding, at ``times`` the resolution of ``boxes``."""
    top, left, rows, columns = (times * boxes[:, :, None, None]).unbind(1)  # (B, 1, 1) each
    y = torch.arange(image.shape[2], device=image.device)[None, :, None]
    x = torch.arange(image.shape[3], device=image.device)[None, None, :]
    inside = (y >= top) & (y < top + rows) & (x >= left) & (x < left + columns)
    return inside[:, None].to(image.dtype)


def _other_light(image: Tensor, plan: Augment, u: Tensor) -> Tensor:
    """Blur, contrast, brightness and noise as drawn in ``u``; where that is to be seen is the caller's to say."""
    either = 2 * u - 1
    light = blurred(image, plan.blur * u[:, 6]) if plan.blur else image
    light = light * (1 + plan.contrast * either[:, 7])[:, None, None, None]
    light = light + 2 * plan.brightness * either[:, 8][:, None, None, None]
    if plan.noise:
        light = light + 2 * plan.noise * u[:, 10][:, None, None, None] * noise_fields(light, u[:, 11])
    return light
