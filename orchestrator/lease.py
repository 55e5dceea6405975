"""Who trains a stage: a lease with a heartbeat, so that a stage asked for twice is trained once.

A holder that is dead is known at once on its own machine, elsewhere by a heartbeat older than :func:`stale_s`. A holder
that could not write its heartbeat for half of that stops before another one takes over.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from orchestrator.environment import number_from
from orchestrator.files import write_json
from orchestrator.redact import redacted

LEASE, LOCK = "lease.json", ".lease.lock"


class LeaseLost(RuntimeError):
    """Another process may train the stage now, so this one must not write to it."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process that trains a stage.

    Attributes:
        job: of Ray, where it was submitted as one.
        machine: changes with each boot and each space of process numbers.
        started: when the process did, by that machine's clock: numbers of processes are used again.
        token: of this lease alone.
    """

    host: str
    pid: int
    job: str
    machine: str
    started: str
    token: str

    @staticmethod
    def here() -> Holder:
        return Holder(
            host=socket.gethostname(), pid=os.getpid(), job=os.environ.get("RAY_JOB_ID", ""), machine=_machine(),
            started=_started(os.getpid()), token=secrets.token_hex(8),
        )  # fmt: skip

    @staticmethod
    def of(data: bytes | str) -> Holder | None:
        """The holder that a lease file names; None where it names none."""
        try:
            return Holder(**json.loads(data))
        except (ValueError, TypeError):
            return None

    @property
    def dead(self) -> bool:
        """Whether it is known to have ended: only a process on its own machine can tell."""
        return self.machine == _machine() and _started(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" + (f" (job {self.job})" if self.job else "")


@dataclass(frozen=True, kw_only=True)
class Held:
    """Who has a lease, and how many seconds ago its heartbeat was."""

    by: Holder
    age_s: float

    @property
    def over(self) -> bool:
        return self.by.dead or self.age_s > stale_s()

    def __str__(self) -> str:
        return f"{self.by}, last heard of {self.age_s:.0f} s ago"


class Claims(Protocol):
    """Where a stage's lease lies."""

    def take(self, me: Holder) -> Held | None:
        """None when the lease is mine now; else who has it."""

    def beat(self, me: Holder) -> bool:
        """Renew the heartbeat; False when the lease is another's."""

    def give_back(self, me: Holder) -> None: ...


@dataclass(frozen=True)
class FileClaims:
    """A lease file in a folder that all processes see: of one machine, or a shared file system with ``flock``."""

    folder: Path

    def take(self, me: Holder) -> Held | None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._alone():
            held = self._held()
            if held is not None and held.by.token != me.token and not held.over:
                return held
            write_json(self.folder / LEASE, asdict(me))
            return None

    def beat(self, me: Holder) -> bool:
        with self._alone():
            held = self._held()
            if held is None or held.by.token != me.token:
                return False
            os.utime(self.folder / LEASE)
            return True

    def give_back(self, me: Holder) -> None:
        if not self.folder.is_dir():
            return
        with self._alone():
            held = self._held()
            if held is not None and held.by.token == me.token:
                (self.folder / LEASE).unlink()

    def _held(self) -> Held | None:
        path = self.folder / LEASE
        try:
            by, beat = Holder.of(path.read_text(encoding="utf-8")), path.stat().st_mtime
        except OSError:
            return None
        return Held(by=by, age_s=self._now() - beat) if by else None

    def _now(self) -> float:
        """The time by the clock that stamps the files here, which may be a server's."""
        os.utime(self.folder / LOCK)
        return (self.folder / LOCK).stat().st_mtime

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@dataclass
class Lease:
    """A lease that this process holds."""

    claims: Claims
    me: Holder
    _ended: threading.Event = field(default_factory=threading.Event, repr=False)
    _beat_at: float = field(default_factory=time.monotonic, repr=False)
    _lost: str = field(default="", repr=False)
    _failed: str = field(default="", repr=False)

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew it until this ends; giving it back is the caller's."""
        thread = threading.Thread(target=self._beats, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def check(self) -> None:
        """Raise :class:`LeaseLost` unless the lease is surely still ours."""
        silent = time.monotonic() - self._beat_at
        if not self._lost and silent > stale_s() / 2:
            self._lost = f"its heartbeat could not be renewed for {silent:.0f} s{self._failed}"
        if self._lost:
            raise LeaseLost(
                f"this process lost its lease on the stage: {self._lost}. Nothing more is written; run the same "
                "command again to wait for the other process, or to go on"
            )

    def _beats(self) -> None:
        while not self._ended.wait(stale_s() / 6):
            began = time.monotonic()
            try:
                if not self.claims.beat(self.me):
                    self._lost = "another process took it over, or it was deleted"
                    return
                self._beat_at, self._failed = began, ""
            except Exception as error:  # a store that cannot be reached just now: check() tells when that lasts
                self._failed = f" ({redacted(f'{type(error).__name__}: {error}')})"


def stale_s() -> float:
    """Seconds without a heartbeat after which a holder counts as dead: ``PLUMBLINE_LEASE_S``."""
    return number_from("PLUMBLINE_LEASE_S", 60.0, least=1.0)


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str:
    """When a process that runs began; empty where there is none, or only what its parent has not yet buried."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]
