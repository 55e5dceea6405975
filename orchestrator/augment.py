"""Random changes to training images, in batches and on the device, drawn from (seed, epoch, sample) alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.batch import BLACK
from orchestrator.plan import Augment

DRAWS = 12
TILE = (96, 1024)  # one noise field; each image takes its own window of it


def uniforms(samples: Sequence[int], *, epoch: int, seed: int, draws: int = DRAWS) -> np.ndarray:
    """``(B, draws)`` float32 in ``[0, 1)``, a hash of seed, epoch, sample and column (SplitMix64's finaliser)."""
    key = np.asarray(samples, np.uint64)[:, None] * np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        key = key + np.uint64(epoch) * np.uint64(0xD1B54A32D192ED03) + np.uint64(seed) * np.uint64(0x8CB92BA72F3D8DD7)
        key = key + np.arange(1, draws + 1, dtype=np.uint64)[None] * np.uint64(0xBF58476D1CE4E5B9)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            key = (key ^ (key >> np.uint64(shift))) * np.uint64(factor)
        key = key ^ (key >> np.uint64(31))
    return ((key >> np.uint64(40)).astype(np.float32)) / np.float32(2**24)


def augmented(
    image: Tensor, widths: Tensor, least: Tensor, plan: Augment, *, samples: Sequence[int], epoch: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Changed images and their new valid widths.

    Args:
        image: ``(B, C, H, W)`` in ``[-1, 1]``, black past ``widths``.
        widths: ``(B,)`` valid columns.
        least: ``(B,)`` columns below which the label could no longer be spelled; stretching stops there.
    """
    if plan == Augment():
        return image, widths
    u = torch.from_numpy(uniforms(samples, epoch=epoch, seed=seed)).to(image.device)
    either = 2 * u - 1  # (B, DRAWS) in [-1, 1)
    stretched = (widths * (1 + plan.stretch * either[:, 0])).round().long()
    new = torch.minimum(torch.maximum(stretched, least.clamp(min=4)), widths.new_tensor(image.shape[3]))
    image = _moved(image, widths, new, plan, either)
    if plan.blur:
        image = blurred(image, plan.blur * u[:, 6])
    light = image * (1 + plan.contrast * either[:, 7])[:, None, None, None]
    light = light + 2 * plan.brightness * either[:, 8][:, None, None, None]
    light = torch.where((u[:, 9] < plan.invert)[:, None, None, None], -light, light)
    if plan.noise:
        light = light + 2 * plan.noise * u[:, 10][:, None, None, None] * noise_fields(light, u[:, 11])
    columns = torch.arange(image.shape[3], device=image.device)
    inside = columns < new[:, None, None, None]
    return torch.where(inside, light.clamp(-1, 1), BLACK), new


def _moved(image: Tensor, widths: Tensor, new: Tensor, plan: Augment, either: Tensor) -> Tensor:
    """Rotate, shear, stretch and shift about the middle of the valid part; its own border fills what comes in."""
    batch, _, height, width = image.shape
    angle = either[:, 1] * math.radians(plan.rotate)
    shear = either[:, 2] * plan.shear
    tall = 1 + plan.stretch * either[:, 3]
    ys = torch.arange(height, device=image.device, dtype=torch.float32) - (height - 1) / 2
    xs = torch.arange(width, device=image.device, dtype=torch.float32)
    x = (xs[None] - (new[:, None] - 1) / 2) * (widths / new)[:, None]  # (B, W) from the middle, in old columns
    x, y = x[:, None, :], (ys[None] / tall[:, None])[:, :, None]  # (B, 1, W), (B, H, 1)
    cos, sin = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    along = cos * x - sin * y + shear[:, None, None] * y + (either[:, 4] * plan.shift * height)[:, None, None]
    down = sin * x + cos * y + (either[:, 5] * plan.shift * height)[:, None, None]
    last = (widths - 1)[:, None, None].float()
    along = torch.minimum((along + last / 2).clamp(min=0), last)
    down = (down + (height - 1) / 2).clamp(0, height - 1)
    grid = torch.stack([along * 2 / max(width - 1, 1) - 1, down * 2 / max(height - 1, 1) - 1], dim=-1)  # (B, H, W, 2)
    return F.grid_sample(image, grid.expand(batch, height, width, 2), align_corners=True)


def blurred(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with its own ``sigma`` for each image; 7 taps, edges repeated."""
    batch, channels, height, width = image.shape
    taps = torch.arange(-3, 4, device=image.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (taps / sigma[:, None].clamp(min=1e-3)) ** 2)  # (B, 7)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    flat = F.pad(image.reshape(1, batch * channels, height, width), (3, 3, 3, 3), mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=batch * channels)
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=batch * channels)
    return flat.reshape(batch, channels, height, width)


def noise_fields(image: Tensor, where: Tensor) -> Tensor:
    """``(B, 1, H, W)`` standard normal: each image's own window of one fixed field."""
    _, _, height, width = image.shape
    rows, columns = TILE[0] + height, TILE[1] + width
    field = torch.randn(rows, columns, generator=torch.Generator().manual_seed(7)).to(image.device)
    place = (where * (TILE[0] * TILE[1])).long()
    y = (place // TILE[1])[:, None, None] + torch.arange(height, device=image.device)[None, :, None]
    x = (place % TILE[1])[:, None, None] + torch.arange(width, device=image.device)[None, None, :]
    return field[y, x][:, None]
