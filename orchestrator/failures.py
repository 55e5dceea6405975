"""The errors a person can act on: each says where, what was found, what is allowed and what to do."""

from __future__ import annotations


def foreseen() -> tuple[type[Exception], ...]:
    """Their classes. They come again when the same thing is tried again, so nothing is retried for them."""
    from datasets.row import SourceError
    from orchestrator.checkpoint import CheckpointError
    from orchestrator.export import ExportError
    from orchestrator.gate import GateNotMet
    from orchestrator.journal import JournalError
    from orchestrator.lease import LeaseLost
    from orchestrator.limits import PlanError
    from orchestrator.live import RunFailed
    from orchestrator.loop import FrozenChanged, NonFinite
    from orchestrator.manifest import ShardError
    from orchestrator.preflight import PreflightError
    from orchestrator.prepare import IngestError
    from orchestrator.store import StoreError

    return (
        PlanError, SourceError, GateNotMet, PreflightError, StoreError, CheckpointError, ShardError, IngestError,
        JournalError, NonFinite, FrozenChanged, RunFailed, ExportError, LeaseLost,
    )  # fmt: skip


def is_mistake(error: Exception) -> bool:
    """Whether the command or the plan is at fault, rather than the run."""
    from datasets.row import SourceError
    from orchestrator.limits import PlanError

    return isinstance(error, PlanError | SourceError)
