"""Residual dense blocks: every layer sees all layers before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualDenseBlock(nn.Module):
    """``x + local(attention(fuse(all layers)))``.

    Torch's own first weights shrink a signal at every convolution, so that a chain of such blocks starts
    close to the identity.

    Args:
        features: channels in and out.
        growth: channels that each dense layer adds.
        layers: dense layers.
        attention: ``(B, F, H, W)`` in and out.
    """

    def __init__(self, features: int, *, growth: int, layers: int, attention: nn.Module) -> None:
        super().__init__()
        self.dense = nn.ModuleList(
            nn.Conv2d(features + growth * before, growth, 3, padding=1) for before in range(layers)
        )
        self.fuse = nn.Conv2d(features + growth * layers, features, 3, padding=1)
        self.attention = attention
        self.local = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, F, H, W)`` in and out."""
        seen = [x]
        for layer in self.dense:
            seen.append(F.relu(layer(torch.cat(seen, dim=1))))  # (B, growth, H, W)
        return x + self.local(self.attention(self.fuse(torch.cat(seen, dim=1))))
