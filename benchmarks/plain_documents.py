"""The adversarial step on documents as the seed writes it: what our step is measured against.

The networks of :mod:`models.tasks.document` (both generators, the patch discriminator, the reader of convolutions and
Transformer) as plain Torch: tensors as Torch lays them out, no columns cleared, attention as products and a softmax.
Weights have our names, so that :func:`with_weights_of` gives it ours and both compute the same losses.

The step is the ordinary one of a conditional GAN, the discriminator first: it judges three times, the recogniser's
weights get gradients that nobody uses, so do the discriminator's in the generator's pass, there are two plain Adams,
and all losses are looked at after every step. Kinder to it than the seed's: the generator runs once per step, the clean
image is read without a graph.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.batch import Pair
from models.layers.transformer import positions
from models.recognizers.transformer import TransformerReaderConfig
from models.restorers.documents import EnhancedConfig, UNetConfig
from models.tasks.document import DocumentRestoration, DocumentTask

WEIGHTS = {"pixel": 100.0, "adversarial": 1.5, "feature": 5.0, "ctc": 1.0, "perceptual": 0.2}
CEILING = 4.0  # nats per character, above which CTC goes on by its logarithm


class PlainTwoConvs(nn.Module):
    """Convolution, batch norm, ReLU; twice."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(n, outputs, 3, padding=1, bias=False) for n in (inputs, outputs))
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs, momentum=0.2) for _ in self.convs)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)))
        return x


class PlainUNet(nn.Module):
    """Of :class:`~models.restorers.documents.UNetConfig` with batch norm."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        widths = [config.width * 2**scale for scale in range(config.halvings + 1)]
        self.down = nn.ModuleList(PlainTwoConvs(*each) for each in pairwise([config.channels, *widths]))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * each, each, 2, stride=2) for each in widths[:-1])
        self.join = nn.ModuleList(PlainTwoConvs(2 * each, each) for each in widths[:-1])

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for scale, convs in enumerate(self.down):
            x = convs(F.max_pool2d(x, 2) if scale else x)
            skips.append(x)
        skips.pop()
        for up, join in reversed(list(zip(self.up, self.join, strict=True))):
            x = join(torch.cat([skips.pop(), F.relu(up(x))], dim=1))
        return x


class PlainAttention(nn.Module):
    """CBAM."""

    def __init__(self, features: int) -> None:
        super().__init__()
        hidden = max(features // 8, 4)
        self.squeeze, self.excite = nn.Conv2d(features, hidden, 1), nn.Conv2d(hidden, features, 1)
        self.where = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)
        x = x * torch.sigmoid(sum(self.excite(F.silu(self.squeeze(each))) for each in pooled))
        seen = torch.cat([x.mean(dim=1, keepdim=True), x.max(dim=1, keepdim=True).values], dim=1)
        return x * torch.sigmoid(self.where(seen))


class PlainBlock(nn.Module):
    """A residual dense block."""

    def __init__(self, features: int, growth: int, layers: int, *, attention: bool) -> None:
        super().__init__()
        self.dense = nn.ModuleList(nn.Conv2d(features + growth * i, growth, 3, padding=1) for i in range(layers))
        self.fuse = nn.Conv2d(features + growth * layers, features, 1)
        self.attention = PlainAttention(features) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for layer in self.dense:
            seen.append(F.relu(layer(torch.cat(seen, dim=1))))
        return x + self.attention(self.fuse(torch.cat(seen, dim=1)))


class PlainPyramid(nn.Module):
    """Dilated by 1, 2 and 4."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.reaches = nn.ModuleList(nn.Conv2d(features, features, 3, padding=d, dilation=d) for d in (1, 2, 4))
        self.fuse = nn.Conv2d(3 * features, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fuse(torch.cat([F.relu(reach(x)) for reach in self.reaches], dim=1))


class PlainDense(nn.Module):
    """Of :class:`~models.restorers.documents.EnhancedConfig`."""

    def __init__(self, config: EnhancedConfig) -> None:
        super().__init__()
        widths = [config.width * min(2**scale, 8) for scale in range(config.halvings + 1)]

        def blocks(features: int, *, attention: bool) -> nn.Module:
            made = (PlainBlock(features, config.growth, config.layers, attention=attention)
                    for _ in range(config.blocks))  # fmt: skip
            return nn.ModuleDict({"blocks": nn.Sequential(*made)})

        self.first = nn.Conv2d(config.channels, config.width, 3, padding=1)
        self.scales = nn.ModuleList(blocks(each, attention=True) for each in widths)
        self.down = nn.ModuleList(nn.Conv2d(before, after, 2, stride=2) for before, after in pairwise(widths))
        self.pyramid = PlainPyramid(widths[-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(before, after, 2, stride=2) for after, before in pairwise(widths))
        self.fuse = nn.ModuleList(nn.Conv2d(2 * each, each, 1) for each in widths[:-1])
        self.join = nn.ModuleList(blocks(each, attention=False) for each in widths[:-1])

    def forward(self, x: Tensor) -> Tensor:
        x, skips = self.first(x), []
        for scale, down in zip(self.scales, self.down, strict=False):
            x = scale["blocks"](x)  # type: ignore[index]
            skips.append(x)
            x = down(x)
        x = self.pyramid(self.scales[-1]["blocks"](x))  # type: ignore[index]
        for up, fuse, join in reversed(list(zip(self.up, self.fuse, self.join, strict=True))):
            x = join["blocks"](fuse(torch.cat([skips.pop(), up(x)], dim=1)))  # type: ignore[index]
        return x


class PlainRestorer(nn.Module):
    """Adds what its body makes to the degraded image."""

    def __init__(self, config: UNetConfig | EnhancedConfig) -> None:
        super().__init__()
        self.body = PlainUNet(config) if isinstance(config, UNetConfig) else PlainDense(config)
        self.last = nn.Conv2d(config.width, config.channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """``(B, C, H, W)`` in ``[-1, 1]`` in and out; sides that can be halved."""
        return (image + self.last(self.body(image))).clamp(-1, 1)


class PlainPatches(nn.Module):
    """PatchGAN with batch norm."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        widths = [2 * channels, width, 2 * width, 4 * width, 4 * width]
        convs = [nn.Conv2d(b, a, 4, stride=2, padding=1, bias=not i) for i, (b, a) in enumerate(pairwise(widths))]
        norms = [nn.BatchNorm2d(after) if i else nn.Identity() for i, after in enumerate(widths[1:])]
        self.trunk = nn.ModuleDict({"convs": nn.ModuleList(convs), "norms": nn.ModuleList(norms)})
        self.last = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, degraded: Tensor, candidate: Tensor) -> Tensor:
        x = torch.cat([degraded, candidate], dim=1)
        for conv, norm in zip(self.trunk["convs"], self.trunk["norms"], strict=True):  # type: ignore[call-overload]
            x = F.leaky_relu(norm(conv(x)), 0.2)
        return self.last(x)


class PlainConvBlock(nn.Module):
    """Convolution, batch norm, GELU, pooling."""

    def __init__(self, inputs: int, outputs: int, *, pool: bool) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm(self.conv(x)))
        return F.max_pool2d(x, 2) if self.pool else x


class PlainLayer(nn.Module):
    """An encoder layer, normalised first."""

    def __init__(self, features: int, heads: int, inner: int) -> None:
        super().__init__()
        linear = {name: nn.Linear(features, features, bias=name == "out") for name in ("query", "key", "value", "out")}
        self.attention, self.heads = nn.ModuleDict(linear), heads
        self.before_attention, self.before_inner = nn.LayerNorm(features), nn.LayerNorm(features)
        self.inner, self.outer = nn.Linear(features, inner), nn.Linear(inner, features)

    def forward(self, x: Tensor) -> Tensor:
        normal = self.before_attention(x)
        query, key, value = (
            self.attention[name](normal).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        weights = (query @ key.transpose(2, 3) / math.sqrt(query.shape[3])).softmax(dim=3)
        x = x + self.attention["out"]((weights @ value).transpose(1, 2).flatten(2))
        return x + self.outer(F.gelu(self.inner(self.before_inner(x))))


class PlainReader(nn.Module):
    """Eight convolutions and encoder layers, in ``eval()``; images as high as 8 times its rows."""

    def __init__(self, task: DocumentTask) -> None:
        super().__init__()
        config = task.recognizer
        assert isinstance(config, TransformerReaderConfig)
        c64, c128, c256, c512 = (round(full * config.width) for full in (64, 128, 256, 512))
        sizes = [config.channels, c64, c64, c128, c128, c256, c256, c512, c512]
        convs = (PlainConvBlock(*each, pool=i in (1, 3, 5)) for i, each in enumerate(pairwise(sizes)))
        self.cnn = nn.ModuleDict({
            "blocks": nn.Sequential(*convs),
            "project": nn.Linear(c512 * config.rows, config.features),
            "norm": nn.LayerNorm(config.features),
        })  # fmt: skip
        layers = (PlainLayer(config.features, config.heads, config.inner) for _ in range(config.layers))
        self.encoder = nn.ModuleDict({
            "layers": nn.Sequential(*layers), "norm": nn.LayerNorm(config.features),
            "head": nn.Linear(config.features, config.classes),
        })  # fmt: skip

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C, H, W)`` in, logits ``(B, W / 8, K)`` and features ``(B, W / 8, D)`` out."""
        columns = self.cnn["blocks"](image).flatten(1, 2).transpose(1, 2)
        features = self.cnn["norm"](self.cnn["project"](columns))
        order = torch.arange(features.shape[1], dtype=torch.float32, device=image.device)
        x = self.encoder["layers"](features + positions(order, features.shape[2]))
        return self.encoder["head"](self.encoder["norm"](x)), features


class PlainNetworks(nn.Module):
    """All three."""

    def __init__(self, task: DocumentTask) -> None:
        super().__init__()
        self.generator = PlainRestorer(task.generator)
        self.discriminator = PlainPatches(task.discriminator.channels, task.discriminator.width)
        self.recognizer = PlainReader(task)


def with_weights_of(ours: DocumentRestoration, task: DocumentTask) -> PlainNetworks:
    """Plain networks that compute what ``ours``, built of ``task``, does."""
    plain = PlainNetworks(task)
    plain.load_state_dict(ours.state_dict())
    return plain


class PlainRecipe:
    """The training step.

    Args:
        freeze: leave out the gradients nobody uses: the recogniser's, and the discriminator's in the generator's pass.
    """

    def __init__(self, networks: PlainNetworks, *, lr: float, clip_norm: float, freeze: bool = False) -> None:
        self.networks, self.clip_norm, self.freeze = networks.train(), clip_norm, freeze
        networks.recognizer.eval().requires_grad_(not freeze)
        self.optimizers = {
            name: torch.optim.Adam(getattr(networks, name).parameters(), lr=lr, betas=(0.5, 0.999))
            for name in ("generator", "discriminator")
        }

    def step(self, batch: Pair) -> dict[str, float]:
        """One update of both; the losses. ``adversarial`` is the one before the discriminator's update."""
        image = self.generate(batch.image)
        real, fake = self.judge(batch.image, batch.target), self.judge(batch.image, image.detach())
        against, before = (real - 1).square().mean() + fake.square().mean(), (fake.detach() - 1).square().mean()
        self.learn("discriminator", against)
        self.networks.discriminator.requires_grad_(not self.freeze)
        terms = self.terms(batch, image, self.judge(batch.image, image))
        self.learn("generator", torch.stack([WEIGHTS[name] * term for name, term in terms.items()]).sum())
        self.networks.discriminator.requires_grad_(True)
        terms |= {"adversarial": before, "discriminator": against}
        return {name: term.item() for name, term in terms.items()}

    def terms(self, batch: Pair, image: Tensor, fake: Tensor) -> dict[str, Tensor]:
        logits, features = self.read(image)
        with torch.no_grad():
            _, clean = self.read_clean(batch.target)
        frames = torch.full_like(batch.lengths, logits.shape[1])
        nats = F.ctc_loss(logits.log_softmax(2).transpose(0, 1), batch.tokens, frames, batch.lengths, reduction="none")
        nats = nats / batch.lengths
        apart = features - clean
        return {
            "pixel": F.l1_loss(image, batch.target),
            "perceptual": (apart.abs().sum(dim=(1, 2)) / clean.abs().sum(dim=(1, 2))).mean(),
            "adversarial": (fake - 1).square().mean(),
            "feature": apart.square().mean(),
            "ctc": torch.where(nats > CEILING, CEILING * (1 + (nats.clamp(min=CEILING) / CEILING).log()), nats).mean(),
        }

    def generate(self, image: Tensor) -> Tensor:
        return self.networks.generator(image)

    def judge(self, degraded: Tensor, candidate: Tensor) -> Tensor:
        return self.networks.discriminator(degraded, candidate)

    def read(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.networks.recognizer(image)

    def read_clean(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.networks.recognizer(image)

    def learn(self, part: str, loss: Tensor) -> None:
        self.networks.zero_grad()
        self.backward(loss)
        nn.utils.clip_grad_norm_(getattr(self.networks, part).parameters(), self.clip_norm)
        self.optimizers[part].step()

    def backward(self, loss: Tensor) -> None:
        loss.backward()
