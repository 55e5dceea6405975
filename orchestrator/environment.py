"""Numbers that a machine's environment sets: how patient, how large. Never part of a plan."""

from __future__ import annotations

import os

from orchestrator.limits import PlanError


def number_from(variable: str, default: float, *, least: float) -> float:
    """The number in an environment variable, ``default`` where it is unset. Raises :class:`PlanError`."""
    text = os.environ.get(variable, "")
    try:
        number = float(text) if text else default
    except ValueError:
        number = float("nan")
    if not least <= number < float("inf"):
        raise PlanError(f"{variable}={text}: expected a number of at least {least:g}")
    return number
