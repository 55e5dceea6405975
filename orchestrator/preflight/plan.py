"""Preflight of the plan: settings that nothing reads or that cannot have an effect, and what it starts from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

from orchestrator.moving import balances
from orchestrator.plan import Recipe, Stage
from orchestrator.preflight import Found, PreflightError

HEADROOM = 0.02  # of the CER: what a recogniser must read better in clean images than in those to be restored
LEARNED = 0.5  # of what a uniform guess costs: the most that clean images may cost the recogniser
BEFORE = ("bicubic", "degraded")  # what images are called before they are restored, in the names of metrics


def check_settings(stage: Stage, recipe: Recipe, *, steps: int, samples: Sequence[int], draws: Sequence[int]) -> Found:
    """Every setting of the network is read while it is built, and every setting of the stage can have an effect.

    Args:
        samples: how many samples each source of the stage's mix has; ``draws`` are taken of each in an epoch.
    """
    unread = _unread(recipe.task)
    if unread:
        raise PreflightError(f"the network was built without a look at {', '.join(unread)}; take those settings out")
    idle = []
    for name, drawn, size in zip(stage.data.shares, draws, samples, strict=True):
        if not drawn:
            idle.append(f"data.shares.{name}: {stage.data.shares[name]:g} of an epoch is less than one sample")
        if not size:
            idle.append(f"data.shares.{name}: there are no training samples")
    highest = max(stage.schedule.factor(step, steps) for step in range(steps))
    if highest < 1 - 1e-2:
        idle.append(f"optim.lr: the schedule reaches {highest:.2g} of it at most in {steps} steps")
    if stage.balance is not None and not any(_balanced(stage, steps)):
        idle.append(
            f"balance: every {stage.balance.every} updates, none of which comes after its warm-up of "
            f"{stage.balance.warmup} epochs in {steps} steps"
        )
    if idle:
        raise PreflightError(f"stage {stage.name!r}: settings without effect: {'; '.join(idle)}")
    validations = -(-stage.epochs // stage.validate_every)
    warnings = []
    if stage.early_stop and stage.early_stop.patience >= validations:
        warnings.append(
            f"stages.{stage.name}.early_stop: a patience of {stage.early_stop.patience} cannot run out in "
            f"{validations} validations; it never stops this stage"
        )
    if stage.ema and steps * (1 - stage.ema) < 1:
        warnings.append(
            f"stages.{stage.name}.ema: in {steps} steps an average of {stage.ema:g} stays {stage.ema**steps:.0%} what "
            "it was before the first one; what is validated is mostly the start"
        )
    count = sum(len(fields(node)) for _, node in _nodes(recipe.task, "task"))
    return Found(says=f"all {count} settings of the network are read when it is built", warnings=tuple(warnings))


def _balanced(stage: Stage, steps: int) -> Iterator[bool]:
    """Whether each update of the stage is one that its balance looks at."""
    per_epoch = max(steps // stage.epochs, 1)
    return (balances(stage, step // per_epoch, step) for step in range(steps))


def _unread(task: Any) -> list[str]:
    """Dotted settings of the task's plan that nothing reads while the network is built."""
    nodes = dict(_nodes(task, "task"))
    read: set[tuple[int, str]] = set()
    with _reads_noted({type(node) for node in nodes.values()}, read):
        task.build()
    return [
        f"{path}.{each.name}"
        for path, node in nodes.items()
        for each in fields(node)
        if (id(node), each.name) not in read
    ]


def _nodes(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """A plan's dataclasses with their dotted paths."""
    if is_dataclass(value) and not isinstance(value, type):
        yield path, value
        for each in fields(value):
            yield from _nodes(getattr(value, each.name), f"{path}.{each.name}")


@contextmanager
def _reads_noted(kinds: set[type], read: set[tuple[int, str]]) -> Iterator[None]:
    """Put (instance, attribute) into ``read`` whenever one of these classes' instances is asked for an attribute."""

    def noted(self: Any, name: str) -> Any:
        read.add((id(self), name))
        return object.__getattribute__(self, name)

    for kind in kinds:
        kind.__getattribute__ = noted  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        for kind in kinds:
            del kind.__getattribute__


def check_start(stage: Stage, measured: Mapping[str, float]) -> Found:
    """Weights from elsewhere reach their floor on this stage's validation data, before anything is trained on it."""
    start = stage.start_from
    floor = start.floor if start else {}
    low = {metric: least for metric, least in floor.items() if not measured[metric] >= least}
    if low:
        told = ", ".join(f"{metric}={measured[metric]:.4f}, floor {least:g}" for metric, least in low.items())
        raise PreflightError(
            f"stage {stage.name!r}: the weights it starts from reach {told} on its validation data. Another alphabet, "
            "polarity or preparation of images looks like this; look at readings with `predict` before lowering the "
            f"floor (stages.{stage.name}.start_from.floor)"
        )
    told = ", ".join(f"{metric} {measured[metric]:.4f} (floor {least:g})" for metric, least in floor.items())
    return Found(says=told or "no floor is asked of the weights it starts from")


def check_headroom(stage: Stage, measured: Mapping[str, float]) -> Found:
    """The recogniser reads clean images better than those to be restored: else it has nothing to teach a generator."""
    says = []
    for name in stage.validate:
        if f"{name}/cer_target" not in measured:  # pages without text
            continue
        clean = measured[f"{name}/cer_target"]
        start = next(measured[f"{name}/cer_{kind}"] for kind in BEFORE if f"{name}/cer_{kind}" in measured)
        told = f"{name}: the recogniser's CER is {clean:.4f} in clean images, {start:.4f} in those to be restored"
        if not clean <= start - HEADROOM:
            raise PreflightError(
                f"stage {stage.name!r}, {told}; the first must be lower by {HEADROOM:g} at least, or it is no guide. "
                "Train it longer; look at what it reads in clean images, and at their range, polarity and orientation"
            )
        says.append(told + _better_than_a_guess(stage, name, measured))
    return Found(says="; ".join(says))


def _better_than_a_guess(stage: Stage, name: str, measured: Mapping[str, float]) -> str:
    """What is said of the recogniser's CTC in clean images, where it is measured against that of a uniform guess."""
    clean, guess = measured.get(f"{name}/ctc_target"), measured.get(f"{name}/ctc_uniform")
    if clean is None or guess is None:
        return ""
    if not clean < LEARNED * guess:
        raise PreflightError(
            f"stage {stage.name!r}, {name}: clean images cost the recogniser {clean:.3f} nats per character, a uniform "
            f"guess {guess:.3f}; it must be less than {LEARNED:g} of that, or its CTC is a floor that no generator can "
            "lower. Look for another alphabet, blank or orientation than it was trained with"
        )
    return f", CTC {clean:.3f} nats per character in clean ones (a uniform guess: {guess:.3f})"


def restores(measured: Mapping[str, float]) -> bool:
    """Whether these are the metrics of a task that restores images."""
    return any(name.endswith("/cer_target") for name in measured)
