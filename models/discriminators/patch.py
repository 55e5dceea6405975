"""PatchGAN (Isola et al. 2017): whether each patch of an image could be a clean one of what was degraded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.columns import Columns, fitted
from models.layers.norm import RankBatchNorm2d

HALVINGS = 4
DIVISOR = 2**HALVINGS
SLOPE = 0.2  # of LeakyReLU below 0


@dataclass(frozen=True, kw_only=True)
class PatchConfig:
    """The discriminator of GAN-HTR: four convolutions of stride 2, a patch every 16 pixels.

    Attributes:
        channels: of one image, 1 or 3.
        width: features of the first convolution; 64, 128, 256 and 256 in the paper.
        norm: batch norm after the second to fourth convolution, as in the paper; a bias instead when false. With it,
            clean and restored images have to be judged in batches of their own.
    """

    reads_text: ClassVar[bool] = False
    channels: int = 1
    width: int = 64
    norm: bool = True

    def __post_init__(self) -> None:
        if min(self.channels, self.width) < 1:
            raise ValueError(f"{self}: needs a channel and a feature at least")

    def build(self) -> PatchDiscriminator:
        return PatchDiscriminator(self)


class PatchDiscriminator(nn.Module):
    """Judges a candidate beside the degraded image it was made of, patch by patch.

    What it says of the patches of an image does not depend on how far it is padded, nor with what; only training
    statistics of batch norm still see padding.
    """

    def __init__(self, config: PatchConfig) -> None:
        super().__init__()
        self.trunk = PatchFeatures(2 * config.channels, config.width, norm=config.norm)
        self.last = nn.Conv2d(self.trunk.features, 1, 3, padding=1)

    def forward(self, degraded: Tensor, candidate: Tensor, widths: Tensor | None = None) -> Tensor:
        """Two ``(B, C, H, W)`` in ``[-1, 1]`` in, logits ``(B, 1, ceil(H / 16), ceil(W / 16))`` out.

        Args:
            widths: ``(B,)`` valid columns, all when omitted; logits of patches that hold none of them are 0.
        """
        features, columns = self.trunk(beside(degraded, candidate), widths)
        return columns.clear(self.last(features))


class PatchFeatures(nn.Module):
    """Features of every patch. Weights start normal with a deviation of 0.02, as in the paper of PatchGAN."""

    def __init__(self, channels: int, width: int, *, norm: bool) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 4 * width]
        normed = [False, *(norm for _ in widths[1:])]
        self.features = widths[-1]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1, bias=not has)
            for before, after, has in zip([channels, *widths], widths, normed, strict=False)
        )
        self.norms = nn.ModuleList(
            RankBatchNorm2d(after) if has else nn.Identity() for after, has in zip(widths, normed, strict=True)
        )

        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            nn.init.normal_(conv.weight, std=0.02)

    def forward(self, image: Tensor, widths: Tensor | None) -> tuple[Tensor, Columns]:
        """``(B, C, H, W)`` and ``(B,)`` in, ``(B, F, h, w)``, a sixteenth as large, and its columns out."""
        x, columns = fitted(image, widths, DIVISOR)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            columns = columns.halved()
            x = F.leaky_relu(columns.clear(norm(conv(x))), SLOPE)  # (B, F, H / 2, W / 2)
        return x, columns


def beside(degraded: Tensor, candidate: Tensor) -> Tensor:
    """``(B, 2 C, H, W)`` both images as channels of one."""
    if degraded.shape != candidate.shape:
        raise ValueError(
            f"discriminator: degraded {tuple(degraded.shape)}, candidate {tuple(candidate.shape)}; it judges images "
            "of the size they were degraded from: give both (B, C, H, W) of one size"
        )
    return torch.cat([degraded, candidate], dim=1)
