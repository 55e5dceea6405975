"""A batch as arrays in host memory, and the same as tensors on a device: normalised, then augmented."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from models.batch import Batch, Pair
from orchestrator.augment import augmented
from orchestrator.augment_pairs import augmented_line_pair, augmented_pair
from orchestrator.plan import Augment


@dataclass(frozen=True)
class High:
    """The targets of a batch of pairs.

    Attributes:
        pixels: ``(B, scale * H, scale * W, C)`` uint8.
        boxes: ``(B, 4)`` int16 top, left, height and width of each picture within the image.
        pad: red, green and blue of what lies around it; empty where pictures fill the valid columns.
    """

    pixels: np.ndarray
    boxes: np.ndarray
    pad: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Collated:
    """A batch in host memory. See :class:`models.batch.Batch`; ``least`` columns are what each label needs.

    Attributes:
        pixels: ``(B, H, W, C)`` uint8, zero past ``widths``.
        high: of pairs that all have their target.
    """

    pixels: np.ndarray
    widths: np.ndarray
    least: np.ndarray
    tokens: np.ndarray
    lengths: np.ndarray
    counted: np.ndarray
    ids: tuple[int, ...]
    high: High | None = None


def on_device(
    collated: Collated, device: torch.device, *,
    augment: Augment | None = None, epoch: int = 0, seed: int = 0, again: int = 0,
) -> Batch:  # fmt: skip
    """Tensors on ``device``: bytes travel, floats are made there; then augmented where a plan says so.

    Args:
        again: see :class:`models.batch.Pair`.
    """

    def moved(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    def pictures(array: np.ndarray) -> torch.Tensor:
        return moved(array).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)  # (B, C, H, W); black is -1

    image, widths = pictures(collated.pixels), moved(collated.widths)
    labels = {"tokens": moved(collated.tokens), "lengths": moved(collated.lengths), "counted": moved(collated.counted)}
    if collated.high is None:
        if augment is not None:
            least = torch.minimum(moved(collated.least), widths)
            image, widths = augmented(image, widths, least, augment, samples=collated.ids, epoch=epoch, seed=seed)
        return Batch(
            image=image.contiguous(memory_format=torch.channels_last), widths=widths, ids=collated.ids, **labels
        )  # fmt: skip
    target = pictures(collated.high.pixels)
    if augment is not None and not collated.high.pad:
        drawn = {"samples": collated.ids, "epoch": epoch, "seed": seed}
        image, target = augmented_line_pair(image, target, widths, augment, **drawn)  # type: ignore[arg-type]
    elif augment is not None:
        image, target = augmented_pair(
            image, target, moved(collated.high.boxes).float(), augment,
            pad=collated.high.pad, samples=collated.ids, epoch=epoch, seed=seed,
        )  # fmt: skip
    return Pair(
        image=image.contiguous(memory_format=torch.channels_last),
        target=target.contiguous(memory_format=torch.channels_last), widths=widths, ids=collated.ids, again=again,
        **labels,
    )  # fmt: skip
