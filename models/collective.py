"""Sums and rows over all ranks, and how long this process has waited in them: what a fast rank spends on a slow one.

The seconds are those of the calling thread. On CPU a collective returns when all ranks have brought their part, so
they are the waiting itself. On CUDA it is only queued: the waiting shows where the device is next read, and there a
fast rank and a slow one look equally busy. What can still be seen there is a rank whose own host is slow.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


class _Waited:
    """One count a process, because collectives are met deep inside networks, where nobody can be handed one."""

    seconds = 0.0
    since: float | None = None  # the present wait, or the one that failed


def sum_over_ranks(values: Tensor) -> Tensor:
    """``values`` added up over all ranks, in place."""
    with waiting():
        dist.all_reduce(values)
    return values


def rows_of_ranks(rows: Tensor) -> Tensor:
    """``(N, K)`` the rows of all ranks, in the order of ranks, without gradient; all have to ask.

    Args:
        rows: ``(n, k)`` this rank's; ``n`` and ``k`` may differ between ranks. Shorter rows end in zeros.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows.detach()
    sizes = torch.zeros(dist.get_world_size(), 2, dtype=torch.long, device=rows.device)
    sizes[dist.get_rank()] = sizes.new_tensor(rows.shape)
    counts, columns = sum_over_ranks(sizes).unbind(1)
    start = int(counts[: dist.get_rank()].sum())
    together = rows.new_zeros(int(counts.sum()), int(columns.max()))
    together[start : start + rows.shape[0], : rows.shape[1]] = rows.detach()
    return sum_over_ranks(together)


@contextmanager
def waiting() -> Iterator[None]:
    """Count the time spent inside as waiting for other ranks."""
    started = _Waited.since = time.monotonic()
    try:
        yield
    finally:
        _Waited.seconds += time.monotonic() - started
    _Waited.since = None  # not after an error: who asks then wants to know how long it was waited for


def waits_since() -> float | None:
    """The ``time.monotonic()`` at which this process began to wait in a collective; none outside of one.

    One that raised, as after a time-out, counts as not ended.
    """
    return _Waited.since


def seconds_waited() -> float:
    """Seconds this process has spent in collectives since it started."""
    return _Waited.seconds
