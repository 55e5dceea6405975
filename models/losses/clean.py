"""The anchor of a recogniser that learns beside a generator: it must go on reading clean images."""

from __future__ import annotations

from models.batch import Pair, Restored
from models.losses.text import ctc
from models.mean import Mean


def ctc_on_target(batch: Pair, out: Restored) -> Mean:
    """:func:`models.losses.text.ctc` of what is read in the clean image; it trains the recogniser alone."""
    if out.clean is None:
        raise ValueError("ctc_on_target: the clean image was not read; the task must read the target too")
    return ctc(batch, out.clean)
