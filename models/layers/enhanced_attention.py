"""The enhanced attention module: which channels, where, and along which rows and columns."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SQUEEZE = 16  # features per unit of the channel attention's hidden layer
FEWEST = 4  # units it has at least


class EnhancedAttention(nn.Module):
    """``x + x * M`` with ``M = sigmoid(sample(channels * sample(x) + profiles))``.

    ``sample`` is a 3x3 convolution or a deformable one, which looks where the strokes are.

    Args:
        features: channels in and out.
        sample: makes one such layer, ``(B, F, H, W)`` in and out; called twice.
    """

    def __init__(self, features: int, sample: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.channels = ChannelAttention(features)
        self.position = sample()
        self.profiles = ProfileAttention(features)
        self.gate = sample()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, F, H, W)`` in and out."""
        gate = torch.sigmoid(self.gate(self.channels(x) * self.position(x) + self.profiles(x)))
        return x + x * gate


class ChannelAttention(nn.Module):
    """A weight for each channel, from its mean and its maximum through one shared small network."""

    def __init__(self, features: int) -> None:
        super().__init__()
        hidden = max(features // SQUEEZE, FEWEST)
        self.squeeze = nn.Conv2d(features, hidden, 1)
        self.excite = nn.Conv2d(hidden, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, F, H, W)`` in, ``(B, F, 1, 1)`` in ``(0, 1)`` out."""
        return torch.sigmoid(self._weigh(x.mean((2, 3), keepdim=True)) + self._weigh(x.amax((2, 3), keepdim=True)))

    def _weigh(self, pooled: Tensor) -> Tensor:
        return self.excite(F.silu(self.squeeze(pooled)))  # of four ReLUs all may be dead from the start


class ProfileAttention(nn.Module):
    """A weight for each pixel: that of its row times that of its column.

    The sigmoid comes before the product and nothing is averaged after it; a profile that is averaged
    again knows no more than the mean of the image.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.rows = nn.Conv2d(features, features, 1)
        self.columns = nn.Conv2d(features, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, F, H, W)`` in, the same shape in ``(0, 1)`` out."""
        rows = torch.sigmoid(self.rows(x.mean(3, keepdim=True)))  # (B, F, H, 1)
        columns = torch.sigmoid(self.columns(x.mean(2, keepdim=True)))  # (B, F, 1, W)
        return rows * columns  # (B, F, H, W)
