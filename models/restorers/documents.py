"""Restorers of document lines and pages: what a network adds to the degraded image, within the range of the targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from models.layers.columns import columns_of, fitted
from models.layers.upscale import bounded, start_tiny
from models.restorers.unet import UNet
from models.restorers.unet_dense import DenseUNet


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The U-Net of GAN-HTR (Khamekhem Jemni et al. 2022).

    Attributes:
        channels: 1 for grey images, 3 for colour.
        width: features at full size, doubled with every halving; the paper has 64.
        halvings: scales besides the full one.
        norm: batch norm after every convolution, as in the paper; a bias instead when false.
        dropout: share of the features left out in training at the two deepest scales; the paper has 0.5. With any, a
            step of two workers is no longer that of one.
    """

    scale: ClassVar[int] = 1
    channels: int = 1
    width: int = 64
    halvings: int = 4
    norm: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if min(self.channels, self.width, self.halvings) < 1 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"{self}: needs a channel, a feature and a halving at least, and dropout from 0 to below 1"
            )

    @property
    def divisor(self) -> int:
        """What both sides are filled up to a multiple of, inside."""
        return 2**self.halvings

    def build(self) -> DocumentRestorer:
        return DocumentRestorer(
            self,
            UNet(self.channels, width=self.width, halvings=self.halvings, norm=self.norm, dropout=self.dropout),
        )


@dataclass(frozen=True, kw_only=True)
class EnhancedConfig:
    """The ``enhanced_v2`` generator: residual dense blocks, attention at five scales, a dilated pyramid.

    Attributes:
        channels: 1 for grey images, 3 for colour.
        width: features at full size, doubled with every halving up to eight times.
        halvings: scales besides the full one.
        blocks: residual dense blocks at each scale, on the way down and again on the way up.
        growth: features that each dense layer adds.
        layers: dense layers of a block.
    """

    scale: ClassVar[int] = 1
    channels: int = 1
    width: int = 64
    halvings: int = 4
    blocks: int = 1
    growth: int = 32
    layers: int = 3

    def __post_init__(self) -> None:
        if min(self.channels, self.width, self.halvings, self.blocks, self.growth, self.layers) < 1:
            raise ValueError(f"{self}: needs at least one of everything")

    @property
    def divisor(self) -> int:
        """What both sides are filled up to a multiple of, inside."""
        return 2**self.halvings

    def build(self) -> DocumentRestorer:
        body = DenseUNet(
            self.channels, width=self.width, halvings=self.halvings, blocks=self.blocks, growth=self.growth,
            layers=self.layers,
        )  # fmt: skip
        return DocumentRestorer(self, body)


class DocumentRestorer(nn.Module):
    """Adds what is missing to the degraded image; untrained it returns the image to within 1e-6.

    The sum is cut to ``[-1, 1]``, so black and white are both reached exactly, and a pixel outside still gets the
    gradient that leads it back. What comes out inside ``widths`` does not depend on how far an image is padded, nor
    with what; only training statistics of batch norm still see padding.

    Its convolutions like ``.to(memory_format=torch.channels_last)``.
    """

    def __init__(self, config: UNetConfig | EnhancedConfig, body: UNet | DenseUNet) -> None:
        super().__init__()
        self.divisor = config.divisor
        self.body = body
        self.last = nn.Conv2d(body.features, config.channels, 1)
        start_tiny(self.last)

    def forward(self, image: Tensor, widths: Tensor | None = None) -> Tensor:
        """``(B, C, H, W)`` in ``[-1, 1]`` of any size in, the same restored out.

        Args:
            widths: ``(B,)`` valid columns, all when omitted; an image's other columns come out as they went in.
        """
        height, width = image.shape[2:]
        filled, columns = fitted(image, widths, self.divisor)
        added = self.last(self.body(filled, columns))[:, :, :height, :width]
        return bounded(image + columns_of(widths, width).clear(added))
