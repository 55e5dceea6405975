"""A network as ONNX, with any number of images of any width, and compared with the network before it is kept."""

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

from models.batch import BLACK, Batch, Read

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INPUTS, OUTPUTS = ("image", "widths"), ("logits", "frames")
OPSET = 17  # the oldest that has all these networks need
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


def missing_packages() -> tuple[str, ...]:
    return tuple(name for name in PACKAGES if importlib.util.find_spec(name) is None)


def write_onnx(task: nn.Module, path: Path, *, image: Any) -> Mapping[str, Any]:
    """Write ``task``, on the CPU and in eval mode, to ``path``; says how, and how far it is from the task at most.

    Both exporters of Torch are tried, the quicker first; what one writes is kept only if it gives the task's logits
    at seven widths and five batch sizes.

    Args:
        image: the ImageSpec, which gives height, channels and the narrowest and widest image.

    Raises :class:`NotExported`.
    """
    if hasattr(image, "scale"):
        raise NotExported("a task that restores images is not written as ONNX; model.safetensors and `predict` have it")
    missing = missing_packages()
    if missing:
        raise NotExported(f"this installation lacks {', '.join(missing)}: pip install 'plumbline[onnx]'")
    network, reasons = ByTensors(task).eval(), []
    for exporter, dynamo in (("TorchScript", False), ("torch.export", True)):
        try:
            _write(network, path, image=image, dynamo=dynamo)
            return {"exporter": exporter, "opset": _opset(path), "compared": compare(network, path, image=image)}
        except Exception as error:  # exporters and runtimes raise anything; the reason is told, not swallowed
            path.unlink(missing_ok=True)
            reasons.append(f"{exporter}: {_first_line(error)}")
    raise NotExported("; ".join(reasons))


def compare(network: nn.Module, path: Path, *, image: Any) -> Mapping[str, Any]:
    """How far ONNX Runtime's logits are from the network's on noise. Raises :class:`NotExported` where too far."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    draw = torch.Generator().manual_seed(0)
    widths, furthest = widths_to_compare(image), 0.0
    for width in widths:
        for batch in BATCHES:
            pixels, valid = _noise(batch, width, image, draw)
            with torch.inference_mode():
                logits, frames = (out.numpy() for out in network(pixels, valid))
            found = session.run(list(OUTPUTS), {"image": pixels.numpy(), "widths": valid.numpy()})
            where = f"at width {width} and batch {batch}"
            if found[0].shape != logits.shape or not np.array_equal(found[1], frames):
                raise NotExported(f"{where} its logits are {found[0].shape}, the network's {logits.shape}")
            apart, most = float(np.abs(found[0] - logits).max()), allowed(logits)
            if not apart <= most:
                raise NotExported(f"{where} its logits are {apart:.2g} from the network's; at most {most:.2g}")
            furthest = max(furthest, apart)
    return {"widths": list(widths), "batches": list(BATCHES), "largest_difference": furthest}


def allowed(logits: np.ndarray) -> float:
    """How far other logits may be from these and still be called the same."""
    return TOLERANCE * max(1.0, float(np.abs(logits).max(initial=0.0)))


def widths_to_compare(image: Any) -> tuple[int, ...]:
    """Seven padded widths, from the narrowest image to one that is wider than any."""
    least, most = (-(-side // MULTIPLE) * MULTIPLE for side in (image.min_width, image.max_width))
    between = np.linspace(least, most, 6) // MULTIPLE * MULTIPLE
    return tuple(dict.fromkeys((least, *map(int, between), most, 2 * most)))


def _write(network: nn.Module, path: Path, *, image: Any, dynamo: bool) -> None:
    examples = _noise(3, 4 * widths_to_compare(image)[0], image, torch.Generator().manual_seed(0))
    axes: dict[str, Any]
    if dynamo:
        free = torch.export.Dim.DYNAMIC
        axes = {"dynamic_shapes": ({0: free, 3: free}, {0: free}), "external_data": False}
    else:
        names = {"image": {0: "batch", 3: "width"}, "widths": {0: "batch"}, "frames": {0: "batch"}}
        axes = {"dynamic_axes": names | {"logits": {0: "batch", 1: "time"}}, "opset_version": OPSET}
    with _quiet():
        torch.onnx.export(
            network, examples, str(path), dynamo=dynamo, verbose=False,
            input_names=list(INPUTS), output_names=list(OUTPUTS), **axes,
        )  # fmt: skip


def _noise(batch: int, width: int, image: Any, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images ``(batch, C, H, width)`` of mixed valid widths ``(batch,)``, the first of them full, black past them."""
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
