"""All about a stage that restores documents on one set, each number with its N and its interval; and a table of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from models.metrics.lines import consistency, error_rates, gain, interval
from models.metrics.plates import Interval, interval_of
from orchestrator.batches import Samples
from orchestrator.evaluate_lines import kinds_of, measured_lines
from orchestrator.evaluate_pages import Page, measured_pages, numbers_of
from orchestrator.ranks import Ranks
from orchestrator.reader import Reader

THRESHOLDS = ("_otsu", "_sauvola")
OF_LINES: Mapping[str, str] = {
    "CER": "cer", "CER, mean of lines": "cer_macro", "WER": "wer", "WER, mean of lines": "wer_macro",
    "PSNR in dB": "psnr", "SSIM": "ssim", "distinct readings": "distinct", "blank frames": "blank_share",
}  # fmt: skip
OF_PAGES: Mapping[str, str] = {
    "PSNR in dB, grey": "psnr", "SSIM, grey": "ssim", "F-measure of ink": "f_measure",
    "pseudo F-measure": "pseudo_f_measure", "DRD, less is better": "drd", "PSNR in dB, ink": "binary_psnr",
}  # fmt: skip


def score_documents(reader: Reader, samples: Samples) -> dict[str, float]:
    """Every metric of a set but the losses, each with its ``_n``; of lines, or of pages where there is no text.

    Lines: those of :func:`orchestrator.evaluate_lines.line_metrics`; each ``cer`` with ``_low`` and ``_high``, its 95 %
    bootstrap interval over ``groups`` (pages); and ``cer_gain``, by how much lower the CER of restored lines is than
    that of degraded ones, paired.

    Pages: those of :func:`orchestrator.evaluate_pages.page_metrics`, each with an interval over pages, and
    ``f_measure_gain_otsu``, ``binary_psnr_gain_sauvola`` and their like: restored less threshold, paired.
    """
    how: Any = {"device": reader.machine.device, "autocast": reader.machine.autocast, "ranks": Ranks(), "terms": {}}
    if samples.textless.all():
        pages = measured_pages(reader.task, samples, **how)
        return _scores_of_pages(pages.pages, tiles=len(samples), whole=pages.whole)
    found = measured_lines(reader.task, samples, reader.alphabet, **how)
    values: dict[str, float] = {"n": len(samples), "n_compared": found.pairs}
    values["groups"] = len({line.group for line in found.lines})
    for kind in kinds_of(found.lines):
        for name, ratio in error_rates(found.lines, kind).items():
            values |= {name: ratio.value, f"{name}_n": ratio.words}
        values |= _ends(f"cer{kind}", interval(found.lines, kind))
    same = consistency(found.lines)
    if same.count:
        values |= {"consistency": same.value, "consistency_n": same.words}
    before = f"_{reader.task.before}"
    better = gain(found.lines, before)
    values |= {"cer_gain": better.value, "cer_gain_n": len(found.lines)} | _ends("cer_gain", better)
    for name, (total, count) in found.means.items():
        if count:
            values |= {name: total / count, f"{name}_n": count}
    for kind, each in found.shares.items():
        values |= {f"{name}{kind}": share for name, share in each.items()}
    return values


def _scores_of_pages(pages: Sequence[Page], *, tiles: int, whole: bool) -> dict[str, float]:
    values: dict[str, float] = {"n": tiles, "pages" if whole else "tiles": len(pages)}
    numbers = numbers_of(pages)
    for name, each in numbers.items():
        values |= _spread(name, each)
    for name in ("f_measure", "pseudo_f_measure", "drd", "binary_psnr"):
        for kind in THRESHOLDS:
            apart = [one - other for one, other in zip(numbers[name], numbers[f"{name}{kind}"], strict=True)]
            values |= _spread(f"{name}_gain{kind}", apart)
    return values


def _spread(name: str, each: Sequence[float]) -> dict[str, float]:
    """The mean over pages, its interval, and over how many pages that is."""
    told = [value for value in each if not math.isnan(value)]
    if not told:
        return {}
    found = interval_of(np.array([(value, 1.0) for value in told]))
    return {name: found.value, f"{name}_n": len(told)} | _ends(name, found)


def _ends(name: str, found: Interval) -> dict[str, float]:
    return {f"{name}_low": found.low, f"{name}_high": found.high}


def table(metrics: Mapping[str, float], *, before: str = "degraded") -> Iterator[str]:
    """Lines that show the metrics of :func:`score_documents`, a column for each kind of picture."""
    if "groups" not in metrics:
        yield from _table_of_pages(metrics, before)
        return
    columns = {"": "restored", f"_{before}": before, "_target": "clean"}
    yield (f"  {metrics['n']:.0f} lines of {metrics['groups']:.0f} pages, {metrics['n_compared']:.0f} with a clean "
           "twin")  # fmt: skip
    yield from _grid(metrics, OF_LINES, columns)
    if "cer_gain" in metrics:
        yield f"  {before} less restored CER, paired: {_told(metrics, 'cer_gain')}"
    if "consistency" in metrics:
        yield (f"  consistency, restored against the reading of the clean line: {metrics['consistency']:.4f} over "
               f"{metrics['consistency_n']:.0f} lines")  # fmt: skip
    if "ctc_uniform" in metrics:
        costs = {"restored": "ctc", "clean": "ctc_target", "a uniform guess": "ctc_uniform"}
        nats = ", ".join(f"{said} {metrics[name]:.3f}" for said, name in costs.items())
        yield f"  CTC in nats per character: {nats}"


def _table_of_pages(metrics: Mapping[str, float], before: str) -> Iterator[str]:
    columns = {"": "restored", f"_{before}": before, "_otsu": "Otsu", "_sauvola": "Sauvola"}
    whole = f"{metrics['pages']:.0f} whole pages" if "pages" in metrics else "each tile as a page of its own"
    yield f"  {metrics['n']:.0f} tiles, {whole}; without text"
    yield from _grid(metrics, OF_PAGES, columns)
    for said, name in OF_PAGES.items():
        for kind in THRESHOLDS:
            if f"{name}_gain{kind}" in metrics:
                yield f"  {said}, restored less {columns[kind]}, paired: {_told(metrics, f'{name}_gain{kind}')}"


def _grid(metrics: Mapping[str, float], rows: Mapping[str, str], columns: Mapping[str, str]) -> Iterator[str]:
    yield _line("", [f"{said:>29s}" for said in columns.values()])
    for said, name in rows.items():
        cells = [_cell(metrics, f"{name}{kind}") for kind in columns]
        if any(cell.strip() for cell in cells):
            yield _line(said, cells)


def _cell(metrics: Mapping[str, float], name: str) -> str:
    """Value, interval and N; blank where it was not measured."""
    if name not in metrics:
        return " " * 29
    ends = f" {metrics[f'{name}_low']:.3f}-{metrics[f'{name}_high']:.3f}" if f"{name}_low" in metrics else ""
    count = f"{metrics[f'{name}_n']:.0f}" if f"{name}_n" in metrics else ""
    return f"{metrics[name]:8.4f}{ends:14s} {count:>6s}"


def _told(metrics: Mapping[str, float], name: str) -> str:
    value, low, high = (metrics[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:+.4f}, 95 % from {low:+.4f} to {high:+.4f}, N = {metrics[f'{name}_n']:.0f}"


def _line(label: str, cells: Sequence[str]) -> str:
    return f"  {label:22s}{''.join(cells)}".rstrip()
