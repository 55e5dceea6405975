"""Perceptual loss: the restored image should look like the clean one to a network that knows pictures.

Without such a network's weights there is :func:`models.losses.feature.feature_perceptual`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from models.batch import Pair, Restored
from models.layers.vgg import SMALLEST, VGG19
from models.losses.image import same_size, target_widths
from models.mean import Mean, mean_of
from models.tensors import wide


@dataclass(frozen=True, kw_only=True)
class VGGPerceptual:
    """Mean absolute distance of VGG19's features (Johnson, Alahi, Fei-Fei 2016), averaged over five layers.

    Macro over images, each over its valid columns; images narrower than 16 pixels are not counted. The features are
    those of torchvision's weights: with others, such as Keras's on 0 to 255, the same loss has another size, and a
    weight does not carry over.

    Attributes:
        weights: path of a local file, as :meth:`models.layers.vgg.VGG19.load` reads it.
        sha256: of that file.
    """

    weights: str
    sha256: str

    def __post_init__(self) -> None:
        if len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            raise ValueError(f"VGGPerceptual.sha256: {self.sha256!r} is not 64 hex digits; sha256sum {self.weights}")

    def __call__(self, batch: Pair, out: Restored) -> Mean:
        same_size(batch, out)
        network, widths = self.network(out.image.device), target_widths(batch)
        found, columns = network(out.image, widths)
        with torch.no_grad():
            clean, _ = network(batch.target, widths)
        layers = [_apart(*each) for each in zip(found, clean, columns, strict=True)]
        return mean_of(torch.stack(layers).mean(dim=0), widths >= SMALLEST)

    def network(self, device: torch.device) -> VGG19:
        """The network, read once for each device. Raises :class:`models.layers.vgg.WeightsError`."""
        return _network(self.weights, self.sha256, device)


def _apart(found: Tensor, clean: Tensor, columns: Tensor) -> Tensor:
    """``(B,)`` the mean absolute difference over the valid columns; both are 0 past them."""
    each = found.shape[1] * found.shape[2] * columns.clamp(min=1)
    return (wide(found) - wide(clean)).abs().sum(dim=(1, 2, 3)) / each


@lru_cache(maxsize=4)
def _network(path: str, sha256: str, device: torch.device) -> VGG19:
    with torch.inference_mode(False):  # one made in inference mode could not take part in training later
        return VGG19.load(path, sha256).to(device)
