"""Pages put together from their tiles: decibels and ink by hand, thresholds beside them, any number of ranks."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest
import torch
from documents_made_up import ALPHABET
from test_evaluate_restored import Beside
from torch import Tensor, nn

from datasets.document_pages import DocumentPages
from datasets.line_image import LineSpec
from models.batch import Batch, Read, Restored
from models.losses.adversarial import GeneratorTerm
from models.losses.image import l1
from models.losses.line_ctc import LineCTC
from models.text import Frames
from orchestrator.batches import Samples, samples_of
from orchestrator.evaluate import evaluate
from orchestrator.evaluate_pages import sheets_of
from orchestrator.ingest import ingest, make_here
from orchestrator.plan import Term
from orchestrator.ranks import Ranks
from orchestrator.shards import Shards

FRAMES = Frames(stride=4, offset=0)
PAPER, INK = 190, 90  # of degraded pages; clean ones are 255 and 0
TERMS = {"l1": Term(loss=l1, weight=2.0), "text": Term(loss=LineCTC()), "fool": Term(loss=GeneratorTerm())}
SOURCE = DocumentPages(
    height=32, width=64, stride_down=24, stride_across=48, valid_share=0.4, test_share=0.2, empty_share=9
)


def truth_of(page: int) -> np.ndarray:
    """``(70, 100)`` true for ink: some strokes, more on later pages; page 8 holds none."""
    ink = np.zeros((70, 100), bool)
    for stroke in range(0 if page == 8 else 2 + page):
        ink[6 * stroke + 5 : 6 * stroke + 8, 10:90] = True
    return ink


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents") / "pairs"
    folder.mkdir()
    for page in range(10):
        ink = truth_of(page)
        cv2.imwrite(str(folder / f"p{page}_clean.png"), np.where(ink, 0, 255).astype(np.uint8))
        cv2.imwrite(str(folder / f"p{page}_degraded.png"), np.where(ink, INK, PAPER).astype(np.uint8))
    return folder.parent


def samples_from(root: Path, store: Path, *, split: str = "valid", height: int = 32) -> Samples:
    folder = ingest(
        SOURCE, root, name="pages", image=LineSpec(height=height, max_width=64), alphabet=ALPHABET, frames=FRAMES,
        store=store, make=make_here,
    )  # fmt: skip
    return samples_of({"pages": Shards.open(folder, verify=True)}, {"pages": split}, ALPHABET, FRAMES)


class Paints(nn.Module):
    """Restores by a function of the image, and reads nothing."""

    measures: ClassVar[str] = "documents"
    before: ClassVar[str] = "degraded"
    scale = 1

    def __init__(self, paint: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.paint = paint

    def forward(self, batch: Batch) -> Restored:
        none = Read(logits=torch.zeros(len(batch.ids), 0, ALPHABET.classes), frames=torch.zeros_like(batch.widths))
        return Restored(image=self.paint(batch.image), read=none, clean=none)

    def enlarged(self, batch: Batch) -> Tensor:
        return batch.image


def sharpened(image: Tensor) -> Tensor:
    return torch.where(image > 0.1, 1.0, -1.0)  # 140 of 255


def metrics_of(samples: Samples, paint: Callable[[Tensor], Tensor] = sharpened, *, ranks: Ranks | None = None):
    found = evaluate(
        Paints(paint), {"pages": samples}, ALPHABET, device=torch.device("cpu"), autocast=nullcontext,
        ranks=ranks or Ranks(), terms=TERMS,
    )  # fmt: skip
    return {name.removeprefix("pages/"): value for name, value in found.items()}


def pages_in(samples: Samples) -> list[int]:
    return sorted({int(samples.group(sample).removeprefix("p")) for sample in range(len(samples))})


def test_pages_come_whole_from_their_tiles(root, tmp_path):
    samples = samples_from(root, tmp_path)
    sheets, whole = sheets_of(samples)
    assert whole and [sheet.name for sheet in sheets] == [f"p{page}" for page in pages_in(samples)]
    assert all(sheet.size == (70, 100) and len(sheet.tiles) == 6 for sheet in sheets)  # 0, 24, 38 down; 0, 36 across
    assert sorted(sample for sheet in sheets for sample in sheet.tiles.values()) == list(range(len(samples)))
    found = metrics_of(samples)
    assert found["pages"] == len(sheets) == 4 and found["n"] == 24 and "tiles" not in found


def test_a_perfect_restoration_and_its_start_by_hand(root, tmp_path):
    samples = samples_from(root, tmp_path)
    found, inky = metrics_of(samples), [page for page in pages_in(samples) if truth_of(page).any()]
    assert found["f_measure"] == found["pseudo_f_measure"] == 1 and found["drd"] == 0
    assert found["psnr"] == found["binary_psnr"] == 100 and found["ssim"] == pytest.approx(1, abs=1e-5)
    shares = [truth_of(page).mean() for page in pages_in(samples)]
    start = [10 * math.log10(255**2 / (INK**2 * share + (255 - PAPER) ** 2 * (1 - share))) for share in shares]
    assert found["psnr_degraded"] == pytest.approx(sum(start) / len(start), abs=1e-3)
    assert found["f_measure_otsu"] == found["pseudo_f_measure_otsu"] == 1 and len(inky) >= 3
    assert not [name for name in found if name.startswith(("cer", "wer", "ctc", "blank", "distinct", "consistency"))]
    assert set(found) >= {"drd_sauvola", "f_measure_sauvola", "binary_psnr_sauvola", "ssim_degraded"}


def test_ink_that_is_missed_or_added(root, tmp_path):
    samples = samples_from(root, tmp_path)
    white, black = metrics_of(samples, torch.ones_like), metrics_of(samples, lambda image: -torch.ones_like(image))
    pages = pages_in(samples)
    shares = [truth_of(page).mean() for page in pages if page != 8]
    assert white["f_measure"] == 0 and black["f_measure"] == pytest.approx(np.mean([2 * s / (1 + s) for s in shares]))
    missed = [min(100.0, -10 * math.log10(truth_of(page).mean() or 1e-10)) for page in pages]
    assert white["binary_psnr"] == pytest.approx(np.mean(missed))
    assert white["drd"] > 0 and white["f_measure_otsu"] == 1  # thresholds do not depend on what is restored


def test_losses_are_over_tiles_and_of_what_can_be_measured(root, tmp_path):
    samples = samples_from(root, tmp_path)
    found = metrics_of(samples, lambda image: image)
    assert not {"loss_text", "loss_fool"} & set(found) and found["loss"] == pytest.approx(2 * found["loss_l1"])
    apart = []
    for sample in range(len(samples)):
        pixels, target = (
            of(np.array([sample])).astype(float) for of in (lambda i: samples.pixels(i, 64), samples.targets)
        )
        apart.append(np.abs(pixels - target).mean() / 127.5)
    assert found["loss_l1"] == pytest.approx(np.mean(apart), rel=1e-5)


def test_tiles_that_were_resized_or_are_missing_are_pages_of_their_own(root, tmp_path):
    small = samples_from(root, tmp_path, height=16)
    found = metrics_of(small)
    assert found["tiles"] == found["n"] == 24 and "pages" not in found and found["f_measure"] > 0.5
    whole = samples_from(root, tmp_path)
    shards, row = whole.located(0)
    rows = shards.rows_of("valid")
    torn = Samples([(shards, rows[rows != row])], ALPHABET, FRAMES)
    assert metrics_of(torn)["tiles"] == 23


@pytest.mark.parametrize("count", [2, 3, 5])  # five: one has no page
def test_any_number_of_ranks_finds_the_same(root, tmp_path, count):
    samples = samples_from(root, tmp_path)
    paint = lambda image: image * 1.2  # noqa: E731
    box, barrier = [None] * count, threading.Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        ranks = [Beside(rank, count, box=box, barrier=barrier) for rank in range(count)]
        found = list(pool.map(lambda rank: metrics_of(samples, paint, ranks=rank), ranks))
    assert all(metrics == found[0] for metrics in found)
    assert found[0] == pytest.approx(metrics_of(samples, paint), rel=1e-6)
