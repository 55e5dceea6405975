"""What an optimiser works towards and how: terms, AdamW's settings, and a second player with its own of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from orchestrator import limits
from orchestrator.limits import PlanError, at_least, positive, within


@dataclass(frozen=True, kw_only=True)
class Term:
    """One addend of an objective: ``weight * loss(batch, outputs)``.

    Attributes:
        loss: a function of a module, or a frozen dataclass whose instances are called and whose fields are settings.
        trains: parts that this term sends gradient into, and no other; every part that learns when none is named.
        ramp: epochs over which the weight rises from 0 to itself, in a line; 0 means all of it at once.
    """

    loss: Callable[..., object]
    weight: float = 1.0
    trains: tuple[str, ...] = ()
    ramp: int = 0

    def __post_init__(self) -> None:
        limits.finite("Term.weight", self.weight)
        at_least("Term.ramp", self.ramp, 0)
        settings = getattr(self.loss, "__dataclass_params__", None)
        if isinstance(self.loss, type) or (settings is not None and not settings.frozen):
            raise PlanError(f"Term.loss: {self.loss!r}; give a function, or an instance of a frozen dataclass")

    def weight_at(self, epoch: int) -> float:
        """The weight after ``epoch`` finished epochs of the stage."""
        return self.weight * min(epoch / self.ramp, 1.0) if self.ramp else self.weight


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW.

    Attributes:
        lr: learning rate that the schedule scales.
        weight_decay: decoupled, on matrices and kernels only (no biases, no normalisation).
        clip_norm: ceiling on the gradient's 2-norm over all learning parts.
        accumulate: micro-batches per update; each holds ``batch_size / accumulate`` samples.
        factors: part -> what its learning rate is multiplied by; 1 for every part that is not named.
    """

    lr: float
    weight_decay: float = 0.0
    clip_norm: float = 5.0
    accumulate: int = 1
    betas: tuple[float, ...] = (0.9, 0.999)
    factors: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positive("Optim.lr", self.lr)
        within("Optim.weight_decay", self.weight_decay, 0.0, 1.0)
        positive("Optim.clip_norm", self.clip_norm)
        at_least("Optim.accumulate", self.accumulate, 1)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise PlanError(f"Optim.betas: two numbers in [0, 1), got {self.betas}")
        for part, factor in self.factors.items():
            positive(f"Optim.factors of {part!r}", factor)


@dataclass(frozen=True, kw_only=True)
class Adversary:
    """A second player: parts that learn from the same outputs, in the same update, against the stage's own.

    Both gradients are taken at the same weights, each from its own terms into its own parts alone, and both players
    move at once; an update that is not finite for one is skipped for both.

    Attributes:
        learn: parts of the task that no other player trains.
        terms: what they are optimised towards, by names that the stage's own terms do not have.
        optim: theirs; ``accumulate`` stays 1.
    """

    learn: tuple[str, ...]
    terms: Mapping[str, Term]
    optim: Optim

    def __post_init__(self) -> None:
        if not self.learn or not self.terms:
            raise PlanError("Adversary: learn and terms must each name at least one")
        if self.optim.accumulate != 1 or self.optim.factors:
            raise PlanError("Adversary.optim: accumulate is 1 and factors are none; they belong to the stage's own")
        if ramped := [name for name, term in self.terms.items() if term.ramp]:
            raise PlanError(f"Adversary.terms: {ramped} have a ramp; only the stage's own terms can")
