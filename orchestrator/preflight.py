"""What must be true before the first step of a stage. Each check names where, what was found and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from models.batch import BLACK, Batch
from orchestrator.batches import Samples, TrainingData
from orchestrator.identity import plain
from orchestrator.plan import Recipe, Stage
from orchestrator.ranks import Ranks
from orchestrator.shards import Shards

SHOWN = 5


class PreflightError(RuntimeError):
    """A stage that must not start: its result would not mean what its plan says."""


def check_shards_fit(recipe: Recipe, shards: Mapping[str, Shards]) -> None:
    """Shards were made with this recipe's alphabet, ImageSpec and frame rule."""
    for name, opened in shards.items():
        frames = {key: value for key, value in plain(recipe.task.frames).items() if key != "is"}
        made_for = {key: value for key, value in opened.manifest.frames.items() if key != "is"}
        for what, found, wanted in (
            ("alphabet", opened.manifest.alphabet_sha256[:12], recipe.alphabet.sha256[:12]),
            ("ImageSpec", opened.manifest.image_sha256[:12], recipe.image.sha256[:12]),
            ("frame rule", made_for, frames),
        ):
            if found != wanted:
                raise PreflightError(
                    f"shards of {name!r} in {opened.folder} were made with {what} {found}, the recipe has {wanted}; "
                    "ingest the source again"
                )


def check_splits_disjoint(shards: Mapping[str, Shards]) -> None:
    """No group (photo, page, writer ...) has rows in two splits of a source."""
    for name, opened in shards.items():
        home: dict[str, str] = {}
        shared = set()
        for group, split in zip(opened.groups, opened.splits.tolist(), strict=True):
            if home.setdefault(group, split) != split:
                shared.add(group)
        if shared:
            raise PreflightError(
                f"source {name!r}: {len(shared)} groups lie in more than one split, such as "
                f"{sorted(shared)[:SHOWN]}; rows of one group must stay together"
            )


def check_labels(stage: Stage, shards: Mapping[str, Shards]) -> None:
    """Every training label can be encoded and spelled by CTC in the frames of its true width.

    Ingest has judged each label by the alphabet and frame rule that :func:`check_shards_fit` found to be the recipe's.
    """
    for name in stage.data.shares:
        rows, flaws = shards[name].rows_of("train"), shards[name].flaws
        bad = [row for row in rows.tolist() if flaws[row]]
        if bad or not len(rows):
            named = [f"{shards[name].texts_raw[row]!r} ({flaws[row]})" for row in bad[:SHOWN]]
            raise PreflightError(
                f"stage {stage.name!r}: {len(bad)} of {len(rows)} training labels of {name!r} cannot be learned"
                f"{': ' if bad else ''}{', '.join(named)}; ingest again so that they are listed in rejects"
            )


def check_validation(stage: Stage, sets: Mapping[str, Samples]) -> list[str]:
    """Validation sets hold something; warns of words in them that cannot be read right."""
    warnings = []
    for name, samples in sets.items():
        if not len(samples):
            raise PreflightError(f"stage {stage.name!r} validates on {name!r}, which has no rows in that split")
        lost = sum(not samples.label(sample)[1] for sample in range(len(samples)))
        if lost:
            warnings.append(
                f"{name}: {lost} of {len(samples)} validation words cannot be spelled; each counts as an error"
            )
    return warnings


def check_frames(task: nn.Module, recipe: Recipe, widths: Sequence[int], device: torch.device) -> None:
    """The network makes as many frames of every bucket width as the plan's rule says: by a dry forward."""
    height, channels = recipe.image.height, recipe.image.channels  # type: ignore[attr-defined]
    task.eval()
    for width in widths:
        image = torch.full((1, channels, height, width), BLACK, device=device)
        one = torch.ones(1, dtype=torch.long, device=device)
        batch = Batch(
            image=image, widths=one * width, tokens=one[None], lengths=one, counted=one.bool(), ids=(0,)
        )  # fmt: skip
        with torch.no_grad():
            out = task(batch)
        found, rule = (out.logits.shape[1], int(out.frames[0])), recipe.task.frames.of(width)
        if found != (rule, rule):
            raise PreflightError(
                f"width {width}: the network makes {found[0]} frames and reports {found[1]}, the plan's rule says "
                f"{rule}; CTC lengths would be wrong"
            )
        if out.logits.shape[2] != recipe.alphabet.classes:
            raise PreflightError(
                f"the network scores {out.logits.shape[2]} classes, the alphabet has {recipe.alphabet.classes}"
            )


def check_division(stage: Stage, data: TrainingData, ranks: Ranks) -> None:
    """Every step has samples for every rank and micro-batch: none is under half of ``batch_size``, but in tiny sets."""
    smallest = min(stage.batch_size // 2, *(len(step.samples) for step in data.steps(0)))
    if smallest < ranks.count * stage.optim.accumulate:
        raise PreflightError(
            f"stage {stage.name!r}: its smallest step has {smallest} samples, too few for {ranks.count} workers with "
            f"{stage.optim.accumulate} micro-batches each; raise batch_size or use fewer workers"
        )
