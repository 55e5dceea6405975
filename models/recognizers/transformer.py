"""CNN and Transformer with CTC: eight convolutions, six encoder layers, one frame every eight columns."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.batch import Read
from models.layers.columns import columns_of
from models.layers.norm import RankBatchNorm2d
from models.layers.transformer import EncoderLayer, positions
from models.text import Frames

FRAMES = Frames(stride=8, offset=0)
LOWEST = 8  # three halvings leave one row


@dataclass(frozen=True, kw_only=True)
class TransformerReaderConfig:
    """A recogniser of long lines, of any height from 8 pixels up, with ``W // 8`` frames.

    Attributes:
        classes: symbols of the alphabet and the blank.
        channels: 1 for grey images, 3 for colour.
        width: multiplies the 64 to 512 feature channels.
        rows: heights the features are brought to, by averaging, before they become one vector per frame; 128 pixels
            have 16 of themselves.
        features: of a frame; even and divisible by ``heads``.
        layers: encoder layers.
        heads: of each layer's attention.
        inner: units of each layer's small network.
        dropout: in the encoder, in training; with any, a step of two workers is no longer that of one.
    """

    classes: int
    channels: int = 1
    width: float = 1.0
    rows: int = 16
    features: int = 512
    layers: int = 6
    heads: int = 8
    inner: int = 2048
    dropout: float = 0.2

    def __post_init__(self) -> None:
        least = min(
            self.channels, self.rows, self.features, self.layers, self.heads, self.inner, round(64 * self.width)
        )
        if self.classes < 2 or least < 1:
            raise ValueError(f"{self}: needs a symbol beside the blank and at least one of everything else")
        if self.features % self.heads or self.features % 2:
            raise ValueError(
                f"TransformerReaderConfig.features: {self.features}; make it even and divisible by the {self.heads} "
                "heads"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"TransformerReaderConfig.dropout: {self.dropout}; it is a share from 0 to below 1")

    @property
    def frames(self) -> Frames:
        return FRAMES

    def build(self) -> TransformerReader:
        return TransformerReader(self)


class TransformerReader(nn.Module):
    """Reads images of one text line each.

    What it reads in an image does not depend on how far the image is padded: features past the valid width are zero
    before every convolution, and no frame attends to one past the valid frames. Only training statistics of batch
    norm still see padding.

    Frozen, it sends gradient to the image as it is: it has no recurrent layer that cuDNN would refuse.
    """

    def __init__(self, config: TransformerReaderConfig) -> None:
        super().__init__()
        self.cnn = RowFeatures(config)
        self.encoder = FrameEncoder(config)

    def forward(self, image: Tensor, widths: Tensor) -> Read:
        """``(B, C, H, W)`` and valid columns ``(B,)`` in, ``W // 8`` frames of logits out."""
        return self.read(*self.features(image, widths))

    def features(self, image: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, T, D)`` normalised, before the encoder, and valid frames ``(B,)``, of what ``forward`` takes."""
        return self.cnn(image, widths)

    def read(self, features: Tensor, frames: Tensor) -> Read:
        """What :meth:`features` gave, read."""
        return Read(logits=self.encoder(features, frames), frames=frames)


class RowFeatures(nn.Module):
    """The convolutions: every eighth column as one vector, projected and normalised."""

    def __init__(self, config: TransformerReaderConfig) -> None:
        super().__init__()
        c64, c128, c256, c512 = (round(full * config.width) for full in (64, 128, 256, 512))
        sizes = [config.channels, c64, c64, c128, c128, c256, c256, c512, c512]
        self.blocks = nn.ModuleList(
            ConvBlock(before, after, pool=number in (1, 3, 5)) for number, (before, after) in enumerate(pairwise(sizes))
        )
        self.rows = config.rows
        self.project = nn.Linear(c512 * config.rows, config.features)
        self.norm = nn.LayerNorm(config.features)

    def forward(self, image: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C, H, W)`` and ``(B,)`` in, features ``(B, W // 8, D)`` and valid frames ``(B,)`` out."""
        height, width = image.shape[2:]
        if height < LOWEST or width < FRAMES.stride:
            raise ValueError(
                f"TransformerReader: image is {height} high and {width} wide; it reads images at least {LOWEST} high "
                f"and {FRAMES.stride} wide: enlarge or pad them"
            )
        x, valid = columns_of(widths, width).clear(image), widths
        for block in self.blocks:
            x, valid = block(x, valid)
        columns = averaged_rows(x, self.rows).flatten(1, 2).transpose(1, 2)  # (B, T, F * rows)
        return self.norm(self.project(columns)), valid.clamp(max=x.shape[3])


class ConvBlock(nn.Module):
    """Convolution, batch norm, GELU, perhaps pooling of two rows and columns. Weights start He-normal."""

    def __init__(self, inputs: int, outputs: int, *, pool: bool) -> None:
        super().__init__()
        self.pool = pool
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = RankBatchNorm2d(outputs)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, inputs, H, W)`` and its valid columns ``(B,)`` in, the same of the output out."""
        x = F.gelu(self.norm(self.conv(x)))
        if self.pool:
            x, valid = F.max_pool2d(x, 2), valid // 2  # (B, outputs, H // 2, W // 2)
        return columns_of(valid, x.shape[3]).clear(x), valid


class FrameEncoder(nn.Module):
    """The sequence half: positions, encoder layers and the linear head.

    The head starts Xavier-uniform with zero bias, so that all classes are nearly equally likely.
    """

    def __init__(self, config: TransformerReaderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(config.features, heads=config.heads, inner=config.inner, dropout=config.dropout)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.features)
        self.head = nn.Linear(config.features, config.classes)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        """``(B, T, D)`` and valid frames ``(B,)`` in, logits ``(B, T, K)`` out."""
        order = torch.arange(features.shape[1], device=features.device)
        valid = order < frames.clamp(min=1)[:, None]  # an image too narrow for a frame still has to be finite
        x = features + positions(order.float(), features.shape[2])
        for layer in self.layers:
            x = layer(x, valid)
        return self.head(self.norm(x))


def averaged_rows(x: Tensor, rows: int) -> Tensor:
    """``(B, F, rows, W)``: of ``H`` rows the averages over ``rows`` equal bands, as ``F.adaptive_avg_pool2d``.

    A product with a matrix: on CUDA the backward pass of that function adds up in any order.
    """
    height = x.shape[2]
    if height == rows:
        return x
    row, band = torch.arange(height, device=x.device), torch.arange(rows, device=x.device)[:, None]
    inside = (row >= band * height // rows) & (row * rows < (band + 1) * height)  # (rows, H)
    return torch.einsum("rh,bfhw->bfrw", (inside / inside.sum(dim=1, keepdim=True)).to(x.dtype), x)
