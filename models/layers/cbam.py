"""CBAM (Woo et al. 2018): which channels, then where."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.columns import Columns

FEWEST = 4  # hidden units of the channel attention


class BlockAttention(nn.Module):
    """``x`` times a weight for each channel, times a weight for each pixel, both in ``(0, 1)``.

    Args:
        features: channels in and out.
        ratio: features per hidden unit of the channel attention.
        kernel: odd side of the spatial attention's convolution.
    """

    def __init__(self, features: int, *, ratio: int = 8, kernel: int = 7) -> None:
        super().__init__()
        hidden = max(features // ratio, FEWEST)
        self.squeeze = nn.Conv2d(features, hidden, 1)
        self.excite = nn.Conv2d(hidden, features, 1)
        self.where = nn.Conv2d(2, 1, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, columns: Columns) -> Tensor:
        """``(B, F, H, W)`` clear outside ``columns`` in, and out."""
        x = x * torch.sigmoid(self._weigh(columns.mean(x)) + self._weigh(columns.max(x)))
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)  # (B, 2, H, W)
        return x * torch.sigmoid(self.where(seen))

    def _weigh(self, pooled: Tensor) -> Tensor:
        return self.excite(F.silu(self.squeeze(pooled)))  # of a few ReLUs all may be dead from the start
