"""A U-Net of residual dense blocks with attention at every scale and a dilated pyramid at the deepest."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.cbam import BlockAttention
from models.layers.columns import Columns

DEEPEST = 8  # times the width: the features stop doubling there
DILATIONS = (1, 2, 4)


class DenseUNet(nn.Module):
    """Features of an image, seen at every scale. No batch norm: what it computes is the same in training.

    Args:
        channels: of the image.
        width: features at full size, doubled with every halving up to eight times.
        halvings: scales besides the full one.
        blocks: residual dense blocks at each scale, on the way down and again on the way up.
        growth: features that each dense layer adds.
        layers: dense layers of a block.
    """

    def __init__(self, channels: int, *, width: int, halvings: int, blocks: int, growth: int, layers: int) -> None:
        super().__init__()
        widths = [width * min(2**scale, DEEPEST) for scale in range(halvings + 1)]
        self.features = width
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.scales = nn.ModuleList(DenseBlocks(each, blocks, growth, layers, attention=True) for each in widths)
        self.down = nn.ModuleList(nn.Conv2d(before, after, 2, stride=2) for before, after in pairwise(widths))
        self.pyramid = DilatedPyramid(widths[-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(before, after, 2, stride=2) for after, before in pairwise(widths))
        self.fuse = nn.ModuleList(nn.Conv2d(2 * each, each, 1) for each in widths[:-1])
        self.join = nn.ModuleList(DenseBlocks(each, blocks, growth, layers, attention=False) for each in widths[:-1])

    def forward(self, x: Tensor, columns: Columns) -> Tensor:
        """``(B, C, H, W)`` with sides that can be halved in, ``(B, width, H, W)`` out; clear outside ``columns``."""
        x = columns.clear(self.first(x))
        skips: list[tuple[Tensor, Columns]] = []
        for blocks, down in zip(self.scales, self.down, strict=False):
            x = blocks(x, columns)
            skips.append((x, columns))
            columns = columns.halved()
            x = columns.clear(down(x))  # (B, F, H / 2, W / 2)
        x = self.pyramid(self.scales[-1](x, columns))
        for up, fuse, join in reversed(list(zip(self.up, self.fuse, self.join, strict=True))):
            skip, columns = skips.pop()
            x = join(columns.clear(fuse(torch.cat([skip, up(x)], dim=1))), columns)  # both sides doubled
        return x


class DenseBlocks(nn.Module):
    """Residual dense blocks one after the other."""

    def __init__(self, features: int, blocks: int, growth: int, layers: int, *, attention: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            DenseBlock(features, growth=growth, layers=layers, attention=attention) for _ in range(blocks)
        )

    def forward(self, x: Tensor, columns: Columns) -> Tensor:
        """``(B, F, H, W)`` clear outside ``columns`` in and out."""
        for block in self.blocks:
            x = block(x, columns)
        return x


class DenseBlock(nn.Module):
    """``x + attention(fuse(all layers))`` (Zhang et al. 2018): every layer sees all layers before it."""

    def __init__(self, features: int, *, growth: int, layers: int, attention: bool) -> None:
        super().__init__()
        self.dense = nn.ModuleList(
            nn.Conv2d(features + growth * before, growth, 3, padding=1) for before in range(layers)
        )
        self.fuse = nn.Conv2d(features + growth * layers, features, 1)
        self.attention = BlockAttention(features) if attention else None

    def forward(self, x: Tensor, columns: Columns) -> Tensor:
        """``(B, F, H, W)`` clear outside ``columns`` in and out."""
        seen = [x]
        for layer in self.dense:
            seen.append(F.relu(columns.clear(layer(torch.cat(seen, dim=1)))))  # (B, growth, H, W)
        added = columns.clear(self.fuse(torch.cat(seen, dim=1)))
        return x + (self.attention(added, columns) if self.attention is not None else added)


class DilatedPyramid(nn.Module):
    """``x`` and what three convolutions see that reach 1, 2 and 4 pixels far."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.reaches = nn.ModuleList(nn.Conv2d(features, features, 3, padding=d, dilation=d) for d in DILATIONS)
        self.fuse = nn.Conv2d(features * len(DILATIONS), features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, F, H, W)`` in and out; columns that were clear are not any more."""
        seen = torch.cat([F.relu(reach(x)) for reach in self.reaches], dim=1)  # (B, 3 F, H, W)
        return x + self.fuse(seen)
