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
    names: dict[Tensor, str] = {parameter: name for name, parameter in freeze_all_but(task, stage.learn).items()}
    optimizer = torch.optim.AdamW(
        [group for group in _groups(stage, names) if group["params"]],
        lr=stage.optim.lr,
        betas=(stage.optim.betas[0], stage.optim.betas[1]),
        fused=True,
    )
    averaged = copy.deepcopy(task).requires_grad_(False) if stage.ema else None
    return Trainee(task, averaged, optimizer, names, Progress())


def _groups(stage: Stage, names: Mapping[Tensor, str]) -> list[dict[str, Any]]:
    """Matrices and vectors of the parts that learn at the plan's rate, then those of each part with its own factor."""
    factors = stage.optim.factors
    groups: list[dict[str, Any]] = []
    for part in ("", *factors):
        own = [p for p, name in names.items() if (name.split(".")[0] if name.split(".")[0] in factors else "") == part]
        told = {"part": part, "factor": factors[part]} if part else {"factor": 1.0}
        matrices, vectors = [p for p in own if p.ndim > 1], [p for p in own if p.ndim <= 1]
        groups.append({"params": matrices, "weight_decay": stage.optim.weight_decay, **told})
        groups.append({"params": vectors, "weight_decay": 0.0, **told})
    return groups


def freeze_all_but(task: nn.Module, parts: Sequence[str]) -> dict[str, nn.Parameter]:
    """Put ``parts`` in training mode and all else in eval mode without gradient; what learns, by name."""
    task.requires_grad_(False).eval()
    for part in parts:
        task.get_submodule(part).requires_grad_(True).train()
    return {name: parameter for name, parameter in task.named_parameters() if parameter.requires_grad}


def learning_rate(stage: Stage, step: int, steps: int) -> float:
    """The learning rate of update ``step`` of ``steps``: the plan's, scaled by its schedule."""
    return stage.optim.lr * stage.schedule.factor(step, steps)


def update(
    trainee: Trainee, stage: Stage, batches: Sequence[Batch], *, lr: float, forward: Callable[[Batch], Any],
    autocast: Callable[[], AbstractContextManager[Any]], ranks: Ranks, stop_asked: bool = False,
    compare_terms: bool = False,
) -> Tensor:  # fmt: skip
    """One optimiser step on this rank's micro-batches; what it measured stays on the device.

    The gradient is that of the mean over all samples of all ranks and micro-batches. A loss or gradient that is not
    finite on any rank leaves weights, moments and buffers of all ranks as they were.

    Args:
        compare_terms: also measure the gradient of each term alone.

    Returns:
        ``(n,)`` float64 that :meth:`orchestrator.measured.Measured.of` reads.
    """
    for group in trainee.optimizer.param_groups:
        group["lr"] = lr * group["factor"]
    buffers = list(trainee.task.buffers())  # counts among them too
    before = [buffer.clone() for buffer in buffers]
    learning = list(trainee.names)
    alone = _terms_alone(trainee, stage, batches, autocast, ranks) if compare_terms else None
    if len(batches) == 1:
        means, flags = _measure(trainee, stage, batches[0], forward, autocast)
        sums = ranks.sum(_sums([means], flags, stop_asked))
        _weighted(stage, means, sums[len(means) : 2 * len(means)]).backward()
    else:
        sums, flags = _accumulate(trainee, stage, batches, forward, autocast, ranks, stop_asked)
    ranks.sum_gradients(learning)
    norms = norms_of(learning)
    norm = torch.linalg.vector_norm(norms)
    nn.utils.clip_grads_with_norm_(learning, stage.optim.clip_norm, norm)
    bad = (~(torch.isfinite(norm) & torch.isfinite(sums).all())).float()
    trainee.optimizer.found_inf = bad  # type: ignore[attr-defined]  # the fused kernel skips the update where it is 1
    trainee.optimizer.step()
    trainee.optimizer.zero_grad()
    for buffer, old in zip(buffers, before, strict=True):
        buffer.copy_(torch.where(bad.bool(), old, buffer))
    if trainee.averaged is not None:
        _follow(trainee.averaged, trainee.task, stage.ema)
    alone = sums.new_zeros(len(stage.terms)) if alone is None else alone
    return torch.cat([sums, torch.cat([norms, norm[None], bad[None]]).double(), alone, flags.flatten().double()])


def _terms_alone(
    trainee: Trainee, stage: Stage, batches: Sequence[Batch], autocast: Callable[[], Any], ranks: Ranks
) -> Tensor | None:
    """``(terms,)`` the norm of each term's own gradient, where there are several to compare."""
    if len(stage.terms) == 1 or len(batches) > 1:
        return None
    return norms_of_terms(stage, trainee.task, batches[0], list(trainee.names), autocast=autocast, ranks=ranks)


def _measure(
    trainee: Trainee, stage: Stage, batch: Batch, forward: Callable[[Batch], Any], autocast: Callable[[], Any]
) -> tuple[list[Mean], Tensor]:
    """Each term's mean, and ``(facts, B)`` whether each watched fact is true of each sample."""
    with autocast():
        outputs = forward(batch)
    means: list[Mean] = [term.loss(batch, outputs) for term in stage.terms.values()]  # type: ignore[misc]
    if hears(stage):
        trainee.heard.append(listened(batch, outputs))
    with torch.no_grad():
        facts = [fact(batch, outputs) for fact in watched_by(trainee.task).values()]
    return means, torch.stack(facts) if facts else batch.widths.new_zeros((0, len(batch.ids)), dtype=torch.bool)


def watched_by(task: nn.Module) -> Mapping[str, Callable[[Batch, Any], Tensor]]:
    """The facts about single samples that a task declares as ``watched``: ``(batch, outputs) -> (B,)`` bool."""
    return getattr(task, "watched", {})


def _sums(means: Sequence[Sequence[Mean]], flags: Tensor, stop_asked: bool) -> Tensor:
    """``(2 * terms + 2 + facts,)`` float64: totals, counts, ranks asked to stop, samples, samples by watched fact."""
    totals = torch.stack([torch.stack([mean.total.detach().double() for mean in each]) for each in means]).sum(0)
    counts = torch.stack([torch.stack([mean.count.double() for mean in each]) for each in means]).sum(0)
    return torch.cat([totals, counts, totals.new_tensor([float(stop_asked), flags.shape[1]]), flags.sum(1).double()])


def _weighted(stage: Stage, means: Sequence[Mean], counts: Tensor) -> Tensor:
    """``()`` objective whose gradient, summed over ranks, is that of the mean over all of them."""
    shares = [
        term.weight * mean.total / count.clamp(min=1).to(mean.total.dtype)
        for term, mean, count in zip(stage.terms.values(), means, counts, strict=True)
    ]
    return torch.stack(shares).sum()


def _accumulate(
    trainee: Trainee, stage: Stage, batches: Sequence[Batch], forward: Callable[[Batch], Any],
    autocast: Callable[[], Any], ranks: Ranks, stop_asked: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Several micro-batches of one term: the count is known only at the end, so the gradient is divided then."""
    measured, flags = [], []
    for batch in batches:
        means, facts = _measure(trainee, stage, batch, forward, autocast)
        _weighted(stage, means, means[0].count.new_ones(1)).backward()
        measured.append([Mean(mean.total.detach(), mean.count) for mean in means])
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
