"""What a launch under way says of itself, and how it is asked to stop: small files that any process can see."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from orchestrator.files import write_json
from orchestrator.limits import PlanError
from orchestrator.pulse import Pulse

TELL_EVERY_S = 0.25
END = "the end of the run was asked for"


class Watch(Protocol):
    """The world outside: who may ask for a stop, and who wants to know how far training is, and what it is at."""

    def stop_asked(self) -> bool: ...
    def at(self, phase: str) -> None: ...
    def tell(self, status: Mapping[str, Any]) -> None: ...


class RunFailed(RuntimeError):
    """A run that ended before its plan did, with the reason its workers gave."""


@dataclass
class LiveFolder:
    """``events.jsonl`` (epochs, events), ``status.json`` (now), ``stop`` (please), ``outcome.json`` (the end), and
    ``rank-N.json`` (see :class:`orchestrator.pulse.Pulse`).

    Implements :class:`Watch`.

    Attributes:
        writes: only rank 0 tells; all may ask.
        pulse: of this process, where somebody wants to know what it is at.
    """

    folder: Path
    writes: bool = True
    pulse: Pulse | None = None
    _told_at: float = field(default=0.0, repr=False)

    def stop_asked(self) -> bool:
        """Whether the workers shall save a checkpoint and leave, for good or to come back as another group.

        One rank looks, and the next update's sums tell the others: a look at a shared file system costs each its time.
        """
        return self.writes and (self.folder / "stop").exists()

    def ask_to_stop(self) -> None:
        """Ask for the end of the run."""
        self._ask(END)

    def ask_to_regroup(self, why: str) -> None:
        """Ask the workers to save a checkpoint and leave, so that another group goes on. Who asks first is heard."""
        if not self.stop_asked():
            self._ask(why)

    def end_asked(self) -> bool:
        """Whether the run shall end, which no new group may undo."""
        return self.stop_asked() and (self.folder / "stop").read_text() == END

    def regroup(self) -> str:
        """Take back a wish for another group; why there was one, or nothing."""
        if not self.stop_asked() or self.end_asked():
            return ""
        why = (self.folder / "stop").read_text()
        (self.folder / "stop").unlink()
        return why

    def _ask(self, why: str) -> None:
        draft = self.folder / f".stop.{os.getpid()}"
        draft.write_text(why)
        draft.replace(self.folder / "stop")

    def at(self, phase: str) -> None:
        """Note what this process is at, for whoever has to find out which one hangs, and where."""
        if self.pulse is not None:
            self.pulse.at(phase)

    def say(self, text: str) -> None:
        """One line to the person who launched this, from whichever process."""
        with (self.folder / "events.jsonl").open("a") as file:
            file.write(json.dumps({"says": text}) + "\n")

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
