"""Validation of documents: every number by hand, and the same ones in any order and at any number of ranks."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
from documents_made_up import ALPHABET, FRAMES, Lines, Reads, Repaints
from test_evaluate_restored import Beside

from models.losses.adversarial import GeneratorTerm
from models.losses.image import l1
from models.losses.line_ctc import LineCTC
from orchestrator.evaluate import evaluate
from orchestrator.plan import Term
from orchestrator.ranks import Ranks

LABELS = ["ab cd", "one two", "xyz", "aa"]
READ = {
    "": ["ab cx", "one two", "xy", "aa"],  # 2 of 17 characters; 2 of 6 words
    "_degraded": ["", "one twenty", "xyz", "ab"],  # 5 + 4 + 0 + 1; 2 + 1 + 0 + 1
    "_target": ["ab cd", "one tow", "xyz", "aa"],  # 2; 1
}
TERMS = {
    "l1": Term(loss=l1, weight=3.0), "text": Term(loss=LineCTC(), weight=0.5), "fool": Term(loss=GeneratorTerm()),
}  # fmt: skip


def metrics_of(lines: Lines, texts=READ, *, sure=50.0, ranks: Ranks | None = None, terms=TERMS) -> dict[str, float]:
    found = evaluate(
        Repaints(Reads(texts, sure)), {"made": lines}, ALPHABET, device=torch.device("cpu"), autocast=nullcontext,  # type: ignore[dict-item]
        ranks=ranks or Ranks(), terms=terms,
    )  # fmt: skip
    return {name.removeprefix("made/"): value for name, value in found.items()}


def test_what_is_read_in_restored_degraded_and_clean_lines_against_the_transcription():
    found = metrics_of(Lines(LABELS))
    edits = {"": (2, 2), "_degraded": (10, 4), "_target": (2, 1)}
    for kind, (characters, words) in edits.items():
        assert found[f"cer{kind}"] == characters / 17 and found[f"wer{kind}"] == words / 6
    assert found["cer_macro"] == pytest.approx((1 / 5 + 1 / 3) / 4)
    assert found["n"] == 4 and "n_compared" not in found


def test_consistency_has_its_own_name_and_reference():
    found = metrics_of(Lines(LABELS))
    assert found["consistency"] == (1 + 2 + 1) / 17  # against "ab cd", "one tow", "xyz", "aa"
    blindly = metrics_of(Lines(LABELS), {**READ, "": READ["_target"]})
    assert blindly["consistency"] == 0 and blindly["cer"] == 2 / 17
    assert "consistency" not in metrics_of(Lines(LABELS), {**READ, "_target": [""] * 4})


def test_decibels_over_valid_columns_and_terms_without_the_discriminator():
    found = metrics_of(Lines(LABELS))
    assert found["psnr"] == pytest.approx(26.02, abs=0.005) and found["psnr_degraded"] == pytest.approx(20, abs=0.005)
    assert 1 > found["ssim"] > found["ssim_degraded"] > 0
    assert found["loss_l1"] == pytest.approx(0.1, rel=1e-5) and "loss_fool" not in found
    assert found["loss"] == pytest.approx(3 * found["loss_l1"] + 0.5 * found["loss_text"])


def test_nats_of_a_reader_that_knows_nothing_are_those_of_a_uniform_guess():
    found = metrics_of(Lines(LABELS), sure=0.0)
    guesses = []
    for label in LABELS:
        repeats = sum(a == b for a, b in pairwise(label))
        paths = math.comb(FRAMES + len(label) - repeats, 2 * len(label))
        guesses.append((FRAMES * math.log(ALPHABET.classes) - math.log(paths)) / len(label))
    assert found["ctc_uniform"] == pytest.approx(sum(guesses) / 4, rel=1e-6)
    assert found["ctc"] == pytest.approx(found["ctc_uniform"], rel=1e-4)
    assert found["ctc_target"] == pytest.approx(found["ctc_uniform"], rel=1e-4) == found["loss_text"]
    sure = metrics_of(Lines(LABELS), dict.fromkeys(READ, LABELS))
    assert sure["ctc"] == pytest.approx(0, abs=1e-6) and sure["ctc_uniform"] == found["ctc_uniform"]


def test_collapse_shows_by_kind_of_picture():
    silent = metrics_of(Lines(LABELS), {**READ, "": [""] * 4, "_target": LABELS})
    assert silent["blank_share"] == 1 and silent["distinct"] == 1 / 4
    assert silent["distinct_target"] == 1 and silent["blank_share_target"] == pytest.approx(1 - 17 / (4 * FRAMES))
    assert metrics_of(Lines(LABELS), sure=0.0)["entropy"] == pytest.approx(1)


def test_lines_without_a_clean_twin_are_read_and_not_compared():
    found = metrics_of(Lines(LABELS, blind=[0, 3]))
    assert found["n_compared"] == 2 and found["cer"] == 2 / 17 and found["cer_target"] == 2 / 10
    assert found["psnr"] == pytest.approx(26.02, abs=0.005)
    alone = metrics_of(Lines(LABELS, blind=range(4)))
    assert alone["n_compared"] == 0 and alone["cer"] == 2 / 17
    assert not [name for name in alone if name.startswith(("loss", "psnr", "ssim", "ctc", "cons")) or "target" in name]


def test_rows_without_text_among_others_are_compared_and_not_read():
    labels = [LABELS[0], "", LABELS[2], ""]
    found = metrics_of(Lines(labels))
    assert found["cer"] == (1 + 1) / 8 and found["n"] == 4 and found["distinct"] == 1
    assert found["psnr"] == pytest.approx(26.02, abs=0.005)  # of all four


@pytest.mark.parametrize("count", [2, 3, 6])  # six: two of them have no line at all
def test_any_number_of_ranks_finds_the_same_on_every_one(count):
    lines = Lines(LABELS, blind=[2])
    alone = metrics_of(lines)
    box, barrier = [None] * count, threading.Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        ranks = [Beside(rank, count, box=box, barrier=barrier) for rank in range(count)]
        found = list(pool.map(lambda rank: metrics_of(lines, ranks=rank), ranks))
    assert all(metrics == found[0] for metrics in found)
    assert found[0] == pytest.approx(alone, rel=1e-6)


def test_the_order_of_samples_does_not_matter():
    assert metrics_of(Lines(LABELS, order=[2, 0, 3, 1])) == pytest.approx(metrics_of(Lines(LABELS)), rel=1e-6)
