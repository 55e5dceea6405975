"""What the processes of a sweep share by way of a store at a URL: its study, the wish to stop, and what trials leave.

The launching process is the only one that writes the study; it publishes a copy after each change, and whoever goes on
with the sweep, on any node, begins with that copy. A trial publishes its own folder, as a stage does. For a store in
the file system, which all nodes see, nothing here does anything.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.lease import Holder, Lease
from orchestrator.live import RunFailed
from orchestrator.repeated import repeated
from orchestrator.store import Store, StoreError

EVERY_S = 2.0
COPY = "study.copy.db"
OWN = ("tracked.json", "lease.json")  # of a trial's folder: the launching process has the newest


@dataclass
class StopSign:
    """The wish that all trials stop: a file in the sweep's folder, looked for in the store every two seconds."""

    store: Store
    path: Path
    _looked: float = field(default=float("-inf"), repr=False)

    def asked(self) -> bool:
        if self.store.origin.place and time.monotonic() > self._looked + EVERY_S:
            self._looked = time.monotonic()
            with suppress(StoreError):  # what matters fails by itself
                self.store.origin.pull(self.path)
        return self.path.exists()


def bring_study(store: Store, study: Path) -> None:
    """Make the study here the one that is published; none where none is."""
    if not store.origin.place:
        return
    copy = study.with_name(COPY)
    for path in (copy, study):
        path.unlink(missing_ok=True)
    store.origin.pull(copy)
    if copy.exists():
        shutil.copyfile(copy, study)


def bring_trial(store: Store, folder: Path) -> bool:
    """Bring the journals and the record of a trial here. False while a process is still at work on it."""
    origin = store.origin
    names = origin.names(folder)
    if any(name.startswith(".lease/") for name in names):
        return False
    for name in names:
        if "/" not in name and (name not in OWN or not (folder / name).exists()):
            origin.pull(folder / name)
    return True


@contextmanager
def shared(store: Store, folder: Path, study: Path | None, *, stop: Path, sign: Path) -> Iterator[None]:
    """Publish the ``study`` as it changes, and ``stop`` as the ``sign`` that trials look for, while this lasts.

    Raises :class:`RunFailed` where another process makes the trials of this sweep.
    """
    if not store.origin.place:
        yield
        return
    me, claims = Holder.here(), store.origin.claims(folder)
    try:
        if held := claims.take(me):
            raise RunFailed(f"{folder.name}: {held} makes its trials; wait for it, or begin another sweep with --name")
        with Lease(claims, me).renewed(), _published(_Shared(store, study, stop, sign)):
            yield
    finally:
        claims.give_back(me)


@contextmanager
def _published(here: _Shared) -> Iterator[None]:
    def publish() -> None:
        with suppress(StoreError):  # the last call tells of what lasts
            here.publish()

    try:
        with repeated(publish, every_s=EVERY_S, name="shared"):
            yield
    finally:
        here.publish()
        here.store.origin.take_back(here.sign)
        here.sign.unlink(missing_ok=True)


@dataclass
class _Shared:
    """What the launching process publishes."""

    store: Store
    study: Path | None
    stop: Path
    sign: Path
    _sent: bytes = b""

    def publish(self) -> None:
        if self.stop.exists() and not self.sign.exists():
            self.sign.touch()
        self.store.origin.push(self.sign)
        if self.study is not None and self.study.exists():
            self._publish_study(self.study)

    def _publish_study(self, study: Path) -> None:
        copy, draft = study.with_name(COPY), study.with_name(f".{COPY}.{os.getpid()}")
        with closing(sqlite3.connect(study)) as whole, closing(sqlite3.connect(draft)) as written:
            whole.backup(written)
        data = draft.read_bytes()
        os.replace(draft, copy)
        if data != self._sent:
            self.store.origin.push(copy)
            self._sent = data
