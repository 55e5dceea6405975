"""How a trial of a sweep differs from a stage: what it shares with the trials that its process made before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from orchestrator import checkpoint
from orchestrator.checkpoint import Contents
from orchestrator.identity import digest, plain
from orchestrator.plan import Stage
from orchestrator.preflight import Preflight

Measure = Callable[[nn.Module], dict[str, float]]


@dataclass
class Kept:
    """What the trials of one process make once: checks of the data, weights to start from, their validation."""

    checked: dict[tuple[str, ...], Preflight] = field(default_factory=dict)
    weights: dict[Path, Contents] = field(default_factory=dict)
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Trying:
    """One trial.

    Attributes:
        origin: what its record says of where it comes from.
        until: epochs after which to pause; 0 trains to the end.
    """

    kept: Kept
    origin: Mapping[str, Any]
    until: int = 0

    def read(self, folder: Path) -> Contents:
        """A checkpoint's contents, read and checked the first time."""
        if folder not in self.kept.weights:
            self.kept.weights = {folder: checkpoint.read(folder)}  # the trials of a sweep start from one checkpoint
        return self.kept.weights[folder]

    def measured(self, stage: Stage, folder: Path, measure: Measure) -> Measure:
        """``measure``, but of the weights that a trial begins with it says what it said in an earlier one."""
        if stage.start_from is None or any((folder / "checkpoints").glob("step-*")):
            return measure
        baselines = self.kept.baselines
        pending = [digest([plain(each) for each in (stage.start_from, stage.validate, stage.terms, stage.scores)])]

        def known(judged: nn.Module) -> dict[str, float]:
            if not pending:
                return measure(judged)
            key = pending.pop()
            if key not in baselines:
                baselines[key] = measure(judged)
            return dict(baselines[key])

        return known
