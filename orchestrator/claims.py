"""A lease at a URL, where files can be written and listed and nothing is locked."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass

from orchestrator.lease import Held, Holder
from orchestrator.remote import Remote

SETTLED_S = 2.1  # more than the coarsest clock that stamps files: S3's has seconds


@dataclass(frozen=True)
class RemoteClaims:
    """A lease where files can be written and listed, and nothing more: the oldest claim has it.

    A claim is written once, and by the store's own clock is older or younger than another; its heartbeat is a second
    file. Who lists the claims long enough after writing its own sees every one that could be older.
    """

    remote: Remote
    folder: str

    def take(self, me: Holder) -> Held | None:
        if self.remote.look(f"{self.folder}/{me.token}.claim") is None:
            self.remote.put(f"{self.folder}/{me.token}.claim", json.dumps(asdict(me)).encode())
            time.sleep(SETTLED_S)
        self._beaten(me)
        there = self.remote.list(self.folder)
        now = there[f"{me.token}.beat"].changed_ns
        claims = sorted((found.changed_ns, name) for name, found in there.items() if name.endswith(".claim"))
        for _, name in claims:
            token = name.removesuffix(".claim")
            if token == me.token:
                return None
            by = Holder.of(self.remote.read(f"{self.folder}/{name}") or b"")
            beat = there.get(f"{token}.beat")
            held = Held(by=by, age_s=(now - beat.changed_ns) / 1e9 if beat else float("inf")) if by else None
            if held is not None and not held.over:
                return held
            self._forget(token)
        return None

    def beat(self, me: Holder) -> bool:
        if self.remote.look(f"{self.folder}/{me.token}.claim") is None:
            return False
        self._beaten(me)
        return True

    def give_back(self, me: Holder) -> None:
        self._forget(me.token)

    def _beaten(self, me: Holder) -> None:
        self.remote.put(f"{self.folder}/{me.token}.beat", f"{time.time()}\n".encode())

    def _forget(self, token: str) -> None:
        self.remote.delete([f"{self.folder}/{token}.claim"])
        self.remote.delete([f"{self.folder}/{token}.beat"])
