"""Tiles of real old pages beside their clean twins, without text: for the last tuning of a restorer, and for scores.

Pages lie as :mod:`datasets.paper_pages` has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import cv2
import numpy as np

from datasets.image import ImageFile
from datasets.on_disk import existing_folder, rejected
from datasets.paper_pages import PagePair, grey, page_pairs, page_splits
from datasets.row import BadImage, Reject, Row, SourceError
from datasets.splits import check_shares


@dataclass(frozen=True)
class Tile:
    """A piece of a page; what of it lies below or right of the page is the page mirrored at its edge."""

    image: ImageFile
    top: int
    left: int
    height: int
    width: int

    def load(self) -> np.ndarray:
        """``(height, width)`` uint8. Raises :class:`~datasets.row.BadImage`."""
        page = _page(self.image, self.image.stamp())
        cut = page[self.top : self.top + self.height, self.left : self.left + self.width]
        below, beside = self.height - cut.shape[0], self.width - cut.shape[1]
        return cv2.copyMakeBorder(cut, 0, below, 0, beside, cv2.BORDER_REFLECT) if below or beside else cut

    def stamp(self) -> str:
        return f"{self.image.stamp()} {self.top},{self.left} {self.height}x{self.width}"


@lru_cache(maxsize=4)  # tiles of a page follow each other, degraded and clean by turns
def _page(image: ImageFile, stamp: str) -> np.ndarray:
    page = grey(image)
    page.setflags(write=False)
    return page


@dataclass(frozen=True, kw_only=True)
class DocumentPages:
    """Every page as overlapping tiles, all of one page in one split; a row's text is empty.

    Tiles begin every ``stride_down`` and ``stride_across`` pixels; a last row and column end exactly at the page's
    edge, so that every pixel is in a tile. The extras of a row say where its tile lies and how large the page is.

    Attributes:
        folder: of the page pairs, below the root.
        height: of a tile, in pixels.
        width: likewise.
        stride_down: pixels from one row of tiles to the next; at most ``height``.
        stride_across: likewise from column to column.
        least_ink: a tile with a smaller share of ink is empty.
        empty_share: most empty tiles in train, as a share of the page's tiles with ink; the others are rejected
            (``empty_tile``). Valid and test keep all tiles, for pages to be put together again.
        valid_share: share of the pages held out for validation.
        test_share: likewise for test.
        seed: of splits and of which empty tiles stay.
    """

    folder: str = "pairs"
    height: int = 128
    width: int = 1024
    stride_down: int = 96
    stride_across: int = 768
    least_ink: float = 0.002
    empty_share: float = 0.1
    valid_share: float = 0.15
    test_share: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        check_shares("DocumentPages", valid_share=self.valid_share, test_share=self.test_share)
        for size, stride in (("height", "stride_down"), ("width", "stride_across")):
            if not 0 < getattr(self, stride) <= getattr(self, size):
                raise ValueError(
                    f"DocumentPages: {stride} is {getattr(self, stride)}, {size} {getattr(self, size)}; a stride from "
                    "1 to the size is needed, or pixels would be in no tile"
                )
        if not 0 <= self.least_ink <= 1 or self.empty_share < 0:
            raise ValueError(
                f"DocumentPages: least_ink {self.least_ink}, empty_share {self.empty_share}; least_ink is a share "
                "between 0 and 1, empty_share at least 0"
            )

    def rows(self, root: Path | None) -> Iterator[Row | Reject]:
        """Raises :class:`SourceError` without a folder of pairs, or where it holds none."""
        folder = existing_folder(root, source="DocumentPages")
        pairs, alone = page_pairs(folder, self.folder)
        if not pairs:
            raise SourceError(
                f"{folder / self.folder}: no page pairs; NAME_degraded and NAME_clean pictures are needed"
            )
        splits = page_splits(pairs, valid_share=self.valid_share, test_share=self.test_share, seed=self.seed)
        for name in alone:
            yield Reject(id=name, reason="missing_pair", detail="only one of its two pictures is there")
        for pair in pairs:
            yield from self._tiles(pair, splits[pair.name])

    def describe(self, root: Path | None) -> Mapping[str, object]:
        return {"name": "pages of documents", "licence": "not stated", "text": "none"}

    def _tiles(self, pair: PagePair, split: str) -> Iterator[Row | Reject]:
        try:
            page, clean = grey(pair.degraded), grey(pair.clean)
        except BadImage as error:
            yield rejected(pair.name, error)
            return
        if page.shape != clean.shape:
            detail = f"{page.shape} degraded, {clean.shape} clean; equal sizes are needed"
            yield Reject(id=pair.name, reason="out_of_register", detail=detail)
            return
        places = self.places(*clean.shape)
        shares = {at: self._ink(clean, at) for at in places}
        dropped = self._dropped(pair.name, shares) if split == "train" else frozenset[tuple[int, int]]()
        for top, left in places:
            id = f"{pair.name}@{top},{left}"
            if (top, left) in dropped:
                yield Reject(id=id, reason="empty_tile", detail=f"ink on {shares[top, left]:.4f} of it")
                continue
            image, target = (Tile(half, top, left, self.height, self.width) for half in (pair.degraded, pair.clean))
            extras = {
                "page": pair.name, "page_size": list(clean.shape), "tile": [top, left],
                "tile_size": [self.height, self.width],
            }  # fmt: skip
            yield Row(
                id=id, image=image, target=target, text="", group=pair.name, split=split, extras=extras, textless=True
            )

    def places(self, height: int, width: int) -> list[tuple[int, int]]:
        """Top and left of every tile of a page of ``height`` x ``width``."""
        tops = starts(height, self.height, self.stride_down)
        return [(top, left) for top in tops for left in starts(width, self.width, self.stride_across)]

    def _ink(self, clean: np.ndarray, at: tuple[int, int]) -> float:
        cut = clean[at[0] : at[0] + self.height, at[1] : at[1] + self.width]
        return float((cut < 128).mean())

    def _dropped(self, name: str, shares: Mapping[tuple[int, int], float]) -> frozenset[tuple[int, int]]:
        """The empty tiles beyond ``empty_share``, by lot."""
        empty = [at for at, ink in shares.items() if ink < self.least_ink]
        kept = int(self.empty_share * (len(shares) - len(empty)))
        lots = sorted(empty, key=lambda at: sha256(f"{self.seed}\0{name}\0{at}".encode()).digest())
        return frozenset(lots[kept:])


def starts(length: int, size: int, stride: int) -> list[int]:
    """Where tiles of ``size`` begin so that all of ``length`` is covered; the last ends at its end where it can."""
    last = max(length - size, 0)
    return [*range(0, last, stride), last]


def assembled(tiles: Mapping[tuple[int, int], np.ndarray], height: int, width: int) -> np.ndarray:
    """``(height, width)`` float32: the mean of all tiles at each pixel. Raises ``ValueError`` where one is in none."""
    total, count = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    for (top, left), tile in tiles.items():
        rows, columns = min(tile.shape[0], height - top), min(tile.shape[1], width - left)
        total[top : top + rows, left : left + columns] += tile[:rows, :columns]
        count[top : top + rows, left : left + columns] += 1
    if not count.all():
        raise ValueError(f"{int((count == 0).sum())} of {height}x{width} pixels are in none of {len(tiles)} tiles")
    return total / count
