"""What the loop needs of the other workers: sums, and one answer for all. One worker needs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Ranks:
    """This worker's place among ``count`` workers that train together."""

    rank: int = 0
    count: int = 1

    @staticmethod
    def of_process_group() -> Ranks:
        """The place in the default process group, or the only worker when there is none."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return Ranks()
        return Ranks(distributed.get_rank(), distributed.get_world_size())

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """``values`` added up over all ranks, in place. Raises whatever the collective raises."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Add every parameter's gradient over all ranks, in one collective per data type."""
        if self.count == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        distributed.all_reduce(flat)
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)

    def agree(self, answer: object) -> object:
        """Rank 0's ``answer``, for all."""
        if self.count == 1:
            return answer
        box = [answer]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Return once every rank is here."""
        if self.count > 1:
            distributed.barrier()
