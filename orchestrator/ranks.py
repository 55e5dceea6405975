"""What the loop needs of the other workers: sums, and one answer for all. One worker needs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import torch
from torch import Tensor, distributed

from models.collective import sum_over_ranks, waiting

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This worker's place among ``count`` workers that train together.

    Attributes:
        nodes: the name of each rank's machine, where somebody told.
    """

    rank: int = 0
    count: int = 1
    nodes: tuple[str, ...] = ()

    @staticmethod
    def of_process_group() -> Ranks:
        """The place in the default process group, or the only worker when there is none."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return Ranks()
        return Ranks(distributed.get_rank(), distributed.get_world_size())

    def on(self, node: str) -> Ranks:
        """The same place, knowing where every rank is. All ranks have to say where they are."""
        return replace(self, nodes=tuple(self.gather(node)))

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """``values`` added up over all ranks, in place. Raises whatever the collective raises."""
        return sum_over_ranks(values) if self.count > 1 else values

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Add every parameter's gradient over all ranks, in one collective per data type."""
        if self.count == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = sum_over_ranks(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        for parameter, gradient, part in zip(
            parameters, gradients, flat.split([p.numel() for p in parameters]), strict=True
        ):  # into the gradient's own memory: the fused optimiser walks it in step with its parameter's layout
            parameter.grad = gradient.copy_(part.view(gradient.shape))

    def agree(self, answer: object) -> object:
        """Rank 0's ``answer``, for all."""
        if self.count == 1:
            return answer
        box = [answer]
        with waiting():
            distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, own: T) -> list[T]:
        """Every rank's ``own``, in the order of ranks. All ranks have to ask."""
        if self.count == 1:
            return [own]
        box: list[T | None] = [None] * self.count
        with waiting():
            distributed.all_gather_object(box, own)
        return cast("list[T]", box)

    def wait(self) -> None:
        """Return once every rank is here."""
        if self.count > 1:
            with waiting():
                distributed.barrier()
