"""Attention over sequences that are padded: positions, one attention, one encoder layer."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LONGEST = 10_000  # radians to the last frequency's one, as in the paper


def positions(where: Tensor, features: int) -> Tensor:
    """``(..., features)`` sines and cosines of places ``(...)`` (Vaswani et al. 2017), between symbols too.

    Args:
        where: float32; any number, so that no sequence is too long.
        features: even.
    """
    steps = torch.arange(features // 2, device=where.device, dtype=torch.float32)
    angles = where[..., None] * torch.exp(steps * (-2 * math.log(LONGEST) / features))
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Attention(nn.Module):
    """What each place of one sequence finds in another, by several heads.

    Queries, keys and values have no bias: one added to every key would change no weight and learn nothing.
    """

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(features, features, bias=False)
        self.key = nn.Linear(features, features, bias=False)
        self.value = nn.Linear(features, features, bias=False)
        self.out = nn.Linear(features, features)
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, over: Tensor, valid: Tensor) -> Tensor:
        """Places ``(B, Q, D)`` and what they look at ``(B, N, D)`` in, ``(B, Q, D)`` out.

        Args:
            valid: ``(B, N)`` bool, false for padding; at least one true in each row, for without any it may become NaN.
        """
        query, key, value = self._split(self.query(x)), self._split(self.key(over)), self._split(self.value(over))
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=valid[:, None, None, :])
        return self.out(found.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, D / heads)


class EncoderLayer(nn.Module):
    """Self-attention, then a small network at each place; each normalised first (Xiong et al. 2020).

    With the norm inside the residual branch the layers learn from the first step on, without a warm-up.
    """

    def __init__(self, features: int, *, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(features)
        self.attention = Attention(features, heads)
        self.before_inner = nn.LayerNorm(features)
        self.inner = nn.Linear(features, inner)
        self.outer = nn.Linear(inner, features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """``(B, T, D)`` and which of its places are no padding ``(B, T)`` in, ``(B, T, D)`` out."""
        normal = self.before_attention(x)
        x = x + self.dropout(self.attention(normal, normal, valid))
        return x + self.dropout(self.outer(F.gelu(self.inner(self.before_inner(x)))))
