"""SimpleCRNN: four convolutions and two bidirectional LSTMs that read plates of any height."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from models.batch import Read
from models.layers.norm import RankBatchNorm2d
from models.recognizers.crnn import FrameClassifier, clear
from models.text import Frames

LOWEST = 16  # four halvings leave one row
FRAMES = Frames(stride=4, offset=0)


@dataclass(frozen=True, kw_only=True)
class SimpleCRNNConfig:
    """A small recogniser with ``W // 4`` frames, every one of which is read.

    Attributes:
        classes: symbols of the alphabet and the blank.
        channels: 1 for grey images, 3 for colour.
        width: multiplies the 32 to 256 feature channels.
        hidden: units of each LSTM in each direction.
    """

    classes: int
    channels: int = 3
    width: float = 1.0
    hidden: int = 128

    def __post_init__(self) -> None:
        if self.classes < 2 or self.channels < 1 or self.hidden < 1 or round(32 * self.width) < 1:
            raise ValueError(f"{self}: needs a symbol beside the blank and at least one channel and unit everywhere")

    @property
    def frames(self) -> Frames:
        return FRAMES

    def build(self) -> SimpleCRNN:
        return SimpleCRNN(self)


class SimpleCRNN(nn.Module):
    """Reads images of one line each, at least 16 pixels high.

    What it reads in an image does not depend on how far the image is padded, as with
    :class:`models.recognizers.crnn.CRNN`.
    """

    def __init__(self, config: SimpleCRNNConfig) -> None:
        super().__init__()
        self.cnn = MeanColumns(config.channels, config.width)
        self.rnn = FrameClassifier(round(256 * config.width), config.hidden, config.classes)

    def forward(self, image: Tensor, widths: Tensor) -> Read:
        """``(B, C, H, W)`` and valid columns ``(B,)`` in, ``W // 4`` frames of logits out."""
        return self.read(*self.features(image, widths))

    def features(self, image: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, T, D)`` features before the LSTMs, and valid frames ``(B,)``, of what ``forward`` takes."""
        return self.cnn(image, widths)

    def read(self, features: Tensor, frames: Tensor) -> Read:
        """What :meth:`features` gave, read."""
        return Read(logits=self.rnn(features, frames), frames=frames)


class MeanColumns(nn.Module):
    """The convolutions: every fourth column as one vector, averaged over what rows are left."""

    def __init__(self, channels: int, width: float) -> None:
        super().__init__()
        c32, c64, c128, c256 = (round(full * width) for full in (32, 64, 128, 256))
        self.blocks = nn.ModuleList(
            [
                PooledBlock(channels, c32, columns=2),
                PooledBlock(c32, c64, columns=2),
                PooledBlock(c64, c128, columns=1),
                PooledBlock(c128, c256, columns=1),
            ]
        )

    def forward(self, image: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C, H, W)`` and ``(B,)`` in, features ``(B, W // 4, D)`` and valid frames ``(B,)`` out."""
        height, width = image.shape[2:]
        if height < LOWEST or width < FRAMES.stride:
            raise ValueError(
                f"SimpleCRNN: image is {height} high and {width} wide; it reads images at least {LOWEST} high and "
                f"{FRAMES.stride} wide: enlarge or pad them"
            )
        x, valid = clear(image, widths), widths
        for block in self.blocks:
            x, valid = block(x, valid)
        features = x.mean(dim=2).transpose(1, 2)  # (B, T, D)
        return features, valid.clamp(max=features.shape[1])


class PooledBlock(nn.Module):
    """Convolution, batch norm, pooling of two rows and of one or two columns, ReLU.

    Pooling comes before ReLU, which is the same and cheaper; weights start He-normal.
    """

    def __init__(self, inputs: int, outputs: int, *, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = RankBatchNorm2d(outputs)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, inputs, H, W)`` and its valid columns ``(B,)`` in, the same of the output out."""
        x = F.max_pool2d(self.norm(self.conv(x)), (2, self.columns))  # (B, outputs, H // 2, W // columns)
        valid = valid // self.columns
        return F.relu(clear(x, valid), inplace=True), valid
