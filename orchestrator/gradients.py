"""The gradient looked at: its norm by parameter, and what each term alone would make of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from models.batch import Batch
from models.mean import Mean
from orchestrator.players import Player, objective
from orchestrator.ranks import Ranks


def norms_of(parameters: Sequence[Tensor]) -> Tensor:
    """``(parameters,)`` 2-norm of each one's gradient, 0 where it has none."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = iter(torch._foreach_norm(gradients))
    nothing = parameters[0].new_zeros(())
    return torch.stack([nothing if parameter.grad is None else next(norms) for parameter in parameters])


def norms_of_terms(
    player: Player, task: nn.Module, batch: Batch, *,
    autocast: Callable[[], AbstractContextManager[Any]], ranks: Ranks,
) -> Tensor:  # fmt: skip
    """``(terms,)`` float64 norm of each weighted term's own gradient by what it trains, over all ranks.

    Takes a forward pass of its own, in which buffers and random draws are put back, so that training goes on as if
    nobody had looked.
    """
    buffers = {buffer: buffer.clone() for buffer in task.buffers()}
    devices = [batch.image.device] if batch.image.is_cuda else []
    with torch.random.fork_rng(devices), autocast():
        outputs = task(batch)
    means: dict[str, Mean] = {name: term.loss(batch, outputs) for name, term in player.terms.items()}  # type: ignore[misc]
    counts = dict(zip(means, ranks.sum(torch.stack([mean.count.double() for mean in means.values()])), strict=True))
    norms = []
    for name, term in player.terms.items():
        own = objective({name: term}, means, counts)
        norms.append(torch.linalg.vector_norm(ranks.sum(_flat_gradient(own, list(player.reached(name).values())))))
    for buffer, before in buffers.items():
        buffer.copy_(before)
    return torch.stack(norms).double()


def _flat_gradient(objective: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """``(numbers,)`` all of a gradient in a row; zeros where the objective does not depend on a parameter."""
    found: Sequence[Tensor | None] = [None] * len(parameters)
    if objective.requires_grad:
        found = torch.autograd.grad(objective, parameters, retain_graph=True, allow_unused=True)
    each = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    return torch.cat([gradient.reshape(-1) for gradient in each])
