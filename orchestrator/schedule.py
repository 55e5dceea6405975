"""Learning-rate schedules: each a pure function of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.limits import within


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The plan's learning rate at every step."""

    def factor(self, step: int, steps: int) -> float:
        """What the learning rate is multiplied by at ``step`` of ``steps``."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Linear warm-up, then half a cosine down to ``floor``.

    Attributes:
        warmup: share of the stage's steps, ``0 <= warmup < 1``.
        floor: factor at the last step.
    """

    warmup: float = 0.05
    floor: float = 0.01

    def __post_init__(self) -> None:
        within("Cosine.warmup", self.warmup, 0.0, 0.999)
        within("Cosine.floor", self.floor, 0.0, 1.0)

    def factor(self, step: int, steps: int) -> float:
        rising = math.ceil(self.warmup * steps)
        if step < rising:
            return (step + 1) / rising
        done = (step - rising) / max(steps - 1 - rising, 1)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


@dataclass(frozen=True, kw_only=True)
class StepDown:
    """The learning rate is multiplied by ``by`` at each share of the steps in ``at``."""

    at: tuple[float, ...] = (0.6, 0.85)
    by: float = 0.1

    def __post_init__(self) -> None:
        for share in self.at:
            within("StepDown.at", share, 0.0, 1.0)
        within("StepDown.by", self.by, 0.0, 1.0)

    def factor(self, step: int, steps: int) -> float:
        return self.by ** sum(step >= share * steps for share in self.at)


@dataclass(frozen=True, kw_only=True)
class OneCycle:
    """Cosine from ``1 / start_div`` up to 1 at ``warmup``, then cosine down to ``1 / end_div`` (Smith & Topin 2017)."""

    warmup: float = 0.3
    start_div: float = 25.0
    end_div: float = 10_000.0

    def __post_init__(self) -> None:
        within("OneCycle.warmup", self.warmup, 0.0, 0.999)
        within("OneCycle.start_div", self.start_div, 1.0, math.inf)
        within("OneCycle.end_div", self.end_div, 1.0, math.inf)

    def factor(self, step: int, steps: int) -> float:
        top = self.warmup * max(steps - 1, 1)
        if step < top:
            return _cosine_between(1 / self.start_div, 1.0, step / top)
        return _cosine_between(1.0, 1 / self.end_div, (step - top) / max(steps - 1 - top, 1e-9))


def _cosine_between(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
