"""What is seen going wrong while a stage trains: numbers in, events out. Pure; what it remembers is JSON data.

Each detector is a function of the plan, what was :class:`Seen` so far and the newest numbers. An event says what was
found, the likely cause and the setting to change. A healthy run raises none, so every threshold below leaves room for
what healthy runs were seen to do. Here are those of updates and epochs; ``events_adversary``, ``events_validation`` and
``events_clock`` have the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from orchestrator.plan import Stage

MOST_IDS = 16  # sample ids that an event names

SPIKE = 10.0  # a gradient norm stands out at this many times the median of those before it, ...
SPIKE_WINDOW, SPIKE_LEAST = 64, 16  # ... the newest 64, once there are 16
# Learning to read 1.6 million healthy words met single spikes of up to 39 times, and 7 beyond 10 times in an epoch of
# 1,563 updates; clipping takes care of those.
SPIKE_ALONE = 100.0  # one this high is an event by itself
SPIKE_SHARE, SPIKES_LEAST = 0.02, 3  # lower ones are when they are this share of an epoch's updates, and this many

CLIPPING = 0.5  # share of an epoch's updates
DEAD = 1e-4  # share of a term in the gradient
DOUBTED = 0.5  # share of the samples beyond which the reader is to be doubted rather than the labels


@dataclass(frozen=True, kw_only=True)
class Event:
    """A finding.

    Attributes:
        event: what kind of finding.
        epoch: the epoch it was made in, from 1; 0 before the first.
        step: the update it belongs to, or how many there were by then.
        says: one sentence with the numbers.
        change: the setting to change, by its path in the plan, and how.
        evidence: the numbers and sample ids.
    """

    event: str
    epoch: int
    step: int
    says: str
    cause: str
    change: str
    evidence: Mapping[str, Any]

    def line(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Seen:
    """What detectors remember of a stage, as JSON data in a checkpoint.

    Attributes:
        norms: the newest finite gradient norms, oldest first.
        spikes: how many stood out in the unfinished epoch; ``highest`` says which most.
        samples: watched fact -> the first ids it was true for.
        first_loss: training loss of the first epoch.
        suspects: how many labels were suspected when that was last told.
        validations: training loss and the stage's own validation loss, metric and other metrics kept by, at each.
        streaks: state -> epochs in a row, up to the last, that were in it.
        said: what is said once in a stage.
    """

    norms: list[float] = field(default_factory=list)
    spikes: int = 0
    highest: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, list[int]] = field(default_factory=dict)
    first_loss: float | None = None
    suspects: int = 0
    validations: list[dict[str, float]] = field(default_factory=list)
    streaks: dict[str, int] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def say_once(self, what: str, event: Event) -> list[Event]:
        """The event the first time, nothing after that."""
        if what in self.said:
            return []
        self.said.append(what)
        return [event]

    def in_a_row(self, what: str, holds: bool) -> int:
        """How many times in a row, up to now, ``what`` held; to be asked once an epoch."""
        self.streaks[what] = self.streaks.get(what, 0) + 1 if holds else 0
        return self.streaks[what]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """A finished epoch in numbers.

    Attributes:
        epoch: its number from 1; ``step`` updates were made by its end, ``updates`` of them in it.
        loss: what was optimised, averaged over the epoch.
        clipped: updates whose gradient was cut to ``clip_norm``.
        samples: how many were learned from; ``flagged`` of them by watched fact.
        gradient_shares: share of each own term in the gradient.
        losses: mean of each term of all players, without its weight; ``weights`` of the own ones by the epoch's end.
        balance: what :class:`orchestrator.balance.Balanced` remembers; empty where there is none.
    """

    epoch: int
    step: int
    updates: int
    loss: float
    clipped: int
    samples: int
    flagged: Mapping[str, int]
    gradient_shares: Mapping[str, float]
    losses: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    balance: Mapping[str, Any] = field(default_factory=dict)


def path(stage: Stage, setting: str) -> str:
    """Where a stage's setting is in the plan, as ``--set`` names it."""
    return f"stages.{stage.name}.{setting}"


def nonfinite(stage: Stage, *, epoch: int, step: int, evidence: Mapping[str, Any]) -> Event:
    """An update that was left out. ``evidence`` has ``terms``, ``samples`` and how many were ``skipped`` so far."""
    bad = [name for name, value in evidence["terms"].items() if value is None]
    what = f"{', '.join(bad)} was not finite" if bad else "the gradient was not finite"
    return Event(
        event="nonfinite", epoch=epoch, step=step, evidence=evidence,
        says=f"update {step} was skipped: {what} on samples {listed(evidence['samples'])}; "
        f"{evidence['skipped']} skipped so far, {stage.nonfinite_limit} allowed",
        cause="the learning rate is too high for what was learned so far, or those samples are damaged",
        change=f"lower {path(stage, 'optim.lr')}, or look at those samples",
    )  # fmt: skip


def note_norm(
    stage: Stage, seen: Seen, *, step: int, norm: float, by_parameter: Mapping[str, float], by_part: Mapping[str, float]
) -> None:
    """Remember an update's gradient norm, and what stands out about it."""
    usual = median(seen.norms) if len(seen.norms) >= SPIKE_LEAST else math.inf
    times = norm / max(usual, 1e-12)
    if times > SPIKE and norm > stage.optim.clip_norm:
        seen.spikes += 1
        if times > seen.highest.get("times", 0.0):
            parameter, part = (max(norms, key=lambda name: norms[name]) for norms in (by_parameter, by_part))
            seen.highest = {
                "step": step, "norm": norm, "median": usual, "times": times, "part": part, "parameter": parameter,
                "share": (by_parameter[parameter] / norm) ** 2,
            }  # fmt: skip
    seen.norms.append(norm)
    del seen.norms[:-SPIKE_WINDOW]


def events_of_epoch(stage: Stage, seen: Seen, now: Epoch, *, samples: Mapping[str, Sequence[str]]) -> list[Event]:
    """What an epoch's updates gave rise to.

    Args:
        samples: watched fact -> ids of samples it was true for.
    """
    seen.first_loss = now.loss if seen.first_loss is None else seen.first_loss
    return [
        *gradient_spike(stage, seen, now),
        *clipping_always(stage, seen, now),
        *dead_term(stage, seen, now),
        *flagged_samples(stage, seen, now, samples),
    ]


def gradient_spike(stage: Stage, seen: Seen, now: Epoch) -> list[Event]:
    """One event for all of an epoch's spikes; forgets them."""
    found, spikes = seen.highest, seen.spikes
    seen.highest, seen.spikes = {}, 0
    if not found or (found["times"] <= SPIKE_ALONE and spikes < max(SPIKES_LEAST, SPIKE_SHARE * now.updates)):
        return []
    says = (
        f"gradient norm {found['norm']:.4g} at update {found['step']}, {found['times']:.0f} times the usual "
        f"{found['median']:.4g}; {found['share']:.0%} of its square is {found['parameter']}'s (part {found['part']})"
    )
    others = f"; {spikes - 1} other updates of the epoch stood out" if spikes > 1 else ""
    return [
        Event(
            event="gradient_spike", epoch=now.epoch, step=found["step"], says=says + others,
            cause="the learning rate is too high, or some batches hold samples unlike all others",
            change=f"lower {path(stage, 'optim.lr')}, lengthen the warm-up of {path(stage, 'schedule')}, "
            f"or lower {path(stage, 'optim.clip_norm')}",
            evidence=found | {"others": spikes - 1, "updates": now.updates},
        )
    ]  # fmt: skip


def clipping_always(stage: Stage, seen: Seen, now: Epoch) -> list[Event]:
    """More than half of an epoch's gradients were cut, in an epoch after the first."""
    if now.epoch < 2 or now.clipped <= CLIPPING * now.updates:
        return []
    event = Event(
        event="clipping_always", epoch=now.epoch, step=now.step,
        says=f"{now.clipped} of the epoch's {now.updates} gradients were longer than {stage.optim.clip_norm:g} and "
        "were cut",
        cause="the ceiling is below the gradient's usual norm, so that it sets the size of the updates",
        change=f"raise {path(stage, 'optim.clip_norm')}, or lower {path(stage, 'optim.lr')} if norms grow",
        evidence={"clipped": now.clipped, "updates": now.updates, "clip_norm": stage.optim.clip_norm,
                  "median_norm": median(seen.norms) if seen.norms else None},
    )  # fmt: skip
    return seen.say_once("clipping_always", event)


def dead_term(stage: Stage, seen: Seen, now: Epoch) -> list[Event]:
    """A term that is optimised in name only."""
    found: list[Event] = []
    for term, share in now.gradient_shares.items():
        if share < DEAD:
            event = Event(
                event="dead_term", epoch=now.epoch, step=now.step,
                says=f"term {term!r} is {share:.2g} of the gradient, less than {DEAD:g}",
                cause="its weight is too small beside the other terms', or nothing that learns can change it",
                change=f"raise {path(stage, f'terms.{term}.weight')}, or take the term out",
                evidence={"term": term, "share": share, "gradient_shares": dict(now.gradient_shares)},
            )  # fmt: skip
            found += seen.say_once(f"dead_term {term}", event)
    return found


FLAGGED = {  # watched fact -> what it says of samples, why, and what to change
    "infeasible": (
        "cannot be spelled in the frames they have, and teach nothing",
        "their labels are too long for their width, or hold symbols that the alphabet lacks",
        "raise image.max_width if they were squeezed to it; otherwise leave them out of the source",
    ),
    "nonfinite_image": (
        "are, or were restored to, images that are not finite",
        "the learning rate is too high for what was learned so far, or those samples are damaged",
        "lower {stage}.optim.lr, or look at those samples",
    ),
    "nonfinite": (
        "gave scores that are not finite",
        "the learning rate is too high for what was learned so far, or those samples are damaged",
        "lower {stage}.optim.lr, or look at those samples",
    ),
}
CULPRITS = ("nonfinite_image", "nonfinite")  # whom to blame for a skipped update, the first that is true of any
IN_SHARES = ("clipped_", "worse_than_guessing")  # what a few samples may be: ``events_adversary`` asks how many are
OTHERWISE = ("were flagged as {fact}", "the task's rule of that name was met", "look at those samples")


def flagged_samples(stage: Stage, seen: Seen, now: Epoch, samples: Mapping[str, Sequence[str]]) -> list[Event]:
    """Samples for which a watched fact was true: told once a stage, with the ids met in the first such epoch."""
    found: list[Event] = []
    for fact, count in now.flagged.items():
        if not count or fact.startswith(IN_SHARES):
            continue
        says, cause, change = FLAGGED.get(fact, OTHERWISE)
        ids = list(samples.get(fact, ()))
        event = Event(
            event=fact, epoch=now.epoch, step=now.step,
            says=f"{count} of the epoch's {now.samples} samples {says.format(fact=fact)}: {listed(ids)}",
            cause=cause, change=change.format(stage=f"stages.{stage.name}"),
            evidence={"count": count, "share": count / now.samples, "samples": ids},
        )  # fmt: skip
        found += seen.say_once(fact, event)
    return found


def suspect_labels(stage: Stage, seen: Seen, now: Epoch, *, count: int, of: int, ids: Sequence[str]) -> list[Event]:
    """Samples whose label, rather than the reader, is suspected: told at first, then whenever twice as many are.

    Args:
        count: how many of all ``of`` samples; ``ids`` are the first of them, the longest suspected first.
    """
    if stage.mining is None or not count or count < 2 * seen.suspects:
        return []
    seen.suspects = count
    visits, nearly_all = stage.mining.suspect_after, count > DOUBTED * of
    return [
        Event(
            event="suspect_labels", epoch=now.epoch, step=now.step,
            says=f"no character of {count} of {of} samples was read right in their last {visits} visits or more: "
            f"{listed(ids)}; they are no longer drawn as hard ones",
            cause="the reader reads next to nothing, so that it says nothing of labels" if nearly_all else
            "their labels are wrong, or nothing can be seen in their images",
            change=f"{'train the reader for longer before this stage' if nearly_all else 'look at those samples'}; if "
            f"they are merely hard, raise {path(stage, 'mining.suspect_after')}",
            evidence={"count": count, "share": count / of, "suspect_after": visits, "samples": list(ids)},
        )
    ]  # fmt: skip


def listed(ids: Sequence[str]) -> str:
    """The first ids, and how many more there are."""
    more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
    return ", ".join(map(str, ids[:5])) + more
