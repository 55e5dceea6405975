"""What a plan may hold: the error of a plan that cannot be run, and the checks that raise it."""

from __future__ import annotations

import math


class PlanError(ValueError):
    """A recipe that cannot be run as written: where, what was found, what is allowed."""


def within(where: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise PlanError(f"{where}: {value!r} is outside {least:g} .. {most:g}")


def at_least(where: str, value: int, least: int) -> None:
    if value < least:
        raise PlanError(f"{where}: {value!r} is below {least}")


def positive(where: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise PlanError(f"{where}: must be a finite number above 0, got {value!r}")
