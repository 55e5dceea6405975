"""Loss balancing: factors on the plan's weights that follow what each term does to the restored image.

A term's share in the loss says little: with a clipped CTC it was 98 % of the loss and none of the gradient. So
:class:`Balance` goes by the norm of each term's own gradient by the restored image. :class:`LossBalance` is the rule
that went by losses, for comparison.

Pure functions over plain numbers, which must be those of all ranks together: every rank then has the same factors.
What they remember is :class:`Balanced`, JSON data for a checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal

from orchestrator.limits import PlanError, at_least, positive, within

MOVED = 1e-6  # total movement that rounding alone does not reach
NOTHING = 1e-30  # a norm up to this is that of a term without gradient
HALVINGS = 100


@dataclass(frozen=True, kw_only=True)
class Balanced:
    """What a balancer remembers. Change it with a rule's ``after``, never in place.

    Attributes:
        factors: term -> what the plan's weight is multiplied by.
        averages: term -> moving average of what is measured; without those that had no gradient yet.
        silent: term -> updates in a row, up to the last, in which it had no gradient.
        updates: how often the factors were set.
        movement: the sum over updates and terms of ``|ln(new factor / old factor)|``.
    """

    factors: Mapping[str, float]
    averages: Mapping[str, float] = field(default_factory=dict)
    silent: Mapping[str, int] = field(default_factory=dict)
    updates: int = 0
    movement: float = 0.0

    @property
    def moved(self) -> bool:
        """Whether the factors ever changed. A balancer that had its updates and never moved does nothing."""
        return self.movement > MOVED

    def plain(self) -> dict[str, Any]:
        """All of it, as JSON data."""
        return asdict(self)

    @staticmethod
    def of(data: Mapping[str, Any], rule: Balance | LossBalance) -> Balanced:
        """What :meth:`plain` gave. Raises :class:`ValueError` where it is of other terms than ``rule`` has."""
        known = Balanced(**data)
        if set(known.factors) != set(rule.shares):
            raise ValueError(
                f"Balanced: the checkpoint balances {', '.join(sorted(known.factors))}, the plan "
                f"{', '.join(sorted(rule.shares))}; same plan?"
            )
        return known


@dataclass(frozen=True, kw_only=True)
class Balance:
    """Factors with which each term has its share in the gradient at the restored image.

    With ``g`` the norms of the terms' own gradients by the restored image, at the plan's weights, the factors are
    ``share * sum(g) / g``: ``sum(factor * g)`` stays what the plan's weights make of it, and only moves between
    terms. Where a bound holds a factor back, the others make up for it in proportion.

    Attributes:
        shares: term -> its share; they sum to 1. Terms that are not named keep the plan's weight.
        rate: share of the newest norm in the moving average, which is geometric: one spike of 250 times moves it
            1.7 times at 0.1, where an arithmetic one would move 26 times and take the other terms along.
        least: of a factor, at most 1.
        most: of a factor, at least 1.
        warmup: epochs before the first update; no less than any term's ramp, which it would undo.
        every: updates of the weights between two looks at the gradients, which cost about a step more.
    """

    measures: ClassVar[Literal["gradients", "losses"]] = "gradients"

    shares: Mapping[str, float]
    rate: float = 0.1
    least: float = 0.01
    most: float = 100.0
    warmup: int = 1
    every: int = 10

    def __post_init__(self) -> None:
        _check_shares("Balance", self.shares)
        at_least("Balance.every", self.every, 1)
        positive("Balance.rate", self.rate)
        within("Balance.rate", self.rate, 0.0, 1.0)
        positive("Balance.least", self.least)
        within("Balance.least", self.least, 0.0, 1.0)
        within("Balance.most", self.most, 1.0, 1e6)
        at_least("Balance.warmup", self.warmup, 0)

    def check(self, ramps: Mapping[str, int], epochs: int) -> None:
        """Raise :class:`PlanError` where it would not act as the plan of a stage says.

        Args:
            ramps: of every term of the stage, in epochs.
            epochs: of the stage.
        """
        _check_stage("Balance", self, ramps, epochs)

    def after(self, known: Balanced, norms: Mapping[str, float], *, epoch: int) -> Balanced:
        """``known`` after one update in which the terms' gradients had these norms over all ranks.

        Unchanged during the warm-up, and where a norm is not finite. A term without gradient keeps average and factor.

        Args:
            norms: term -> 2-norm of ``weight * dL/dx`` at the plan's weight, without the factor.
            epoch: finished epochs of the stage.
        """
        found = _expected(self.shares, norms, "norms")
        if epoch < self.warmup or not all(map(math.isfinite, found.values())):
            return known
        if min(found.values()) < 0:
            raise ValueError(f"balance: a norm is at least 0, got {found}")
        alive = {term: norm for term, norm in found.items() if norm > NOTHING}
        averages = dict(known.averages)
        for term, norm in alive.items():
            old = averages.get(term, norm)
            averages[term] = old * (norm / old) ** self.rate
        silent = {term: 0 if term in alive else known.silent.get(term, 0) + 1 for term in found}
        factors = {**known.factors, **balancing(self.shares, averages, least=self.least, most=self.most)}
        return _moved(replace(known, averages=averages, silent=silent), factors)


@dataclass(frozen=True, kw_only=True)
class LossBalance:
    """The rule of a system before this one: factors that follow each term's share in the sum of the losses.

    ``factor <- max(least, factor * (1 + gain * (share - found)))``, ``found`` the term's share in ``factor * loss``.
    It takes losses without the plan's weights, so that shares are not those of the objective; it has no ceiling; and
    what a clipped loss says of gradient is nothing. Kept for comparisons.

    Attributes:
        shares: term -> its share; they sum to 1.
        rate: share of the newest loss in the moving average.
        gain: how fast factors follow.
        least: of a factor.
        warmup: epochs before the first update; no less than any term's ramp.
        every: updates of the weights between two of the factors.
    """

    measures: ClassVar[Literal["gradients", "losses"]] = "losses"

    shares: Mapping[str, float]
    rate: float = 0.1
    gain: float = 0.15
    least: float = 0.01
    warmup: int = 1
    every: int = 1

    def __post_init__(self) -> None:
        _check_shares("LossBalance", self.shares)
        at_least("LossBalance.every", self.every, 1)
        positive("LossBalance.rate", self.rate)
        within("LossBalance.rate", self.rate, 0.0, 1.0)
        positive("LossBalance.gain", self.gain)
        within("LossBalance.gain", self.gain, 0.0, 1.0)
        positive("LossBalance.least", self.least)
        within("LossBalance.least", self.least, 0.0, 1.0)
        at_least("LossBalance.warmup", self.warmup, 0)

    def check(self, ramps: Mapping[str, int], epochs: int) -> None:
        """As :meth:`Balance.check`."""
        _check_stage("LossBalance", self, ramps, epochs)

    def after(self, known: Balanced, losses: Mapping[str, float], *, epoch: int) -> Balanced:
        """``known`` after one update with these losses, of all ranks, without weights.

        Unchanged during the warm-up, and where a loss is not finite. Raises :class:`ValueError` for one below 0, of
        which there are no shares.
        """
        found = _expected(self.shares, losses, "losses")
        if epoch < self.warmup or not all(map(math.isfinite, found.values())):
            return known
        if below := {term: loss for term, loss in found.items() if loss < 0}:
            raise ValueError(f"LossBalance: {below} lie below 0 and have no share in a sum; balance by gradients")
        averages = {
            term: (1 - self.rate) * known.averages.get(term, loss) + self.rate * loss for term, loss in found.items()
        }
        now = shares_of(replace(known, averages=averages))
        factors = {
            term: max(self.least, known.factors[term] * (1 + self.gain * (share - now[term])))
            for term, share in self.shares.items()
        }
        return _moved(replace(known, averages=averages), factors)


def untouched(rule: Balance | LossBalance) -> Balanced:
    """Before the first update: every term has the plan's weight."""
    return Balanced(factors=dict.fromkeys(rule.shares, 1.0))


def spread(groups: Mapping[str, tuple[float, Sequence[str]]]) -> dict[str, float]:
    """Term -> share, from groups that divide their share equally among their terms.

    Args:
        groups: such as ``{"recognition": (0.65, ("ctc", "feature")), "visual": (0.35, ("pixel", "perceptual"))}``.
    """
    if empty := [name for name, (_, terms) in groups.items() if not terms]:
        raise PlanError(f"spread: {empty} have a share but no terms")
    each = [(term, share / len(terms)) for share, terms in groups.values() for term in terms]
    if len({term for term, _ in each}) < len(each):
        raise PlanError(f"spread: a term is in two groups: {[term for term, _ in each]}")
    return dict(each)


def shares_of(known: Balanced) -> dict[str, float]:
    """Term -> its present share in the sum of ``factor * average``; 0 for all while nothing was measured."""
    parts = {term: factor * known.averages.get(term, 0.0) for term, factor in known.factors.items()}
    total = sum(parts.values())
    return {term: part / total if total else 0.0 for term, part in parts.items()}


def balancing(
    shares: Mapping[str, float], norms: Mapping[str, float], *, least: float, most: float
) -> dict[str, float]:  # fmt: skip
    """Term -> factor in ``least .. most``, for the terms that have a norm; ``sum(factor * norm) == sum(norm)``.

    Within bounds a factor is ``scale * share / norm``, with the one scale that keeps the sum.

    Args:
        shares: those of terms without a norm go to the others, in proportion.
        norms: above 0.
        least: at most 1.
        most: at least 1, so that there is such a scale.
    """
    total, taking = sum(norms.values()), sum(shares[term] for term in norms)
    wanted = {term: shares[term] / taking * total / norm for term, norm in norms.items()}

    def bounded(scale: float) -> dict[str, float]:
        return {term: min(max(scale * factor, least), most) for term, factor in wanted.items()}

    if not wanted or bounded(1.0) == wanted:
        return wanted
    low, high = math.log(least / max(wanted.values())), math.log(most / min(wanted.values()))
    for _ in range(HALVINGS):  # the sum rises with the scale
        middle = (low + high) / 2
        too_much = sum(factor * norms[term] for term, factor in bounded(math.exp(middle)).items()) > total
        low, high = (low, middle) if too_much else (middle, high)
    return bounded(math.exp((low + high) / 2))


def _moved(known: Balanced, factors: Mapping[str, float]) -> Balanced:
    """``known`` with new factors and the books of an update."""
    way = sum(abs(math.log(factor / known.factors[term])) for term, factor in factors.items())
    return replace(known, factors=dict(factors), updates=known.updates + 1, movement=known.movement + way)


def _expected(shares: Mapping[str, float], measured: Mapping[str, float], what: str) -> dict[str, float]:
    """What was measured of the balanced terms, in the plan's order."""
    if missing := [term for term in shares if term not in measured]:
        raise ValueError(f"balance: no {what} of {missing}; measured are {sorted(measured)}")
    return {term: float(measured[term]) for term in shares}


def _check_shares(where: str, shares: Mapping[str, float]) -> None:
    if len(shares) < 2 or not all(share > 0 for share in shares.values()):
        raise PlanError(f"{where}.shares: at least two terms, each above 0, got {dict(shares)}")
    if not abs(sum(shares.values()) - 1) <= 1e-6:
        raise PlanError(f"{where}.shares: must sum to 1, got {dict(shares)} (sum {sum(shares.values()):g})")


def _check_stage(where: str, rule: Balance | LossBalance, ramps: Mapping[str, int], epochs: int) -> None:
    if unknown := sorted(set(rule.shares) - set(ramps)):
        raise PlanError(f"{where}.shares names {unknown}; the stage's terms are {', '.join(ramps)}")
    if rule.warmup >= epochs:
        raise PlanError(f"{where}.warmup: {rule.warmup} epochs of a stage of {epochs}; it would never act")
    for term in rule.shares:
        if ramps[term] > rule.warmup:
            raise PlanError(
                f"{where}.warmup: {rule.warmup} epochs, but {term!r} is brought in over {ramps[term]}, which balancing "
                f"would undo; set it to {ramps[term]}"
            )
