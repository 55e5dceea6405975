"""Multi-scale character attention: where something looks like a character, at several sizes of a character."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class CharacterAttentionConfig:
    """Attention over a pyramid of the features.

    Attributes:
        scales: sizes of the pyramid's levels; a side is never less than one pixel.
        prototypes: 3x3 patterns of features that every level has, one for each character or so.
    """

    scales: tuple[float, ...] = (1.0, 0.5, 0.25)
    prototypes: int = 36

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"character attention: scales {self.scales}; needs at least one, each above 0 and up to 1")
        if self.prototypes < 2:
            raise ValueError(
                f"character attention: {self.prototypes} prototypes; one alone always fits, so at least 2 are needed"
            )

    def build(self, features: int) -> CharacterAttention:
        return CharacterAttention(features, self)


class CharacterAttention(nn.Module):
    """``x`` and what the levels of the pyramid add to it."""

    def __init__(self, features: int, config: CharacterAttentionConfig) -> None:
        super().__init__()
        self.scales = config.scales
        self.levels = nn.ModuleList(CharacterLevel(features, config.prototypes) for _ in config.scales)
        self.fuse = nn.Conv2d(features * len(config.scales), features, 1)
        self.smooth = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, F, H, W)`` in and out."""
        size = x.shape[2:]
        levels = zip(self.scales, self.levels, strict=True)
        seen = [resized(level(resized(x, level_size(size, scale))), size) for scale, level in levels]
        return x + F.relu(self.smooth(F.relu(self.fuse(torch.cat(seen, dim=1)))))


class CharacterLevel(nn.Module):
    """One level: ``x`` times an attention that knows the likely regions and how well the best prototype fits."""

    def __init__(self, features: int, prototypes: int) -> None:
        super().__init__()
        hidden = max(features // 2, 1)
        self.region = nn.Sequential(
            nn.Conv2d(features, hidden, 1),
            nn.SiLU(),  # of a few ReLUs all may be dead from the start
            nn.Conv2d(hidden, 1, 1),
        )
        self.prototypes = nn.Conv2d(features, prototypes, 3, padding=1, bias=False)
        self.look = nn.Conv2d(features + 2, features, 3, padding=1)
        self.attend = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, F, h, w)`` in and out."""
        seen = torch.cat([x, torch.sigmoid(self.region(x)), self.fit(x)], dim=1)  # (B, F + 2, h, w)
        return x * torch.sigmoid(self.attend(F.relu(self.look(seen))))

    def fit(self, x: Tensor) -> Tensor:
        """``(B, 1, h, w)`` share of the prototype that fits best: 1 when no other does, 1 / P when all do alike.

        The softmax gives every prototype a gradient, also those that are nowhere the best.
        """
        return self.prototypes(x).softmax(dim=1).amax(dim=1, keepdim=True).to(x.dtype)


def level_size(size: Sequence[int], scale: float) -> tuple[int, int]:
    """Height and width of a level; at least 1, so that no plate is too small for any scale."""
    height, width = (max(1, round(int(side) * scale)) for side in size)
    return height, width


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """``(B, F, H, W)`` brought to ``size`` bilinearly."""
    return x if x.shape[2:] == tuple(size) else F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
