"""What each worker is at, told every few seconds, so that one that hangs can be named: rank, node and phase."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.repeated import repeated

BEAT_S = 2.0  # between two beats of up to 16 ranks; more wait longer, so that all together write 8 times a second
LATE = 0.8  # of the time-out: who has been at one thing for that long when the others give up is who they waited for


@dataclass
class Pulse:
    """One worker's ``rank-N.json``: who it is, what it is at and since when, and since when it waits for the others.

    A thread writes it, so the file goes on while training hangs, and stops where the whole process does.

    Attributes:
        waits_since: the time (``time.monotonic``) since when this process waits in a collective, none outside of one.
    """

    folder: Path
    rank: int
    node: str
    node_id: str
    waits_since: Callable[[], float | None]
    ranks: int = 1
    phase: str = "starting"
    since: float = field(default_factory=time.time)

    def at(self, phase: str) -> None:
        self.phase, self.since = phase, time.time()

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Keep the file up to date while the body runs, and leave it as it was at the end."""
        self.write()
        try:
            with repeated(self.write, every_s=BEAT_S * max(self.ranks / 16, 1), name="pulse"):
                yield
        finally:
            self.write()

    def write(self) -> None:
        waits = self.waits_since()
        waited_s = 0.0 if waits is None else time.monotonic() - waits
        told = {"rank": self.rank, "node": self.node, "node_id": self.node_id, "pid": os.getpid(), "phase": self.phase,
                "since": self.since, "waited_s": waited_s, "time": time.time()}  # fmt: skip
        draft = self.folder / f".rank-{self.rank}.{os.getpid()}"
        try:
            draft.write_text(json.dumps(told))
            draft.replace(self.folder / f"rank-{self.rank}.json")
        except OSError:  # it is only for a diagnosis, and the store may be what hangs
            pass


def pulses(folder: Path) -> list[dict[str, Any]]:
    """What every rank told last, by rank."""
    found = [json.loads(path.read_text()) for path in folder.glob("rank-*.json")]
    return sorted(found, key=lambda each: each["rank"])


def forget(folder: Path) -> None:
    """Remove what the ranks of an earlier group told."""
    for path in folder.glob("rank-*.json"):
        path.unlink(missing_ok=True)


def hung(told: Sequence[Mapping[str, Any]], timeout_s: float) -> str:
    """The rank that the others waited for in vain, and what it was at; nothing when none of them waited that long."""
    limit = LATE * timeout_s
    waited = [each for each in told if each["waited_s"] >= limit]
    others = [each for each in told if each not in waited]
    if not waited or not others:
        return ""
    stuck = min(others, key=lambda each: each["since"])
    now = max(each["time"] for each in told)
    alive = "" if now - stuck["time"] < limit else "; the whole process stands still"
    return (
        f"rank {stuck['rank']} on {stuck['node']} (process {stuck['pid']}) hangs in {stuck['phase']} for "
        f"{now - stuck['since']:.0f} s{alive}; rank{'s' * (len(waited) > 1)} "
        f"{', '.join(str(each['rank']) for each in waited)} waited {timeout_s:.0f} s for it (--timeout)"
    )
