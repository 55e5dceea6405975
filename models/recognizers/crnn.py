"""CRNN (Shi, Bai, Yao 2015): seven convolutions, two bidirectional LSTMs, one CTC frame every four columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.batch import Read
from models.layers.norm import RankBatchNorm2d
from models.text import Frames

HEIGHT = 32  # four halvings and a last kernel of two leave one row
FRAMES = Frames(stride=4, offset=1)


@dataclass(frozen=True, kw_only=True)
class CRNNConfig:
    """The paper's network as its author's code has it, which gives ``W // 4 + 1`` frames.

    Attributes:
        classes: symbols of the alphabet and the blank.
        channels: 1 for grey images, 3 for colour.
        width: multiplies the paper's 64 to 512 feature channels.
        hidden: units of each LSTM in each direction.
    """

    classes: int
    channels: int = 1
    width: float = 1.0
    hidden: int = 256

    def __post_init__(self) -> None:
        if self.classes < 2 or self.channels < 1 or self.hidden < 1 or round(64 * self.width) < 1:
            raise ValueError(f"{self}: needs a symbol beside the blank and at least one channel and unit everywhere")

    @property
    def frames(self) -> Frames:
        return FRAMES

    def build(self) -> CRNN:
        return CRNN(self)


class CRNN(nn.Module):
    """Reads images of one text line each, 32 pixels high.

    What it reads in an image does not depend on how far the image is padded: features past the
    valid width are zero before every convolution, as if the image had been alone, and the backward
    LSTMs start at the last valid frame. Only training statistics of batch norm still see padding.

    Its convolutions run 1.2 times faster on CPU after ``.to(memory_format=torch.channels_last)``.
    """

    def __init__(self, config: CRNNConfig) -> None:
        super().__init__()
        features = round(512 * config.width)
        self.cnn = ColumnFeatures(config.channels, config.width)
        self.rnn = FrameClassifier(features, config.hidden, config.classes)

    def forward(self, image: Tensor, widths: Tensor) -> Read:
        """``(B, C, 32, W)`` and valid columns ``(B,)`` in, ``W // 4 + 1`` frames of logits out."""
        return self.read(*self.features(image, widths))

    def features(self, image: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, T, D)`` features before the LSTMs, and valid frames ``(B,)``, of what ``forward`` takes."""
        return self.cnn(image, widths)

    def read(self, features: Tensor, frames: Tensor) -> Read:
        """What :meth:`features` gave, read."""
        return Read(logits=self.rnn(features, frames), frames=frames)


class ColumnFeatures(nn.Module):
    """The convolutions: every fourth column as one vector."""

    def __init__(self, channels: int, width: float) -> None:
        super().__init__()
        c64, c128, c256, c512 = (round(paper * width) for paper in (64, 128, 256, 512))
        self.blocks = nn.ModuleList(
            [
                Block(channels, c64, pool="half"),
                Block(c64, c128, pool="half"),
                Block(c128, c256, norm=True),
                Block(c256, c256, pool="tall"),
                Block(c256, c512, norm=True),
                Block(c512, c512, pool="tall"),
                Block(c512, c512, norm=True, kernel=2),
            ]
        )

    def forward(self, image: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C, 32, W)`` and ``(B,)`` in, features ``(B, T, D)`` and valid frames ``(B,)`` out."""
        height, width = image.shape[2:]
        if height != HEIGHT or width < FRAMES.stride:
            raise ValueError(
                f"CRNN: image is {height} high and {width} wide; it reads images {HEIGHT} high and at least "
                f"{FRAMES.stride} wide: resize to height {HEIGHT} and pad"
            )
        x, valid = clear(image, widths), widths
        for block in self.blocks:
            x, valid = block(x, valid)
        features = x.squeeze(2).transpose(1, 2)  # (B, T, D)
        return features, (widths // FRAMES.stride + FRAMES.offset).clamp(max=features.shape[1])


class Block(nn.Module):
    """Convolution, batch norm or a bias, perhaps pooling, ReLU.

    Pooling comes before ReLU: they commute, and ReLU then has a half or a quarter to do. ``half``
    halves both sides; ``tall`` halves the height and, with a window of two columns, adds a column.

    Weights start He-normal over their inputs, which keeps the variance of a ReLU network level.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        norm: bool = False,
        pool: Literal["none", "half", "tall"] = "none",
        kernel: Literal[2, 3] = 3,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.grows = {2: -1, 3: 0}[kernel]  # columns the convolution adds: only kernel 3 is padded
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 3, bias=not norm)
        self.norm = RankBatchNorm2d(outputs) if norm else nn.Identity()
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, inputs, H, W)`` and its valid columns ``(B,)`` in, the same of the output out."""
        x, valid = self.norm(self.conv(x)), valid + self.grows
        if self.pool == "half":
            x, valid = F.max_pool2d(x, 2), valid // 2  # (B, outputs, H // 2, W // 2)
        x = clear(x, valid)
        if self.pool == "tall":  # after clearing: its last column looks one column past the valid ones
            x, valid = F.max_pool2d(x, 2, (2, 1), (0, 1)), valid + 1  # (B, outputs, H // 2, W + 1)
        return F.relu(x, inplace=True), valid


class FrameClassifier(nn.Module):
    """The sequence half: two bidirectional LSTMs and the linear head.

    The linear layers start Xavier-uniform with zero bias, so that all classes are nearly equally likely.
    """

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.first = BothWays(features, hidden)
        self.between = nn.Linear(2 * hidden, hidden)
        self.second = BothWays(hidden, hidden)
        self.head = nn.Linear(2 * hidden, classes)
        for linear in (self.between, self.head):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        """``(B, T, D)`` and valid frames ``(B,)`` in, logits ``(B, T, K)`` out."""
        x = self.between(self.first(features, frames))
        return self.head(self.second(x, frames))


class BothWays(nn.Module):
    """A bidirectional LSTM whose backward half starts at each sequence's own last frame.

    Two LSTMs, the second over the frames reversed within their length: 6 to 8 % slower on CPU than
    one bidirectional ``nn.LSTM``, which would read padding first; packed sequences take 1.6 to 2 times as long.

    Recurrent weights start orthogonal and input weights Xavier-uniform, gate by gate; the forget
    gate starts open (bias 1), so that early gradients reach across the word.

    Both stay in training mode: a frozen reader must still send gradient to the image, cuDNN refuses the backward pass
    of an LSTM in any other mode, and without dropout they compute the same in both.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.forwards = nn.LSTM(inputs, hidden, batch_first=True)
        self.backwards = nn.LSTM(inputs, hidden, batch_first=True)
        for lstm in (self.forwards, self.backwards):
            start_lstm(lstm)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """``(B, T, D)`` and valid frames ``(B,)`` in, ``(B, T, 2 * hidden)`` out."""
        ahead, _ = self.forwards(x)
        behind, _ = self.backwards(reverse_within(x, frames))
        return torch.cat([ahead, reverse_within(behind, frames)], dim=2)

    def train(self, mode: bool = True) -> BothWays:
        super().train(mode)
        for lstm in (self.forwards, self.backwards):
            lstm.training = True
        return self


def start_lstm(lstm: nn.LSTM) -> None:
    """Initialise a one-layer LSTM as :class:`BothWays` describes."""
    weights = dict(lstm.named_parameters())
    for gate in weights["weight_ih_l0"].chunk(4):
        nn.init.xavier_uniform_(gate)
    for gate in weights["weight_hh_l0"].chunk(4):
        nn.init.orthogonal_(gate)
    nn.init.zeros_(weights["bias_hh_l0"])
    nn.init.zeros_(weights["bias_ih_l0"])
    nn.init.ones_(weights["bias_ih_l0"].chunk(4)[1])  # gate order: input, forget, cell, output


def reverse_within(x: Tensor, lengths: Tensor) -> Tensor:
    """Each sequence reversed within its own length; what follows it stays in place.

    Args:
        x: ``(B, T, D)``.
        lengths: ``(B,)`` at most ``T``.
    """
    t = torch.arange(x.shape[1], device=x.device)
    last = lengths[:, None] - 1
    index = torch.where(t <= last, last - t, t)  # (B, T)
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))  # expand_as would fix T in exported graphs


def clear(x: Tensor, valid: Tensor) -> Tensor:
    """``(B, C, H, W)`` with zeros in the columns past each image's ``valid`` ones ``(B,)``."""
    columns = torch.arange(x.shape[3], device=x.device)
    return x * (columns < valid[:, None]).to(x.dtype)[:, None, None, :]
