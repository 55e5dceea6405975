"""What must be true before the first step of a stage: named checks, what each found, and what was accepted on purpose.

The checks themselves are in ``data`` (labels, hashes, splits), ``model`` (frames, gradients, effective values),
``plan`` (settings, the start) and ``machine`` (room, division).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.limits import PlanError

SHOWN = 5  # examples in a message

CHECKS = {  # name -> what must be true
    "hashes": "shards, checkpoints and plan agree on alphabet, ImageSpec, blank and frame rule",
    "labels": "every training label encodes, decodes back, and fits into the frames of its true width",
    "splits": "no group and no picture lies in two splits",
    "validation": "there is something to validate on, and its words can be read right",
    "frames": "the network makes the frames and scores the classes that the plan says",
    "gradients": "every term trains the parts it should, nothing frozen gets a gradient, no parameter stays without",
    "effective": "rates, weights, steps, stopping and patience are those of the plan when they are measured",
    "settings": "every setting is read by something and can have an effect",
    "start": "weights from elsewhere read this stage's validation data at least as well as their floor says",
    "headroom": "the recogniser that guides a generator reads clean images better than those to be restored",
    "resources": "room on disk, samples and cores suffice",
}
ACCEPTABLE = ("labels", "splits", "gradients", "effective", "settings", "start", "headroom", "resources")
"""Checks after whose failure a stage can still run; what the others find would end it anyway."""


class PreflightError(RuntimeError):
    """A stage that must not start: its result would not mean what its plan says."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a check saw.

    Attributes:
        says: one sentence with numbers.
        warnings: what a person should know, though the stage may start.
        facts: numbers for the record, by name.
    """

    says: str
    warnings: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Preflight:
    """Runs checks by name and keeps what they found.

    Attributes:
        accept: checks whose refusal is noted instead of raised.
        collect: note refusals and go on to the next check where that can be; nothing may be trained after that.
        lines: ``check``, ``found``, ``seconds`` and ``verdict`` (ok, warning, accepted, refused) of each, in order.
        warnings: of all checks.
        accepted: check -> what it would have refused.
        facts: numbers that the checks measured.
    """

    accept: Sequence[str] = ()
    collect: bool = False
    lines: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    accepted: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def run(self, name: str, check: Callable[[], Found]) -> None:
        """Run one check. Raises :class:`PreflightError` where it refuses and that was not accepted."""
        started = time.monotonic()
        try:
            found = check()
        except PreflightError as error:
            self._refuse(name, str(error), time.monotonic() - started)
            return
        self.warnings += found.warnings
        self.facts |= found.facts
        said = "; ".join((found.says, *found.warnings))
        self._note(name, "warning" if found.warnings else "ok", said, time.monotonic() - started)

    def _refuse(self, name: str, what: str, seconds: float) -> None:
        accepted = name in self.accept
        if accepted:
            self.accepted[name] = what
            self.warnings.append(f"accepted on purpose ({name}): {what}")
        self._note(name, "accepted" if accepted else "refused", what, seconds)
        if not accepted and not (self.collect and name in ACCEPTABLE):
            raise PreflightError(f"preflight {name}: {what}{hint(name)}")

    def followed(self) -> Preflight:
        """A copy that goes on from here, for the next of several stages."""
        return copy.deepcopy(self)

    @property
    def refused(self) -> bool:
        return any(line["verdict"] == "refused" for line in self.lines)

    def _note(self, name: str, verdict: str, found: str, seconds: float) -> None:
        self.lines.append({"check": name, "verdict": verdict, "found": found, "seconds": round(seconds, 3)})


def hint(name: str) -> str:
    return f" (to go on all the same, and have it recorded: --accept {name})" if name in ACCEPTABLE else ""


def check_names(accept: Sequence[str]) -> None:
    """Raise :class:`PlanError` for a check that does not exist or cannot be passed over."""
    for name in accept:
        if name not in ACCEPTABLE:
            why = "cannot be accepted: training would fail" if name in CHECKS else "is no check"
            raise PlanError(f"--accept {name}: {why}; what can be accepted: {', '.join(ACCEPTABLE)}")
