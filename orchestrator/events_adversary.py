"""What an epoch shows of terms that pull against each other: detectors like those of :mod:`orchestrator.events`.

A discriminator that tells nothing apart or has won, a ceiling that most samples are above, readings that are worse
than a guess, a term that is large in the loss and small in the gradient, a balance that never moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.balance import Balanced
from orchestrator.events import Epoch, Event, Seen, path
from orchestrator.plan import Stage

LASTING = 3  # epochs in a row before a state is one: a discriminator begins at chance, a reader with a poor guess
NEAR_CHANCE = 0.02  # of the loss of the best discriminator that is constant
WON, BEATEN = 0.02, 1.5  # shares of chance: at most this much of the discriminator's, at least this of the generator's
MOST = 0.5  # share of an epoch's samples
MUCH, LITTLE = 0.9, 0.05  # shares of a term in the loss and in the gradient, either way round


def events_of_terms(stage: Stage, seen: Seen, now: Epoch) -> list[Event]:
    """What an epoch's losses and counts give rise to."""
    return [
        *discriminator(stage, seen, now),
        *always_clipped(stage, seen, now),
        *worse_than_guessing(stage, seen, now),
        *loss_without_gradient(stage, seen, now),
        *balancer_never_moved(stage, seen, now),
    ]


def discriminator(stage: Stage, seen: Seen, now: Epoch) -> list[Event]:
    """A discriminator that tells clean from restored no better than a constant, or that the generator cannot fool."""
    found: list[Event] = []
    for name, term in (stage.adversary.terms if stage.adversary else {}).items():
        chance, loss = getattr(term.loss, "chance", 0.0), now.losses.get(name)
        if not chance or loss is None:
            continue
        numbers = {"term": name, "loss": loss, "chance": chance, "epochs": LASTING}
        if seen.in_a_row(f"at chance {name}", loss >= (1 - NEAR_CHANCE) * chance) >= LASTING:
            found += seen.say_once(f"discriminator_at_chance {name}", _at_chance(stage, now, numbers))
        fooling = _of_generator(stage, now)
        beaten = {term: value for term, value in fooling.items() if value >= BEATEN}
        if seen.in_a_row(f"won {name}", loss <= WON * chance and bool(beaten)) >= LASTING:
            found += seen.say_once(f"discriminator_wins {name}", _wins(stage, now, numbers | {"generator": beaten}))
    return found


def _of_generator(stage: Stage, now: Epoch) -> dict[str, float]:
    """Own terms that know what they are against a discriminator at chance: how many times that they are."""
    chances = {name: getattr(term.loss, "chance", 0.0) for name, term in stage.terms.items()}
    return {name: now.losses[name] / chance for name, chance in chances.items() if chance > 0 and name in now.losses}


def _at_chance(stage: Stage, now: Epoch, numbers: Mapping[str, Any]) -> Event:
    return Event(
        event="discriminator_at_chance", epoch=now.epoch, step=now.step,
        says=f"{numbers['term']} was {numbers['loss']:.4f} or so for {LASTING} epochs; a discriminator that says the "
        f"same of every image has {numbers['chance']:.4f}",
        cause="it learns too slowly to tell restored from clean images, so that what it says to the generator means "
        "nothing",
        change=f"raise {path(stage, 'adversary.optim.lr')} or {path(stage, 'adversary.optim.clip_norm')}, or train "
        "without an adversary",
        evidence=dict(numbers),
    )  # fmt: skip


def _wins(stage: Stage, now: Epoch, numbers: Mapping[str, Any]) -> Event:
    told = ", ".join(f"{name} {times:.1f} times" for name, times in numbers["generator"].items())
    return Event(
        event="discriminator_wins", epoch=now.epoch, step=now.step,
        says=f"{numbers['term']} was at most {WON:.0%} of {numbers['chance']:.4f} for {LASTING} epochs, now "
        f"{numbers['loss']:.4g}; the generator's is {told} what chance gives it",
        cause="the discriminator tells restored from clean images with ease, and its gradient no longer says how to "
        "fool it",
        change=f"lower {path(stage, 'adversary.optim.lr')}, smooth its labels (real=0.9), or train for longer without "
        "an adversary before",
        evidence=dict(numbers),
    )  # fmt: skip


def always_clipped(stage: Stage, seen: Seen, now: Epoch) -> list[Event]:
    """A term whose ceiling is below most of its samples."""
    found: list[Event] = []
    for name, term in stage.terms.items():
        share = now.flagged.get(f"clipped_{name}", 0) / max(now.samples, 1)
        if seen.in_a_row(f"clipped {name}", share > MOST) < LASTING:
            continue
        ceiling: Any = getattr(term.loss, "ceiling", None) or getattr(term.loss, "clip", None)
        field = "ceiling" if hasattr(term.loss, "ceiling") else "clip"
        hard = ceiling.mode == "hard"
        setting = path(stage, f"terms.{name}.loss.{field}")
        event = Event(
            event="always_clipped", epoch=now.epoch, step=now.step,
            says=f"{name}: {share:.0%} of the samples were above the ceiling of {ceiling.value:g} ({ceiling.mode}), "
            f"more than half for {LASTING} epochs" + ("; those have no gradient at all" if hard else ""),
            cause="the ceiling is below what the term costs even where all is well, or the recogniser cannot read "
            "these lines in clean images either",
            change=f"raise {setting}.value" + (f", or set {setting}.mode to 'log_tail'" if hard else "")
            + "; compare it with the term's value on clean images",
            evidence={"term": name, "share": share, "mode": ceiling.mode, "ceiling": ceiling.value,
                      "loss": now.losses.get(name)},
        )  # fmt: skip
        found += seen.say_once(f"always_clipped {name}", event)
    return found


def worse_than_guessing(stage: Stage, seen: Seen, now: Epoch) -> list[Event]:
    """Most labels are less likely than if all characters were equally likely everywhere."""
    count = now.flagged.get("worse_than_guessing", 0)
    share = count / max(now.samples, 1)
    if seen.in_a_row("worse_than_guessing", share > MOST) < LASTING:
        return []
    event = Event(
        event="worse_than_guessing", epoch=now.epoch, step=now.step,
        says=f"{count} of the epoch's {now.samples} labels cost more than a uniform guess would, more than half for "
        f"{LASTING} epochs",
        cause="the recogniser is sure of something else: labels, alphabet, blank, orientation or polarity do not "
        "belong to it, or it never learned to read such images",
        change="compare the reading of clean images with their labels, look at the alphabet and the image's polarity; "
        "train or import another recogniser",
        evidence={"count": count, "share": share},
    )  # fmt: skip
    return seen.say_once("worse_than_guessing", event)


def loss_without_gradient(stage: Stage, seen: Seen, now: Epoch) -> list[Event]:
    """A term that is nearly all of the loss and hardly any of the gradient, or the other way round."""
    sizes = {name: abs(now.weights[name] * loss) for name, loss in now.losses.items() if name in now.weights}
    whole = sum(sizes.values())
    found: list[Event] = []
    for name, gradient in now.gradient_shares.items():
        loss = sizes.get(name, 0.0) / whole if whole else 0.0
        apart = (loss > MUCH and gradient < LITTLE) or (gradient > MUCH and loss < LITTLE)
        if seen.in_a_row(f"loss and gradient {name}", apart) < LASTING:
            continue
        dead = gradient < LITTLE
        event = Event(
            event="loss_without_gradient" if dead else "gradient_without_loss", epoch=now.epoch, step=now.step,
            says=f"{name} is {loss:.1%} of the loss and {gradient:.1%} of the gradient, for {LASTING} epochs like this",
            cause="its value is held by a ceiling, or nothing that learns can change it: the loss says nothing of what "
            "is learned" if dead else "its gradient is steep where its value is small: it decides what is learned, "
            "whatever the loss says",
            change=f"judge by gradients, not by losses: change {path(stage, f'terms.{name}.weight')} or its ceiling, "
            f"or set {path(stage, 'balance')}",
            evidence={"term": name, "loss_share": loss, "gradient_share": gradient},
        )  # fmt: skip
        found += seen.say_once(f"loss and gradient {name}", event)
    return found


def balancer_never_moved(stage: Stage, seen: Seen, now: Epoch) -> list[Event]:
    """A balance of terms that had its time and changed no factor."""
    rule = stage.balance
    if rule is None or now.epoch <= rule.warmup:
        return []
    known = Balanced.of(now.balance, rule) if now.balance else None
    if known is not None and known.moved:
        return []
    silent = [name for name, times in (known.silent if known else {}).items() if times]
    updates = known.updates if known else 0
    event = Event(
        event="balancer_never_moved", epoch=now.epoch, step=now.step,
        says=f"the balance of {', '.join(rule.shares)} was set {updates} times in {now.epoch - rule.warmup} epochs and "
        "never moved a weight" + (f"; {', '.join(silent)} had no gradient" if silent else ""),
        cause="it was not asked yet, or what it measures has no gradient" if silent or not updates else
        "its bounds hold every factor where it is",
        change=f"lower {path(stage, 'balance.every')}, widen {path(stage, 'balance.least')} and its like, or take the "
        "balance out",
        evidence={"updates": updates, "movement": known.movement if known else 0.0, "silent": silent},
    )  # fmt: skip
    return seen.say_once("balancer_never_moved", event)
