"""What recognisers learn from clean images: to read, and beside a generator that learns, not to forget it."""

from __future__ import annotations

from models.batch import Pair, Restored
from models.losses.text import ctc
from models.mean import Mean


def ctc_on_target(batch: Pair, out: Restored) -> Mean:
    """:func:`models.losses.text.ctc` of what is read in the clean image; it trains the recogniser alone."""
    if out.clean is None:
        raise ValueError("ctc_on_target: the clean image was not read; the task must read the target too")
    return ctc(batch, out.clean)


def ctc_of_monitor(batch: Pair, out: Restored) -> Mean:
    """:func:`models.losses.text.ctc` of what the second recogniser reads in the clean image."""
    if out.monitor is None:
        raise ValueError("ctc_of_monitor: the monitor did not read; the task needs one, and the stage must train it")
    return ctc(batch, out.monitor)
