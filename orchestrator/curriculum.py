"""What a stage makes of how well it reads in training: which symbols weigh more, which samples come more often.

Settings alone, as plain data; :mod:`orchestrator.mining` and :mod:`orchestrator.moving` act on them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from orchestrator.limits import PlanError, at_least, one_of, positive, within


@dataclass(frozen=True, kw_only=True)
class WeighSymbols:
    """Symbols that training reads as other ones weigh more in the next epoch.

    Attributes:
        terms: whose loss has ``weights``, one for each symbol, of which none exceeds its ``most``.
        keep: share of the old counts in the moving average over epochs.
        prior: occurrences by which a symbol's rate is drawn towards that of all symbols.
    """

    terms: tuple[str, ...]
    keep: float = 0.7
    prior: float = 20.0

    def __post_init__(self) -> None:
        at_least("WeighSymbols.terms: how many", len(self.terms), 1)
        within("WeighSymbols.keep", self.keep, 0.0, 0.99)
        positive("WeighSymbols.prior", self.prior)


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """The share of an epoch's draws that follows difficulty; the rest is uniform.

    Attributes:
        kind: how it rises: in a line, with the square of the time, or in four steps.
        start: at epoch 0.
        end: from epoch ``epochs`` on.
        epochs: after which it is there; 0 for as many as the stage has (:meth:`Mining.over` puts them in).
    """

    kind: Literal["linear", "exponential", "step"] = "linear"
    start: float = 0.1
    end: float = 0.8
    epochs: int = 0

    def __post_init__(self) -> None:
        one_of("Curriculum.kind", self.kind, ("linear", "exponential", "step"))
        within("Curriculum.start", self.start, 0.0, 1.0)
        within("Curriculum.end", self.end, self.start, 1.0)
        at_least("Curriculum.epochs", self.epochs, 0)

    def share(self, epoch: int) -> float:
        """The share at ``epoch``, counted from 0 in the stage."""
        done = min(epoch / self.epochs, 1.0) if self.epochs else 1.0
        if self.kind == "exponential":
            done = done**2
        elif self.kind == "step":
            done = (0.0, 0.25, 0.5, 1.0)[min(int(4 * done), 3)]
        return self.start + done * (self.end - self.start)


@dataclass(frozen=True, kw_only=True)
class Mining:
    """How difficulty becomes a list.

    Attributes:
        alpha: weight of a sample is ``(1.1 - accuracy) ** alpha``.
        least_visits: a sample seen less often has weight 1, as if it were hard.
        reweigh_every: epochs that weights are held for.
        cap: a sample is drawn at most so many times as often as in a uniform epoch.
        suspect_after: visits in a row without a single right character after which the label is suspected rather than
            the reader: the sample is listed, and drawn no more often than one that is read perfectly.
    """

    alpha: float = 2.0
    least_visits: int = 3
    reweigh_every: int = 5
    cap: float = 10.0
    suspect_after: int = 10
    curriculum: Curriculum = field(default_factory=Curriculum)

    def __post_init__(self) -> None:
        positive("Mining.alpha", self.alpha)
        within("Mining.alpha", self.alpha, 0.0, 10.0)
        at_least("Mining.least_visits", self.least_visits, 1)
        at_least("Mining.reweigh_every", self.reweigh_every, 1)
        within("Mining.cap", self.cap, 1.0, 1e6)
        at_least("Mining.suspect_after", self.suspect_after, 1)

    def over(self, epochs: int) -> Mining:
        """These rules in a stage of ``epochs``."""
        curriculum = self.curriculum
        return self if curriculum.epochs else replace(self, curriculum=replace(curriculum, epochs=epochs))

    def check(self, epochs: int) -> None:
        """Raise :class:`PlanError` where a stage of ``epochs`` would never count a sample as hard, or end too soon."""
        if self.curriculum.epochs > epochs:
            raise PlanError(
                f"Curriculum.epochs: the share rises over {self.curriculum.epochs} epochs, but the stage has {epochs}; "
                f"it would end at {self.curriculum.share(epochs - 1):.3g} in place of {self.curriculum.end:g}"
            )
        last = (epochs - 1) // self.reweigh_every * self.reweigh_every
        if last < self.least_visits:
            raise PlanError(
                f"Mining: weights are last taken at epoch {last} of {epochs}, when a sample has about {last} visits, "
                f"but least_visits is {self.least_visits}; lower it or reweigh_every ({self.reweigh_every})"
            )
