"""All about a restoring stage on one set: raw and constrained readings, tracks, intervals, parts; and a table of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from models.metrics.plates import Frame, Interval, breakdown, gain, interval, voted
from models.text_layout import Layouts
from orchestrator.batches import Samples
from orchestrator.constrained import BEAM, Constrained
from orchestrator.evaluate_restored import Measured, measured
from orchestrator.ranks import Ranks
from orchestrator.reader import Reader

IMAGES: Mapping[str, str] = {"": "restored", "_bicubic": "bicubic", "_target": "target"}
BY = {"": "per image", "_track": "per track"}


def score_plates(
    reader: Reader, samples: Samples, layouts: Mapping[str, Layouts], *, beam: int = BEAM
) -> dict[str, float]:  # fmt: skip
    """Every metric of :func:`orchestrator.evaluate_restored.restored_metrics` but the losses, each with its ``_n``.

    Beside them ``recognition_rate`` with ``_constrained`` after it, where there are ``layouts``; with ``_low`` and
    ``_high``, its 95 % bootstrap interval over tracks; ``recognition_rate_gain``, by how much restored images are read
    better than the bicubic ones, paired; and as ``layout/NAME/`` and ``scenario/NAME/`` the rates of each part. All of
    it with ``_track`` too where a track has several frames.

    Args:
        beam: width of the search for constrained readings.
    """
    decodes = {"_constrained": Constrained.by(layouts, reader.alphabet, beam=beam)} if layouts else {}
    found = measured(
        reader.task, samples, reader.alphabet, terms={}, decodes=decodes, ranks=Ranks(),
        device=reader.machine.device, autocast=reader.machine.autocast,
    )  # fmt: skip
    values: dict[str, float] = {"n": len(samples), "n_compared": found.pairs}
    raw = {name: frames for name, frames in found.frames.items() if name in IMAGES}
    values["tracks"] = len({frame.track for frame in raw[""]})
    if layouts:
        values["n_layout_known"] = sum(frame.layout in layouts for frame in raw[""])
    for name, (total, count) in found.means.items():
        values |= {name: total / max(count, 1), f"{name}_n": count}
    for name, ratio in found.ratios().items():
        values |= {name: ratio.value, f"{name}_n": ratio.words}
    values |= found.shares
    values |= _sure(raw, "")
    if values["tracks"] < len(samples):
        values |= _sure({name: voted(frames) for name, frames in raw.items()}, "_track")
    return values | _parts(found)


def _sure(raw: Mapping[str, Sequence[Frame]], by: str) -> dict[str, float]:
    """The intervals of the raw rates, and of the gain over bicubic."""
    rates = {f"recognition_rate{by}{name}": interval(frames) for name, frames in raw.items()}
    values = {f"{name}_{end}": getattr(each, end) for name, each in rates.items() for end in ("low", "high")}
    better: Interval = gain(raw[""], raw["_bicubic"])
    name = f"recognition_rate{by}_gain"
    return values | {name: better.value, f"{name}_low": better.low, f"{name}_high": better.high,
                     f"{name}_n": len(raw[""])}  # fmt: skip


def _parts(found: Measured) -> dict[str, float]:
    """The rates of each layout and each scenario, raw and constrained, per image and per track."""
    values: dict[str, float] = {}
    for name, frames in found.frames.items():
        several = len({frame.track for frame in frames}) < len(frames)
        for by, each in (("", frames), ("_track", voted(frames) if several else ())):
            for part, ratio in breakdown(each).items():
                rate = f"{part}/recognition_rate{by}{name}"
                values |= {rate: ratio.value, f"{rate}_n": ratio.words}
    return values


def table(metrics: Mapping[str, float]) -> Iterator[str]:
    """Lines that show the metrics of :func:`score_plates`, a column for each kind of image."""
    yield f"  {metrics['n']:.0f} images of {metrics['tracks']:.0f} tracks, {metrics['n_compared']:.0f} with a target"
    yield _line("", [f"{image:>27s}" for image in IMAGES.values()])
    for label, metric in _rows(metrics):
        yield _line(label, [_cell(metrics, metric.format(image=image)) for image in IMAGES])
    for by, spoken in BY.items():
        name = f"recognition_rate{by}_gain"
        if name in metrics:
            value, low, high = (metrics[f"{name}{end}"] for end in ("", "_low", "_high"))
            yield f"  restored less bicubic, {spoken}: {value:+.4f}, 95 % from {low:+.4f} to {high:+.4f}"
    if "n_layout_known" in metrics:
        known = metrics["n_layout_known"]
        yield f"  allowed by layout: the data's own for {known:.0f} images, any for {metrics['n'] - known:.0f}"
    told = ", ".join(f"{name} {metrics[name]:.4f}" for name in ("distinct", "blank_share", "entropy"))
    yield f"  restored: {told}"


def _rows(metrics: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """What each line of the table is called, and the name of its metric."""
    kinds = {"": "plates read", "_monitor": "by the second reader", "_constrained": "allowed by layout"}
    for by, spoken in BY.items():
        for kind, called in kinds.items():
            if f"recognition_rate{by}{kind}" in metrics:
                yield f"{called}, {spoken}", f"recognition_rate{by}{{image}}{kind}"
    yield "characters read", "character_accuracy{image}"
    yield "CER", "cer{image}"
    yield "PSNR in dB", "psnr{image}"
    yield "SSIM", "ssim{image}"
    parts = dict.fromkeys(name.rpartition("/")[0] for name in metrics if "/" in name)
    for part in parts:
        for by, spoken in BY.items():
            for kind, called in (("", ""), ("_constrained", ", by layout")):
                if f"{part}/recognition_rate{by}{kind}" in metrics:
                    yield f"{part}, {spoken}{called}", f"{part}/recognition_rate{by}{{image}}{kind}"


def _cell(metrics: Mapping[str, float], name: str) -> str:
    """Value, interval and N; blank where it was not measured."""
    if name not in metrics:
        return " " * 27
    ends = f" {metrics[f'{name}_low']:.3f}-{metrics[f'{name}_high']:.3f}" if f"{name}_low" in metrics else ""
    return f"{metrics[name]:8.4f}{ends:12s} {metrics[f'{name}_n']:6.0f}"


def _line(label: str, cells: Sequence[str]) -> str:
    return f"  {label:42s}{''.join(cells)}".rstrip()
