"""The plate restorer: residual dense blocks with enhanced attention, over bicubic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.character_attention import CharacterAttentionConfig
from models.layers.deform import Deformable
from models.layers.dense import ResidualDenseBlock
from models.layers.enhanced_attention import EnhancedAttention
from models.layers.upscale import SubPixel, bicubic, bounded, start_tiny

SLIGHT = 3e-4  # bound of the weights that move the points of a fresh DCNv3


@dataclass(frozen=True, kw_only=True)
class PlateRestorerConfig:
    """A network that enlarges and sharpens images of any size, from one pixel up.

    Attributes:
        channels: 1 for grey images, 3 for colour.
        features: channels inside; divisible by 4.
        blocks: residual dense blocks.
        growth: channels that each dense layer adds.
        layers: dense layers of a block.
        scale: the output's height over the input's; 1 only sharpens.
        deformable: how the enhanced attention samples; ``none`` is a plain 3x3 convolution. Each kind runs anywhere, in
            plain Torch where nothing faster is there, so that none has to be another one in disguise.
        groups: sets of offsets of a deformable convolution; the papers of DCNv1 and DCNv2 have 1.
        characters: multi-scale character attention before enlarging; none when omitted.
    """

    channels: int = 3
    features: int = 64
    blocks: int = 12
    growth: int = 32
    layers: int = 3
    scale: Literal[1, 2, 4] = 2
    deformable: Literal["none", "dcnv1", "dcnv2", "dcnv3", "dcnv4"] = "dcnv4"
    groups: int = 4
    characters: CharacterAttentionConfig | None = None

    def __post_init__(self) -> None:
        if min(self.channels, self.features, self.blocks, self.growth, self.layers) < 1 or self.features % 4:
            raise ValueError(f"{self}: needs at least one of everything, and features divisible by 4")
        if self.scale not in (1, 2, 4):
            raise ValueError(f"plate restorer: scale {self.scale}; it is 1, 2 or 4")
        _ = self.sampling  # refuses groups that do not fit before anything is built

    @property
    def sampling(self) -> Deformable | None:
        """The deformable convolution of the enhanced attention; none for plain convolutions."""
        if self.deformable == "none":
            return None
        return Deformable(kind=self.deformable, channels=self.features, groups=self.groups)

    def build(self) -> PlateRestorer:
        return PlateRestorer(self)


class PlateRestorer(nn.Module):
    """Adds what is missing to the bicubic enlargement; untrained it is bicubic to within 1e-6.

    Its convolutions like ``.to(memory_format=torch.channels_last)``.
    """

    def __init__(self, config: PlateRestorerConfig) -> None:
        super().__init__()
        features = config.features
        self.scale = config.scale
        self.shallow = ShallowFeatures(config.channels, features)
        self.blocks = nn.Sequential(*(_block(config) for _ in range(config.blocks)))
        self.deep = nn.Conv2d(features, features, 3, padding=1)
        self.characters = config.characters.build(features) if config.characters else nn.Identity()
        self.enlarge = SubPixel(features, config.channels, config.scale)
        self.last = nn.Conv2d(config.channels, config.channels, 3, padding=1)
        start_tiny(self.last)

    def forward(self, image: Tensor) -> Tensor:
        """``(B, C, H, W)`` in ``[-1, 1]`` in, ``(B, C, scale * H, scale * W)`` in ``[-1, 1]`` out."""
        shallow = self.shallow(image)  # (B, F, H, W)
        features = self.characters(shallow + self.deep(self.blocks(shallow)))
        return bounded(bicubic(image, self.scale) + self.last(self.enlarge(features)))  # (B, C, scale * H, scale * W)


class ShallowFeatures(nn.Module):
    """First features: a wide convolution, and one at half the size beside it."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(channels, features, 5, padding=2)
        self.halved = nn.Conv2d(4 * features, features, 3, padding=1)
        self.back = nn.Conv2d(features // 4, features, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """``(B, C, H, W)`` in, ``(B, F, H, W)`` out."""
        height, width = image.shape[2:]
        wide = F.relu(self.wide(image))
        halved = F.relu(self.halved(F.pixel_unshuffle(even(wide), 2)))  # (B, F, ceil(H / 2), ceil(W / 2))
        back = F.pixel_shuffle(halved, 2)[:, :, :height, :width]  # (B, F // 4, H, W)
        return wide + F.relu(self.back(back))


def even(x: Tensor) -> Tensor:
    """``(B, F, H, W)`` with its last row and column repeated where their number is odd."""
    height, width = x.shape[2:]
    x = torch.cat([x, x[:, :, height - height % 2 :]], dim=2)
    return torch.cat([x, x[:, :, :, width - width % 2 :]], dim=3)


def _block(config: PlateRestorerConfig) -> ResidualDenseBlock:
    attention = EnhancedAttention(config.features, lambda: _sample(config))
    return ResidualDenseBlock(config.features, growth=config.growth, layers=config.layers, attention=attention)


def _sample(config: PlateRestorerConfig) -> nn.Module:
    if config.sampling is None:
        return nn.Conv2d(config.features, config.features, 3, padding=1)
    conv = config.sampling.build()
    if config.deformable == "dcnv3":
        stir(conv)
    return conv


@torch.no_grad()
def stir(conv: nn.Module) -> None:
    """Let the layers of ``conv`` that begin with zero weights begin with small ones.

    DCNv3 begins with offsets and weights of points that do not depend on the image: the two layers
    before them would have no gradient in the first step. The points move by about a thousandth of a pixel.
    """
    for layer in conv.modules():
        if isinstance(layer, nn.Conv2d) and not layer.weight.any():
            nn.init.uniform_(layer.weight, -SLIGHT, SLIGHT)
