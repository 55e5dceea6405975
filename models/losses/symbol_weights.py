"""From what was confused to how much each character weighs in the next epoch: pure functions, bounded weights."""

from __future__ import annotations

from dataclasses import dataclass

from models.metrics.confusions import NONE, Confusions


@dataclass(frozen=True, kw_only=True)
class SymbolErrors:
    """How often each symbol occurred and was read as another one. Plain numbers, so that a checkpoint can hold them.

    Attributes:
        seen: one for each symbol: occurrences in labels that something was read for.
        wrong: one for each symbol: those read as another symbol.
    """

    seen: tuple[float, ...]
    wrong: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.seen) != len(self.wrong):
            raise ValueError(f"SymbolErrors: {len(self.seen)} symbols seen but {len(self.wrong)} wrong; give as many")
        if not all(0 <= wrong <= seen for seen, wrong in zip(self.seen, self.wrong, strict=True)):
            raise ValueError("SymbolErrors: a symbol cannot be wrong more often than it was seen, nor less than never")

    @staticmethod
    def of(found: Confusions, symbols: str) -> SymbolErrors:
        """Substitutions alone: what was left out or added says nothing of which symbol resembles which.

        Args:
            symbols: of the alphabet, in order; characters it lacks are not counted.
        """
        seen, wrong = dict.fromkeys(symbols, 0), dict.fromkeys(symbols, 0)
        for (true, read), times in found.counts.items():
            if true in seen and read != NONE:
                seen[true] += times
                wrong[true] += times if read != true else 0
        return SymbolErrors(seen=tuple(map(float, seen.values())), wrong=tuple(map(float, wrong.values())))

    def after(self, newer: SymbolErrors, *, keep: float = 0.7) -> SymbolErrors:
        """These counts faded to ``keep``, and ``1 - keep`` of the ``newer`` ones: the memory of several epochs."""
        if not 0 <= keep < 1:
            raise ValueError(f"SymbolErrors.after: keep is {keep!r}; allowed: 0 up to, not including, 1")

        def mixed(old: tuple[float, ...], new: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(keep * a + (1 - keep) * b for a, b in zip(old, new, strict=True))

        return SymbolErrors(seen=mixed(self.seen, newer.seen), wrong=mixed(self.wrong, newer.wrong))

    def weights(self, *, most: float = 3.0, prior: float = 20.0) -> tuple[float, ...]:
        """One weight for each symbol, above 0 and at most ``most``; they average to 1 over the symbols of the labels.

        ``1 + (most - 1) * rate / largest rate``, then divided by that average. A rate is drawn towards that of all
        symbols as if each had been seen ``prior`` times more, so that one mistake of a rare symbol does not outweigh
        400 of a common one. Nothing wrong, or nothing seen: all 1.
        """
        if most < 1 or prior <= 0:
            raise ValueError(f"SymbolErrors.weights: most is {most!r} (at least 1), prior {prior!r} (above 0)")
        total, errors = sum(self.seen), sum(self.wrong)
        if not errors:
            return (1.0,) * len(self.seen)
        pairs = zip(self.seen, self.wrong, strict=True)
        rates = [(wrong + prior * errors / total) / (seen + prior) for seen, wrong in pairs]
        raised = [1 + (most - 1) * rate / max(rates) for rate in rates]
        average = sum(seen * weight for seen, weight in zip(self.seen, raised, strict=True)) / total
        return tuple(min(weight / average, most) for weight in raised)
