"""Which group of workers follows which: by what Ray says there is room for, and by who was lost or asked to leave.

Groups are functions here, which do what workers would: tell how far they are, obey, end, or be lost.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from orchestrator import groups, places
from orchestrator.execution import Execution
from orchestrator.groups import Wanted, run_groups
from orchestrator.live import LiveFolder, RunFailed
from orchestrator.places import Places, cleared, room_for
from orchestrator.pulse import Pulse

pytestmark = pytest.mark.ray
CPU = {"CPU": 1.0}


@pytest.fixture(autouse=True)
def soon(monkeypatch, ray_of_two_cpus):
    monkeypatch.setattr(places, "SETTLED_S", 1.5)
    monkeypatch.setattr(groups, "LOOK_S", 0.05)
    monkeypatch.setattr(groups, "GROW_AFTER_S", 0.1)


def room(*, fewest: int, most: int, wait_s: float = 30.0) -> tuple[int, list[str]]:
    said: list[str] = []
    return room_for(CPU, fewest=fewest, most=most, wait_s=wait_s, enough=lambda: False, say=said.append), said


def test_as_many_workers_start_as_there_is_room_for_and_no_fewer_than_asked():
    assert room(fewest=2, most=2)[0] == 2
    assert room(fewest=1, most=4)[0] == 2
    size, said = room(fewest=3, most=4, wait_s=4.0)
    assert size == 0 and len(said) == 1
    assert re.fullmatch(r"waiting for places: 4 workers want 1 CPU each, [012] can start; 3 are needed", said[0])


def test_places_that_others_hold_are_not_there_until_they_are_given_back():
    held = Places(CPU, 2)
    until(lambda: held.ready() == 2)
    assert room(fewest=1, most=2, wait_s=0.5)[0] == 0
    held.give_back()
    assert room(fewest=2, most=2)[0] == 2


@pytest.mark.parametrize("failed", [True, False])
def test_what_a_group_held_is_free_again_however_it_ended(failed):
    """As where the process that has to give it back was killed."""
    from ray.train import TrainingFailedError
    from ray.util import placement_group, remove_placement_group

    before = placement_group([CPU])  # of somebody else in this process
    try:
        with cleared(CPU, 1):
            placement_group([CPU]).wait(20)
            if failed:
                raise TrainingFailedError("one of Ray's own actors died")
    except TrainingFailedError:
        assert failed
    assert room(fewest=1, most=1)[0] == 1
    assert before.wait(20)
    remove_placement_group(before)
    assert room(fewest=2, most=2)[0] == 2


def test_what_an_autoscaler_could_start_counts_for_what_fits():
    """Ray is told of node types as an autoscaler tells it; then of none again."""
    import ray
    from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig

    from orchestrator.cluster import resources

    gcs = ray._private.worker.global_worker.gcs_client
    there, coming = resources()
    assert (there["CPU"], there.get("GPU", 0), coming) == (2, 0, "")
    kind = NodeGroupConfig(name="gpu", resources={"CPU": 8, "GPU": 1}, min_count=0, max_count=4)
    gcs.report_cluster_config(ClusterConfig(node_group_configs=[kind]).SerializeToString())
    try:
        there, coming = resources()
        assert (there["CPU"], there["GPU"], coming) == (32, 4, " and what it could start")
    finally:
        gcs.report_cluster_config(ClusterConfig().SerializeToString())


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def launched(
    folder: Path, acts: Sequence[Callable[[LiveFolder, int], None]], **execution
) -> tuple[bool, list[int], list[str]]:
    """Run groups that act one after the other; the outcome, their sizes, and what a person was told."""
    live, sizes, left = LiveFolder(folder), [], list(acts)

    def run_group(size: int) -> None:
        sizes.append(size)
        for rank in range(size):
            Pulse(folder, rank, f"host-{rank}", "id", waits_since=lambda: None).write()
        left.pop(0)(live, size)

    wanted = Wanted(execution=Execution(threads=1, device="cpu", **execution), need=CPU, stages=["one", "two"])
    done = run_groups(run_group, wanted, live)
    said = (folder / "events.jsonl").read_text().splitlines() if (folder / "events.jsonl").exists() else []
    return done, sizes, said


def finishes(live: LiveFolder, size: int) -> None:
    live.write_outcome(done=True)


def lost_at(stage: str, step: int) -> Callable[[LiveFolder, int], None]:
    def act(live: LiveFolder, size: int) -> None:
        from ray.exceptions import ActorDiedError
        from ray.train import WorkerGroupError

        live.tell({"stage": stage, "step": step, "ended": True})
        raise WorkerGroupError("lost", {0: ActorDiedError()})

    return act


def leaves_when_asked(live: LiveFolder, size: int) -> None:
    until(live.stop_asked)


def test_losses_cost_tries_only_where_no_group_gets_further(tmp_path):
    acts = [lost_at("one", 5), lost_at("one", 9), lost_at("two", 2), lost_at("two", 3), finishes]
    done, sizes, said = launched(tmp_path, acts, workers=1, retries=1)
    assert done and sizes == [1] * 5
    assert sum("lost rank 0 on host-0" in line and "(try 1 of 1)" in line for line in said) == 4


def test_a_run_that_gets_no_further_ends_and_says_how_to_go_on(tmp_path):
    with pytest.raises(RunFailed, match=r"lost rank 0 on host-0 .* 3 times in a row no group got further .* goes on"):
        launched(tmp_path, [lost_at("one", 5)] * 3, workers=1, retries=2)


def test_a_group_makes_way_for_a_larger_one_when_there_is_room(tmp_path):
    others = Places(CPU, 1)
    until(lambda: others.ready() == 1)

    def small(live: LiveFolder, size: int) -> None:
        others.give_back()
        leaves_when_asked(live, size)

    done, sizes, said = launched(tmp_path, [small, finishes], workers=2, workers_min=1)
    assert done and sizes == [1, 2]
    assert any("training with 1 of 2 workers" in line for line in said)
    why = "there is room for 1 more worker: another group of workers goes on from the newest checkpoint"
    assert any(why in line for line in said)


def test_who_asks_for_the_end_gets_it_whatever_the_group_does_then(tmp_path):
    def asked(live: LiveFolder, size: int) -> None:
        live.ask_to_stop()
        lost_at("one", 3)(live, size)

    assert launched(tmp_path, [asked], workers=1)[:2] == (False, [1])
