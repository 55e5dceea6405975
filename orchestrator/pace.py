"""Where the time of an epoch goes: waiting for data, waiting for other ranks, and work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from models.collective import seconds_waited
from orchestrator.ranks import Ranks

T = TypeVar("T")
DATA, UPDATE = "waiting for data", "the update"


@dataclass
class Pace:
    """The clock of one epoch, or of what was left of it when a run went on.

    Attributes:
        first_batch_s: until the first batch was there; it is part of no share.
        data_s: spent waiting for the batches after it.
        samples: learned from, over all ranks, as far as this rank can tell; ``own`` of them here, in ``updates``.
    """

    first_batch_s: float = 0.0
    data_s: float = 0.0
    samples: int = 0
    own: int = 0
    updates: int = 0
    _started: float = field(default_factory=time.monotonic)
    _in_collectives: float = field(default_factory=seconds_waited)

    def over(self, batches: Iterator[T], *, at: Callable[[str], None] = lambda phase: None) -> Iterator[T]:
        """The same batches, each wait for one timed.

        Args:
            at: is told what comes next: waiting for data, or the update that follows.
        """
        waiting, first = time.monotonic(), True
        at(DATA)
        for batch in batches:
            if first:
                self.first_batch_s, first = time.monotonic() - waiting, False
            else:
                self.data_s += time.monotonic() - waiting
            at(UPDATE)
            yield batch
            waiting = time.monotonic()
            at(DATA)

    def took(self, own: int, ranks: Ranks) -> None:
        """Count an update on ``own`` samples here and about as many on every other rank."""
        self.own += own
        self.samples += own * ranks.count
        self.updates += 1

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def samples_per_s(self) -> float:
        return self.samples / max(self.seconds, 1e-9)

    def of_ranks(self, ranks: Ranks, device: torch.device) -> tuple[dict[str, Any], list[float], list[float]]:
        """The epoch's line, and for each rank the seconds it waited for data and those it was busy.

        Busy is neither waiting for data nor in collectives; see :mod:`models.collective` for what CUDA hides. Where
        there are several ranks the line has lists with a value for each: ``data_s``, ``busy_s``, ``step_s`` (busy, per
        update) and ``rank_samples_per_s``.
        """
        seconds, together = self.seconds, seconds_waited() - self._in_collectives
        busy_s = seconds - self.first_batch_s - self.data_s - together
        of_all = torch.zeros(3, ranks.count, dtype=torch.float64, device=device)
        of_all[:, ranks.rank] = torch.tensor([self.data_s, busy_s, self.own], dtype=torch.float64)
        waited, busy, own = ranks.sum(of_all).tolist()
        line: dict[str, Any] = {"seconds": seconds, "samples_per_s": self.samples / max(seconds, 1e-9),
                "data_wait_share": self.data_s / max(seconds, 1e-9), "first_batch_s": self.first_batch_s}  # fmt: skip
        if ranks.count > 1:
            line |= {"samples_per_s": sum(own) / max(seconds, 1e-9), "data_s": waited, "busy_s": busy}
            line |= {"step_s": [each / max(self.updates, 1) for each in busy]}
            line |= {"rank_samples_per_s": [each / max(seconds, 1e-9) for each in own]}
        return line, waited, busy
