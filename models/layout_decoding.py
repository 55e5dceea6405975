"""Reading plates whose layouts are known: what was really read, and beside it what a plate may say.

The two are never mixed: metrics and hard mining of a network look at the raw reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.alignment import symbol_confidences
from models.decoding import BLANK, prefix_beam
from models.text import Alphabet
from models.text_layout import Layouts, State

Prefix = tuple[int, ...]
NEVER = 1 << 30  # symbols missing where no layout goes on


@dataclass(frozen=True, kw_only=True)
class PlateReading:
    """One reading of an image.

    Attributes:
        text: empty where nothing was read.
        log_p: CTC's log-probability of the whole text, in nats; ``-inf`` where no reading is possible.
        confidences: one for each character: the highest probability it has in the frames that spell it.
    """

    text: str
    log_p: float
    confidences: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class BothReadings:
    """What the network reads, and the likeliest of what the layouts allow."""

    raw: PlateReading
    constrained: PlateReading


NOTHING = PlateReading(text="", log_p=-np.inf, confidences=())


class Paths:
    """Which prefixes the layouts allow, for :func:`models.decoding.prefix_beam`; one object serves many images."""

    def __init__(self, layouts: Layouts, alphabet: Alphabet) -> None:
        self.layouts, self.alphabet = layouts, alphabet
        self.known: dict[State, tuple[list[State], NDArray[np.int64]]] = {}

    def may(self, prefixes: Sequence[Prefix], left: int) -> NDArray[np.bool_]:
        """``(n, K)`` whether each prefix may stay (column 0), or grow by a class, with ``left`` frames to come."""
        return np.stack([self._from(self._state(prefix))[1] <= left for prefix in prefixes])

    def complete(self, label: Prefix) -> bool:
        """Whether a layout allows ``label`` as a whole."""
        return bool(self.may([label], 0)[0, BLANK])

    def _state(self, prefix: Prefix) -> State:
        state = self.layouts.start
        for symbol in prefix:
            state = self._from(state)[0][symbol]
        return state

    def _from(self, state: State) -> tuple[list[State], NDArray[np.int64]]:
        """Where each class leads (the blank: nowhere), and the fewest symbols that are then still missing."""
        if state not in self.known:
            onwards = [state, *(self.layouts.after(state, symbol) for symbol in self.alphabet.symbols)]
            missing = [self.layouts.needed(after) if after else NEVER for after in onwards]
            self.known[state] = onwards, np.array(missing, dtype=np.int64)
        return self.known[state]


def layout_beam(log_probs: NDArray[np.floating], paths: Paths, *, beam: int = 16) -> list[tuple[Prefix, float]]:
    """The most probable labels that a layout allows and their ``log p`` in nats, best first; other labels have none.

    ``log p`` is what CTC gives to the label among all labels. Exact when ``beam`` is not reached. Empty where the
    frames suffice for no layout. Where a narrow beam completes nothing, it is widened.

    Args:
        log_probs: ``(T, K)`` of one image's valid frames, normalised over ``K``.
    """
    for wider in (1, 8, 64):  # all kept prefixes may end where a symbol must repeat and no frame is left for its blank
        found = prefix_beam(log_probs, beam=wider * beam, may=paths.may)
        if complete := [(label, log_p) for label, log_p in found if paths.complete(label)]:
            return complete
    return []


@torch.no_grad()
def both_readings(
    logits: Tensor, frames: Tensor, alphabet: Alphabet, paths: Paths | Iterable[Paths], *, beam: int = 16
) -> list[BothReadings]:
    """The raw and the constrained reading of each image, both by beam search.

    Args:
        logits: ``(B, T, K)``.
        frames: ``(B,)`` valid frames.
        paths: of the layouts that may occur, or one for each image where its layout is known.
    """
    log_probs = logits.float().log_softmax(dim=2).cpu().numpy()
    each = [paths] * len(log_probs) if isinstance(paths, Paths) else list(paths)
    readings = []
    for scores, valid, own in zip(log_probs, frames.tolist(), each, strict=True):
        raw, constrained = (
            _best(found, scores[:valid], alphabet)
            for found in (prefix_beam(scores[:valid], beam=beam), layout_beam(scores[:valid], own, beam=beam))
        )
        readings.append(BothReadings(raw=raw, constrained=constrained))
    return readings


@torch.no_grad()
def constrained_readings(
    logits: Tensor, frames: Tensor, alphabet: Alphabet, paths: Iterable[Paths], *, beam: int = 16
) -> list[PlateReading]:
    """The likeliest of what the layouts of each image allow; as :func:`both_readings`, without the raw reading."""
    log_probs = logits.float().log_softmax(dim=2).cpu().numpy()
    return [
        _best(layout_beam(scores[:valid], own, beam=beam), scores[:valid], alphabet)
        for scores, valid, own in zip(log_probs, frames.tolist(), paths, strict=True)
    ]


def _best(found: Sequence[tuple[Prefix, float]], log_probs: NDArray[np.floating], alphabet: Alphabet) -> PlateReading:
    if not found:
        return NOTHING
    label, log_p = found[0]
    sure = symbol_confidences(log_probs, label)
    return PlateReading(text=alphabet.normalize(alphabet.decode(label)), log_p=log_p, confidences=tuple(sure))
