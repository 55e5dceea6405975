"""Which code samples for a deformable convolution: the fastest that is present, or the one asked for.

A backend is execution, not identity: all give the same numbers up to rounding, and none changes a parameter.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from models.layers import deform_native, deform_torch
from models.layers.deform_points import Points

Kind = Literal["dcnv1", "dcnv2", "dcnv3", "dcnv4"]
Backend = Literal["fastest", "reference", "torch", "native", "triton", "torchvision", "official"]

Gather = Callable[[Tensor, Tensor, Tensor | None, Points], Tensor]
Scatter = Callable[[Tensor, Tensor, Tensor, Tensor | None, Points], tuple[Tensor, Tensor, Tensor | None]]

# The first that can run is taken. The reference is never chosen, only asked for.
PREFERRED: dict[str, tuple[Backend, ...]] = {
    "cuda": ("torchvision", "triton", "official", "torch"),
    "cpu": ("native", "torchvision", "torch"),
}
NARROW = (torch.float32, torch.bfloat16, torch.float16)

log = logging.getLogger(__name__)


class BackendError(RuntimeError):
    """The backend asked for cannot run what it was asked for."""


@dataclass(frozen=True)
class Sampler:
    """A backend of our own.

    Attributes:
        gather: samples and sums.
        scatter: its gradients, from the operands alone.
        layout: in which it reads in place.
        whole: whether it does best with all images at once. What needs passes over memory between is faster on CPU
            with so few images at a time that they stay in the cache.
    """

    gather: Gather
    scatter: Scatter
    layout: torch.memory_format
    whole: bool


@cache
def chosen_backend(device: str, dtype: torch.dtype, kind: Kind) -> Backend:
    """The fastest backend present for ``kind`` on a device type (``"cpu"``, ``"cuda"``...); logged once."""
    passed: list[str] = []
    for backend in PREFERRED.get(device, ("torch",)):
        reason = why_not(backend, device, dtype, kind)
        if reason is None:
            found = f" ({'; '.join(passed)})" if passed else ""
            log.info("%s on %s in %s: the %s backend%s", kind, device, str(dtype)[6:], backend, found)
            return backend
        passed.append(f"not {backend}: {reason}")
    return "torch"


def why_not(backend: Backend, device: str, dtype: torch.dtype, kind: Kind) -> str | None:
    """Why ``backend`` cannot run ``kind`` on ``device`` in ``dtype``; ``None`` where it can."""
    if backend not in get_args(Backend):
        return f"no backend has that name; there are {', '.join(get_args(Backend))}"
    if backend in ("fastest", "reference", "torch"):
        return None
    serves, devices, dtypes, present = _needs(backend)
    if kind not in serves:
        return f"it has {', '.join(serves)} only"
    if device not in devices:
        return f"it runs on {' and '.join(devices)} only"
    if dtype not in dtypes:
        return f"it has no {str(dtype)[6:]}"
    return present()


def sampler(backend: Backend) -> Sampler:
    """The functions of a backend of our own."""
    if backend == "native":
        return Sampler(deform_native.gather, deform_native.scatter, torch.channels_last, True)
    if backend == "triton":
        kernels = importlib.import_module("models.layers.deform_triton")  # only where Triton is
        return Sampler(kernels.gather, kernels.scatter, torch.channels_last, True)
    return Sampler(deform_torch.gather, deform_torch.scatter, torch.contiguous_format, False)


def imported(name: str) -> ModuleType | None:
    """An optional package's module, or ``None`` where it is not installed or does not load."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # extensions built for another Torch fail in many ways; each is no backend
        log.debug("%s does not import: %s", name, error)
        return None


def torchvision_dense(
    x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor, padding: int
) -> Tensor:
    """DCNv1 and DCNv2 by torchvision, offsets ``(B, 2GK, H, W)`` and mask ``(B, GK, H, W)`` as it wants them.

    Only at a position of exactly -1 does its slope differ from ours: there it is zero.
    """
    operator: Any = imported("torchvision.ops")
    assert operator is not None
    return operator.deform_conv2d(x, offset, weight, bias, padding=padding, mask=mask)


def official_aggregate(
    value: Tensor, offset_mask: Tensor, kernel: int, groups: int, scale: float, without_centre: bool
) -> Tensor:
    """DCNv4's aggregation by the authors' package.

    Args:
        value: ``(B, C, H, W)``.
        offset_mask: ``(B, ceil(3GK / 8) * 8, H, W)``.
    """
    functions: Any = imported("DCNv4.functions")
    assert functions is not None
    rows = value.permute(0, 2, 3, 1).contiguous()
    packed = offset_mask.permute(0, 2, 3, 1).contiguous()
    out = functions.DCNv4Function.apply(
        rows, packed, kernel, kernel, 1, 1, kernel // 2, kernel // 2, 1, 1,
        groups, value.shape[1] // groups, scale, value.shape[0], int(without_centre),
    )  # fmt: skip
    return out.permute(0, 3, 1, 2)


def _needs(
    backend: Backend,
) -> tuple[tuple[Kind, ...], tuple[str, ...], tuple[torch.dtype, ...], Callable[[], str | None]]:
    """The kinds, devices and types a backend serves, and a question whether it is present."""
    if backend == "native":
        return get_args(Kind), ("cpu",), NARROW, deform_native.why_not
    if backend == "triton":
        return get_args(Kind), ("cuda",), NARROW, lambda: _absent("triton")
    if backend == "torchvision":
        return ("dcnv1", "dcnv2"), ("cpu", "cuda"), (torch.float64, *NARROW), lambda: _absent("torchvision.ops")
    return ("dcnv4",), ("cuda",), NARROW, lambda: _absent("DCNv4.functions")


def _absent(module: str) -> str | None:
    return None if imported(module) else f"{module} does not import"
