"""What one process computes with: its place among the workers, its device and its precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from orchestrator.execution import Execution
from orchestrator.plan import PlanError
from orchestrator.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What this process computes with.

    Attributes:
        where: the job and the nodes, as the record tells them.
    """

    ranks: Ranks
    device: torch.device
    precision: str
    where: Mapping[str, Any] = field(default_factory=dict)

    def at(self, job: str, nodes: Sequence[str]) -> Machine:
        """The same, knowing which submitted job it is part of, if any, and on which node each rank is."""
        return replace(self, where={"job": job, "workers_used": self.ranks.count, "nodes": list(nodes)})

    @staticmethod
    def of(execution: Execution, ranks: Ranks) -> Machine:
        """The device and precision that ``execution`` asks for, or that this machine offers where it says auto."""
        name = execution.device if execution.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
        if name == "cuda" and not torch.cuda.is_available():
            raise PlanError("--device cuda: no CUDA device is visible here; use --device auto or cpu")
        device = torch.device(name, torch.cuda.current_device()) if name == "cuda" else torch.device(name)
        precision = execution.precision if execution.precision != "auto" else ("bf16" if name == "cuda" else "fp32")
        return Machine(ranks=ranks, device=device, precision=precision)

    def place(self, task: nn.Module) -> nn.Module:
        """``task`` on the device, its kernels channels last, which both CPU and GPU convolve faster."""
        return task.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)
