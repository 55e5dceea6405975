"""Places for workers: one Ray placement group for each worker that may start.

Ray itself then says what fits, on nodes that answer and beside whoever else is on the cluster, and an autoscaler sees
what is wanted. A place that is there is kept from others until it is given back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

SETTLED_S = 5.0  # fewer workers than wanted start only when no further place has come for so long
POLL_S = 0.2


class Places:
    """Room for up to ``count`` workers, each of which needs ``need``."""

    def __init__(self, need: Mapping[str, float], count: int) -> None:
        from ray.util import placement_group

        self._groups = [placement_group([dict(need)]) for _ in range(count)]

    def ready(self) -> int:
        """How many workers could start now."""
        from ray.util import placement_group_table

        table = placement_group_table()  # of all in one answer, where each alone would be asked for
        return sum(table[group.id.hex()]["state"] == "CREATED" for group in self._groups)

    def give_back(self) -> None:
        from ray.util import remove_placement_group

        for group in self._groups:
            remove_placement_group(group)
        self._groups = []


@contextmanager
def cleared(need: Mapping[str, float], count: int) -> Iterator[None]:
    """Give back, however the body ends, what a group of ``count`` workers held in it.

    Ray does so itself unless a process that has to was lost: the controller, or an actor that the controller asks.
    """
    from ray.util import placement_group_table

    before = set(placement_group_table())
    try:
        yield
    finally:
        for id, group in placement_group_table().items():
            held = group["state"] != "REMOVED" and list(group["bundles"].values()) == [dict(need)] * count
            if id not in before and held:
                _remove(id)


def _remove(id: str) -> None:
    """Remove the placement group of that id, if it is this job's, which the end of an id tells."""
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    if id.endswith(ray.get_runtime_context().get_job_id()):
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(id))))


def room_for(
    need: Mapping[str, float], *, fewest: int, most: int, wait_s: float,
    enough: Callable[[], bool], say: Callable[[str], Any],
) -> int:  # fmt: skip
    """How many workers can start, from ``fewest`` to ``most``; 0 when there were too few for ``wait_s`` seconds.

    Args:
        enough: asked while it waits; 0 as soon as it says so.
        say: is told when it has to wait.
    """
    places = Places(need, most)
    began = changed = time.monotonic()
    seen, told = 0, False
    try:
        while True:
            ready, now = places.ready(), time.monotonic()
            if ready != seen:
                seen, changed = ready, now
            settled = now - changed >= SETTLED_S
            if ready == most or (ready >= fewest and settled):
                return ready
            if enough() or now - began >= wait_s:
                return 0
            if settled and not told:
                told = say(f"waiting for places: {most} workers want {_spelled(need)} each, {ready} can start; "
                           f"{fewest} are needed") or True  # fmt: skip
            time.sleep(POLL_S)
    finally:
        places.give_back()


def _spelled(need: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {kind}{'s' * (amount != 1)}" for kind, amount in need.items())
