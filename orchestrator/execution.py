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
        workers: Ray Train workers; 0 trains in this process, without Ray Train.
        device: ``"auto"`` takes a GPU when there is one.
        precision: of the forward pass; ``"auto"`` is bf16 on a GPU and fp32 on a CPU. CTC is always fp32.
        threads: CPU threads for each worker; 0 shares this machine's cores among the workers.
        compile: ``torch.compile`` the task. Pays on a GPU only.
        checkpoint_every_s: seconds between resumable checkpoints inside an epoch.
        retries: how often a lost worker group is started again from the newest checkpoint.
        accept: preflight checks whose refusal is recorded instead of ending the run.
    """

    workers: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int = 0
    compile: bool = False
    checkpoint_every_s: float = 60.0
    retries: int = 3
    accept: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        at_least("--workers", self.workers, 0)
        at_least("--threads", self.threads, 0)
        within("--checkpoint-every", self.checkpoint_every_s, 0, 1e9)

    @property
    def threads_each(self) -> int:
        """CPU threads of one worker."""
        return self.threads or max(available_cores() // max(self.workers, 1), 1)


def check_workers(execution: Execution, *, cpus: int, gpus: int) -> None:
    """Raise :class:`PlanError` unless the workers that are asked for fit the machines there are."""
    if execution.device == "cuda" and gpus < execution.workers:
        raise PlanError(f"--device cuda with {execution.workers} workers: the cluster has {gpus} GPUs")
    each = min(execution.threads_each, max(cpus // max(execution.workers, 1), 1))
    if cpus < execution.workers * each:
        raise PlanError(
            f"--workers {execution.workers}: needs {execution.workers * each} CPUs, the cluster has {cpus}; "
            "use fewer workers"
        )


def available_cores() -> int:
    """Cores this process may use, which containers and ``taskset`` make fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
