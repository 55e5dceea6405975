"""The U-Net of GAN-HTR (Khamekhem Jemni et al. 2022) and DE-GAN: 23 convolutions at five scales."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.columns import Columns
from models.layers.norm import RankBatchNorm2d

MOMENTUM = 0.2  # of a new batch in the running statistics, as in the paper's code
DROPPED = 2  # scales with dropout, from the deepest up


class UNet(nn.Module):
    """Features of an image, seen at every scale.

    Args:
        channels: of the image.
        width: features at full size, doubled with every halving.
        halvings: scales besides the full one.
        norm: whether batch norm follows every convolution.
        dropout: share of the features left out at the two deepest scales.
    """

    def __init__(self, channels: int, *, width: int, halvings: int, norm: bool, dropout: float) -> None:
        super().__init__()
        widths = [width * 2**scale for scale in range(halvings + 1)]
        self.features = width
        self.dropped = halvings + 1 - DROPPED
        self.dropout = nn.Dropout(dropout)
        self.down = nn.ModuleList(
            TwoConvs(before, after, norm=norm) for before, after in zip([channels, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * after, after, 2, stride=2) for after in widths[:-1])
        self.join = nn.ModuleList(TwoConvs(2 * after, after, norm=norm) for after in widths[:-1])

    def forward(self, x: Tensor, columns: Columns) -> Tensor:
        """``(B, C, H, W)`` with sides that can be halved in, ``(B, width, H, W)`` out; clear outside ``columns``."""
        skips: list[tuple[Tensor, Columns]] = []
        for scale, convs in enumerate(self.down):
            if scale:
                x, columns = F.max_pool2d(x, 2), columns.halved()  # (B, F, H / 2, W / 2)
            x = convs(x, columns)
            if scale >= self.dropped:
                x = self.dropout(x)
            skips.append((x, columns))
        skips.pop()
        for up, join in reversed(list(zip(self.up, self.join, strict=True))):
            skip, columns = skips.pop()
            x = join(torch.cat([skip, columns.clear(F.relu(up(x)))], dim=1), columns)  # both sides doubled
        return x


class TwoConvs(nn.Module):
    """Convolution, batch norm or a bias, ReLU; twice. Weights start He-normal."""

    def __init__(self, inputs: int, outputs: int, *, norm: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(n, outputs, 3, padding=1, bias=not norm) for n in (inputs, outputs))
        self.norms = nn.ModuleList(
            RankBatchNorm2d(outputs, momentum=MOMENTUM) if norm else nn.Identity() for _ in self.convs
        )
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor, columns: Columns) -> Tensor:
        """``(B, inputs, H, W)`` in, ``(B, outputs, H, W)`` out, both clear outside ``columns``."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(columns.clear(norm(conv(x))))
        return x
