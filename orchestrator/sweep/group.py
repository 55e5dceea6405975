"""A trial of several workers: one Ray Train group after another, each as far as the next epoch of comparison.

Tune must never end a group that trains: its placement group would stay behind, and the next trial wait for it for ever.
So a trial is told only between groups that it ends.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator.cluster import set_up_ray_train
from orchestrator.execution import Execution
from orchestrator.live import LiveFolder
from orchestrator.store import Record
from orchestrator.sweep.trial import Asked, Job, Tell, planned, trained


def trained_in_groups(job: Job, asked: Asked, tell: Tell) -> Record | None:
    """Train a trial to its record; it pauses after each of its rungs, and tells there how far it is."""
    plan, store = planned(job, asked), job.home
    recorded = store.read(store.folder(plan.recipe.name, plan.stage.name, plan.fingerprint))
    if recorded is not None:
        return recorded
    for until in (*asked.rungs, 0):
        told = _group(job, asked, until)
        for line in told:
            tell(line)
        record = store.read(plan.folder)
        if record is not None:
            return record
        if (job.root / job.stop).exists():
            return None
    return None


def _group(job: Job, asked: Asked, until: int) -> list[dict[str, Any]]:
    """One Ray Train run up to ``until`` epochs; what it told, in order. Raises what ended it."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    set_up_ray_train()
    execution, folder = Execution(**job.execution), planned(job, asked).folder
    live = folder / "live"
    live.mkdir(exist_ok=True)
    for name in ("told.jsonl", "outcome.json"):
        (live / name).unlink(missing_ok=True)
    gpu = {"GPU": 1} if execution.device == "cuda" else {}
    TorchTrainer(
        _worker,
        train_loop_config={"job": vars(job), "asked": vars(asked), "until": until, "live": str(live)},
        scaling_config=ScalingConfig(
            num_workers=execution.workers, use_gpu=bool(gpu),
            resources_per_worker={"CPU": execution.threads_each, **gpu},
        ),
        run_config=RunConfig(
            name=f"{job.sweep}-{asked.number}-{until}", storage_path=str(live / "ray"),
            failure_config=FailureConfig(  # type: ignore[call-arg]
                max_failures=execution.retries, controller_failure_limit=execution.retries
            ),
        ),
    ).fit()  # fmt: skip
    LiveFolder(live).outcome()
    lines = (live / "told.jsonl").read_text(encoding="utf-8").splitlines() if (live / "told.jsonl").exists() else []
    return [json.loads(line) for line in lines]


def _worker(config: dict[str, Any]) -> None:
    """The body of one worker of a trial's group."""
    from orchestrator.failures import foreseen, is_mistake
    from orchestrator.ranks import Ranks

    ranks = Ranks.of_process_group()
    live = LiveFolder(Path(config["live"]), writes=ranks.first)
    if live.ended():
        return

    def tell(line: Any) -> None:
        if ranks.first:
            with (live.folder / "told.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    try:
        trained(Job(**config["job"]), Asked(**config["asked"]), tell, ranks=ranks, until=config["until"])
    except foreseen() as error:
        live.write_outcome(done=False, error=str(error), mistake=is_mistake(error))
        return
    if ranks.first:
        live.write_outcome(done=True)
