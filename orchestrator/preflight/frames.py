"""Preflight of the network's frames: CTC must be told how many there really are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from models.batch import BLACK, Batch, Pair, Restored
from orchestrator.batches import Samples
from orchestrator.plan import Recipe
from orchestrator.preflight import Found, PreflightError


def check_frames(task: nn.Module, recipe: Recipe, widths: Sequence[int], device: torch.device) -> Found:
    """The network makes, for every padded width, the frames and classes that CTC is told of."""
    height, channels = recipe.image.height, recipe.image.channels  # type: ignore[attr-defined]
    task.eval()
    for width in widths:
        image = torch.full((1, channels, height, width), BLACK, device=device)
        one = torch.ones(1, dtype=torch.long, device=device)
        scale = getattr(recipe.task, "scale", 0)
        label = {"tokens": one[None], "lengths": one, "counted": one.bool(), "ids": (0,)}
        batch = Batch(image=image, widths=one * width, **label)  # type: ignore[arg-type]
        if scale:
            target = torch.full((1, channels, scale * height, scale * width), BLACK, device=device)
            batch = Pair(image=image, widths=one * width, target=target, **label)  # type: ignore[arg-type]
        with torch.no_grad():
            out = task(batch)
            out = out.read if isinstance(out, Restored) else out
        found, rule = (out.logits.shape[1], int(out.frames[0])), recipe.task.frames.of(width * max(scale, 1))
        if found != (rule, rule):
            raise PreflightError(
                f"width {width}: the network makes {found[0]} frames and reports {found[1]}, the plan's rule says "
                f"{rule}; CTC lengths would be wrong"
            )
        if out.logits.shape[2] != recipe.alphabet.classes:
            raise PreflightError(
                f"the network scores {out.logits.shape[2]} classes, the alphabet has {recipe.alphabet.classes}"
            )
    return Found(says=f"frames follow the plan's rule at widths {', '.join(map(str, widths))}")


def widths_met(buckets: Sequence[int], sets: Mapping[str, Samples]) -> list[int]:
    """Every padded width the network will see in training, and the narrowest and widest of validation."""
    seen = set(buckets)
    for samples in sets.values():
        multiple = samples.multiple
        seen |= {-(-int(width) // multiple) * multiple for width in (samples.widths.min(), samples.widths.max())}
    return sorted(seen)
