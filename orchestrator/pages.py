"""Restoring a whole page: overlapping tiles as the recipe learned them, blended where they overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from datasets.document_pages import DocumentPages, starts
from datasets.line_image import LineSpec
from models.batch import Batch, Restored
from orchestrator.plan import Recipe
from orchestrator.reader import Reader

AT_ONCE = 8  # tiles restored in one pass
LINES_HIGH, LINES_WIDE = 2, 4  # an image of more heights of a line, and narrower than so many of its own, is a page


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Tiles of ``height`` x ``width`` pixels of a page, and how many pixels lie between the beginnings of two."""

    height: int
    width: int
    down: int
    across: int

    @staticmethod
    def of(recipe: Recipe) -> Tiling:
        """Those the recipe learned pages from; without any, tiles as large as a line, overlapping by a quarter.

        Tiles overlap by a quarter at least, whatever the recipe learned from.
        """
        spec: LineSpec = recipe.image  # type: ignore[assignment]
        height, width = spec.height, spec.max_width
        for source in recipe.sources.values():
            if isinstance(source, DocumentPages):
                height, width = source.height, source.width
        return Tiling(height=height, width=width, down=max(height * 3 // 4, 1), across=max(width * 3 // 4, 1))

    def places(self, height: int, width: int) -> list[tuple[int, int]]:
        """Top and left of every tile of a page."""
        return [
            (top, left)
            for top in starts(height, self.height, self.down)
            for left in starts(width, self.width, self.across)
        ]

    @property
    def weights(self) -> np.ndarray:
        """``(height, width)`` float32: 1 in the middle of a tile, less towards its edges, never 0."""
        sides = [np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1)) for size in (self.height, self.width)]
        ramps = [np.minimum(side / max(len(side) / 4, 1), 1.0) for side in sides]
        return np.outer(*ramps).astype(np.float32)


def is_page(reader: Reader, height: int, width: int) -> bool:
    """Whether an image of that size is a page rather than a line; only of a recipe that restores lines."""
    spec = reader.recipe.image
    return isinstance(spec, LineSpec) and height > LINES_HIGH * spec.height and width < LINES_WIDE * height


def restore_page(reader: Reader, page: np.ndarray, *, flip_vote: bool = False) -> tuple[np.ndarray, int]:
    """A page restored at its own size, and from how many tiles.

    Args:
        page: ``(h, w)`` or ``(h, w, 3)`` RGB uint8, dark ink on light paper.
        flip_vote: restore each tile upside down too; a pixel is as dark as the lighter of both has it, so it is black
            only where both say so.

    Returns:
        ``(h, w)`` uint8.
    """
    grey = cv2.cvtColor(page, cv2.COLOR_RGB2GRAY) if page.ndim == 3 else page
    tiling = Tiling.of(reader.recipe)
    places, weights = tiling.places(*grey.shape), tiling.weights
    total, weight = np.zeros(grey.shape, np.float32), np.zeros(grey.shape, np.float32)
    for first in range(0, len(places), AT_ONCE):
        some = places[first : first + AT_ONCE]
        tiles = [_tile(grey, tiling, top, left) for top, left in some]
        for (top, left), tile in zip(some, _voted(reader, tiles, flip_vote=flip_vote), strict=True):
            rows, columns = min(tiling.height, grey.shape[0] - top), min(tiling.width, grey.shape[1] - left)
            part = (slice(top, top + rows), slice(left, left + columns))
            total[part] += (weights * tile)[:rows, :columns]
            weight[part] += weights[:rows, :columns]
    return np.clip(np.round(total / weight), 0, 255).astype(np.uint8), len(places)


def _tile(grey: np.ndarray, tiling: Tiling, top: int, left: int) -> np.ndarray:
    cut = grey[top : top + tiling.height, left : left + tiling.width]
    below, beside = tiling.height - cut.shape[0], tiling.width - cut.shape[1]
    return cv2.copyMakeBorder(cut, 0, below, 0, beside, cv2.BORDER_REFLECT) if below or beside else cut


def _voted(reader: Reader, tiles: Sequence[np.ndarray], *, flip_vote: bool) -> Iterator[np.ndarray]:
    upright = _restored(reader, tiles)
    if not flip_vote:
        return iter(upright)
    flipped = _restored(reader, [np.ascontiguousarray(tile[::-1]) for tile in tiles])
    return (np.maximum(one, other[::-1]) for one, other in zip(upright, flipped, strict=True))


@torch.inference_mode()
def _restored(reader: Reader, tiles: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each ``(height, width)`` tile restored, float32 from 0 to 255; prepared as at ingest and brought back."""
    spec: LineSpec = reader.recipe.image  # type: ignore[assignment]
    height, width = tiles[0].shape
    prepared = np.stack([spec.prepare(tile, None)[0] for tile in tiles])
    image = torch.from_numpy(prepared[:, None]).to(reader.machine.device).float().div(127.5).sub(1.0)
    widths = torch.full((len(tiles),), image.shape[3], dtype=torch.long, device=image.device)
    none = torch.zeros(len(tiles), dtype=torch.long, device=image.device)
    batch = Batch(
        image=image, widths=widths, tokens=none[:, None][:, :0], lengths=none, counted=none.bool(),
        ids=tuple(range(len(tiles))),
    )  # fmt: skip
    with reader.machine.autocast():
        out: Restored = reader.task(batch)
    arrays = out.image[:, 0].float().add(1).mul(127.5).clamp(0, 255).cpu().numpy()
    return [
        array if array.shape == (height, width) else cv2.resize(array, (width, height), interpolation=cv2.INTER_CUBIC)
        for array in arrays
    ]
