"""Where the time of an epoch goes: waiting for data, waiting for other ranks, and work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from models.collective import seconds_waited
from orchestrator.ranks import Ranks

T = TypeVar("T")


@dataclass
class Pace:
    """The clock of one epoch, or of what was left of it when a run went on.

    Attributes:
        first_batch_s: until the first batch was there; it is part of no share.
        data_s: spent waiting for the batches after it.
        samples: learned from, over all ranks.
    """

    first_batch_s: float = 0.0
    data_s: float = 0.0
    samples: int = 0
    _started: float = field(default_factory=time.monotonic)
    _in_collectives: float = field(default_factory=seconds_waited)

    def over(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches, each wait for one timed."""
        waiting, first = time.monotonic(), True
        for batch in batches:
            if first:
                self.first_batch_s, first = time.monotonic() - waiting, False
            else:
                self.data_s += time.monotonic() - waiting
            yield batch
            waiting = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def samples_per_s(self) -> float:
        return self.samples / max(self.seconds, 1e-9)

    def of_ranks(self, ranks: Ranks, device: torch.device) -> tuple[dict[str, Any], list[float], list[float]]:
        """The epoch's line, and for each rank the seconds it waited for data and those it was busy.

        Busy is neither waiting for data nor in collectives; see :mod:`models.collective` for what CUDA hides.
        """
        seconds, together = self.seconds, seconds_waited() - self._in_collectives
        busy_s = seconds - self.first_batch_s - self.data_s - together
        of_all = torch.zeros(2, ranks.count, dtype=torch.float64, device=device)
        of_all[0, ranks.rank], of_all[1, ranks.rank] = self.data_s, busy_s
        waited, busy = ranks.sum(of_all).tolist()
        line = {"seconds": seconds, "samples_per_s": self.samples / max(seconds, 1e-9),
                "data_wait_share": self.data_s / max(seconds, 1e-9), "first_batch_s": self.first_batch_s}  # fmt: skip
        return line | ({"busy_s": busy} if ranks.count > 1 else {}), waited, busy
