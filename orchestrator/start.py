"""Where a stage's weights come from when it does not begin from random ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from orchestrator import limits
from orchestrator.limits import at_least


@dataclass(frozen=True, kw_only=True)
class StartFrom:
    """Weights to begin with: named parts of an earlier stage's checkpoint, and nothing else of it.

    Attributes:
        floor: metric -> least that these weights must reach on this stage's validation data before its first step.
    """

    stage: str
    parts: tuple[str, ...]
    which: Literal["best", "last"] = "best"
    floor: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least("StartFrom.parts: how many", len(self.parts), 1)
        limits.one_of("StartFrom.which", self.which, ("best", "last"))
        limits.floors("StartFrom.floor", self.floor)


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Weights to begin with that this recipe did not train: a stage folder, a checkpoint or an export.

    Attributes:
        place: where they lie now. No part of a stage's identity: moving them trains nothing again.
        sha256: of the weights, which is their identity; left empty, the refusal says what it is.
        floor: metric -> least that they must reach on this stage's validation data before its first step.
        remap: carry the last layer over symbol by symbol where their alphabet is another one.
    """

    place: str
    sha256: str
    parts: tuple[str, ...]
    floor: Mapping[str, float]
    remap: bool = False

    def __post_init__(self) -> None:
        at_least("Imported.parts: how many", len(self.parts), 1)
        at_least("Imported.floor: how many metrics", len(self.floor), 1)
        limits.floors("Imported.floor", self.floor)
