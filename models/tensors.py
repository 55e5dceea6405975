"""What terms need of tensors: numbers wide enough to sum, and constants that do not travel in every step."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def wide(values: Tensor) -> Tensor:
    """``values`` in float32, or in float64 if they are that already."""
    return values if values.dtype == torch.float64 else values.float()


@lru_cache(maxsize=256)
def constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """``(len(values),)``; copying it to a GPU anew in every step would make the step wait. Never write into it."""
    with torch.inference_mode(False):  # one made in inference mode could not take part in training later
        return torch.tensor(values, device=device, dtype=dtype)
