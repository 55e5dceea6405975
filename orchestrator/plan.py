"""What a training run *is*: a recipe of stages, as plain frozen data that is checked when it is built.

Nothing here imports Ray, Torch or MLflow, so a plan can be built, checked, diffed and hashed on a laptop before a
single GPU is asked for. Where and how fast it runs is `orchestrator/execution.py`, never part of a plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from orchestrator import limits
from orchestrator.balance import Balance, LossBalance
from orchestrator.curriculum import Curriculum, Mining, WeighSymbols
from orchestrator.expressions import Expression
from orchestrator.kinds import AlphabetLike, Fingerprinted, ScheduleLike, SourceLike, TaskLike
from orchestrator.limits import PlanError, at_least, within
from orchestrator.objective import Adversary, Optim, Term
from orchestrator.schedule import Constant, Cosine, OneCycle, StepDown
from orchestrator.search import Asha, Median, Search
from orchestrator.start import Imported, StartFrom
from orchestrator.wear import Wear

__all__ = [
    "Adversary",
    "Asha",
    "Augment",
    "Balance",
    "Best",
    "Constant",
    "Cosine",
    "Curriculum",
    "EarlyStop",
    "Expression",
    "Imported",
    "LossBalance",
    "Median",
    "Mining",
    "Mix",
    "OneCycle",
    "Optim",
    "PlanError",
    "Recipe",
    "Search",
    "Stage",
    "StartFrom",
    "StepDown",
    "Term",
    "Wear",
    "WeighSymbols",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Which sources a stage learns from, and in what shares.

    Attributes:
        shares: source name -> share of each epoch; they sum to 1. The first is the primary source.
        epoch_samples: samples per epoch over all sources; 0 means one pass over the primary source.
            Smaller epochs walk on through the sources where the last one stopped.
    """

    shares: Mapping[str, float]
    epoch_samples: int = 0

    def __post_init__(self) -> None:
        if not self.shares or not all(share > 0 for share in self.shares.values()):
            raise PlanError(f"Mix.shares: every share must be above 0, got {dict(self.shares)}")
        if not abs(sum(self.shares.values()) - 1) <= 1e-6:
            raise PlanError(f"Mix.shares: must sum to 1, got {dict(self.shares)} (sum {sum(self.shares.values()):g})")
        at_least("Mix.epoch_samples", self.epoch_samples, 0)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Random changes to each training image, drawn from (seed, epoch, sample) alone.

    Each strength is the most that is drawn, uniformly from 0; 0 switches that change off.

    Attributes:
        rotate: degrees either way.
        shear: columns per row, either way.
        stretch: share of the width and of the height, either way.
        shift: share of the height, up or down and along.
        blur: standard deviation in pixels.
        noise: standard deviation, in units of the full range from black to white.
        contrast: share of the contrast, either way.
        brightness: share of the full range, either way.
        invert: probability of swapping black and white inside the valid width.
    """

    rotate: float = 0.0
    shear: float = 0.0
    stretch: float = 0.0
    shift: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    invert: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (("rotate", 45), ("shear", 1), ("stretch", 0.5), ("shift", 0.5), ("blur", 5),
                           ("noise", 1), ("contrast", 0.95), ("brightness", 1), ("invert", 1)):  # fmt: skip
            within(f"Augment.{name}", getattr(self, name), 0.0, most)


@dataclass(frozen=True, kw_only=True)
class Best:
    """A metric by which one checkpoint is kept for good. The first of a stage is what later stages start from."""

    metric: str
    mode: Literal["max", "min"] = "max"

    def __post_init__(self) -> None:
        limits.sensible_mode("Best.mode", self.metric, self.mode)


@dataclass(frozen=True, kw_only=True)
class EarlyStop:
    """Stop after ``patience`` validations in a row without a gain of more than ``min_delta``."""

    metric: str
    mode: Literal["max", "min"] = "max"
    patience: int
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        limits.sensible_mode("EarlyStop.mode", self.metric, self.mode)
        at_least("EarlyStop.patience", self.patience, 1)
        within("EarlyStop.min_delta", self.min_delta, 0.0, math.inf)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One leg of progressive training: what learns, towards what, on what, from where, for how long.

    Attributes:
        learn: parts of the task that learn; every other part is frozen, buffers included.
        terms: exactly what is optimised, by the name it is logged under.
        epochs: passes as :class:`Mix` defines them; the schedule's horizon.
        batch_size: samples per optimiser update, over all workers and micro-batches.
        ema: decay of the averaged weights that are validated and kept; 0 for none.
        validate: source -> split measured after every ``validate_every`` epochs and, where the stage starts
            from an earlier one, before its first step. Never ``"test"``.
        best: what is kept; the first one is the stage's own result.
        red_lines: metric -> largest drop below its value before the first step. A checkpoint that crosses one
            cannot become a best one: the guard against forgetting.
        gate: metric -> value the stage's result must reach before a later stage may start.
        nonfinite_limit: updates skipped for a non-finite gradient before the run stops.
        weigh: how often each symbol is confused in training decides what it weighs in the terms named.
        mining: samples that training reads badly are drawn more often.
        adversary: what learns against this stage's own parts, in the same update.
        balance: moves weight between terms, so that each has its share in what becomes of the restored image.
        scores: validation metrics made of others, which ``best`` and the like may name.
        freeze_norm: batch norm uses the statistics it came with, also in the parts that learn.
        wear: training lines are worn anew in every epoch; None learns from the damage that is stored.
        search: the stage is swept, and the winner's settings are its own; no part of its identity, which they are.
    """

    name: str
    learn: tuple[str, ...]
    terms: Mapping[str, Term]
    optim: Optim
    schedule: ScheduleLike = field(default_factory=Constant)
    epochs: int
    batch_size: int
    data: Mix
    augment: Augment = field(default_factory=Augment)
    ema: float = 0.0
    validate: Mapping[str, str]
    validate_every: int = 1
    best: tuple[Best, ...]
    early_stop: EarlyStop | None = None
    red_lines: Mapping[str, float] = field(default_factory=dict)
    gate: Mapping[str, float] = field(default_factory=dict)
    start_from: StartFrom | Imported | None = None
    nonfinite_limit: int = 10
    weigh: WeighSymbols | None = None
    mining: Mining | None = None
    adversary: Adversary | None = None
    balance: Balance | LossBalance | None = None
    scores: tuple[Expression, ...] = ()
    freeze_norm: bool = False
    wear: Wear | None = None
    search: Search | None = None

    def __post_init__(self) -> None:
        where = f"stage {self.name!r}"
        at_least(f"{where}: epochs", self.epochs, 1)
        at_least(f"{where}: batch_size", self.batch_size, 1)
        at_least(f"{where}: validate_every", self.validate_every, 1)
        at_least(f"{where}: nonfinite_limit", self.nonfinite_limit, 0)
        within(f"{where}: ema", self.ema, 0.0, 0.99999)
        if self.validate_every > self.epochs:
            raise PlanError(f"{where}: validate_every {self.validate_every} is more than its {self.epochs} epochs")
        if not self.learn or not self.terms or not self.best or not self.validate:
            raise PlanError(f"{where}: learn, terms, validate and best must each name at least one")
        if len({best.metric for best in self.best}) < len(self.best):
            raise PlanError(f"{where}: best names a metric twice: {[best.metric for best in self.best]}")
        for metric, drop in self.red_lines.items():
            limits.finite(f"{where}: red line of {metric!r}", drop)
        limits.floors(f"{where}: gate", self.gate)
        limits.helpers(self)
        if self.wear is not None:
            self.wear.check(where, list(self.data.shares))
        if self.optim.accumulate > 1 and len(self.all_terms) > 1:
            raise PlanError(
                f"{where}: optim.accumulate is {self.optim.accumulate} and it has {len(self.all_terms)} terms; their "
                "denominators differ, so accumulating would not give their means. Set accumulate to 1."
            )
        if self.batch_size % self.optim.accumulate:
            raise PlanError(
                f"{where}: batch_size {self.batch_size} does not divide into {self.optim.accumulate} micro-batches"
            )
        for source, split in self.validate.items():
            if split not in ("train", "valid"):
                raise PlanError(f"{where}: validates on {source}/{split}; allowed: valid or train, never test")

    @property
    def moves(self) -> tuple[str, ...]:
        """Parts that learn, of all players."""
        return (*self.learn, *(self.adversary.learn if self.adversary else ()))

    @property
    def all_terms(self) -> Mapping[str, Term]:
        """The terms of all players, this stage's own first."""
        return {**self.terms, **(self.adversary.terms if self.adversary else {})}

    @property
    def metrics_named(self) -> tuple[str, ...]:
        """Every validation metric this stage decides by."""
        stop = (self.early_stop.metric,) if self.early_stop else ()
        floor = self.start_from.floor if self.start_from else {}
        return (*(best.metric for best in self.best), *stop, *self.red_lines, *self.gate, *floor)

    @property
    def sources(self) -> tuple[str, ...]:
        """Every source this stage reads, in the order it names them."""
        paper = (self.wear.paper,) if self.wear and self.wear.paper else ()
        return tuple(dict.fromkeys((*self.data.shares, *self.validate, *paper)))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A task and the stages that train it, in order.

    Attributes:
        seed: every random draw of the recipe descends from it.
        image: the one way an image becomes pixels, from ingest to export.
        alphabet: declared, frozen, and carried through shards, checkpoints and exports.
        sources: where data come from; ``--data NAME=DIR`` says where they lie.
    """

    name: str
    seed: int = 0
    task: TaskLike
    image: Fingerprinted
    alphabet: AlphabetLike
    sources: Mapping[str, SourceLike]
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise PlanError(f"recipe {self.name!r} has no stages")
        if self.task.classes != self.alphabet.classes:
            raise PlanError(
                f"recipe {self.name!r}: the task reads {self.task.classes} classes, but the alphabet needs "
                f"{self.alphabet.classes} (its symbols and the blank)"
            )
        for name in (self.name, *self.sources, *(stage.name for stage in self.stages)):
            limits.plain_name(name)
        earlier: list[str] = []
        for stage in self.stages:
            limits.check_stage(stage, earlier=earlier, recipe=self)
            earlier.append(stage.name)

    def stage(self, name: str) -> Stage:
        """The stage called ``name``, or at that number from 0. Raises :class:`PlanError`."""
        names = [stage.name for stage in self.stages]
        if name.isdigit() and int(name) < len(names):
            return self.stages[int(name)]
        if name in names:
            return self.stages[names.index(name)]
        numbered = ", ".join(f"{number} {known}" for number, known in enumerate(names))
        raise PlanError(f"recipe {self.name!r} has no stage {name!r}; it has: {numbered}")

    def parent(self, stage: Stage) -> Stage | None:
        """The stage that ``stage`` starts from, or None where it starts from nothing or from imported weights."""
        return self.stage(stage.start_from.stage) if isinstance(stage.start_from, StartFrom) else None
