"""What each Ray Train worker does around the loop. One group of workers carries a run through all its stages."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.cluster import start_ray
from orchestrator.execution import Execution, check_workers
from orchestrator.identity import plain
from orchestrator.live import LiveFolder
from orchestrator.plan import Recipe
from orchestrator.relay import relayed
from orchestrator.remote import opened
from orchestrator.store import Store
from orchestrator.working_copy import store_at

POLL_S = "0.2"  # Ray's controller looks at its workers this often; its own 2 s would be waited out at every end


def get_ready() -> None:
    """Start Ray, from the main thread: where another thread did, its shutdown takes 15 s at the end of the process."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", POLL_S)
    start_ray()


def train_on_ray(
    recipe: Recipe, store: Store, shards: Mapping[str, Path], execution: Execution, *, live: Path, only: Sequence[str]
) -> bool:
    """Train on ``execution.workers`` Ray Train workers. Returns False when a stop was asked for on the way.

    A worker that dies takes the group with it; the group starts again, at most ``execution.retries`` times, from the
    newest checkpoint. Raises what training raised, or Ray's own error when the group could not go on.
    """
    get_ready()
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    there = {kind: int(ray.cluster_resources().get(kind, 0)) for kind in ("CPU", "GPU")}
    check_workers(execution, cpus=there["CPU"], gpus=there["GPU"])
    gpu = execution.device != "cpu" and there["GPU"] >= execution.workers
    cpus = min(execution.threads_each, max(there["CPU"] // execution.workers, 1))
    job = {
        "plan": plain(recipe), "store": store.place, "only": list(only),
        "shards": {name: str(path.relative_to(store.root)) for name, path in shards.items()},
        "execution": asdict(execution) | {"threads": execution.threads_each}, "live": str(live.relative_to(store.root)),
    }  # fmt: skip
    name = f"{recipe.name}-{live.name}"
    trainer = TorchTrainer(
        train_in_worker,
        train_loop_config=job,
        scaling_config=ScalingConfig(
            num_workers=execution.workers, use_gpu=gpu,
            resources_per_worker={"CPU": cpus, **({"GPU": 1} if gpu else {})},
        ),
        run_config=RunConfig(
            name=name, **_storage(store),
            failure_config=FailureConfig(max_failures=execution.retries, controller_failure_limit=1),  # type: ignore[call-arg]
        ),
    )  # fmt: skip
    try:
        with relayed(store, live, driver=True):
            trainer.fit()
    except ray.train.TrainingFailedError:
        if not LiveFolder(live).ended():
            raise
    finally:
        storage = store.root / "live" / "ray" / name
        shutil.rmtree(storage, ignore_errors=True)
        store.origin.forget(storage)
    return LiveFolder(live).outcome()


def _storage(store: Store) -> dict[str, Any]:
    """Where Ray Train keeps its own notes, which every node must see."""
    if not store.origin.place:
        return {"storage_path": str(store.root / "live" / "ray")}
    files, path = opened(store.origin.place, attempts=8)
    return {"storage_path": f"{path}/live/ray", "storage_filesystem": files}


def train_in_worker(job: dict[str, Any]) -> None:
    """The body of one Ray Train worker. Everything it needs is in ``job``, as plain data.

    Ray starts the group again after any error. One that would only come again is noted first, and ends the next start.
    """
    import torch

    from orchestrator.failures import foreseen, is_mistake
    from orchestrator.override import from_plain
    from orchestrator.pipeline import Machine, train_recipe
    from orchestrator.ranks import Ranks

    execution = Execution(**job["execution"])
    torch.set_num_threads(execution.threads_each)
    ranks = Ranks.of_process_group()
    store = store_at(job["store"])
    live = LiveFolder(store.root / job["live"], writes=ranks.first)
    shards = {name: store.root / path for name, path in job["shards"].items()}
    with relayed(store, live.folder, driver=False):
        if live.ended():
            return
        try:
            done = train_recipe(
                from_plain(job["plan"]), store, shards, execution,
                machine=Machine.of(execution, ranks), watch=live, only=job["only"],
            )  # fmt: skip
        except foreseen() as error:
            live.write_outcome(done=False, error=str(error), mistake=is_mistake(error))
            raise
        if ranks.first:
            live.write_outcome(done=done)


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
