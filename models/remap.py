"""Move a trained last layer to another alphabet, symbol by symbol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from models.text import Alphabet


@dataclass(frozen=True, kw_only=True)
class Remapped:
    """A state dict for the target alphabet and what became of the symbols.

    Attributes:
        state: the whole state dict, only the last layer changed.
        kept: symbols of both alphabets, in the target's order; their rows are copies.
        new: symbols only the target has, in its order.
        lost: symbols only the source had, in its order.
    """

    state: dict[str, Tensor]
    kept: str
    new: str
    lost: str


def remap(state: Mapping[str, Tensor], *, head: str, source: Alphabet, target: Alphabet) -> Remapped:
    """``state`` for ``target``: rows copied by symbol and for the blank.

    A new symbol starts as the average of the kept symbols' rows. Its score is then never above the
    best of theirs, so greedy readings stay what they were until training says otherwise.

    Args:
        head: name of the last linear layer, such as ``"rnn.head"``.
    """
    kept, new = split(target.symbols, source.symbols)
    _, lost = split(source.symbols, target.symbols)
    if not kept:
        raise ValueError(f"remap: {head} knows none of {target.symbols!r}; leave it out and train a new one")
    result = dict(state)
    for name in (f"{head}.weight", f"{head}.bias"):
        if name not in state or len(state[name]) != source.classes:
            found = tuple(state[name].shape) if name in state else "nothing"
            raise ValueError(f"remap: {name} is {found}; the source alphabet needs {source.classes} rows")
        result[name] = remap_rows(state[name], source=source, target=target, kept=kept)
    return Remapped(state=result, kept=kept, new=new, lost=lost)


def remap_rows(rows: Tensor, *, source: Alphabet, target: Alphabet, kept: str) -> Tensor:
    """``(source.classes, ...)`` in, ``(target.classes, ...)`` out."""
    before = rows[[source.symbols.index(symbol) + 1 for symbol in kept]]
    result = before.mean(dim=0).expand(target.classes, *rows.shape[1:]).clone()
    result[target.blank] = rows[source.blank]
    result[[target.symbols.index(symbol) + 1 for symbol in kept]] = before
    return result


def split(symbols: str, other: str) -> tuple[str, str]:
    """The ``symbols`` that ``other`` has, and those that it lacks."""
    there = set(other)
    return "".join(s for s in symbols if s in there), "".join(s for s in symbols if s not in there)
