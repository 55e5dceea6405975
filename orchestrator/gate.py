"""Whether a finished stage is good enough for the next one."""

from __future__ import annotations

from pathlib import Path

from orchestrator.plan import Stage
from orchestrator.store import Record


class GateNotMet(RuntimeError):
    """A stage finished, but not well enough for the next one to be worth its hours."""


def check_gate(stage: Stage, record: Record, folder: Path) -> None:
    """Raise :class:`GateNotMet` if the stage's result is below a gate of its plan."""
    for name, floor in stage.gate.items():
        if not record.metrics[name] >= floor:
            raise GateNotMet(
                f"stage {stage.name!r} reached {name}={record.metrics[name]:.4f}, below its gate of {floor:.4f}; "
                f"its weights are in {folder}. Lower the gate or change the stage, then run again."
            )
