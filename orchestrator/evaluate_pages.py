"""How well pages without text are restored: whole pages put together from their tiles, ink against true ink."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from datasets.document_pages import assembled
from datasets.thresholds import otsu, sauvola
from models.batch import Pair, Restored
from models.metrics.binary import BinaryScores, binary_scores
from models.metrics.image import decibels, square_errors
from models.ssim import SIDE, similarity
from orchestrator.batches import Samples
from orchestrator.evaluate_lines import averages, measurable
from orchestrator.order import Step
from orchestrator.plan import Term
from orchestrator.ranks import Ranks

BATCH_SIZE = 16
MIDDLE = 128  # what is darker is ink
Place = tuple[int, int]  # top and left of a tile on its page
KINDS = ("", "_before", "_target")


@dataclass(frozen=True, kw_only=True)
class Page:
    """What became of one page, or of one tile where tiles cannot be put together.

    Attributes:
        psnr: in dB of the grey picture, by kind: ``""`` restored, ``"_degraded"`` as it was.
        ssim: likewise; NaN for a page narrower than a window.
        binary: scores of ink against the clean page's, by how it was told from paper: ``""`` darker than the middle
            in the restored page, ``"_otsu"`` and ``"_sauvola"`` by a threshold in the degraded one.
    """

    name: str
    psnr: Mapping[str, float]
    ssim: Mapping[str, float]
    binary: Mapping[str, BinaryScores]


@dataclass(frozen=True, kw_only=True)
class MeasuredPages:
    """What a task made of a set of pages, over all ranks.

    Attributes:
        pages: by name.
        means: total and count of the terms, over tiles.
        whole: whether pages were put together from their tiles.
    """

    pages: Sequence[Page]
    means: Mapping[str, tuple[float, float]]
    whole: bool


def page_metrics(
    task: nn.Module, samples: Samples, *,
    terms: Mapping[str, Term], device: torch.device, autocast: Callable[[], AbstractContextManager[Any]], ranks: Ranks,
) -> dict[str, float]:  # fmt: skip
    """Every metric of a set none of whose rows has a text; the same numbers on every rank.

    Averages over whole pages, of which there are ``pages``; where not all tiles of each are there in the pages' own
    size, over tiles, of which there are ``tiles``. ``psnr`` and ``ssim`` of the grey picture, with ``_degraded`` too;
    ``f_measure``, ``pseudo_f_measure``, ``drd`` and ``binary_psnr`` of ink against the clean page, with ``_otsu`` and
    ``_sauvola`` for what these thresholds make of the degraded one. A page without ink counts in the PSNRs and in
    ``ssim`` alone. ``loss`` and ``loss_TERM`` as in :func:`orchestrator.evaluate_lines.line_metrics`, over tiles.
    """
    found = measured_pages(task, samples, terms=terms, device=device, autocast=autocast, ranks=ranks)
    values = averages(found.means, terms) | {"pages" if found.whole else "tiles": float(len(found.pages))}
    for name, each in numbers_of(found.pages).items():
        told = [value for value in each if not math.isnan(value)]
        if told:
            values[name] = math.fsum(told) / len(told)
    return values


def numbers_of(pages: Sequence[Page]) -> dict[str, list[float]]:
    """Metric -> its value for each page, NaN where a page has none."""
    found: dict[str, list[float]] = {}
    for page in pages:
        for name in ("psnr", "ssim"):
            for kind, value in getattr(page, name).items():
                found.setdefault(f"{name}{kind}", []).append(value)
        for kind, scores in page.binary.items():
            for name, value in scores.values().items():
                called = f"binary_{name}" if name == "psnr" else name
                found.setdefault(f"{called}{kind}", []).append(value)
    return found


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A page and the samples that are its tiles, by where they lie; ``size`` is its height and width."""

    name: str
    size: tuple[int, int]
    tiles: Mapping[Place, int]

    def whole(self, tile: tuple[int, int]) -> bool:
        """Whether tiles of this size leave nothing of the page uncovered."""
        covered = np.zeros(self.size, bool)
        for top, left in self.tiles:
            covered[top : top + tile[0], left : left + tile[1]] = True
        return bool(covered.all())


def sheets_of(samples: Samples) -> tuple[list[Sheet], bool]:
    """The pages by name, and true where they are whole; else each tile as a page of its own.

    A row says by its extras ``page``, ``page_size``, ``tile`` and ``tile_size`` where it lies.
    """
    known = [samples.extras(sample) for sample in range(len(samples))]
    pages: dict[str, Sheet] = {}
    for sample, each in enumerate(known):
        size = samples.height, int(samples.widths[sample])
        if "page" not in each or each.get("tile_size") != list(size):  # not cut from a page, or resized since
            return _alone(samples), False
        name, whole, place = str(each["page"]), _two(each["page_size"]), _two(each["tile"])
        before = pages[name].tiles if name in pages else {}
        pages[name] = Sheet(name=name, size=whole, tiles={**before, place: sample})
    sheets = [pages[name] for name in sorted(pages)]
    covered = all(sheet.whole((samples.height, int(samples.widths.min()))) for sheet in sheets)
    return (sheets, True) if covered else (_alone(samples), False)


def _two(numbers: Any) -> tuple[int, int]:
    return int(numbers[0]), int(numbers[1])


def _alone(samples: Samples) -> list[Sheet]:
    return [
        Sheet(name=f"{sample:08d}", size=(samples.height, int(width)), tiles={(0, 0): sample})
        for sample, width in enumerate(samples.widths.tolist())
    ]  # fmt: skip


@torch.inference_mode()
def measured_pages(
    task: nn.Module, samples: Samples, *,
    terms: Mapping[str, Term], device: torch.device, autocast: Callable[[], AbstractContextManager[Any]], ranks: Ranks,
) -> MeasuredPages:  # fmt: skip
    """Restore every tile once over all ranks, and compare page by page."""
    task.eval()
    asked = measurable(terms)
    sums = torch.zeros(len(asked), 2, dtype=torch.float64, device=device)
    sheets, whole = sheets_of(samples)
    own: list[Page] = []
    for sheet in sheets[ranks.rank :: ranks.count]:
        tiles: dict[str, dict[Place, np.ndarray]] = {kind: {} for kind in KINDS}
        for step in _steps(sheet, samples):
            batch = samples.batch(step, device=device)
            assert isinstance(batch, Pair), "ingest rejects rows that have neither text nor target"
            with autocast():
                out: Restored = task(batch)
            for total, term in zip(sums, asked.values(), strict=True):
                mean: Any = term.loss(batch, out)
                total += torch.stack([mean.total.double(), mean.count.double()])
            places = {sample: place for place, sample in sheet.tiles.items()}
            pictures = (out.image, task.enlarged(batch), batch.target)  # type: ignore[operator]
            for kind, picture in zip(KINDS, pictures, strict=True):
                grey = picture.float().mean(dim=1).add(1).mul(127.5).cpu().numpy()  # (B, H, W)
                for sample, width, each in zip(batch.ids, batch.widths.tolist(), grey, strict=True):
                    tiles[kind][places[sample]] = each[:, :width]
        pages = {kind: assembled(each, *sheet.size) for kind, each in tiles.items()}
        own.append(_page(sheet.name, pages, before=str(task.before)))
    every = sorted((page for part in ranks.gather(own) for page in part), key=lambda page: page.name)
    means = {
        f"loss_{name}": (total, count) for name, (total, count) in zip(asked, ranks.sum(sums).tolist(), strict=True)
    }
    return MeasuredPages(pages=every, whole=whole, means=means)


def _steps(sheet: Sheet, samples: Samples) -> list[Step]:
    """Batches of the tiles of a page, which are equally wide."""
    every = np.array(list(sheet.tiles.values()), np.int64)
    width = -(-int(samples.widths[every[0]]) // samples.multiple) * samples.multiple
    return [Step(every[start : start + BATCH_SIZE], width) for start in range(0, len(every), BATCH_SIZE)]


def _page(name: str, pages: Mapping[str, np.ndarray], *, before: str) -> Page:
    """The scores of one page, restored and as it was, against the clean one: ``(H, W)`` float32 from 0 to 255."""
    degraded = pages["_before"].round().clip(0, 255).astype(np.uint8)
    ink = pages["_target"] < MIDDLE
    found = {"": pages[""] < MIDDLE, "_otsu": otsu(degraded), "_sauvola": sauvola(degraded)}
    kinds = {"": pages[""], f"_{before}": pages["_before"]}
    return Page(
        name=name, binary={kind: binary_scores(each, ink) for kind, each in found.items()},
        psnr={kind: _grey_psnr(each, pages["_target"]) for kind, each in kinds.items()},
        ssim={kind: _grey_ssim(each, pages["_target"]) for kind, each in kinds.items()},
    )  # fmt: skip


def _tensor(page: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(page)[None, None] / 127.5 - 1


def _grey_psnr(page: np.ndarray, clean: np.ndarray) -> float:
    widths = torch.tensor([page.shape[1]])
    return float(decibels(square_errors(_tensor(page), _tensor(clean), widths)))


def _grey_ssim(page: np.ndarray, clean: np.ndarray) -> float:
    return float(similarity(_tensor(page), _tensor(clean))) if min(page.shape) >= SIDE else math.nan
