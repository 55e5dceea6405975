"""The `evaluate` command on documents: every number with its N, intervals over pages, and a table that shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from documents_made_up import ALPHABET, Lines, Reads, Repaints
from small_pairs import Upscaler, plates_like
from small_plates import CPU
from test_evaluate_lines import LABELS, READ, metrics_of
from test_evaluate_pages import Paints, pages_in, root, samples_from, sharpened, truth_of

from orchestrator.evaluate_documents import score_documents, table
from orchestrator.pipeline import Machine
from orchestrator.ranks import Ranks
from orchestrator.reader import Reader

__all__ = ["root"]  # a fixture
GROUPS = ["one", "one", "two", "three"]


def reader_of(task: Any) -> Reader:
    plan = plates_like(task=Upscaler(classes=ALPHABET.classes), alphabet=ALPHABET)
    return Reader(recipe=plan, task=task, checkpoint=Path("nowhere"), machine=Machine.of(CPU, Ranks()))


def scored(texts=READ, **lines: Any) -> dict[str, float]:
    return score_documents(reader_of(Repaints(Reads(texts))), Lines(LABELS, groups=GROUPS, **lines))  # type: ignore[arg-type]


def test_lines_have_what_validation_has_but_the_losses():
    found, validated = scored(), metrics_of(Lines(LABELS), terms={})
    assert {name: found[name] for name in validated} == pytest.approx(validated)
    assert "loss" not in found and found["groups"] == 3 and found["n"] == found["n_compared"] == 4


def test_rates_have_intervals_over_pages_and_the_gain_is_paired():
    found = scored()
    for name in ("cer", "cer_degraded", "cer_target", "cer_gain"):
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
    assert found["cer_gain"] == pytest.approx(found["cer_degraded"] - found["cer"]) == pytest.approx(8 / 17)
    # Page by page degraded lines have 9/12, 0/3 and 1/2 of the characters wrong, restored ones 1/12, 1/3 and 0/2.
    assert -1 / 3 <= found["cer_gain_low"] < found["cer_gain_high"] <= 8 / 12


def test_everything_that_was_measured_of_lines_has_its_count():
    found = scored(blind=[1])
    assert found["cer_n"] == found["cer_gain_n"] == found["wer_macro_n"] == 4 and found["wer_n"] == 6
    assert found["cer_target_n"] == found["psnr_n"] == found["consistency_n"] == found["n_compared"] == 3
    assert found["wer_target_n"] == 4  # words


def test_the_table_of_lines_shows_start_and_floor_beside_what_is_restored():
    lines = list(table(scored()))
    assert lines[0].strip() == "4 lines of 3 pages, 4 with a clean twin"
    [cer] = [line for line in lines if line.startswith("  CER  ")]
    assert [word for word in cer.split() if len(word) == 6] == ["0.1176", "0.5882", "0.1176"]
    told = "\n".join(lines)
    for said in ("WER, mean of lines", "PSNR in dB", "degraded less restored CER, paired: +0.4706", "uniform guess",
                 "consistency, restored against the reading of the clean line: 0.2353 over 4 lines"):  # fmt: skip
        assert said in told
    assert max(map(len, lines)) <= 130


def test_pages_have_thresholds_beside_them_and_paired_gains(root, tmp_path):
    samples = samples_from(root, tmp_path)
    found = score_documents(reader_of(Paints(sharpened)), samples)
    inky = [page for page in pages_in(samples) if truth_of(page).any()]
    assert found["n"] == 24 and found["pages"] == 4 and found["psnr_n"] == 4 and found["f_measure_n"] == len(inky) == 3
    assert found["f_measure"] == 1 == found["f_measure_low"] and found["f_measure_gain_otsu"] == 0
    gain = found["f_measure_gain_sauvola"]
    assert gain == pytest.approx(1 - found["f_measure_sauvola"]) and found["f_measure_gain_sauvola_n"] == 3
    assert found["psnr_degraded_low"] <= found["psnr_degraded"] <= found["psnr_degraded_high"]
    told = "\n".join(table(found))
    assert "24 tiles, 4 whole pages; without text" in told and "Otsu" in told and "CER" not in told
    assert f"F-measure of ink, restored less Sauvola, paired: {gain:+.4f}" in told
    assert max(map(len, told.splitlines())) <= 150


def test_no_page_with_ink_is_no_claim_about_ink(root, tmp_path):
    samples = samples_from(root, tmp_path)
    white = score_documents(reader_of(Paints(torch.ones_like)), samples)
    assert white["f_measure"] == 0 and white["f_measure_n"] == 3 and white["binary_psnr_n"] == 4
    tiles = score_documents(reader_of(Paints(sharpened)), samples_from(root, tmp_path, height=16))
    assert tiles["tiles"] == 24 > tiles["f_measure_n"] and "each tile as a page of its own" in "\n".join(table(tiles))
