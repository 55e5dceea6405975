"""The launching side of training on Ray: one group of workers after another, until the run has ended.

A group has a fixed size and trains until the end, until it is asked to make way for another one, or until it loses a
worker. The next one goes on from the newest checkpoint, with as many workers as there is room for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator.cluster import nodes_named
from orchestrator.execution import Execution, spelled
from orchestrator.live import LiveFolder, RunFailed
from orchestrator.places import Places, cleared, room_for
from orchestrator.pulse import forget, hung, pulses
from orchestrator.repeated import repeated

LOOK_S = 1.0
GROW_AFTER_S = 30.0  # a group that just began is not asked to make way for a larger one


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a run asks of the cluster.

    Attributes:
        need: resources of one worker.
        stages: of the recipe, in order, which tell how far a run came.
    """

    execution: Execution
    need: Mapping[str, float]
    stages: Sequence[str]


def run_groups(run_group: Callable[[int], None], wanted: Wanted, live: LiveFolder) -> bool:
    """Run groups until one brings the run to its end; False when a stop was asked for.

    Args:
        run_group: trains with so many workers until they all leave; raises when one was lost.

    Raises:
        RunFailed: too often in a row no group got further than the one before, or there were no places for one.
    """
    execution, furthest, failures = wanted.execution, (-1, -1), 0
    while True:
        size = _room(wanted, live)
        if not size:
            return False
        if size < execution.workers:
            live.say(f"training with {size} of {execution.workers} workers")
        forget(live.folder)
        error = None
        with _looking_around(wanted, live, size):
            try:
                with cleared(wanted.need, size):
                    run_group(size)
            except _losses() as lost:
                error = lost
        if live.ended():
            return live.outcome()
        if live.end_asked():
            return False
        why = live.regroup()
        stuck = hung(pulses(live.folder), execution.timeout_s) if error else ""
        if why and not stuck:  # where one rank hangs, Ray's own end of the others is no wish to go
            live.say(f"{why}: another group of workers goes on from the newest checkpoint")
            continue
        if error is None:
            return live.outcome()
        reached = _reached(wanted.stages, live)
        failures = 1 if reached > furthest else failures + 1
        furthest = max(furthest, reached)
        cause = _cause(error, live, execution.timeout_s)
        if failures > execution.retries:
            raise RunFailed(
                f"{cause}. {failures} times in a row no group got further than the one before; the same command goes "
                "on from the newest checkpoint"
            ) from error
        live.say(f"warning: {cause}. Going on from the newest checkpoint (try {failures} of {execution.retries})")


def _losses() -> tuple[type[Exception], ...]:
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError

    return TrainingFailedError, RayError


def _room(wanted: Wanted, live: LiveFolder) -> int:
    """How many workers can start; 0 when the run shall end. Raises :class:`RunFailed` when too few can for too long."""
    execution = wanted.execution
    size = room_for(
        wanted.need, fewest=execution.fewest, most=execution.workers, wait_s=execution.wait_s,
        enough=live.end_asked, say=live.say,
    )  # fmt: skip
    if not size and not live.end_asked():
        raise RunFailed(
            f"--workers {spelled(execution)}: no places for {execution.fewest} workers came in "
            f"{execution.wait_s:.0f} s (--wait); the nodes now: {', '.join(nodes_named().values())}. Add nodes or use "
            "fewer workers; the same command goes on from the newest checkpoint"
        )
    return size


@contextmanager
def _looking_around(wanted: Wanted, live: LiveFolder, size: int) -> Iterator[None]:
    """Ask the group to make way when there is room for more workers, or when a node of it is about to go."""
    most, looks = wanted.execution.workers, 0
    here: list[str] = []
    more: list[Places] = []

    def look() -> None:
        nonlocal looks, here
        if len(here) < size:  # its own workers have to find their places first
            here = [str(each["node_id"]) for each in pulses(live.folder)]
            return
        looks += 1
        if going := leaving(here):
            live.ask_to_regroup(f"{going} is about to go")
        if size < most and not more:
            more.append(Places(wanted.need, most - size))
        elif more and looks * LOOK_S >= GROW_AFTER_S and (ready := more[0].ready()):
            live.ask_to_regroup(f"there is room for {ready} more worker{'s' * (ready > 1)}")

    try:
        with repeated(look, every_s=LOOK_S, name="looking-around"):
            yield
    finally:
        for places in more:
            places.give_back()


def leaving(node_ids: Sequence[str]) -> str:
    """The first of these nodes that Ray was told will go (``ray drain-node``), by name; nothing when none does."""
    from ray._private.state import state

    drained = [node for node in state.get_draining_nodes() if node in node_ids]
    return nodes_named().get(drained[0], drained[0]) if drained else ""


def _reached(stages: Sequence[str], live: LiveFolder) -> tuple[int, int]:
    """How far training came: number of the stage, and updates in it."""
    status = live.status()
    if status is None or "step" not in status:
        return (-1, -1)
    return stages.index(status["stage"]), int(status["step"])


def _cause(error: BaseException, live: LiveFolder, timeout_s: float) -> str:
    """Who was lost, or hung, or what a worker raised."""
    from ray.exceptions import RayActorError

    told = pulses(live.folder)
    if found := hung(told, timeout_s):
        return found
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", {})
    lost = [rank for rank, failure in sorted(failures.items()) if isinstance(failure, RayActorError)]
    where = {each["rank"]: each for each in told}
    named = [
        f"rank {rank} on {where[rank]['node']} (process {where[rank]['pid']}, in {where[rank]['phase']})"
        for rank in lost if rank in where
    ]  # fmt: skip
    if named:
        return f"lost {', '.join(named)}"
    if isinstance(error, RayActorError):
        return "lost the process that watches over the workers (Ray Train's controller)"
    first = next(iter(failures.values()), error)
    lines = str(first).strip().splitlines()
    return f"a group of workers failed: {type(first).__name__}: {lines[-1] if lines else ''}"
