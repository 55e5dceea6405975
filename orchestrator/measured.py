"""What an update measured, read from the device: the other end of :func:`orchestrator.update.update`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.plan import Stage
from orchestrator.update import Trainee, watched_by


@dataclass(frozen=True, kw_only=True)
class Measured:
    """An update in numbers; what is not said to be this rank's is the same on all ranks.

    Attributes:
        totals: term -> sum over all samples, ``counts`` how many items that was.
        stop: a rank was asked to stop.
        samples: learned from, over all ranks; ``flagged`` of them by watched fact.
        norm: of the stage's own whole gradient before clipping, ``norms`` by parameter, the adversary's among them.
        skipped: weights, moments and buffers were left as they were.
        alone: own term -> norm of its own weighted gradient, empty when it was not measured.
        at_image: own term -> norm of its gradient by the restored image, without its weight; likewise.
        own_flagged: watched fact -> this rank's samples for which it is true.
    """

    totals: Mapping[str, float]
    counts: Mapping[str, float]
    stop: bool
    samples: int
    flagged: Mapping[str, int]
    norms: Mapping[str, float]
    norm: float
    skipped: bool
    alone: Mapping[str, float]
    at_image: Mapping[str, float]
    own_flagged: Mapping[str, Sequence[int]]

    @staticmethod
    def of(row: Sequence[float], names: Names, ids: Sequence[int]) -> Measured:
        """The numbers of one update.

        Args:
            ids: of this rank's samples, in the order of its micro-batches.
        """
        numbers = iter(row)

        def by(names: Sequence[str]) -> dict[str, float]:
            return {name: next(numbers) for name in names}

        totals, counts = by(names.terms), by(names.terms)
        stop, samples = next(numbers) > 0, int(next(numbers))
        flagged = {fact: int(count) for fact, count in by(names.facts).items()}
        norms, norm, skipped = by(names.parameters), next(numbers), next(numbers) > 0
        alone, at_image = by(names.own), by(names.own)
        own = {}
        for fact in names.facts:
            own[fact] = [sample for sample in ids if next(numbers)]
        return Measured(
            totals=totals, counts=counts, stop=stop, samples=samples, flagged=flagged, norms=norms, norm=norm,
            skipped=skipped, alone=alone if any(alone.values()) else {},
            at_image=at_image if any(at_image.values()) else {}, own_flagged=own,
        )  # fmt: skip

    @property
    def means(self) -> dict[str, float | None]:
        """Each term's mean, or None where it is not finite."""
        return {name: finite(total / max(self.counts[name], 1)) for name, total in self.totals.items()}

    def norms_by_part(self) -> dict[str, float]:
        """The gradient's norm over each part of the task that learns."""
        squares: dict[str, list[float]] = {}
        for name, norm in self.norms.items():
            squares.setdefault(name.split(".")[0], []).append(norm * norm)
        return {part: math.sqrt(math.fsum(each)) for part, each in squares.items()}


@dataclass(frozen=True, kw_only=True)
class Names:
    """The names of the numbers in a row, each kind in the order it has there; ``own`` terms are the stage's own."""

    terms: Sequence[str]
    own: Sequence[str]
    facts: Sequence[str]
    parameters: Sequence[str]

    @staticmethod
    def of(stage: Stage, trainee: Trainee) -> Names:
        return Names(
            terms=list(stage.all_terms), own=list(stage.terms), facts=list(watched_by(trainee.task, stage)),
            parameters=list(trainee.names.values()),
        )  # fmt: skip


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
