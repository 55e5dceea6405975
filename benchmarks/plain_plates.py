"""The plate restorer as the seed writes it: what our generator's training step is measured against.

The network of :mod:`models.restorers.plates` with ``dcnv1`` in one group, by the means of the seed's code: nine
``grid_sample`` calls per deformable convolution, stacked and summed by ``einsum``; tensors laid out as Torch makes
them; an SSIM of depthwise convolutions under a uniform window; plain Adam; a look at the loss after every step. Weights
have our names, so that :func:`with_weights_of` gives it ours and both make the same image.

Where the seed's own network is at fault, ours is followed, about as much work: the seed's points are all shifted by one
pixel, its profiles averaged again, its residual bilinear and behind a tanh, its channel attention made of ReLUs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.batch import Pair, Read
from models.losses.plates import LayoutTerm
from models.restorers.plates import PlateRestorer

WINDOW = 11


class StackedDeform(nn.Module):
    """DCNv1 with one group."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, features, 3, 3))
        self.bias = nn.Parameter(torch.empty(features))
        self.offset = nn.Conv2d(features, 18, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        offset = self.offset(x)
        rows = torch.arange(height, dtype=x.dtype, device=x.device)[:, None]
        columns = torch.arange(width, dtype=x.dtype, device=x.device)
        samples = []
        for k in range(9):
            down = rows + (k // 3 - 1) + offset[:, 2 * k]
            across = columns + (k % 3 - 1) + offset[:, 2 * k + 1]
            grid = torch.stack([2 * across / (width - 1) - 1, 2 * down / (height - 1) - 1], dim=-1)
            samples.append(F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True))
        read = torch.stack(samples, dim=2)  # (B, F, 9, H, W)
        return torch.einsum("bckhw,ock->bohw", read, self.weight.flatten(2)) + self.bias.view(1, -1, 1, 1)


class PlainAttention(nn.Module):
    """``x + x * M``."""

    def __init__(self, features: int) -> None:
        super().__init__()
        hidden = max(features // 16, 4)
        squeeze, excite = nn.Conv2d(features, hidden, 1), nn.Conv2d(hidden, features, 1)
        self.channels = nn.ModuleDict({"squeeze": squeeze, "excite": excite})
        self.position = StackedDeform(features)
        profiles = {"rows": nn.Conv2d(features, features, 1), "columns": nn.Conv2d(features, features, 1)}
        self.profiles = nn.ModuleDict(profiles)
        self.gate = StackedDeform(features)

    def forward(self, x: Tensor) -> Tensor:
        channels = torch.sigmoid(self._weigh(F.adaptive_avg_pool2d(x, 1)) + self._weigh(F.adaptive_max_pool2d(x, 1)))
        rows = torch.sigmoid(self.profiles["rows"](x.mean(dim=3, keepdim=True)))
        columns = torch.sigmoid(self.profiles["columns"](x.mean(dim=2, keepdim=True)))
        return x * torch.sigmoid(self.gate(channels * self.position(x) + rows * columns)) + x

    def _weigh(self, pooled: Tensor) -> Tensor:
        return self.channels["excite"](F.silu(self.channels["squeeze"](pooled)))


class PlainBlock(nn.Module):
    """Three dense layers, attention, a convolution."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.dense = nn.ModuleList(nn.Conv2d(features + growth * i, growth, 3, padding=1) for i in range(3))
        self.fuse = nn.Conv2d(features + 3 * growth, features, 3, padding=1)
        self.attention = PlainAttention(features)
        self.local = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for layer in self.dense:
            seen.append(F.relu(layer(torch.cat(seen, 1))))
        return self.local(self.attention(self.fuse(torch.cat(seen, 1)))) + x


class PlainGenerator(nn.Module):
    """Colour images, twice as large."""

    def __init__(self, features: int = 64, blocks: int = 12, growth: int = 32) -> None:
        super().__init__()
        wide, halved = nn.Conv2d(3, features, 5, padding=2), nn.Conv2d(4 * features, features, 3, padding=1)
        back = nn.Conv2d(features // 4, features, 3, padding=1)
        self.shallow = nn.ModuleDict({"wide": wide, "halved": halved, "back": back})
        self.blocks = nn.Sequential(*(PlainBlock(features, growth) for _ in range(blocks)))
        self.deep = nn.Conv2d(features, features, 3, padding=1)
        self.enlarge = nn.ModuleDict({"last": nn.Conv2d(features, 12, 3, padding=1)})
        self.last = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """``(B, 3, H, W)`` in ``[-1, 1]`` in, ``(B, 3, 2 H, 2 W)`` out; ``H`` and ``W`` even."""
        wide = F.relu(self.shallow["wide"](image))
        halved = F.relu(self.shallow["halved"](F.pixel_unshuffle(wide, 2)))
        shallow = wide + F.relu(self.shallow["back"](F.pixel_shuffle(halved, 2)))
        features = self.deep(self.blocks(shallow)) + shallow
        residual = self.last(F.pixel_shuffle(self.enlarge["last"](features), 2))
        large = F.interpolate(image, scale_factor=2, mode="bicubic", align_corners=False).clamp(-1, 1)
        return (large + residual).clamp(-1, 1)


def with_weights_of(ours: PlateRestorer, *, features: int, blocks: int) -> PlainGenerator:
    """A plain network that makes the same image as ``ours``, which samples by ``dcnv1`` in one group."""
    plain = PlainGenerator(features, blocks)
    state: Mapping[str, Tensor] = ours.state_dict()
    plain.load_state_dict({name: value for name, value in state.items() if not name.endswith("parameterisation")})
    return plain


def uniform_ssim(image: Tensor, target: Tensor) -> Tensor:
    """``()`` the similarity under a uniform window with zeros around the image, brought to ``[0, 1]`` first."""
    x, y = (image + 1) / 2, (target + 1) / 2
    mx, my = _windowed(x), _windowed(y)
    xx, yy, xy = _windowed(x * x) - mx * mx, _windowed(y * y) - my * my, _windowed(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * mx * my + c1) * (2 * xy + c2) / ((mx * mx + my * my + c1) * (xx + yy + c2))).mean()


def _windowed(images: Tensor) -> Tensor:
    channels, pad = images.shape[1], WINDOW // 2
    side = images.new_full((channels, 1, 1, WINDOW), 1 / WINDOW)
    columns = F.conv2d(images, side, padding=(0, pad), groups=channels)
    return F.conv2d(columns, side.transpose(2, 3), padding=(pad, 0), groups=channels)


class PlainRecipe:
    """The training step of the seed's trainer.

    Args:
        ocr: reads what is restored, frozen; without one the loss is L1 alone.
        layout: the layout term, ours: it is cheap, and the seed's has no gradient.
        weights: of ``characters``, ``layout`` and ``ssim`` beside L1.
    """

    def __init__(
        self, network: PlainGenerator, *, lr: float, clip_norm: float, ocr: nn.Module | None = None,
        layout: LayoutTerm | None = None, weights: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        self.network, self.ocr, self.layout, self.clip_norm = network.train(), ocr, layout, clip_norm
        self.weights = weights or {}
        if ocr is not None:
            ocr.requires_grad_(False).eval()
        self.optimizer = torch.optim.Adam(network.parameters(), lr=lr)

    def step(self, batch: Pair) -> float:
        """One update; the loss."""
        image = self.network(batch.image)
        loss = F.l1_loss(image, batch.target)
        if self.ocr is not None and self.layout is not None:
            read: Read = self.ocr(image, 2 * batch.widths)
            log_probs = read.logits.log_softmax(2).transpose(0, 1)  # (T, B, K)
            nats = F.ctc_loss(log_probs, batch.tokens, read.frames, batch.lengths)  # in nats per character
            layout = self.layout(batch, read)
            loss = loss + self.weights["characters"] * nats + self.weights["layout"] * layout.total / layout.count
            loss = loss + self.weights["ssim"] * (1 - uniform_ssim(image, batch.target))
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.clip_norm)
        self.optimizer.step()
        return loss.item()
