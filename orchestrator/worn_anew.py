"""Training lines worn anew in every epoch, from their clean images in shards, on the paper of other shards.

NumPy and OpenCV alone, so that the thread that gathers batches can do it beside a training step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np

from datasets.paper_ops import Around, BleedThrough, worn
from datasets.paper_pages import without_ink
from orchestrator.limits import PlanError
from orchestrator.plan import Stage
from orchestrator.shards import Shards
from orchestrator.wear import Wear

KEPT = 2**27  # bytes of paper, at most, that are kept in memory without their ink
INK = 128  # clean pages are darker where there is ink


class WornAnew:
    """What the training lines of a source look like in any epoch: pure given (seed, epoch, line's id).

    Args:
        lines: shards whose training rows have clean images, grey and as large as the rows'.
        paper: shards of page tiles with clean images; none for made paper. Tiles of a page that begin at one height
            are one strip of paper.
        seed: of the stage.

    Raises :class:`PlanError` where there is nothing to wear, or no paper to write on.
    """

    def __init__(self, wear: Wear, lines: Shards, paper: Shards | None, *, seed: int) -> None:
        self.wear, self.lines, self.seed = wear, lines, seed
        self.rows = sorted(lines.rows_of("train").tolist(), key=lambda row: lines.ids[row])  # files may be reordered
        if lines.scale != 1 or not lines.has_target[self.rows].all():
            raise PlanError(f"wear.lines: a training line of {wear.lines!r} has no clean image of its own size")
        self.paper, self._strips = paper, _strips_of(paper) if paper is not None else {}
        if paper is not None and not self._strips:
            raise PlanError(f"wear.paper: {wear.paper!r} has no training tile with a clean twin to take the ink out by")
        self._names = tuple(sorted(self._strips))
        widest = max((strip[-1].right for strip in self._strips.values()), default=1)
        height = int(paper.manifest.image["height"]) if paper is not None else 1
        self._page = lru_cache(maxsize=max(KEPT // (widest * height), 1))(self._without_ink)

    @classmethod
    def of(cls, stage: Stage, shards: Mapping[str, Shards], *, seed: int) -> WornAnew | None:
        """What ``stage`` asks for; None where it learns from the damage that is stored."""
        wear = stage.wear
        if wear is None:
            return None
        return cls(wear, shards[wear.lines], shards[wear.paper] if wear.paper else None, seed=seed)

    def line(self, row: int, epoch: int) -> np.ndarray:
        """``(H, w)`` uint8 of row ``row`` as it is seen in ``epoch``."""
        clean = self._clean(row)
        height, width = clean.shape
        id = f"{self.lines.ids[row]}\0{epoch}"
        ops: Any = self.wear.chain.ops(self.seed, id, self._names)
        back = self._back(row, id) if any(isinstance(op, BleedThrough) for op in ops) else None
        tall = self.wear.height or height
        image = _resized(clean, tall, max(round(width * tall / height), 1))
        return _resized(worn(ops, image, Around(page=self._page, back=back)), height, width)

    def _clean(self, row: int) -> np.ndarray:
        clean = self.lines.target(row)
        assert clean is not None  # made sure of when this was made
        return clean

    def _back(self, row: int, id: str) -> np.ndarray | None:
        """Another training line, by lot; none where the lot falls on the line itself."""
        lot = hashlib.sha256(f"{self.seed}\0{id}\0back".encode("utf-8", "surrogatepass")).digest()
        other = self.rows[int.from_bytes(lot[:8]) % len(self.rows)]
        return self._clean(other) if other != row else None

    def _without_ink(self, name: str) -> np.ndarray:
        """``(H, w)`` uint8 of a strip; where tiles overlap, the left one is seen."""
        assert self.paper is not None
        pieces, end = [], 0
        for tile in self._strips[name]:
            pixels, clean = self.paper.pixels(tile.row), self.paper.target(tile.row)
            assert clean is not None
            seen = round(min(max(end - tile.left, 0) / (tile.right - tile.left), 1) * pixels.shape[1])
            pieces.append(without_ink(pixels, clean < INK)[:, seen:])
            end = tile.right
        return np.concatenate(pieces, axis=1)


class _Tile(NamedTuple):
    """Where a tile lies in its page, from left to right, and its row in the shards."""

    left: int
    right: int
    row: int


def _strips_of(paper: Shards) -> dict[str, list[_Tile]]:
    """The training tiles of each strip, from left to right, by the strip's name."""
    strips: dict[str, list[_Tile]] = {}
    for row in paper.rows_of("train").tolist():
        if paper.has_target[row]:
            where: Any = paper.extras(row)
            name, left, width = paper.ids[row], 0, int(paper.widths[row])
            if "tile" in where:
                name, left, width = f"{where['page']}@{where['tile'][0]}", where["tile"][1], where["tile_size"][1]
            strips.setdefault(name, []).append(_Tile(left, left + width, row))
    return {name: sorted(tiles) for name, tiles in strips.items()}


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    if image.shape == (height, width):
        return image
    how = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=how)
