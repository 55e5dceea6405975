"""One way to start Ray: join the cluster that RAY_ADDRESS names, else a quiet private one on this machine."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from orchestrator.live import RunFailed
from orchestrator.plan import PlanError

SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray gives it to the driver of a submitted job
UNPACKED = "working_dir_files"  # below which Ray unpacks what came with a job
OF_RAY_TRAIN = {  # what its controllers go by, read in the process that starts one
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # its own 2 s would be waited out at the end of every group
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # an actor to each group that looks for what we look for ourselves
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "180",  # its own 60 are too few where workers import on busy CPUs
}


def start_ray(cpus: int | None = None, *, dashboard: bool = False) -> None:
    """Connect to Ray once; nothing happens when this process is connected already.

    Args:
        cpus: CPUs of the private Ray; all when omitted. A cluster named by ``RAY_ADDRESS`` knows its own.
        dashboard: of the private Ray, on loopback, with metrics for Prometheus; a cluster has its own.

    Raises:
        PlanError: no Ray answers at ``RAY_ADDRESS``.
        RunFailed: the private Ray did not come up.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would let anything else on the machine starve training
    joins = bool(os.environ.get("RAY_ADDRESS"))
    if not joins and "ray" not in sys.modules:
        # Read once, when ray is imported: without it the private Ray listens on every network interface.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    if ray.is_initialized():
        return
    if joins:
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise PlanError(
                f"no Ray answers at {os.environ['RAY_ADDRESS']}; see --address and RAY_ADDRESS ({error})"
            ) from error
    else:
        try:
            ray.init(
                address="local", num_cpus=cpus, include_dashboard=dashboard, dashboard_host="127.0.0.1",
                log_to_driver=False, logging_level=logging.ERROR,
            )  # fmt: skip
        except Exception as error:  # Ray has no class of its own for a node that does not come up
            raise RunFailed(
                f"Ray did not start on this machine: {error} Its logs are below /tmp/ray/session_latest/logs. Give the "
                "machine less to do, or free its disk, and start the same command again"
            ) from error


def set_up_ray_train() -> None:
    """Set what Ray Train goes by; what the environment says already stays."""
    for name, value in OF_RAY_TRAIN.items():
        os.environ.setdefault(name, value)


def use_address(address: str) -> None:
    """Make ``--address`` the cluster of this process. Raises :class:`PlanError` for one that trains nothing."""
    if address.startswith(("http://", "https://")):
        raise PlanError(
            f"--address {address}: that is where jobs are submitted to: `ray job submit --address {address} "
            "--working-dir . -- python -m orchestrator.run ...`; --address wants the head's HOST:PORT, as 10.0.0.1:6379"
        )
    if "://" in address:
        raise PlanError(
            f"--address {address}: expected HOST:PORT of the head; from outside, submit a job (docs/cluster.md)"
        )
    if address:
        os.environ["RAY_ADDRESS"] = address


def submission_id() -> str:
    """The id that ``ray job submit`` gave to this process; nothing outside of a job."""
    metadata = json.loads(os.environ.get(SUBMITTED, "{}")).get("metadata", {})
    return str(metadata.get("job_submission_id", ""))


def refuse_unpacked(place: Path, option: str) -> None:
    """Raise :class:`PlanError` for a place inside of the copy that Ray made of a job's working directory."""
    if submission_id() and UNPACKED in place.parts:
        raise PlanError(
            f"{option} {place}: that is inside the copy that Ray made of the submitted folder, which goes away with "
            "the job; give an absolute path that every node sees"
        )


def resources() -> tuple[Mapping[str, float], str]:
    """What the cluster has, with the nodes that an autoscaler could start; and how a message tells of the latter."""
    import ray
    from ray._private.state import state

    there: dict[str, float] = dict(ray.cluster_resources())
    most = state.get_max_resources_from_cluster_config()
    if not most:
        return there, ""
    both = {kind: max(there.get(kind, 0), most.get(kind, 0)) for kind in {*there, *most}}
    return both, " and what it could start"


def nodes_named() -> dict[str, str]:
    """Node id -> ``name (address)`` of every node that is alive."""
    import ray

    return {
        node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        for node in ray.nodes()
        if node["Alive"]
    }


def described() -> str:
    """One line about the Ray that this process uses: where, how large, which job, and its dashboard."""
    import ray

    context, there = ray.get_runtime_context(), ray.cluster_resources()
    job = submission_id() or context.get_job_id()
    url = getattr(ray._private.worker.global_worker.node, "webui_url", "") or ""
    nodes = len(nodes_named())
    metrics = [f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" for node in ray.nodes()]
    shown = f"; dashboard http://{url}; metrics {metrics[0]}" if url else ""
    return (
        f"Ray at {context.gcs_address}: {nodes} node{'s' * (nodes != 1)}, {there.get('CPU', 0):.0f} CPUs, "
        f"{there.get('GPU', 0):.0f} GPUs; job {job}{shown}"
    )
