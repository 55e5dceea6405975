"""Embedding consistency: a restored plate should read like its own clean image and unlike other plates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from models.batch import Pair, Read, Restored
from models.collective import rows_of_ranks
from models.mean import Mean, mean_of
from models.tensors import wide

AT_ONCE = 64  # plates compared with all others at a time: bounds the memory
CLOSEST = 1e-12  # square distance below which the root's gradient is cut: it is infinite at 0


@dataclass(frozen=True, kw_only=True)
class EmbeddingTerm:
    """``D(i, i)^2 + mean_j max(margin - D(i, j), 0)^2``, macro over plates.

    ``D(i, j)`` is the Euclidean distance between the restored image of plate ``i`` and the clean image of plate ``j``
    as points on the unit sphere, 0 to 2. The mean is over the plates with another text than ``i``: in training those of
    the step, of all ranks; in validation those of the whole set, however it falls into batches.
    Points are what the recogniser reads: :func:`points`. They need no network that would have to be trained first.

    Attributes:
        margin: how far apart different plates should be; plates without a common character are 1.41 apart.
        dimension: of the points; 0 keeps all ``slots * symbols``.
        slots: pieces that the valid frames are divided into; they say how exactly places must agree.
    """

    margin: float = 1.2
    dimension: int = 128
    slots: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.margin <= 1.4:
            raise ValueError(f"EmbeddingTerm.margin: {self.margin!r} is outside 0 .. 1.4, what different plates reach")
        if self.dimension < 0 or self.slots < 1:
            raise ValueError(f"{self}: dimension is at least 0, slots at least 1")

    def __call__(self, batch: Pair, out: Restored) -> Mean:
        restored, clean, texts = self._points(batch, out)
        if not restored.requires_grad:
            return mean_of(self._costs(restored, clean, texts, clean, texts))
        return mean_of(self._costs(restored, clean, texts, rows_of_ranks(clean), rows_of_ranks(texts)))

    def compared(self, batch: Pair, out: Restored) -> tuple[Tensor, ...]:
        """``(B, dimension)`` points of restored and clean images, and ``(B, L)`` texts."""
        with torch.no_grad():
            return self._points(batch, out)

    def of_all(self, *rows: Tensor) -> Mean:
        """The term over a whole set, each plate against all others of it."""
        _, everyone, every_text = rows
        portions = zip(*(each.split(AT_ONCE) for each in rows), strict=True)
        costs = [self._costs(restored, clean, texts, everyone, every_text) for restored, clean, texts in portions]
        return mean_of(torch.cat(costs))

    def _points(self, batch: Pair, out: Restored) -> tuple[Tensor, Tensor, Tensor]:
        if out.clean is None:
            raise ValueError("EmbeddingTerm: the clean image was not read; the task must read the target too")
        with torch.autocast(out.read.logits.device.type, enabled=False):
            restored = self.embed(out.read)
            with torch.no_grad():
                clean = self.embed(out.clean)
        return restored, clean, labels_of(batch)

    def _costs(self, restored: Tensor, clean: Tensor, texts: Tensor, everyone: Tensor, every_text: Tensor) -> Tensor:
        """``(B,)`` what each plate costs, among ``(N, dimension)`` clean ones with ``(N, M)`` texts."""
        with torch.autocast(restored.device.type, enabled=False):
            square = (restored[:, None] - everyone[None]).square().sum(dim=2)  # (B, N)
            other = differ(texts, every_text)
            near = (self.margin - square.clamp(min=CLOSEST).sqrt()).clamp(min=0).square()
            apart = near.where(other, 0).sum(dim=1) / other.sum(dim=1).clamp(min=1)
            return (restored - clean).square().sum(dim=1) + apart

    def embed(self, read: Read) -> Tensor:
        """``(B, dimension)`` points of length 1."""
        found = points(read, self.slots)
        if self.dimension:
            found = found @ projection(found.shape[1], self.dimension, found.device, found.dtype)
        return F.normalize(found, dim=1)


def warmed(weight: float, *, epoch: int, epochs: int) -> float:
    """The weight of a term that is brought in over the first ``epochs`` of its stage: 0 at epoch 0, then in a line.

    Args:
        epoch: finished in this stage.
        epochs: 0 means the whole weight at once.
    """
    return weight if epochs <= 0 else weight * min(epoch / epochs, 1.0)


def points(read: Read, slots: int) -> Tensor:
    """``(B, slots * symbols)`` the root of each symbol's probability, averaged over each of ``slots`` equal pieces.

    Roots, so that a symbol's distance is that of Hellinger, and a certain mistake still has a gradient; without the
    blank, which all plates share.
    """
    roots = (0.5 * wide(read.logits).log_softmax(dim=2)[:, :, 1:]).exp()  # (B, T, symbols)
    return (shares_of_slots(read, slots).to(roots.dtype) @ roots).flatten(1)


def shares_of_slots(read: Read, slots: int) -> Tensor:
    """``(B, slots, T)`` how much of each slot each valid frame fills; a slot's shares sum to 1."""
    frame = torch.arange(read.logits.shape[1], device=read.logits.device)
    long = read.frames[:, None, None] / slots  # (B, 1, 1) frames a slot
    start = torch.arange(slots, device=frame.device)[:, None] * long  # (B, slots, 1)
    overlap = torch.minimum(start + long, frame + 1.0) - torch.maximum(start, frame.float())
    return overlap.clamp(min=0) / long.clamp(min=1e-9)


def other_text(batch: Pair) -> Tensor:
    """``(B, B)`` true where two plates have different labels."""
    return differ(labels_of(batch), labels_of(batch))


def labels_of(batch: Pair) -> Tensor:
    """``(B, L)`` classes, 0 past the end of each label."""
    inside = torch.arange(batch.tokens.shape[1], device=batch.tokens.device) < batch.lengths[:, None]
    return batch.tokens.where(inside, 0)


def differ(labels: Tensor, others: Tensor) -> Tensor:
    """``(B, N)`` true where ``(B, L)`` labels are not those of ``(N, M)``; class 0 is no symbol."""
    most = max(labels.shape[1], others.shape[1])
    own, theirs = (F.pad(each, (0, most - each.shape[1])) for each in (labels, others))
    return (own[:, None] != theirs[None]).any(dim=2)


@lru_cache(maxsize=16)
def projection(inputs: int, outputs: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """``(inputs, outputs)`` a fixed Gaussian projection, which keeps distances nearly as they are; always the same."""
    with torch.inference_mode(False):  # one made in inference mode could not take part in training later
        drawn = torch.randn(inputs, outputs, generator=torch.Generator().manual_seed(inputs * 65_537 + outputs))
        return (drawn / math.sqrt(outputs)).to(device, dtype)
