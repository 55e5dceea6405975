"""Deformable convolutions: DCNv1 to DCNv4 behind one interface, whatever code samples for them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.deform_backends import (
    Backend,
    BackendError,
    Kind,
    chosen_backend,
    official_aggregate,
    torchvision_dense,
    why_not,
)
from models.layers.deform_functions import aggregate, dense
from models.layers.deform_points import column_major, row_major

FINGERPRINT = "parameterisation"
DEPTH = 16  # channels of a DCNv4 group come in multiples of this


@dataclass(frozen=True, kw_only=True)
class Deformable:
    """A deformable convolution from ``channels`` to as many, of stride 1, that keeps the image's size.

    With ``p`` a pixel, ``q`` the kernel's points, ``d`` the offsets and ``x[.]`` read bilinearly, zeros outside:

    - ``dcnv1``: ``sum_q W_q x[p + q + d_q]``; ``d`` is a convolution of ``x`` that starts at zero.
    - ``dcnv2``: ``sum_q W_q m_q x[p + q + d_q]``; ``m = sigmoid`` of another such convolution, so it starts at 1/2.
    - ``dcnv3``: ``W_out sum_q m_q u[p + scale (q + d_q)]`` within each group, ``u = W_in x``; ``d`` and ``m`` are
      linear in ``GELU(LayerNorm(depthwise(x)))`` and start at zero, and ``m`` is a softmax over the points.
    - ``dcnv4``: as ``dcnv3`` without softmax, ``d`` and ``m`` from one linear layer on ``x``; ``m`` starts at 1 / K
      rather than 0, for at 0 nothing but ``m`` itself would get gradient.

    Attributes:
        groups: sets of offsets, each for ``channels / groups`` consecutive channels; 1 in the papers of v1 and v2,
            4 by default in the authors' code of v3 and v4.
        kernel: odd side of the kernel.
        scale: ``scale`` above; v3 and v4 only.
        remove_centre: leave out the middle point; v3 and v4 only.
        centre_scale: blend each group's result with the pixel's own ``u`` by a learnt share; v3 only.
        fallback: make ``dcnv3`` of a ``dcnv4`` whose backend is asked for by name and cannot run. That is another
            set of parameters: it warns, and the two do not load each other's checkpoints.
    """

    kind: Kind
    channels: int
    groups: int
    kernel: int = 3
    scale: float = 1.0
    remove_centre: bool = False
    centre_scale: bool = False
    fallback: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind={self.kind!r}: there are {', '.join(get_args(Kind))}")
        if min(self.channels, self.groups, self.kernel) < 1 or self.kernel % 2 == 0 or not 0 < self.scale < math.inf:
            raise ValueError(f"{self}: needs positive numbers and an odd kernel")
        if self.channels % self.groups:
            raise ValueError(f"{self.kind}: {self.channels} channels do not divide into {self.groups} groups")
        if self.kind == "dcnv4" and self.channels // self.groups % DEPTH:
            raise ValueError(
                f"dcnv4: {self.channels} channels in {self.groups} groups are {self.channels // self.groups} in each, "
                f"which has to be a multiple of {DEPTH}; {self._cure()}"
            )
        self._refuse_unread()

    @property
    def points(self) -> int:
        """Points that a pixel reads."""
        return self.kernel**2 - self.remove_centre

    @property
    def parameterisation(self) -> str:
        """What a checkpoint has to have in common with the module that it is loaded into."""
        common = f"{self.kind} channels={self.channels} groups={self.groups} kernel={self.kernel}"
        if self.kind in ("dcnv1", "dcnv2"):
            return common
        return f"{common} scale={self.scale:g} remove_centre={self.remove_centre} centre_scale={self.centre_scale}"

    def build(self, backend: Backend = "fastest", device: str = "cpu") -> DeformableConv:
        """The module, its parameters initialised.

        Args:
            backend: what samples; by default the fastest that is present where the module then runs.
            device: the type of device it will run on, to refuse a named backend that cannot.
        """
        missing = why_not(backend, device, torch.float32, self.kind)
        if missing is None:
            return (DenseConv if self.kind in ("dcnv1", "dcnv2") else Aggregation)(self, backend)
        if self.kind == "dcnv4" and self.fallback:
            third = replace(self, kind="dcnv3", fallback=False)
            warnings.warn(
                f"dcnv4 with the {backend} backend cannot run on {device} ({missing}): this is "
                f"{third.parameterisation} instead, with other parameters. backend='fastest' runs dcnv4 anywhere",
                stacklevel=2,
            )
            return third.build()
        raise BackendError(f"{self.kind} with the {backend} backend on {device}: {missing}; use backend='fastest'")

    def _cure(self) -> str:
        whole = [groups for groups in range(1, self.channels + 1) if self.channels % (groups * DEPTH) == 0]
        wider = math.ceil(self.channels / (self.groups * DEPTH)) * self.groups * DEPTH
        fewer = f"use groups={' or '.join(map(str, whole))}, " if whole else ""
        return f"{fewer}{'or ' if whole else 'use '}channels={wider}, or kind='dcnv3'"

    def _refuse_unread(self) -> None:
        """A setting that nothing would read is refused."""
        dense_kind = self.kind in ("dcnv1", "dcnv2")
        if dense_kind and (self.scale != 1.0 or self.remove_centre):
            raise ValueError(f"{self.kind} has no scale and no remove_centre; dcnv3 and dcnv4 have")
        if self.centre_scale and self.kind != "dcnv3":
            raise ValueError(f"{self.kind} has no centre_scale; dcnv3 has")
        if self.fallback and self.kind != "dcnv4":
            raise ValueError(f"{self.kind} has no fallback; dcnv4 has")
        if self.points == 0:
            raise ValueError("kernel=1 with remove_centre: no point is left")


class DeformableConv(nn.Module):
    """What all kinds share: which backend runs, and checkpoints that know their parameterisation.

    Attributes:
        kind: the kind that it really is, after a fallback if there was one.
        backend: what was asked for.
        used: what ran last: ``None`` before the first forward.
    """

    def __init__(self, config: Deformable, backend: Backend) -> None:
        super().__init__()
        self.config, self.backend = config, backend
        self.kind: Kind = config.kind
        self.used: Backend | None = None
        letters = torch.tensor(list(config.parameterisation.encode()), dtype=torch.uint8)
        self.register_buffer(FINGERPRINT, letters)

    def extra_repr(self) -> str:
        return f"{self.config.parameterisation}, backend={self.backend}"

    def _choose(self, x: Tensor) -> Backend:
        if self.backend == "fastest":
            self.used = chosen_backend(x.device.type, x.dtype, self.kind)
        elif reason := why_not(self.backend, x.device.type, x.dtype, self.kind):
            raise BackendError(f"{self.kind} with the {self.backend} backend: {reason}; use backend='fastest'")
        else:
            self.used = self.backend
        return self.used

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Tensor], prefix: str, local_metadata: Any, strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        found, own = state_dict.get(prefix + FINGERPRINT), self.config.parameterisation
        text = None if found is None else bytes(found.tolist()).decode(errors="replace")
        if text != own:
            what = "a checkpoint that does not say what it is of" if text is None else f"a checkpoint of {text}"
            error_msgs.append(f"{prefix.rstrip('.') or 'the deformable convolution'} is {own}: {what} does not fit it")
            return
        super()._load_from_state_dict(
            dict(state_dict), prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


class DenseConv(DeformableConv):
    """DCNv1 and DCNv2: a full convolution whose points move. Named and laid out as in torchvision."""

    def __init__(self, config: Deformable, backend: Backend) -> None:
        super().__init__(config, backend)
        channels, kernel = config.channels, config.kernel
        self.points = row_major(kernel)
        self.weight = nn.Parameter(torch.empty(channels, channels, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(channels))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as nn.Conv2d
        nn.init.uniform_(self.bias, -1 / math.sqrt(channels * kernel**2), 1 / math.sqrt(channels * kernel**2))
        self.offset = _zeroed(nn.Conv2d(channels, 2 * config.groups * config.points, kernel, padding=kernel // 2))
        self.mask = (
            _zeroed(nn.Conv2d(channels, config.groups * config.points, kernel, padding=kernel // 2))
            if config.kind == "dcnv2"
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` in and out."""
        offset = self.offset(x)
        mask = None if self.mask is None else self.mask(x).sigmoid()
        x, backend = x.to(offset.dtype), self._choose(offset)
        if backend == "torchvision":
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            return torchvision_dense(x, offset, mask, weight, bias, self.config.kernel // 2)
        groups = (self.config.groups, self.config.points)
        sums = dense(
            x, offset.unflatten(1, (*groups, 2)), None if mask is None else mask.unflatten(1, groups),
            self.weight, self.points, backend,
        )  # fmt: skip
        return sums + self.bias.to(sums.dtype)[:, None, None]


class Aggregation(DeformableConv):
    """DCNv3 and DCNv4: moving points weighted within groups, between two linear layers."""

    def __init__(self, config: Deformable, backend: Backend) -> None:
        super().__init__(config, backend)
        self.points = column_major(config.kernel, config.scale, without_centre=config.remove_centre)
        self.value = _xavier(nn.Conv2d(config.channels, config.channels, 1))
        self.output = _xavier(nn.Conv2d(config.channels, config.channels, 1))
        self.sampling = (SoftmaxSampling if config.kind == "dcnv3" else LinearSampling)(config)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` in and out."""
        value = self.value(x)
        backend = self._choose(value)
        if isinstance(self.sampling, LinearSampling) and backend == "official":
            config = self.config
            packed = self.sampling.packed(x)
            summed = official_aggregate(
                value, packed, config.kernel, config.groups, config.scale, config.remove_centre
            )  # fmt: skip
            return self.output(summed)
        offset, mask, share = self.sampling(x)
        summed = aggregate(value, offset.to(value.dtype), mask.to(value.dtype), self.points, backend)
        return self.output(summed if share is None else torch.lerp(summed, value, share.to(summed.dtype)))


class SoftmaxSampling(nn.Module):
    """DCNv3's offsets and weights of each point, and the share of the centre where that is wanted."""

    def __init__(self, config: Deformable) -> None:
        super().__init__()
        channels, kernel = config.channels, config.kernel
        self.shape = (config.groups, config.points)
        self.depth = channels // config.groups
        self.depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.offset = _zeroed(nn.Conv2d(channels, 2 * config.groups * config.points, 1))
        self.mask = _zeroed(nn.Conv2d(channels, config.groups * config.points, 1))
        self.centre = _zeroed(nn.Conv2d(channels, config.groups, 1)) if config.centre_scale else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Offsets ``(B, G, K, 2, H, W)``, weights ``(B, G, K, H, W)`` and shares ``(B, C, H, W)`` for such a ``x``."""
        rows = self.depthwise(x).permute(0, 2, 3, 1)
        features = F.gelu(self.norm(rows)).permute(0, 3, 1, 2)
        offset = self.offset(features).unflatten(1, (*self.shape, 2))
        mask = self.mask(features).unflatten(1, self.shape).softmax(dim=2)
        if self.centre is None:
            return offset, mask, None
        return offset, mask, self.centre(features).sigmoid().repeat_interleave(self.depth, dim=1)


class LinearSampling(nn.Module):
    """DCNv4's offsets and weights of each point: one linear layer, padded to a multiple of eight as the authors' is."""

    def __init__(self, config: Deformable) -> None:
        super().__init__()
        self.shape = (config.groups, config.points)
        self.read = 3 * config.groups * config.points
        self.linear = _zeroed(nn.Conv2d(config.channels, math.ceil(self.read / 8) * 8, 1))
        assert self.linear.bias is not None
        with torch.no_grad():
            by_group = self.linear.bias[: self.read].view(config.groups, -1)
            by_group[:, 2 * config.points :] = 1 / config.points

    def packed(self, x: Tensor) -> Tensor:
        """``(B, ceil(3GK / 8) * 8, H, W)``: of each group all offsets, then all weights; zeros at the end."""
        return self.linear(x)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, None]:
        """``(B, C, H, W)`` in; offsets ``(B, G, K, 2, H, W)`` and weights ``(B, G, K, H, W)``."""
        assert self.linear.bias is not None
        groups, points = self.shape
        both = F.conv2d(x, self.linear.weight[: self.read], self.linear.bias[: self.read])
        offset, mask = both.unflatten(1, (groups, 3 * points)).split([2 * points, points], dim=2)
        return offset.unflatten(2, (points, 2)), mask, None


def used_backends(module: nn.Module) -> dict[str, Backend | None]:
    """What ran last in each deformable convolution of a module, by its name there: for the record."""
    return {name: each.used for name, each in module.named_modules() if isinstance(each, DeformableConv)}


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _xavier(layer: nn.Conv2d) -> nn.Conv2d:
    layer = _zeroed(layer)
    nn.init.xavier_uniform_(layer.weight)
    return layer
