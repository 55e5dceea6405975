"""Pixels of pairs that are not in register: high and low resolution taken at different moments."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.batch import Pair, Restored
from models.losses.image import same_size, target_widths
from models.mean import Mean, mean_of
from models.tensors import wide


@dataclass(frozen=True, kw_only=True)
class ShiftedL1:
    """Mean absolute difference at the best of all shifts of up to ``reach`` pixels either way, macro over images.

    Each image is compared with its target moved by every ``(dy, dx)``, over what both show after the move; the shift
    with the smallest difference counts, and it alone has gradient. 0 for a target that is the restored image moved.

    Attributes:
        reach: pixels of the target, in each direction; ``(2 reach + 1)^2`` shifts are tried.
    """

    reach: int = 2

    def __post_init__(self) -> None:
        if self.reach < 0:
            raise ValueError(f"ShiftedL1.reach: {self.reach} is below 0")

    def __call__(self, batch: Pair, out: Restored) -> Mean:
        same_size(batch, out)
        image, target, widths = wide(out.image), wide(batch.target), target_widths(batch)
        if min(image.shape[2], int(widths.min())) <= self.reach:
            raise ValueError(
                f"ShiftedL1.reach: {self.reach} pixels, but the smallest picture has {image.shape[2]} x "
                f"{int(widths.min())}; lower it"
            )
        steps = range(-self.reach, self.reach + 1)
        tried = torch.stack([_apart(image, target, widths, dy, dx) for dy in steps for dx in steps])
        return mean_of(tried.amin(dim=0))


def _apart(image: Tensor, target: Tensor, widths: Tensor, dy: int, dx: int) -> Tensor:
    """``(B,)`` the mean difference of ``image[y, x]`` and ``target[y + dy, x + dx]`` where both are valid."""
    height, width = image.shape[2:]
    rows, columns = slice(max(0, -dy), height - max(0, dy)), slice(max(0, -dx), width - max(0, dx))
    moved = target[:, :, rows.start + dy : rows.stop + dy, columns.start + dx : columns.stop + dx]
    places = torch.arange(columns.start, columns.stop, device=image.device)
    valid = torch.maximum(places, places + dx) < widths[:, None]  # (B, columns)
    apart = (image[:, :, rows, columns] - moved).abs().mean(dim=(1, 2))  # (B, columns)
    return apart.where(valid, 0).sum(dim=1) / valid.sum(dim=1)
