"""Pages of old paper with their clean twins: whose splits they are in, and what their paper looks like without text.

Pairs lie in one folder: ``NAME_degraded.jpg`` beside ``NAME_clean.png``, ink black on white in the clean one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from datasets.image import ImageFile, inside
from datasets.row import BadImage, SourceError
from datasets.splits import split_by_share

CLEAN, DEGRADED = "_clean", "_degraded"


@dataclass(frozen=True, kw_only=True)
class PagePair:
    """One page, by the paths of its two pictures."""

    name: str
    degraded: ImageFile
    clean: ImageFile


@dataclass(frozen=True)
class Paper:
    """The pages whose paper a line may be written on, and a stamp that changes when one of them may have."""

    pages: tuple[PagePair, ...]
    stamp: str

    def page(self, name: str) -> np.ndarray:
        """``(H, W)`` uint8 of the page without its text. Raises :class:`~datasets.row.BadImage`."""
        for pair in self.pages:
            if pair.name == name:
                return textless(pair)
        raise BadImage("missing", f"no page {name!r} among {len(self.pages)} pages of paper")

    def __repr__(self) -> str:
        return f"Paper({self.stamp})"


def page_pairs(root: Path, name: str = ".") -> tuple[list[PagePair], list[str]]:
    """The pairs in the folder ``name`` of ``root`` by name, and the names of pages of which only one picture is there.

    Raises :class:`~datasets.row.SourceError` where there is no folder, or where it or a picture lies outside ``root``.
    """
    try:
        folder = inside(root, name)
        if not folder.is_dir():
            raise SourceError(f"{folder}: no folder of page pairs; give the folder's name below the root, or none")
        for path in folder.iterdir():
            inside(root, str(path))
    except BadImage as error:
        raise SourceError(f"page pairs in {name!r}: {error}; put the pictures themselves below the root") from error
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        for half in (CLEAN, DEGRADED):
            if path.stem.endswith(half):
                found.setdefault(path.stem.removesuffix(half), {}).setdefault(half, path)
    whole = [name for name, halves in found.items() if len(halves) == 2]
    pairs = [
        PagePair(
            name=name, degraded=ImageFile(str(found[name][DEGRADED])), clean=ImageFile(str(found[name][CLEAN]))
        )
        for name in whole
    ]  # fmt: skip
    return pairs, [name for name in found if len(found[name]) == 1]


def page_splits(pairs: list[PagePair], *, valid_share: float, test_share: float, seed: int) -> dict[str, str]:
    """The split of every page: one rule, so that what is paper of one split is never a page of another."""
    return split_by_share([pair.name for pair in pairs], valid_share=valid_share, test_share=test_share, seed=seed)


def papers(root: Path, name: str, *, valid_share: float, test_share: float, seed: int) -> dict[str, Paper]:
    """The paper of each split: no page is in two. Raises :class:`SourceError` where a split has none."""
    pairs, _ = page_pairs(root, name)
    splits = page_splits(pairs, valid_share=valid_share, test_share=test_share, seed=seed)
    made = {}
    for split in ("train", "valid", "test"):
        of = tuple(pair for pair in pairs if splits[pair.name] == split)
        if not of:
            raise SourceError(
                f"{root / name}: {len(pairs)} page pairs leave split {split!r} without paper; three at least "
                f"are needed, and shares above 0 (paper_valid_share={valid_share}, paper_test_share={test_share}), "
                "or no folder"
            )
        made[split] = Paper(of, " ".join(f"{pair.name} {pair.degraded.stamp()} {pair.clean.stamp()}" for pair in of))
    return made


def grey(image: ImageFile) -> np.ndarray:
    """``(H, W)`` uint8 of a file."""
    pixels = image.load()
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def textless(pair: PagePair) -> np.ndarray:
    """``(H, W)`` uint8 of the page with paper in place of its ink, read-only. Raises ``BadImage`` (out_of_register)."""
    return _textless(pair, pair.degraded.stamp() + pair.clean.stamp())


@lru_cache(maxsize=128)  # about a megabyte each; the lines of a shard draw from all of them
def _textless(pair: PagePair, stamp: str) -> np.ndarray:
    page, clean = grey(pair.degraded), grey(pair.clean)
    if page.shape != clean.shape:
        raise BadImage("out_of_register", f"{pair.name}: {page.shape} degraded, {clean.shape} clean; sizes differ")
    made = without_ink(page, clean < 128)
    made.setflags(write=False)
    return made


def without_ink(page: np.ndarray, ink: np.ndarray, *, reach: int = 4) -> np.ndarray:
    """``(H, W)`` uint8 of ``page`` where ``ink`` and what is within ``reach`` pixels of it is filled with paper.

    The light of the paper around is carried on into the letters by averages over ever wider windows; the grain on top
    of it is taken from paper some way off, as an even fill would betray where letters were.
    """
    shape = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    paper = (cv2.dilate(ink.astype(np.uint8), shape) == 0).astype(np.float32)
    if not paper.any():
        return np.full_like(page, 255)
    light, known = page * paper, paper
    fill = np.full(page.shape, float(light.sum() / paper.sum()), np.float32)
    for size in (401, 101, 41, 15):
        near = cv2.blur(known, (size, size))
        mean = cv2.blur(light, (size, size)) / np.maximum(near, 1e-6)
        fill = np.where(near > 0.08, mean, fill)
    even = cv2.GaussianBlur(fill, (0, 0), 3)
    grain, left = (page - even) * paper, 1 - paper
    rng = np.random.default_rng(0)
    for _ in range(12):
        down, across = (int(rng.integers(-size // 4, size // 4 + 1)) for size in page.shape)
        there = np.roll(paper, (down, across), (0, 1)) * left
        grain += np.roll((page - even) * paper, (down, across), (0, 1)) * there
        left -= there
    made = np.where(paper > 0, page, np.clip(even + grain, 0, 255))
    return np.rint(made).astype(np.uint8)
