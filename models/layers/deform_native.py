"""Deformable sampling on CPU by a small C++ operator, built once per machine when it is first wanted.

It is compiled for the very processor it runs on and kept in the user's cache folder; a machine without a compiler
goes without it. ``python -m models.layers.deform_native`` builds it now and says where it is, or why it is not.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from models.layers.deform_points import Points

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-std=c++17", "-shared", "-fPIC")
FREER = ("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno")  # sums as trees; keeps NaN
COMPILERS = ("c++", "g++", "clang++")
BUILD_TIMEOUT_S = 120


class NativeError(RuntimeError):
    """The operator cannot be built or loaded here; everything else runs without it."""


@cache
def why_not() -> str | None:
    """Why the operator is not to be had on this machine; ``None`` where it is. The first call may build it."""
    try:
        library()
    except NativeError as error:
        return str(error)
    return None


@cache
def library() -> ctypes.CDLL:
    """The loaded operator, built first where the cache has none for this source, compiler and processor."""
    path = built()
    try:
        return ctypes.CDLL(str(path))  # Torch is loaded, so both share one OpenMP
    except OSError as error:
        raise NativeError(f"{path} does not load: {error}; delete it to have it built anew") from error


def built(folder: Path | None = None) -> Path:
    """The operator's file in ``folder`` (default: the user's cache), compiled where it is missing."""
    compiler = _compiler()
    path = (folder or cache_folder()) / f"deform-{_key(compiler)}.so"
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as draft:
            made = Path(draft) / path.name
            _run([compiler, *FLAGS, *FREER, str(SOURCE), "-o", str(made)])
            made.replace(path)  # whole or not at all, however many processes build at once
    except OSError as error:
        raise NativeError(
            f"{path.parent} takes no files ({error}); set XDG_CACHE_HOME to a folder that does"
        ) from error
    return path


def cache_folder() -> Path:
    """Where the operator is kept: per user, never beside the source."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "plumbline" / "native"


def gather(value: Tensor, offset: Tensor, mask: Tensor | None, points: Points) -> Tensor:
    """As :func:`models.layers.deform_reference.gather`, in float32; the result is channels last in memory."""
    rows, moved, weight = _rows(value), offset.float(), None if mask is None else mask.float()
    out = torch.empty_like(rows)
    shape, strides, kernel, kept = _operands(value, moved, weight, points)
    library().plumbline_gather(
        ctypes.byref(shape), ctypes.byref(strides), ctypes.byref(kernel),
        _at(rows), _at(moved), _at(weight), _at(out), torch.get_num_threads(),
    )  # fmt: skip
    del kept
    return out.permute(0, 3, 1, 2).to(value.dtype)


def scatter(
    grad: Tensor, value: Tensor, offset: Tensor, mask: Tensor | None, points: Points
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients to ``value``, ``offset`` and ``mask`` of :func:`gather`, given that to its result."""
    rows, slope, moved = _rows(value), _rows(grad), offset.float()
    weight = None if mask is None else mask.float()
    to_value, to_offset = torch.zeros_like(rows), torch.empty_like(moved)
    to_mask = None if weight is None else torch.empty_like(weight)
    shape, strides, kernel, kept = _operands(value, moved, weight, points)
    written = _strides(to_offset, to_mask)
    library().plumbline_scatter(
        ctypes.byref(shape), ctypes.byref(strides), ctypes.byref(kernel),
        _at(rows), _at(moved), _at(weight), _at(slope), _at(to_value), _at(to_offset), _at(to_mask),
        ctypes.byref(written), torch.get_num_threads(),
    )  # fmt: skip
    del kept
    to_mask = None if to_mask is None or mask is None else to_mask.to(mask.dtype)
    return to_value.permute(0, 3, 1, 2).to(value.dtype), to_offset.to(offset.dtype), to_mask


class _Shape(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int64) for name in ("batch", "groups", "depth", "height", "width", "points")
    )  # fmt: skip


class _Strides(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_int64 * 6), ("mask", ctypes.c_int64 * 5))


class _Kernel(ctypes.Structure):
    _fields_ = (("at", ctypes.c_void_p), ("scale", ctypes.c_float), ("x_first", ctypes.c_int64))


def _operands(
    value: Tensor, offset: Tensor, mask: Tensor | None, points: Points
) -> tuple[_Shape, _Strides, _Kernel, Tensor]:
    """What the operator is told, and the tensor that has to outlive the call."""
    batch, groups, count, _, height, width = offset.shape
    shape = _Shape(batch, groups, value.shape[1] // groups, height, width, count)
    at = torch.tensor(points.at, dtype=torch.float32)
    return shape, _strides(offset, mask), _Kernel(at.data_ptr(), points.scale, points.x_first), at


def _strides(offset: Tensor, mask: Tensor | None) -> _Strides:
    flat = (0,) * 5 if mask is None else mask.stride()
    return _Strides((ctypes.c_int64 * 6)(*offset.stride()), (ctypes.c_int64 * 5)(*flat))


def _rows(value: Tensor) -> Tensor:
    """``(B, C, H, W)`` as contiguous ``(B, H, W, C)`` float32; no copy where it is channels last already."""
    return value.permute(0, 2, 3, 1).float().contiguous()


def _at(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _compiler() -> str:
    asked = os.environ.get("CXX")
    for name in (asked,) if asked else COMPILERS:
        if found := shutil.which(name):
            return found
    raise NativeError(f"no C++ compiler ({asked or ', '.join(COMPILERS)}) on the PATH; install one or set CXX")


def _key(compiler: str) -> str:
    """Changes with the source, the flags, the compiler and the processor: a shared home serves unlike machines."""
    build = (SOURCE.read_text(), *FLAGS, *FREER, compiler, _run([compiler, "--version"]))
    facts = [*build, platform.machine(), *_cpu()]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _cpu() -> list[str]:
    info = Path("/proc/cpuinfo")
    wanted = ("model name", "flags", "Features", "CPU part")
    lines = info.read_text().splitlines() if info.exists() else [platform.processor()]
    return sorted({line for line in lines if not info.exists() or line.startswith(wanted)})


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S).stdout
    except subprocess.CalledProcessError as error:
        raise NativeError(f"{' '.join(command)}: {error.stderr.strip()[-500:]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeError(f"{' '.join(command)}: {error}") from error


if __name__ == "__main__":
    print(why_not() or f"built: {built()}")
    sys.exit(why_not() is not None)
