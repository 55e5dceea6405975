"""What each Ray Train worker does around the loop. One group of workers carries a run through all its stages."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from orchestrator.cluster import described, resources, set_up_ray_train, start_ray, submission_id
from orchestrator.execution import Execution, check_workers
from orchestrator.groups import Wanted, run_groups
from orchestrator.identity import plain
from orchestrator.live import LiveFolder
from orchestrator.plan import Recipe
from orchestrator.pulse import Pulse
from orchestrator.relay import relayed
from orchestrator.remote import opened
from orchestrator.store import Store
from orchestrator.working_copy import store_at

if TYPE_CHECKING:
    import torch

    from orchestrator.ranks import Ranks


def get_ready(*, dashboard: bool = False) -> None:
    """Start Ray, from the main thread: where another thread did, its shutdown takes 15 s at the end of the process."""
    set_up_ray_train()
    start_ray(dashboard=dashboard)


def train_on_ray(
    recipe: Recipe, store: Store, shards: Mapping[str, Path], execution: Execution, *, live: Path, only: Sequence[str]
) -> bool:
    """Train on ``execution.workers`` Ray Train workers. Returns False when a stop was asked for on the way.

    A worker that dies takes its group with it, and the next group goes on from the newest checkpoint: see
    :func:`orchestrator.groups.run_groups`. Raises what training raised, or :class:`RunFailed`.
    """
    get_ready()
    there, coming = resources()
    check_workers(execution, cpus=int(there.get("CPU", 0)), gpus=int(there.get("GPU", 0)), coming=coming)
    need = need_of(execution, there)
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(execution.timeout_s)
    threads = execution.threads or int(need["CPU"])
    job = {
        "plan": plain(recipe), "store": store.place, "job": submission_id(), "only": list(only),
        "shards": {name: store.name_of(path) for name, path in shards.items()},
        "execution": asdict(execution) | {"threads": threads}, "live": store.name_of(live),
    }  # fmt: skip
    folder = LiveFolder(live)
    folder.say(described())
    wanted = Wanted(execution=execution, need=need, stages=[stage.name for stage in recipe.stages])
    name = f"{recipe.name}-{live.name}"
    notes = store.root / "live" / "ray" / name

    def run_group(size: int) -> None:
        fit(job, size, need, timeout_s=execution.timeout_s, name=name, store=store)

    try:
        with relayed(store, live, driver=True):
            return run_groups(run_group, wanted, folder)
    finally:
        shutil.rmtree(notes, ignore_errors=True)
        store.origin.forget(notes)


def need_of(execution: Execution, there: Mapping[str, float]) -> dict[str, float]:
    """What one worker takes of the cluster: a GPU where there are enough, and its share of the CPUs."""
    cpus, gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
    if execution.device != "cpu" and gpus >= execution.fewest:
        return {"CPU": execution.threads or max(cpus // gpus, 1), "GPU": 1}
    return {"CPU": min(execution.threads_each, max(cpus // max(execution.fewest, 1), 1))}


def fit(
    job: Mapping[str, Any], size: int, need: Mapping[str, float], *, timeout_s: float, name: str, store: Store
) -> None:
    """Train with ``size`` workers until they all leave. Raises Ray's error when one of them is lost or fails."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        train_in_worker,
        train_loop_config=dict(job),
        torch_config=TorchConfig(timeout_s=int(timeout_s)),
        scaling_config=ScalingConfig(num_workers=size, use_gpu="GPU" in need, resources_per_worker=dict(need)),
        run_config=RunConfig(
            name=name, **_storage(store),
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),  # type: ignore[call-arg]
        ),
    )  # fmt: skip
    trainer.fit()


def _storage(store: Store) -> dict[str, Any]:
    """Where Ray Train keeps its own notes, which every node must see."""
    if not store.origin.place:
        return {"storage_path": str(store.root / "live" / "ray")}
    files, path = opened(store.origin.place, attempts=8)
    return {"storage_path": f"{path}/live/ray", "storage_filesystem": files}


def train_in_worker(job: dict[str, Any]) -> None:
    """The body of one Ray Train worker. Everything it needs is in ``job``, as plain data.

    Another group follows after any error. One that would only come again is noted first, and ends the run.
    """
    store = store_at(job["store"])
    with relayed(store, store.root / job["live"], driver=False):
        _train_in_group(job, store)


def _train_in_group(job: Mapping[str, Any], store: Store) -> None:
    import ray
    import torch

    from models.collective import waits_since
    from orchestrator.failures import foreseen, is_mistake
    from orchestrator.override import from_plain
    from orchestrator.pipeline import Machine, train_recipe
    from orchestrator.ranks import Ranks

    execution = Execution(**job["execution"])
    torch.set_num_threads(execution.threads_each)
    node_id = ray.get_runtime_context().get_node_id()
    node = f"{socket.gethostname()}:{node_id[:8]}"
    ranks = Ranks.of_process_group().on(node)
    folder = store.root / job["live"]
    pulse = Pulse(folder, ranks.rank, node, node_id, waits_since=waits_since, ranks=ranks.count)
    live = LiveFolder(folder, writes=ranks.first, pulse=pulse)
    leave_on_sigterm(live, ranks.rank, node)
    if live.ended():
        return
    machine = Machine.of(execution, ranks).at(job["job"], ranks.nodes)
    tell_places(live, ranks, machine.device)
    shards = {name: store.root / path for name, path in job["shards"].items()}
    try:
        with pulse.beating():
            done = train_recipe(
                from_plain(job["plan"]), store, shards, execution, machine=machine, watch=live, only=job["only"]
            )
    except foreseen() as error:
        live.write_outcome(done=False, error=str(error), mistake=is_mistake(error))
        raise
    if ranks.first and (done or live.end_asked()):
        live.write_outcome(done=done)


def leave_on_sigterm(live: LiveFolder, rank: int, node: str) -> None:
    """Make SIGTERM to this worker, as before its node is taken away, a wish for a checkpoint and another group."""
    import ray

    ray.get(ray.get_runtime_context().current_actor.execute.remote(_heed_sigterm, str(live.folder), rank, node))


def _heed_sigterm(folder: str, rank: int, node: str) -> None:
    """Runs in the main thread of a worker, the only one that may say what a signal does; training has another."""

    def ask(number: int, frame: FrameType | None) -> None:
        LiveFolder(Path(folder)).ask_to_regroup(f"rank {rank} on {node} got SIGTERM")

    signal.signal(signal.SIGTERM, ask)


def tell_places(live: LiveFolder, ranks: Ranks, device: torch.device) -> None:
    """Say which rank is where, with what."""
    import torch

    used = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    where = ranks.gather(f"rank {ranks.rank} on {ranks.nodes[ranks.rank]} ({used}, process {os.getpid()})")
    if ranks.first:
        live.say(f"{ranks.count} worker{'s' * (ranks.count > 1)}: {', '.join(where)}")


def train_here(
    recipe: Recipe, store: Store, shards: Mapping[str, Path], execution: Execution, *, live: Path, only: Sequence[str]
) -> bool:
    """Train in this process, without Ray Train: ``--workers 0``."""
    import torch

    from orchestrator.pipeline import Machine, train_recipe
    from orchestrator.ranks import Ranks

    torch.set_num_threads(execution.threads_each)
    machine = Machine.of(execution, Ranks())
    return train_recipe(recipe, store, shards, execution, machine=machine, watch=LiveFolder(live), only=only)


def new_live_folder(store: Store) -> Path:
    """A folder for what this launch says of itself while it runs."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{secrets.token_hex(2)}"  # containers share process numbers
    folder = store.root / "live" / name
    folder.mkdir(parents=True)
    return folder
