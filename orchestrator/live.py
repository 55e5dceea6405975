"""What a launch under way says of itself, and how it is asked to stop: small files that any process can see."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.files import write_json
from orchestrator.limits import PlanError

TELL_EVERY_S = 0.25


class RunFailed(RuntimeError):
    """A run that ended before its plan did, with the reason its workers gave."""


@dataclass
class LiveFolder:
    """``events.jsonl`` (epochs, events), ``status.json`` (now), ``stop`` (please), ``outcome.json`` (the end).

    Implements :class:`orchestrator.loop.Watch`.

    Attributes:
        writes: only rank 0 tells; all may ask.
    """

    folder: Path
    writes: bool = True
    _told_at: float = field(default=0.0, repr=False)

    def stop_asked(self) -> bool:
        return (self.folder / "stop").exists()

    def ask_to_stop(self) -> None:
        (self.folder / "stop").touch()

    def tell(self, status: Mapping[str, Any]) -> None:
        """Make ``status`` known: ends of epochs and events always, what lies between at most four times a second."""
        if not self.writes:
            return
        if any(status.get(kind) for kind in ("ended", "skipped_stage", "events", "waits_for")):
            with (self.folder / "events.jsonl").open("a") as file:
                file.write(json.dumps(status) + "\n")
        elif time.monotonic() - self._told_at < TELL_EVERY_S:
            return
        self._told_at = time.monotonic()
        draft = self.folder / ".status.json"
        draft.write_text(json.dumps(status))
        draft.replace(self.folder / "status.json")

    def status(self) -> dict[str, Any] | None:
        path = self.folder / "status.json"
        return json.loads(path.read_text()) if path.exists() else None

    def write_outcome(self, *, done: bool, error: str = "", mistake: bool = False) -> None:
        """Say how it ended. A failure that would come again says so in ``error``; the first one stays."""
        if not self.ended():
            write_json(self.folder / "outcome.json", {"done": done, "error": error, "mistake": mistake})

    def ended(self) -> bool:
        return (self.folder / "outcome.json").exists()

    def outcome(self) -> bool:
        """Whether the recipe came to its end. Raises :class:`PlanError` or :class:`RunFailed` with what stopped it."""
        if not self.ended():
            raise RunFailed(f"the workers ended without an outcome in {self.folder}; see Ray's logs")
        outcome = json.loads((self.folder / "outcome.json").read_text())
        if outcome["error"]:
            raise PlanError(outcome["error"]) if outcome["mistake"] else RunFailed(outcome["error"])
        return bool(outcome["done"])
