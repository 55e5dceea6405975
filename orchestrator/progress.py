"""Where training stands, and every decision about it: what is best, what is forbidden, when to stop.

Pure functions of the plan and of numbers that are the same on all ranks; no Torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.events import Seen
from orchestrator.limits import PlanError, less_is_better
from orchestrator.plan import Stage


@dataclass
class Progress:
    """Where training stands: everything beside tensors that resuming needs, as JSON data.

    Attributes:
        epoch: epochs finished; ``step_in_epoch`` updates of the next one are done, ``step`` in all.
        skipped: updates left out because a gradient was not finite.
        lr: what the optimiser held at the newest update.
        sums: term -> [total, count] over the unfinished epoch.
        samples: learned from in the unfinished epoch; ``flagged`` of them by watched fact.
        clipped: updates of the unfinished epoch whose gradient was cut to ``clip_norm``.
        gradient_shares: share of each term in the gradient of the unfinished epoch's first update.
        seen: what the detectors of events remember.
        symbols: occurrences and confusions of each symbol in training, as a moving average over epochs (``seen``,
            ``wrong``); ``symbols_now`` over the unfinished epoch.
        balance: what :class:`orchestrator.balance.Balanced` remembers, empty before its first update.
        baseline: validation before the first step, by metric.
        latest: the newest validation.
        best: metric -> value, step and all metrics of the best validation by it.
        stop_best: value that early stopping compares with; ``stale`` validations without a gain since.
        finished: why training ended, empty while it has not.
        journal: bytes of ``metrics.jsonl`` that belong to this point.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    skipped: int = 0
    lr: float = 0.0
    sums: dict[str, list[float]] = field(default_factory=dict)
    samples: int = 0
    flagged: dict[str, int] = field(default_factory=dict)
    clipped: int = 0
    gradient_shares: dict[str, float] = field(default_factory=dict)
    seen: Seen = field(default_factory=Seen)
    symbols: dict[str, list[float]] = field(default_factory=dict)
    symbols_now: dict[str, list[float]] = field(default_factory=dict)
    balance: dict[str, Any] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    best: dict[str, dict[str, Any]] = field(default_factory=dict)
    stop_best: float | None = None
    stale: int = 0
    finished: str = ""
    journal: int = 0

    @staticmethod
    def of(data: Mapping[str, Any]) -> Progress:
        """The progress that was written as ``data``."""
        return Progress(**{**data, "seen": Seen(**data.get("seen", {}))})

    def begin_epoch(self) -> None:
        """Count the epoch as finished and open the books of the next one."""
        self.epoch += 1
        self.step_in_epoch = self.samples = self.clipped = 0
        self.sums, self.flagged, self.gradient_shares = {}, {}, {}


def note_validation(stage: Stage, progress: Progress, metrics: Mapping[str, float]) -> dict[str, float]:
    """Take in a validation: the newest, and every metric that is now at its best.

    Returns the red lines that were crossed, by how much each metric fell; then nothing becomes best.
    """
    if missing := set(stage.metrics_named) - set(metrics):
        raise PlanError(f"stage {stage.name!r} decides by {sorted(missing)}; measured are {', '.join(sorted(metrics))}")
    progress.latest = dict(metrics)
    crossed = red_lines_crossed(stage, progress.baseline, metrics)
    for best in stage.best:
        known = progress.best.get(best.metric)
        value = metrics[best.metric]
        first = known is None and not math.isnan(value)
        if not crossed and (first or (known is not None and better(value, known["value"], best.mode))):
            progress.best[best.metric] = {"value": value, "step": progress.step, "metrics": dict(metrics)}
            if score := next((score for score in stage.scores if score.name == best.metric), None):
                progress.best[best.metric]["expression"] = score.text
    return crossed


def red_lines_crossed(stage: Stage, before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """Metric -> how far it fell, for each that fell further than its red line below ``before``."""
    falls = {
        metric: (now[metric] - before[metric]) * (1 if less_is_better(metric) else -1)
        for metric in stage.red_lines
        if metric in before
    }
    return {metric: fall for metric, fall in falls.items() if fall > stage.red_lines[metric]}


def stops_early(stage: Stage, progress: Progress) -> bool:
    """Whether patience has run out; counts in ``progress``."""
    rule = stage.early_stop
    if rule is None:
        return False
    value = progress.latest[rule.metric]
    if progress.stop_best is None or better(value, progress.stop_best, rule.mode, rule.min_delta):
        progress.stop_best, progress.stale = value, 0
    else:
        progress.stale += 1
    if progress.stale >= rule.patience:
        progress.finished = f"early stop: {rule.metric} gained nothing in {progress.stale} validations"
    return bool(progress.finished)


def better(value: float, known: float, mode: str, by: float = 0.0) -> bool:
    """Whether ``value`` beats ``known`` by more than ``by``; NaN beats nothing, and any number beats it."""
    if math.isnan(value) or math.isnan(known):
        return not math.isnan(value)
    return value > known + by if mode == "max" else value < known - by
