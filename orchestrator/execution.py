"""Where and how fast a plan runs. Never part of a stage's identity: moving to other machines re-trains nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from orchestrator.limits import PlanError, at_least, within


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How one launch uses the machines it has.

    Attributes:
        workers: Ray Train workers, at most; 0 trains in this process, without Ray Train.
        workers_min: fewest that training goes on with when nodes are lost; 0 for no fewer than ``workers``.
        device: ``"auto"`` takes a GPU when there is one.
        precision: of the forward pass; ``"auto"`` is bf16 on a GPU and fp32 on a CPU. CTC is always fp32.
        threads: CPU threads for each worker; 0 shares this machine's cores among the workers.
        compile: ``torch.compile`` the task. Pays on a GPU only.
        checkpoint_every_s: seconds between resumable checkpoints inside an epoch.
        retries: how often in a row a worker group that got no further is started again from the newest checkpoint.
        timeout_s: seconds that a rank waits in a collective for the others, before the group is given up as hung.
        wait_s: seconds that a group waits for its workers' places, after a loss or where nodes are started on demand.
        accept: preflight checks whose refusal is recorded instead of ending the run.
    """

    workers: int = 1
    workers_min: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int = 0
    compile: bool = False
    checkpoint_every_s: float = 60.0
    retries: int = 3
    timeout_s: float = 600.0
    wait_s: float = 1200.0
    accept: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        at_least("--workers", self.workers, 0)
        if not 0 <= self.workers_min <= self.workers:
            raise PlanError(f"--workers {self.workers_min}:{self.workers}: the fewest come first, as in 2:4")
        at_least("--threads", self.threads, 0)
        within("--timeout", self.timeout_s, 1, 1e9)
        within("--wait", self.wait_s, 0, 1e9)
        within("--checkpoint-every", self.checkpoint_every_s, 0, 1e9)

    @property
    def fewest(self) -> int:
        """Workers that training needs at least."""
        return self.workers_min or self.workers

    @property
    def threads_each(self) -> int:
        """CPU threads of one worker."""
        return self.threads or max(available_cores() // max(self.workers, 1), 1)


def check_workers(execution: Execution, *, cpus: int, gpus: int, coming: str = "") -> None:
    """Raise :class:`PlanError` unless the workers that are asked for fit the machines there are.

    Args:
        cpus, gpus: of all machines, those included that an autoscaler would start.
        coming: how the message tells of the latter.
    """
    fewest, asked = execution.fewest, f"--workers {spelled(execution)}"
    if execution.device == "cuda" and gpus < fewest:
        raise PlanError(f"--device cuda with {asked}: the cluster has {gpus} GPUs{coming}")
    each = min(execution.threads_each, max(cpus // max(fewest, 1), 1))
    if cpus < fewest * each:
        raise PlanError(f"{asked}: needs {fewest * each} CPUs, the cluster has {cpus}{coming}; use fewer workers")


def spelled(execution: Execution) -> str:
    """The number of workers as the command line takes it."""
    return f"{execution.workers_min}:{execution.workers}" if execution.workers_min else str(execution.workers)


def available_cores() -> int:
    """Cores this process may use, which containers and ``taskset`` make fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
