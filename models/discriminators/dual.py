"""The dual-modal discriminator: whether image and text go together, and both with the degraded image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.discriminators.patch import SLOPE, PatchFeatures, beside
from models.discriminators.spelled import Source, Spelled
from models.layers.columns import Columns
from models.layers.transformer import Attention, EncoderLayer, positions

SOURCES = ("predicted", "ground_truth")


@dataclass(frozen=True, kw_only=True)
class DualConfig:
    """A patch discriminator whose columns look at the text before they judge.

    Attributes:
        classes: symbols of the alphabet and the blank.
        source: the text beside a clean image, ``"predicted"`` by the recogniser or its transcription
            (``"ground_truth"``); see :func:`models.discriminators.spelled.text_of_clean`.
        channels: of one image, 1 or 3.
        width: features of the first convolution.
        norm: batch norm after the second to fourth convolution; a bias instead when false.
        letters: features of a symbol; even and divisible by ``heads``.
        heads: of the attentions.
    """

    reads_text: ClassVar[bool] = True
    classes: int
    source: Source = "predicted"
    channels: int = 1
    width: int = 64
    norm: bool = True
    letters: int = 128
    heads: int = 4

    def __post_init__(self) -> None:
        if self.classes < 2 or min(self.channels, self.width, self.heads, self.letters) < 1:
            raise ValueError(f"{self}: needs a symbol beside the blank and at least one of everything else")
        if self.letters % self.heads or self.letters % 2:
            raise ValueError(
                f"DualConfig.letters: {self.letters}; make it even and divisible by the {self.heads} heads"
            )
        if self.source not in SOURCES:
            raise ValueError(f"DualConfig.source: {self.source!r}; allowed: {', '.join(SOURCES)}")

    def build(self) -> DualDiscriminator:
        return DualDiscriminator(self)


class DualDiscriminator(nn.Module):
    """Judges a candidate beside the degraded image and beside a text, patch by patch.

    Every column of patches looks at all symbols of the text, and at a learnt one that stands for none, so that an
    empty text can be looked at too. Places of symbols and columns are measured alike: the i-th of n symbols stands at
    ``(i + 1/2) / n`` of the image's width.
    """

    def __init__(self, config: DualConfig) -> None:
        super().__init__()
        self.trunk = PatchFeatures(2 * config.channels, config.width, norm=config.norm)
        features, letters = self.trunk.features, config.letters
        self.letters = nn.Linear(config.classes, letters, bias=False)  # of one-hot rows: an embedding
        self.none = nn.Parameter(torch.empty(letters).normal_(std=0.02))
        self.reader = EncoderLayer(letters, heads=config.heads, inner=2 * letters, dropout=0.0)
        self.after_reader = nn.LayerNorm(letters)
        self.columns = nn.Linear(features, letters)
        self.before_look = nn.LayerNorm(letters)
        self.look = Attention(letters, config.heads)
        self.back = nn.Linear(letters, features)
        self.judge = nn.Conv2d(2 * features, features, 3, padding=1)
        self.last = nn.Conv2d(features, 1, 3, padding=1)
        nn.init.normal_(self.letters.weight)  # as nn.Embedding: beside the positions a symbol has to be heard

    def forward(self, degraded: Tensor, candidate: Tensor, text: Spelled, widths: Tensor | None = None) -> Tensor:
        """Two ``(B, C, H, W)`` in ``[-1, 1]`` and their texts in, logits ``(B, 1, h, w)`` out.

        As with :class:`models.discriminators.patch.PatchDiscriminator`, whose ``widths`` these are.
        """
        if text.rows.shape[2] != self.letters.in_features:
            raise ValueError(
                f"DualDiscriminator: text has {text.rows.shape[2]} classes, it was built for "
                f"{self.letters.in_features}; give DualConfig.classes those of the recogniser"
            )
        x, columns = self.trunk(beside(degraded, candidate), widths)  # (B, F, h, w)
        said = self.back(self._looked(x, columns, text)).transpose(1, 2)[:, :, None]  # (B, F, 1, w)
        both = columns.clear(torch.cat([x, said.expand_as(x).to(x.dtype)], dim=1))
        judged = columns.clear(F.leaky_relu(self.judge(both), SLOPE))
        return columns.clear(self.last(judged))

    def _looked(self, x: Tensor, columns: Columns, text: Spelled) -> Tensor:
        """``(B, w, D)`` what each column of patches finds in the text."""
        width = columns_inside(columns, x)
        keys, valid = self._heard(text, width)
        middles = torch.arange(x.shape[3], device=x.device) + 0.5
        places = positions(middles, self.before_look.normalized_shape[0])
        asked = self.before_look(self.columns(x.mean(dim=2).transpose(1, 2)) + places)  # (B, w, D)
        return self.look(asked, keys, valid)

    def _heard(self, text: Spelled, width: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, 1 + L, D)`` no symbol and the symbols in their context, and ``(B, 1 + L)`` which are no padding."""
        order = torch.arange(text.rows.shape[1], device=width.device)
        middles = (order + 0.5) * (width / text.lengths.clamp(min=1))[:, None]  # (B, L) in columns of patches
        heard = self.letters(text.rows) + positions(middles, self.letters.out_features)
        none = self.none.expand(len(heard), 1, -1).to(heard.dtype)
        valid = F.pad(order < text.lengths[:, None], (1, 0), value=True)
        return self.after_reader(self.reader(torch.cat([none, heard], dim=1), valid)), valid


def columns_inside(columns: Columns, x: Tensor) -> Tensor:
    """``(B,)`` float32 how many columns of ``x`` belong to each image."""
    if columns.inside is None:
        return torch.full((len(x),), float(x.shape[3]), device=x.device)
    return columns.inside.sum(dim=1).float()
