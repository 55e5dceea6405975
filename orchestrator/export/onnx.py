"""A network as ONNX, for any number of images, of any width where it reads lines; compared before it is kept."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datasets.line_image import LineSpec
from datasets.pair_image import PairSpec
from models.batch import BLACK, Batch, Read, Restored

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
NAMES = {  # inputs, outputs, and which of their axes are of any length
    "reads": (("image", "widths"), ("logits", "frames"), {
        "image": {0: "batch", 3: "width"}, "widths": {0: "batch"}, "logits": {0: "batch", 1: "time"},
        "frames": {0: "batch"},
    }),
    "restores": (("image",), ("restored", "logits"), {name: {0: "batch"} for name in ("image", "restored", "logits")}),
}  # fmt: skip
OPSET = 17  # the oldest that has all these networks need; grid_sample came with 16
TOLERANCE = 1e-4  # of an image's largest logit, at least of 1: float32 was seen to be 2.8e-4 off at logits of 20
BATCHES = (1, 2, 3, 4, 5)
MULTIPLE = 4  # images are padded to whole steps of this many columns


class NotExported(RuntimeError):
    """A network that ONNX cannot hold, or this installation cannot write, and why."""


class ByTensors(nn.Module):
    """A reading task as a function of tensors alone."""

    def __init__(self, task: nn.Module) -> None:
        super().__init__()
        self.task = task

    def forward(self, image: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C, H, W)`` and valid columns ``(B,)`` in, logits ``(B, T, K)`` and valid frames ``(B,)`` out."""
        batch = Batch(image=image, widths=widths, tokens=widths[:, None], lengths=widths, counted=widths > 0, ids=())
        out: Read = self.task(batch)
        return out.logits, out.frames


class RestoresTensors(nn.Module):
    """A task that restores plates, as a function of tensors alone."""

    def __init__(self, task: nn.Module) -> None:
        super().__init__()
        self.task = task

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, 3, h, w)`` in, restored images ``(B, 3, s * h, s * w)`` and logits ``(B, T, K)`` out."""
        widths = torch.full((image.shape[0],), image.shape[3], dtype=torch.long)
        batch = Batch(image=image, widths=widths, tokens=widths[:, None], lengths=widths, counted=widths > 0, ids=())
        out: Restored = self.task(batch)
        return out.image, out.read.logits


def by_tensors(task: nn.Module, image: Any) -> nn.Module:
    """``task`` as what is exported of it, in eval mode."""
    return (RestoresTensors if isinstance(image, PairSpec) else ByTensors)(task).eval()


def _names(image: Any) -> tuple[tuple[str, ...], tuple[str, ...], Mapping[str, Mapping[int, str]]]:
    return NAMES["restores" if isinstance(image, PairSpec) else "reads"]


def missing_packages() -> tuple[str, ...]:
    return tuple(name for name in PACKAGES if importlib.util.find_spec(name) is None)


def write_onnx(task: nn.Module, path: Path, *, image: Any) -> Mapping[str, Any]:
    """Write ``task``, on the CPU and in eval mode, to ``path``; says how, and how far it is from the task at most.

    Both exporters of Torch are tried, the quicker first; what one writes is kept only if it gives what the task gives,
    at five batch sizes and, of lines, at seven widths.

    Args:
        image: the ImageSpec, which gives height, channels and the narrowest and widest image.

    Raises :class:`NotExported`.
    """
    if isinstance(image, LineSpec):
        raise NotExported("a task that restores lines is not written as ONNX; model.safetensors and `predict` have it")
    missing = missing_packages()
    if missing:
        raise NotExported(f"this installation lacks {', '.join(missing)}: pip install 'plumbline[onnx]'")
    network, reasons = by_tensors(task, image), []
    for exporter, dynamo in (("TorchScript", False), ("torch.export", True)):
        try:
            _write(network, path, image=image, dynamo=dynamo)
            return {"exporter": exporter, "opset": _opset(path), "compared": compare(network, path, image=image)}
        except Exception as error:  # exporters and runtimes raise anything; the reason is told, not swallowed
            path.unlink(missing_ok=True)
            reasons.append(f"{exporter}: {_first_line(error)}")
    raise NotExported("; ".join(reasons))


def compare(network: nn.Module, path: Path, *, image: Any) -> Mapping[str, Any]:
    """How far ONNX Runtime's outputs are from the network's on noise. Raises :class:`NotExported` where too far."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    draw = torch.Generator().manual_seed(0)
    widths, furthest = widths_to_compare(image), 0.0
    inputs, outputs, _ = _names(image)
    for width in widths:
        for batch in BATCHES:
            given = _noise(batch, width, image, draw)
            with torch.inference_mode():
                wanted = [out.numpy() for out in network(*given)]
            found = session.run(list(outputs), {name: each.numpy() for name, each in zip(inputs, given, strict=True)})
            where = f"at width {width} and batch {batch}"
            for name, have, want in zip(outputs, found, wanted, strict=True):
                furthest = max(furthest, _apart(f"{where} its {name}", have, want))
    return {"widths": list(widths), "batches": list(BATCHES), "largest_difference": furthest}


def _apart(what: str, have: np.ndarray, want: np.ndarray) -> float:
    """The largest difference. Raises :class:`NotExported` where it is too large, or the shapes are others."""
    if have.shape != want.shape:
        raise NotExported(f"{what} are {have.shape}, the network's {want.shape}")
    apart = float(np.abs(have - want).max())
    most = allowed(want) if want.dtype == np.float32 else 0.0
    if not apart <= most:
        raise NotExported(f"{what} are {apart:.2g} from the network's; at most {most:.2g}")
    return apart


def allowed(logits: np.ndarray) -> float:
    """How far other logits may be from these and still be called the same."""
    return TOLERANCE * max(1.0, float(np.abs(logits).max(initial=0.0)))


def widths_to_compare(image: Any) -> tuple[int, ...]:
    """Seven padded widths, from the narrowest image to one that is wider than any; plates are laid out to one."""
    if isinstance(image, PairSpec):
        return (image.width,)
    least, most = (-(-side // MULTIPLE) * MULTIPLE for side in (image.min_width, image.max_width))
    between = np.linspace(least, most, 6) // MULTIPLE * MULTIPLE
    return tuple(dict.fromkeys((least, *map(int, between), most, 2 * most)))


def _write(network: nn.Module, path: Path, *, image: Any, dynamo: bool) -> None:
    width = widths_to_compare(image)[0] if isinstance(image, PairSpec) else 4 * widths_to_compare(image)[0]
    examples = _noise(3, width, image, torch.Generator().manual_seed(0))
    inputs, outputs, free = _names(image)
    axes: dict[str, Any]
    if dynamo:
        shapes = tuple(dict.fromkeys(free[name], torch.export.Dim.DYNAMIC) for name in inputs)
        axes = {"dynamic_shapes": shapes, "external_data": False}
    else:
        axes = {"dynamic_axes": free, "opset_version": OPSET}
    with _quiet():
        torch.onnx.export(
            network, examples, str(path), dynamo=dynamo, verbose=False,
            input_names=list(inputs), output_names=list(outputs), **axes,
        )  # fmt: skip


def _noise(batch: int, width: int, image: Any, draw: torch.Generator) -> tuple[Tensor, ...]:
    """Images ``(batch, C, H, width)`` of mixed valid widths ``(batch,)``, the first of them full, black past them.

    Of plates no widths, for they are laid out whole.
    """
    if isinstance(image, PairSpec):
        return (torch.rand(batch, image.channels, image.height, width, generator=draw) * 2 - 1,)
    valid = torch.randint(min(image.min_width, width), width + 1, (batch,), generator=draw)
    valid[0] = width
    pixels = torch.rand(batch, image.channels, image.height, width, generator=draw) * 2 - 1
    pixels.masked_fill_((torch.arange(width) >= valid[:, None])[:, None, None, :], BLACK)
    return pixels, valid


def _opset(path: Path) -> int:
    import onnx

    model = onnx.load(str(path))
    onnx.checker.check_model(model)
    return max(int(each.version) for each in model.opset_import if not each.domain)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters print and warn of: what they write is compared, so it proves itself."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
