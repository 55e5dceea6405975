"""One optimiser step, and what it changes. The gradient is that of the mean over all samples of all ranks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from models.batch import Batch
from models.mean import Mean
from orchestrator.gradients import norms_of, norms_of_terms
from orchestrator.heard import Heard, hears, listened
from orchestrator.mining import Difficulty
from orchestrator.plan import Stage
from orchestrator.players import backward, clip, groups_of, norms_at_image, objective, players_of, set_learning
from orchestrator.progress import Progress
from orchestrator.ranks import Ranks


@dataclass
class Trainee:
    """What changes while a stage runs."""

    task: nn.Module
    averaged: nn.Module | None
    optimizer: torch.optim.Optimizer
    names: dict[Tensor, str]
    progress: Progress
    difficulty: Difficulty | None = None
    heard: list[Heard] = field(default_factory=list)  # since they were last taken

    @property
    def judged(self) -> nn.Module:
        """The weights that are validated and handed on: the moving average when there is one."""
        return self.averaged if self.averaged is not None else self.task


def trainee_of(stage: Stage, task: nn.Module) -> Trainee:
    """``task`` with everything frozen but what ``stage`` trains, and a fresh optimiser for that."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in set_learning(task, stage).items()}
    players = players_of(stage, {name: parameter for parameter, name in names.items()})
    optimizer = torch.optim.AdamW(groups_of(players), lr=stage.optim.lr, fused=True)
    averaged = copy.deepcopy(task).requires_grad_(False) if stage.ema else None
    return Trainee(task, averaged, optimizer, names, Progress())


def learning_rate(stage: Stage, step: int, steps: int) -> float:
    """The learning rate of update ``step`` of ``steps``: the plan's, scaled by its schedule."""
    return stage.optim.lr * stage.schedule.factor(step, steps)


def update(
    trainee: Trainee, stage: Stage, batches: Sequence[Batch], *, lr: float, forward: Callable[[Batch], Any],
    autocast: Callable[[], AbstractContextManager[Any]], ranks: Ranks, stop_asked: bool = False,
    compare_terms: bool = False, look_at_image: bool = False,
) -> Tensor:  # fmt: skip
    """One optimiser step of all players on this rank's micro-batches; what it measured stays on the device.

    Each gradient is that of the mean over all samples of all ranks and micro-batches. A loss or gradient that is not
    finite on any rank leaves weights, moments and buffers of all ranks as they were.

    Args:
        stage: with the weights that its terms have now.
        compare_terms: also measure the gradient of each of the stage's own terms alone.
        look_at_image: also measure the gradient of each of them by the restored image.

    Returns:
        ``(n,)`` float64 that :meth:`orchestrator.measured.Measured.of` reads.
    """
    for group in trainee.optimizer.param_groups:
        group["lr"] = lr * group["factor"]
    buffers = list(trainee.task.buffers())  # counts among them too
    before = [buffer.clone() for buffer in buffers]
    learning = list(trainee.names)
    players = players_of(stage, {name: parameter for parameter, name in trainee.names.items()})
    alone = _terms_alone(trainee, stage, batches, autocast, ranks) if compare_terms else None
    at_image = None
    if len(batches) == 1:
        means, outputs, flags = _measure(trainee, stage, batches[0], forward, autocast)
        sums = ranks.sum(_sums([means], flags, stop_asked))
        counts = dict(zip(means, sums[len(means) : 2 * len(means)], strict=True))
        if look_at_image:
            at_image = norms_at_image({name: means[name] for name in stage.terms}, counts, outputs.image, ranks)
        backward(players, means, counts)
    else:
        sums, flags = _accumulate(trainee, stage, batches, forward, autocast, ranks, stop_asked)
    ranks.sum_gradients(learning)
    norms = norms_of(learning)
    norm = clip(players, dict(zip(trainee.names.values(), norms, strict=True)))
    bad = (~(torch.isfinite(norm).all() & torch.isfinite(sums).all())).float()
    trainee.optimizer.found_inf = bad  # type: ignore[attr-defined]  # the fused kernel skips the update where it is 1
    trainee.optimizer.step()
    trainee.optimizer.zero_grad()
    for buffer, old in zip(buffers, before, strict=True):
        buffer.copy_(torch.where(bad.bool(), old, buffer))
    if trainee.averaged is not None:
        _follow(trainee.averaged, trainee.task, stage.ema)
    nothing = sums.new_zeros(len(stage.terms))
    looked = [nothing if found is None else found for found in (alone, at_image)]
    return torch.cat([sums, torch.cat([norms, norm[:1], bad[None]]).double(), *looked, flags.flatten().double()])


def _terms_alone(
    trainee: Trainee, stage: Stage, batches: Sequence[Batch], autocast: Callable[[], Any], ranks: Ranks
) -> Tensor | None:
    """``(terms,)`` the norm of each term's own gradient, where there are several to compare."""
    if len(stage.terms) == 1 or len(batches) > 1:
        return None
    own = players_of(stage, {name: parameter for parameter, name in trainee.names.items()})[0]
    return norms_of_terms(own, trainee.task, batches[0], autocast=autocast, ranks=ranks)


def _measure(
    trainee: Trainee, stage: Stage, batch: Batch, forward: Callable[[Batch], Any], autocast: Callable[[], Any]
) -> tuple[dict[str, Mean], Any, Tensor]:
    """Each term's mean, the outputs, and ``(facts, B)`` whether each watched fact is true of each sample."""
    with autocast():
        outputs = forward(batch)
    facts = [fact(batch, outputs) for fact in watched_by(trainee.task, stage).values()]  # before the graph is freed
    means: dict[str, Mean] = {name: term.loss(batch, outputs) for name, term in stage.all_terms.items()}  # type: ignore[misc]
    if hears(stage):
        trainee.heard.append(listened(batch, outputs))
    none = batch.widths.new_zeros((0, len(batch.ids)), dtype=torch.bool)
    return means, outputs, torch.stack(facts).detach() if facts else none


def watched_by(task: nn.Module, stage: Stage) -> dict[str, Callable[[Batch, Any], Tensor]]:
    """Facts about single samples, ``(batch, outputs) -> (B,)`` bool: those the task declares as ``watched``, and
    whether a term that has a ceiling clipped them, as ``clipped_TERM``.
    """
    clipping = {f"clipped_{name}": clipped_by(term.loss) for name, term in stage.terms.items()}
    return {**getattr(task, "watched", {}), **{name: fact for name, fact in clipping.items() if fact is not None}}


def clipped_by(loss: Any) -> Callable[[Batch, Any], Tensor] | None:
    """What says whether a loss clipped a sample; none for a loss without a ceiling."""
    ceiling = getattr(loss, "ceiling", None) or getattr(loss, "clip", None)
    return getattr(loss, "clipped", None) if getattr(ceiling, "mode", "none") != "none" else None


def _sums(means: Sequence[Mapping[str, Mean]], flags: Tensor, stop_asked: bool) -> Tensor:
    """``(2 * terms + 2 + facts,)`` float64: totals, counts, ranks asked to stop, samples, samples by watched fact."""
    totals = sum(torch.stack([mean.total.detach().double() for mean in each.values()]) for each in means)
    counts = sum(torch.stack([mean.count.double() for mean in each.values()]) for each in means)
    assert isinstance(totals, Tensor) and isinstance(counts, Tensor)
    return torch.cat([totals, counts, totals.new_tensor([float(stop_asked), flags.shape[1]]), flags.sum(1).double()])


def _accumulate(
    trainee: Trainee, stage: Stage, batches: Sequence[Batch], forward: Callable[[Batch], Any],
    autocast: Callable[[], Any], ranks: Ranks, stop_asked: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Several micro-batches of one term: the count is known only at the end, so the gradient is divided then."""
    measured, flags = [], []
    for batch in batches:
        means, _, facts = _measure(trainee, stage, batch, forward, autocast)
        objective(stage.terms, means, {name: mean.count.new_ones(()) for name, mean in means.items()}).backward()
        measured.append({name: Mean(mean.total.detach(), mean.count) for name, mean in means.items()})
        flags.append(facts)
    together = torch.cat(flags, dim=1)
    sums = ranks.sum(_sums(measured, together, stop_asked))
    for parameter in trainee.names:
        if parameter.grad is not None:
            parameter.grad.div_(sums[1].clamp(min=1).to(parameter.grad.dtype))
    return sums, together


@torch.no_grad()
def _follow(averaged: nn.Module, task: nn.Module, decay: float) -> None:
    """Move the averaged parameters a little towards the present ones; buffers are taken as they are."""
    for mean, now in zip(averaged.parameters(), task.parameters(), strict=True):
        mean.lerp_(now, 1 - decay)
    for held, present in zip(averaged.buffers(), task.buffers(), strict=True):
        held.copy_(present)
