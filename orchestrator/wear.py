"""Damage that is drawn anew for every training line in every epoch, as a plan says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.limits import PlanError


class ChainLike(Protocol):
    """What draws damage: a :class:`datasets.worn_paper.PaperChain`."""

    def ops(self, seed: int, id: str, pages: tuple[str, ...] = ()) -> tuple[object, ...]: ...


@dataclass(frozen=True, kw_only=True)
class Wear:
    """The lines of a source are worn from their clean images, each in another way in every epoch.

    What happens to a line is a function of the stage's seed, the line's id and the epoch alone. The damage that was
    frozen at ingest is not learned from; validation always measures on it.

    Attributes:
        lines: the source; every training line of it has a clean image.
        chain: what wears them.
        paper: source of pages whose training tiles, without their ink, are written on; empty for made paper.
        height: of a line while it is worn, in pixels, which strokes, noise and compression are made for; 0 for that
            of the stored image.
    """

    lines: str
    chain: ChainLike
    paper: str = ""
    height: int = 64

    def __post_init__(self) -> None:
        if self.height != 0 and self.height < 8:
            raise PlanError(f"Wear.height: {self.height}; 0 (that of the image) or at least 8 pixels")

    def check(self, where: str, learned: Sequence[str]) -> None:
        """That a stage that learns from the sources ``learned`` can be worn so."""
        if self.lines not in learned:
            raise PlanError(f"{where}: wear.lines names {self.lines!r}, but it learns from {', '.join(learned)}")
