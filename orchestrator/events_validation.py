"""What a validation shows of a stage that goes wrong: detectors like those of :mod:`orchestrator.events`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from orchestrator.events import Event, Seen, path
from orchestrator.limits import less_is_better
from orchestrator.plan import Stage

SETTLED, SETTLED_VALIDATIONS = 0.25, 2  # share of the planned epochs, and validations, before a failure to learn is one
COLLAPSED = 0.02  # distinct readings per word
CHANCE_CER = 0.97
CHANCE_LOSS = 0.98  # of the first epoch's

RISES, RISEN = 3, 1.10  # validations in a row with a rising loss, and how far above its best
PLATEAU_VALIDATIONS = 8
DISAGREE, DISAGREE_VALIDATIONS = 0.25, 4  # share of what a metric ranged over, on both sides
RESTORER, READER = "generator", "recognizer"  # the parts of restoring tasks that make images, and that read lines
AT_FLOOR, AT_FLOOR_VALIDATIONS = 1.05, 3  # times what clean lines cost the recogniser, and validations in a row, ...
HIGH_FLOOR = 0.25  # ... where that is this share of a uniform guess; below it the recogniser is good, and all is well


def red_line(stage: Stage, *, epoch: int, step: int, crossed: Mapping[str, float]) -> list[Event]:
    """Metrics that fell further below their value before the first step than the plan allows."""
    if not crossed:
        return []
    falls = ", ".join(f"{name} fell by {fall:.4f}, allowed {stage.red_lines[name]:g}" for name, fall in crossed.items())
    sources = ", ".join(sorted({name.split("/")[0] for name in crossed}))
    return [
        Event(
            event="red_line", epoch=epoch, step=step, says=f"{falls}; this checkpoint cannot become the best",
            cause=f"the stage forgets what it could do on {sources}",
            change=f"raise the share of {sources} in {path(stage, 'data.shares')}, or lower {path(stage, 'optim.lr')}",
            evidence={"crossed": dict(crossed)},
        )
    ]  # fmt: skip


def events_of_validation(
    stage: Stage, seen: Seen, *, epoch: int, step: int, metrics: Mapping[str, float], loss: float
) -> list[Event]:
    """What a validation after ``epoch`` epochs, the last with training ``loss``, gives rise to; remembers it."""
    best = stage.best[0]
    home = _home(stage, best.metric)
    known = {"train": loss, "best": metrics[best.metric]}
    known |= {other.metric: metrics[other.metric] for other in stage.best[1:]}
    if f"{home}/loss" in metrics:
        known["loss"] = metrics[f"{home}/loss"]
    seen.validations.append(known)
    found = [
        *ctc_at_floor(stage, seen, epoch=epoch, step=step, metrics=metrics),
        *overfitting(stage, seen, epoch=epoch, step=step, of=home),
        *plateau(stage, seen, epoch=epoch, step=step),
    ]
    if epoch >= SETTLED * stage.epochs and len(seen.validations) >= SETTLED_VALIDATIONS:
        found += collapse(stage, seen, epoch=epoch, step=step, metrics=metrics)
        found += at_chance(stage, seen, epoch=epoch, step=step, metrics=metrics, loss=loss)
    return found


def _home(stage: Stage, metric: str) -> str:
    """The set that a metric is of; for a score, that of the first metric in it."""
    score = next((score for score in stage.scores if score.name == metric), None)
    return (score.metrics[0] if score else metric).rpartition("/")[0]


def looked_at(stage: Stage, of: str, metrics: Mapping[str, float]) -> str:
    """``"_target"`` where clean images of the set ``of`` are read by a stage that trains readers alone, else nothing.

    What such a stage reads in restored images is the doing of a generator that is still to learn.
    """
    return "_target" if RESTORER not in stage.learn and f"{of}/distinct_target" in metrics else ""


def collapse(stage: Stage, seen: Seen, *, epoch: int, step: int, metrics: Mapping[str, float]) -> list[Event]:
    """The network says the same of every image, or nothing at all."""
    found: list[Event] = []
    for of in sorted(name.rpartition("/")[0] for name in metrics if name.endswith("/distinct")):
        kind = looked_at(stage, of, metrics)
        distinct, blank = metrics[f"{of}/distinct{kind}"], metrics.get(f"{of}/blank_share{kind}", 0.0)
        if distinct >= COLLAPSED and blank < 1.0:
            continue
        names = (*(f"{name}{kind}" for name in ("distinct", "blank_share", "entropy")), "n")
        shown = {name: metrics[f"{of}/{name}"] for name in names if f"{of}/{name}" in metrics}
        event = Event(
            event="collapse", epoch=epoch, step=step,
            says=f"{distinct:.2%} distinct readings per word of {of}; {blank:.2%} of its frames are blank",
            cause="the network has not begun to tell images apart: too few updates so far, or a learning rate that "
            "is far too high or too low",
            change=f"change {path(stage, 'optim.lr')} (try a third and three times of it), or raise "
            f"{path(stage, 'epochs')}",
            evidence={"set": of, **shown},
        )  # fmt: skip
        found += seen.say_once(f"collapse {of}", event)
    return found


def at_chance(
    stage: Stage, seen: Seen, *, epoch: int, step: int, metrics: Mapping[str, float], loss: float
) -> list[Event]:
    """Nothing is read right, or a stage that starts from nothing has not lowered its loss."""
    sets = [name.rpartition("/")[0] for name in metrics if name.endswith("/cer")]
    rates = {name: metrics[name] for of in sets if (name := f"{of}/cer{looked_at(stage, of, metrics)}") in metrics}
    wrong = {name: rate for name, rate in rates.items() if rate >= CHANCE_CER}
    first = seen.first_loss
    stuck = not stage.start_from and first is not None and first > 0 and loss >= CHANCE_LOSS * first
    if not wrong and not stuck:
        return []
    said = [f"{name} is {value:.4f}" for name, value in wrong.items()]
    said += [f"the training loss is {loss:.4f} after {first:.4f} in the first epoch"] if stuck else []
    event = Event(
        event="at_chance", epoch=epoch, step=step, says=f"after {epoch} epochs {' and '.join(said)}",
        cause="nothing was learned: a learning rate that is far off, labels that do not belong to their images, or "
        "too few updates so far",
        change=f"change {path(stage, 'optim.lr')} (try a third and three times of it), raise "
        f"{path(stage, 'epochs')}, or look at images and labels",
        evidence={"loss": loss, "first_loss": first, **wrong},
    )  # fmt: skip
    return seen.say_once("at_chance", event)


def ctc_at_floor(stage: Stage, seen: Seen, *, epoch: int, step: int, metrics: Mapping[str, float]) -> list[Event]:
    """Restored lines cost a frozen recogniser what clean ones do, and clean ones cost it much."""
    found: list[Event] = []
    sets = [name.rpartition("/")[0] for name in metrics if name.endswith("/ctc_target")]
    for of in sets if RESTORER in stage.learn and READER not in stage.moves else ():
        shown = {name: metrics[f"{of}/{name}"] for name in ("ctc", "ctc_target", "ctc_uniform")}
        there, high = shown["ctc"] <= AT_FLOOR * shown["ctc_target"], HIGH_FLOOR * shown["ctc_uniform"]
        if seen.in_a_row(f"ctc floor {of}", there and shown["ctc_target"] >= high) < AT_FLOOR_VALIDATIONS:
            continue
        event = Event(
            event="ctc_at_floor", epoch=epoch, step=step,
            says=f"{of}: restored lines cost the recogniser {shown['ctc']:.3f} nats per character and clean ones "
            f"{shown['ctc_target']:.3f}, {AT_FLOOR_VALIDATIONS} validations in a row; a uniform guess costs "
            f"{shown['ctc_uniform']:.3f}",
            cause="what is left of the CTC is the recogniser's own error in clean lines, which no generator can lower: "
            "it has learned too little, or labels, alphabet or blank are not those it was trained with",
            change=f"train the recogniser longer before {stage.name!r}, or let it learn here ({path(stage, 'learn')}); "
            "look at what it reads in clean lines",
            evidence={"set": of, **shown},
        )  # fmt: skip
        found += seen.say_once(f"ctc_at_floor {of}", event)
    return found


def overfitting(stage: Stage, seen: Seen, *, epoch: int, step: int, of: str) -> list[Event]:
    """Validation loss rises while training loss falls."""
    known = [each for each in seen.validations if "loss" in each]
    newest = known[-RISES - 1 :]
    if len(newest) <= RISES:
        return []
    losses, least = [each["loss"] for each in newest], min(each["loss"] for each in known)
    rising = all(after > before for before, after in pairwise(losses))
    if not rising or losses[-1] <= RISEN * least or newest[-1]["train"] >= newest[0]["train"]:
        return []
    event = Event(
        event="overfitting", epoch=epoch, step=step,
        says=f"{of}/loss rose in {RISES} validations in a row to {losses[-1]:.4f}, its best was {least:.4f}; the "
        f"training loss fell from {newest[0]['train']:.4f} to {newest[-1]['train']:.4f}",
        cause="the training samples are being learned by heart",
        change=f"strengthen {path(stage, 'augment')}, add data to {path(stage, 'data.shares')}, or set "
        f"{path(stage, 'early_stop')} or fewer {path(stage, 'epochs')}",
        evidence={"losses": losses, "best": least, "train": [each["train"] for each in newest]},
    )  # fmt: skip
    return seen.say_once("overfitting", event)


def plateau(stage: Stage, seen: Seen, *, epoch: int, step: int) -> list[Event]:
    """A stage that nothing stops early, and that gained nothing in the last half of its validations."""
    best, values = stage.best[0], [each["best"] for each in seen.validations]
    if stage.early_stop or len(values) < PLATEAU_VALIDATIONS:
        return []
    top = max(values) if best.mode == "max" else min(values)
    at = values.index(top)
    perfect = top == (0.0 if less_is_better(best.metric) else 1.0)  # decibels and scores go beyond 1
    if perfect or at + 1 > len(values) / 2:
        return []
    event = Event(
        event="plateau", epoch=epoch, step=step,
        says=f"{best.metric} was best, {top:.4f}, at validation {at + 1} of {len(values)}",
        cause="the stage has learned what it can with these settings",
        change=f"set {path(stage, 'early_stop')} or fewer {path(stage, 'epochs')}, or let {path(stage, 'schedule')} "
        "lower the learning rate",
        evidence={"metric": best.metric, "best": top, "at": at + 1, "validations": len(values)},
    )  # fmt: skip
    return seen.say_once("plateau", event)


def criteria_disagree(
    stage: Stage, seen: Seen, best: Mapping[str, Mapping[str, Any]], epoch: int, step: int
) -> list[Event]:
    """At the end of a stage: two of its criteria keep different checkpoints, and each finds the other's choice poor.

    Args:
        best: metric -> value, step and all metrics of the checkpoint it keeps.
    """
    found: list[Event] = []
    first, *others = stage.best
    for other in others:
        if len(seen.validations) < DISAGREE_VALIDATIONS or not {first.metric, other.metric} <= best.keys():
            continue
        mine, theirs = best[first.metric], best[other.metric]
        lost = {
            first.metric: _lost(seen, "best", mine, theirs, first.metric),
            other.metric: _lost(seen, other.metric, theirs, mine, other.metric),
        }
        if mine["step"] == theirs["step"] or not min(lost.values()) > DISAGREE:
            continue
        event = Event(
            event="criteria_disagree", epoch=epoch, step=step,
            says=f"{_picked(first.metric, mine, other.metric)}; {_picked(other.metric, theirs, first.metric)}; by "
            f"each, the other's choice is worse by {_shares(lost)} of what it ranged over",
            cause="what one criterion rewards costs the other: pixels and readability, or noise of a small set",
            change=f"decide by one score of both ({path(stage, 'scores')}, first in {path(stage, 'best')}), or "
            "validate on more samples",
            evidence={"lost": lost, "picked": {first.metric: dict(mine), other.metric: dict(theirs)}},
        )  # fmt: skip
        found += seen.say_once(f"criteria_disagree {other.metric}", event)
    return found


def _lost(seen: Seen, key: str, own: Mapping[str, Any], other: Mapping[str, Any], metric: str) -> float:
    """By how much a checkpoint is worse than the best by ``metric``, as a share of what that ranged over."""
    values = [each[key] for each in seen.validations if key in each]
    spread = max(values) - min(values) if values else 0.0
    return abs(own["metrics"][metric] - other["metrics"][metric]) / spread if spread > 0 else 0.0


def _picked(metric: str, own: Mapping[str, Any], other: str) -> str:
    values = own["metrics"]
    return f"{metric} picks update {own['step']} ({metric} {values[metric]:.4f}, {other} {values[other]:.4f})"


def _shares(lost: Mapping[str, float]) -> str:
    return " and ".join(f"{share:.0%}" for share in lost.values())
