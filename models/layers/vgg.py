"""The convolutions of VGG19 (Simonyan, Zisserman 2015), with weights from a local file in torchvision's layout.

Nothing is downloaded. Torchvision's ``vgg19`` saves as ``features.N.weight`` and ``features.N.bias``; its classifier
may be in the file and is not read. Its weights want red, green and blue in ``[0, 1]``, standardised.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from models.tensors import constant

BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # channels, convolutions; a halving between two blocks
TAPS = ("b1c2", "b2c2", "b3c4", "b4c4", "b5c4")  # the last convolution of each block, after its ReLU
SMALLEST = 16  # pixels on a side that leave one in the last block
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class WeightsError(ValueError):
    """A file that does not hold the weights it should."""


class VGG19(nn.Module):
    """Frozen; images in ``[-1, 1]`` in, the features at :data:`TAPS` out.

    An image has the features it would have alone, however far it is padded: columns past its width are zero before
    every convolution. Weights are random until :meth:`load`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleDict()
        inputs, place = 3, 0
        for channels, count in BLOCKS:
            for _ in range(count):
                self.convolutions[str(place)] = nn.Conv2d(inputs, channels, 3, padding=1)
                inputs, place = channels, place + 2  # a ReLU has a number too
            place += 1  # and so does a pooling
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor, widths: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """``(B, C, H, W)`` grey or colour and valid columns ``(B,)`` in; features and valid columns of each tap out."""
        if image.shape[1] not in (1, 3) or min(image.shape[2:]) < SMALLEST:
            raise ValueError(
                f"VGG19: images are {tuple(image.shape[1:])}; it sees 1 or 3 channels of at least {SMALLEST} x "
                f"{SMALLEST} pixels"
            )
        x, valid = standardised(image.to(next(self.parameters()).dtype)), widths
        features, columns = [], []
        convolutions = iter(self.convolutions.values())
        for block, (_, count) in enumerate(BLOCKS):
            if block:
                x, valid = F.max_pool2d(x, 2), valid // 2
            inside = (torch.arange(x.shape[3], device=x.device) < valid[:, None])[:, None, None, :].to(x.dtype)
            for _ in range(count):
                x = F.relu(next(convolutions)(x * inside))
            features.append(x * inside)
            columns.append(valid)
        return features, columns

    @staticmethod
    def load(path: str, sha256: str = "") -> VGG19:
        """The network with the weights of a ``.safetensors`` or ``.pth`` file. Raises :class:`WeightsError`.

        Args:
            sha256: of the file; left empty, any file will do that fits.
        """
        with torch.device("meta"):  # draws nothing: the first step after resuming must not differ from any other
            network = VGG19()
        fitting = _fitting(path, read_weights(path, sha256), network.convolutions)
        network.convolutions.load_state_dict(fitting, assign=True)
        return network


def standardised(image: Tensor) -> Tensor:
    """``(B, 3, H, W)`` as the network was trained, from ``(B, 1 or 3, H, W)`` in ``[-1, 1]``."""
    mean, deviation = (constant(each, image.device, image.dtype)[:, None, None] for each in (MEAN, DEVIATION))
    return ((image + 1) / 2 - mean) / deviation  # (B, 3, H, W), grey in all three


def read_weights(path: str, sha256: str = "") -> Mapping[str, Tensor]:
    """The tensors of a file by name; nothing in it is executed.

    Raises :class:`WeightsError` where it cannot be read, or is not the one that was meant.
    """
    try:
        raw = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); nothing is downloaded, put it there") from error
    found = hashlib.sha256(raw).hexdigest()
    if sha256 and found != sha256:
        raise WeightsError(f"{path}: SHA-256 {found}, the plan says {sha256}; if this file is meant, say so there")
    try:
        held: Any = load(raw) if path.endswith(".safetensors") else _unpickled(raw)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path}: neither safetensors nor a state dict saved by torch: {told}") from error
    if not isinstance(held, Mapping) or not all(isinstance(each, Tensor) for each in held.values()):
        raise WeightsError(f"{path}: holds no state dict (tensors by name); save network.state_dict() instead")
    return held


def _unpickled(raw: bytes) -> Any:
    return torch.load(io.BytesIO(raw), "cpu", weights_only=True)


def _fitting(path: str, held: Mapping[str, Tensor], convolutions: nn.ModuleDict) -> dict[str, Tensor]:
    """What the convolutions need, by their own names."""
    wanted = convolutions.state_dict()
    missing = [f"features.{name}" for name in wanted if f"features.{name}" not in held]
    strange = [key for key in held if not key.startswith("classifier.") and key.removeprefix("features.") not in wanted]
    shapes = {
        f"features.{name}": (tuple(held[f"features.{name}"].shape), tuple(each.shape))
        for name, each in wanted.items()
        if f"features.{name}" in held and held[f"features.{name}"].shape != each.shape
    }
    if missing or strange or shapes:
        wrong = [f"lacks {missing[:3]} ({len(missing)} of {len(wanted)})"] if missing else []
        wrong += [f"has {strange[:3]} besides ({len(strange)})"] if strange else []
        wrong += [f"{key} is {has}, must be {must}" for key, (has, must) in list(shapes.items())[:2]]
        raise WeightsError(f"{path}: not torchvision's vgg19: {'; '.join(wrong)}")
    return {name: held[f"features.{name}"].float() for name in wanted}
