"""What a generator and a discriminator ask of each other's logits: least squares, cross-entropy or hinge.

Each image counts the same, whatever its width: its value is the mean over the patches that begin inside it. Whose
gradient a term is meant for is decided by the step: for the generator's, the discriminator is frozen; for the
discriminator's, ``fake`` is of an image that was detached.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.batch import Judged, Pair
from models.losses.image import target_widths
from models.mean import Mean, mean_of
from models.tensors import wide

Kind = Literal["lsgan", "bce", "hinge"]
KINDS = ("lsgan", "bce", "hinge")


@dataclass(frozen=True, kw_only=True)
class GeneratorTerm:
    """How far the discriminator is from taking restored images for clean ones.

    Attributes:
        kind: of logits ``f``: ``"lsgan"`` (Mao et al. 2017, without their halves) ``(f - real)^2``; ``"bce"`` the
            cross-entropy of ``sigmoid(f)`` with ``real``, which is not saturated where the discriminator is sure;
            ``"hinge"`` (Lim, Ye 2017) ``-f``.
        real: the label of a clean image; 1 for ``"hinge"``, which has no labels.
    """

    kind: Kind = "lsgan"
    real: float = 1.0

    def __post_init__(self) -> None:
        _check("GeneratorTerm", self.kind, self.real)

    @property
    def chance(self) -> float:
        """The value against the best discriminator that cannot tell the two apart, one that is constant."""
        if self.kind == "lsgan":
            return self.real**2 / 4
        return _cross_entropy(self.real, self.real / 2) if self.kind == "bce" else 0.0

    def __call__(self, batch: Pair, out: Judged) -> Mean:
        fake = _given(out.fake, "fake")
        with torch.autocast(fake.device.type, enabled=False):
            return _over_images(batch, out, -wide(fake) if self.kind == "hinge" else _away(self.kind, fake, self.real))


@dataclass(frozen=True, kw_only=True)
class DiscriminatorTerm:
    """How far the discriminator is from telling clean images from restored ones: one addend for each.

    Attributes:
        kind: of logits ``r`` of clean and ``f`` of restored images: ``"lsgan"`` ``(r - real)^2 + f^2``; ``"bce"`` the
            cross-entropies with ``real`` and 0; ``"hinge"`` ``max(1 - r, 0) + max(1 + f, 0)``.
        real: the label of a clean image; below 1, as 0.9, it is smoothed on this side alone (Salimans et al. 2016).
            1 for ``"hinge"``, which has no labels.
    """

    kind: Kind = "lsgan"
    real: float = 1.0

    def __post_init__(self) -> None:
        _check("DiscriminatorTerm", self.kind, self.real)

    @property
    def chance(self) -> float:
        """The least a constant discriminator can reach. One that stays near it tells nothing apart.

        0.5 for ``"lsgan"``, 1.386 for ``"bce"`` (1.376 with labels of 0.9), 2 for ``"hinge"``.
        """
        if self.kind == "lsgan":
            return self.real**2 / 2
        return 2 * _cross_entropy(self.real / 2, self.real / 2) if self.kind == "bce" else 2.0

    def __call__(self, batch: Pair, out: Judged) -> Mean:
        real, fake = _given(out.real, "real"), _given(out.fake, "fake")
        with torch.autocast(real.device.type, enabled=False):
            if self.kind == "hinge":
                return _over_images(batch, out, (1 - wide(real)).relu(), (1 + wide(fake)).relu())
            return _over_images(batch, out, _away(self.kind, real, self.real), _away(self.kind, fake, 0.0))


def _check(where: str, kind: str, real: float) -> None:
    if kind not in KINDS:
        raise ValueError(f"{where}.kind: {kind!r}; allowed: {', '.join(KINDS)}")
    if not 0.5 < real <= 1:
        raise ValueError(f"{where}.real: {real!r} is outside 0.5 .. 1; a clean image is labelled 1, or 0.9 if smoothed")
    if kind == "hinge" and real != 1:
        raise ValueError(f"{where}.real: {real!r}, but hinge has no labels to smooth; leave it at 1")


def _given(logits: Tensor | None, name: str) -> Tensor:
    if logits is None:
        raise ValueError(f"adversarial terms need out.{name}: the discriminator's logits were not made in this step")
    return logits


def _away(kind: Kind, logits: Tensor, label: float) -> Tensor:
    """Elementwise distance of logits from a label, by ``"lsgan"`` or ``"bce"``."""
    logits = wide(logits)
    if kind == "lsgan":
        return (logits - label).square()
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label), reduction="none")


def _over_images(batch: Pair, out: Judged, *addends: Tensor) -> Mean:
    """The sum of the addends, each ``(B, 1)`` or ``(B, 1, h, w)`` numbers by patch, macro over images."""
    return mean_of(sum((_of_image(batch, out, each) for each in addends), addends[0].new_zeros(())))


def _of_image(batch: Pair, out: Judged, patches: Tensor) -> Tensor:
    """``(B,)`` the mean over the patches whose first column lies inside the valid width; there is always one.

    Patches begin every so many columns, a power of two; the last one may reach beyond the image.
    """
    if patches.ndim != 4:
        return patches.flatten(1).mean(dim=1)
    stride = 1 << (math.ceil(out.image.shape[3] / patches.shape[3]) - 1).bit_length()
    starts = stride * torch.arange(patches.shape[3], device=patches.device)
    inside = starts < target_widths(batch)[:, None]  # (B, w)
    return patches.mean(dim=(1, 2)).where(inside, 0).sum(dim=1) / inside.sum(dim=1)


def _cross_entropy(label: float, said: float) -> float:
    return -(label * math.log(said) + (1 - label) * math.log(1 - said))
