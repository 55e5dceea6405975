"""What the clock shows of an epoch that goes wrong: detectors like those of :mod:`orchestrator.events`.

Two runs of one plan differ in these, so they go to ``speed.jsonl`` and are remembered by nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median_low

from orchestrator.events import Event, path
from orchestrator.plan import Stage

LONG_ENOUGH_S = 5.0  # shorter epochs are not judged by the clock
DATA_WAIT = 0.10  # share of an epoch
STRAGGLES = 1.25  # times the busy seconds of the median rank; of an even number, the lower of the middle two


def events_of_clock(
    stage: Stage, *, epoch: int, step: int, seconds: float, waited: Sequence[float], busy: Sequence[float],
    nodes: Sequence[str] = (),
) -> list[Event]:  # fmt: skip
    """What an epoch's clock gives rise to.

    Args:
        waited: seconds each rank waited for data, the first batch of the epoch aside.
        busy: seconds each rank waited neither for data nor in collectives.
        nodes: where each rank is; nothing when nobody said.
    """
    if seconds < LONG_ENOUGH_S:
        return []
    return [
        *data_wait(stage, epoch=epoch, step=step, seconds=seconds, waited=waited, nodes=nodes),
        *straggler(epoch=epoch, step=step, seconds=seconds, busy=busy, nodes=nodes),
    ]


def _named(rank: int, nodes: Sequence[str]) -> str:
    return f"rank {rank} on {nodes[rank]}" if nodes else f"rank {rank}"


def data_wait(
    stage: Stage, *, epoch: int, step: int, seconds: float, waited: Sequence[float], nodes: Sequence[str] = ()
) -> list[Event]:
    """The rank that waits longest for its data waits too long."""
    longest = max(waited)
    if longest <= DATA_WAIT * seconds:
        return []
    rank = waited.index(longest)
    return [
        Event(
            event="data_wait", epoch=epoch, step=step,
            says=f"{_named(rank, nodes)} waited {longest:.1f} of the epoch's {seconds:.1f} s for data",
            cause="reading and augmenting take longer than the update they should hide behind: a slow disk, other "
            "work on the machine, or costly augmentation",
            change=f"put the store on a faster disk, leave it more cores, or lighten {path(stage, 'augment')}",
            evidence={"rank": rank, "share": longest / seconds, "seconds": seconds, "waited_s": list(waited)}
            | ({"node": nodes[rank]} if nodes else {}),
        )
    ]  # fmt: skip


def straggler(
    *, epoch: int, step: int, seconds: float, busy: Sequence[float], nodes: Sequence[str] = ()
) -> list[Event]:
    """Ranks for which all others wait. On CUDA only those whose host is slow: see :mod:`models.collective`."""
    usual = median_low(busy)
    slow = {rank: each for rank, each in enumerate(busy) if each > STRAGGLES * usual}
    if not slow:
        return []
    named = ", ".join(f"{_named(rank, nodes)} was busy for {each:.1f} s" for rank, each in slow.items())
    return [
        Event(
            event="straggler", epoch=epoch, step=step,
            says=f"{named} of the epoch's {seconds:.1f} s, the median rank for {usual:.1f} s",
            cause="that worker's machine is slower or shared with other work, and all others wait for it",
            change="free or leave out that machine (cluster.yaml), or run fewer workers (--workers)",
            evidence={"ranks": list(slow), "busy_s": list(busy), "median_s": usual, "seconds": seconds}
            | ({"nodes": [nodes[rank] for rank in slow]} if nodes else {}),
        )
    ]  # fmt: skip


def damaged_checkpoint(epoch: int, step: int, what: str) -> Event:
    """That a checkpoint was passed over when training went on from update ``step``; ``what`` is wrong with it."""
    return Event(
        event="damaged_checkpoint", epoch=epoch, step=step,
        says=f"{what}; training goes on from update {step}",
        cause="the disk was full, or something else wrote there",
        change="look after the disk; nothing in the plan",
        evidence={"what": what, "goes_on_from": step},
    )  # fmt: skip
