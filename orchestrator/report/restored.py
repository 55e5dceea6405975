"""The parts of a report on stages that restore: pictures beside their targets, and what each stage moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from orchestrator.report.blocks import NOTHING, Block, Figure, PlateRows, Section, Table, Text, number, percent
from orchestrator.report.facts import StageFacts
from orchestrator.report.plates import Plates, told
from orchestrator.report.plots import Curve, curves

MOVED = {  # metric -> what it is called
    "recognition_rate": "recognition rate", "recognition_rate_monitor": "recognition rate, second OCR",
    "recognition_rate_track": "recognition rate of tracks",
    "recognition_rate_track_monitor": "recognition rate of tracks, second OCR",
    "character_accuracy": "character accuracy", "cer": "CER", "wer": "WER",
    "consistency": "CER against the clean image's reading", "psnr": "PSNR, dB", "ssim": "SSIM",
    "f_measure": "F-measure", "pseudo_f_measure": "pseudo F-measure", "drd": "DRD", "binary_psnr": "PSNR of ink, dB",
}  # fmt: skip
WAYS = ("recognition_rate", "cer", "psnr", "f_measure")  # drawn over all stages, the first that there are
MONITORED = (
    " The second OCR learned clean plates by itself and nothing after: no generator learns from it. A gain that the "
    "first one sees and it does not is a pattern made for the first reader, not a plate that is easier to read."
)


def moved(stages: Sequence[StageFacts]) -> Section:
    """Of each stage, in the order of training: floor, restored and target by every metric; and the terms' pull."""
    ordered = list(reversed(stages))
    blocks: list[Block] = []
    for source in dict.fromkeys(name for facts in stages for name in facts.stage["validate"]):
        blocks += _moved_on(ordered, source)
    shares = _pulls(ordered)
    blocks += [shares] if shares else []
    blocks = blocks or [Text(says="There is no validation yet.", tone="quiet")]
    parts = [Section(title="By stage", blocks=blocks)]
    return Section(title="What each stage moved", anchor="moved", blocks=[], sections=parts)


def _moved_on(ordered: Sequence[StageFacts], source: str) -> Iterator[Block]:
    floor, kind = ordered[0].floor, "clean" if ordered[0].floor == "degraded" else "target"
    rows = [row for name in MOVED for row in _moved_rows(ordered, source, name)]
    if not rows:
        return
    says = "Bicubic is the floor, the target read by the same recogniser the ceiling"
    if floor == "degraded":
        says = "The degraded image is the start, the clean one read by the same recogniser the best to be hoped for"
    caption = (
        f"Validation of each stage's result on {source}. {says}; a stage that trains the recogniser alone restores "
        "nothing. Before is the same metric ahead of the stage's first step."
    )
    if any(row[0].endswith("second OCR") for row in rows):
        caption += MONITORED
    columns = ("metric", "stage", floor, "before", "restored", kind, f"restored - {floor}")
    yield Table(caption=caption, columns=columns, rows=rows)
    drawn = [figure for name in WAYS for figure in _way(ordered, source, name)]
    yield from drawn[:2]


def reached(facts: StageFacts) -> Section | None:
    """Documents: how far of the way from the degraded image to the clean one a result came, and against thresholds."""
    if facts.floor != "degraded" or not facts.result:
        return None
    blocks: list[Block] = []
    for source in facts.stage["validate"]:
        found = {name.partition("/")[2]: value for name, value in facts.result.items() if name.startswith(f"{source}/")}
        blocks += _reached_on(source, found)
    return Section(title="Against its targets", blocks=blocks) if blocks else None


def _reached_on(source: str, found: Mapping[str, float]) -> Iterator[Block]:
    number_of = number(found.get("pages", found.get("n")))
    rows: list[tuple[str, ...]] = []
    for name in ("cer", "wer"):
        start, value, end = (found.get(f"{name}{kind}") for kind in ("_degraded", "", "_target"))
        if start is not None and value is not None and end is not None:
            way = percent((start - value) / (start - end)) if abs(start - end) > 1e-9 else NOTHING
            rows.append((MOVED[name], number(start), number(value), number(end), way))
    if rows:
        caption = (
            f"{source}: the recogniser's errors against the transcription over {number_of} lines. It makes those in "
            "the clean image itself, so no restoration is expected to go below."
        )
        columns = ("metric", "start: degraded", "restored", "floor: clean", "of the way")
        yield Table(caption=caption, columns=columns, rows=rows)
    if {"ctc", "ctc_target", "ctc_uniform"} <= set(found):
        own, clean, guess = (found[name] for name in ("ctc", "ctc_target", "ctc_uniform"))
        says = (
            f"CTC on {source}, in nats per character: {number(own)} restored, {number(clean)} clean, {number(guess)} "
            "for a uniform guess."
        )
        if clean >= guess:
            says += " The recogniser is no better than a guess on clean lines: nothing can be learned from it."
        yield Text(says=says, tone="warning" if clean >= guess else "plain")
    kinds = {"degraded": "_degraded", "Otsu": "_otsu", "Sauvola": "_sauvola", "restored": ""}
    kinds = {kind: end for kind, end in kinds.items() if any(name.endswith(end) for name in found)}
    rows = [
        (MOVED[name], *(number(found.get(f"{name}{end}")) for end in kinds.values()))
        for name in ("psnr", "ssim", "f_measure", "pseudo_f_measure", "drd", "binary_psnr") if name in found
    ]  # fmt: skip
    if rows:
        of = next((name for name in ("pages", "tiles") if name in found), "pictures")
        beside = "the degraded image and thresholds of it" if "Otsu" in kinds else "the degraded image"
        less = " Less is better of DRD alone." if "drd" in found else ""
        caption = f"{source}: what is restored beside {beside}, over {number_of} {of}.{less}"
        yield Table(caption=caption, columns=("metric", *kinds), rows=rows)


def restored_plates(plates: Plates) -> Section:
    """Plates, lines or tiles beside their targets, with the readings under each."""
    kind = "picture" if plates.lines else "plate"
    blocks: list[Block] = [Text(says=told(plates))]
    for title, says, some in plates.rows:
        if some:
            blocks.append(PlateRows(title=title, caption=says, plates=some, wide=plates.lines))
        else:
            blocks.append(Text(says=f"{title}: there is no such {kind}.", tone="quiet"))
    if plates.parts and not plates.lines:
        rows = [(*name.split("/", 1), number(rate), number(count)) for name, rate, count in plates.parts]
        caption = f"Restored plates of {plates.where} read without a mistake, by what they show."
        blocks.append(Table(caption=caption, columns=("part", "name", "recognition rate", "plates"), rows=rows))
    return Section(title=f"Pictures of {plates.where}" if plates.lines else "Plates", blocks=blocks)


def _beside(name: str, kind: str) -> str:
    """The name of a metric in the floor or the target: ``recognition_rate_monitor`` -> ``..._bicubic_monitor``."""
    plain = name.removesuffix("_monitor")
    return f"{plain}_{kind}{name.removeprefix(plain)}"


def _moved_rows(ordered: Sequence[StageFacts], source: str, name: str) -> Iterator[tuple[str, ...]]:
    for facts in ordered:
        result = facts.result
        value, floor = result.get(f"{source}/{name}"), result.get(f"{source}/{_beside(name, facts.floor)}")
        if value is None:
            continue
        gained = f"{value - floor + 0.0:+.4f}".replace("-0.0000", "+0.0000") if floor is not None else NOTHING
        yield (
            MOVED[name], facts.name, number(floor), number(facts.before.get(f"{source}/{name}")), number(value),
            number(result.get(f"{source}/{_beside(name, 'target')}")), gained,
        )  # fmt: skip


def _way(ordered: Sequence[StageFacts], source: str, name: str) -> Iterator[Figure]:
    """One metric over all stages' updates, between its floor and its ceiling."""
    floor = ordered[0].floor
    kinds = {"restored": name, floor: f"{name}_{floor}", "target": f"{name}_target"}
    if name == "recognition_rate":
        kinds["restored, second OCR"] = f"{name}_monitor"
    lines: dict[str, tuple[list[float], list[float | None]]] = {kind: ([], []) for kind in kinds}
    done, ends = 0, []
    for facts in ordered:
        for line in facts.validations:
            for kind, metric in kinds.items():
                lines[kind][0].append(done + line["step"])
                lines[kind][1].append(line.get(f"{source}/{metric}"))
        done += max([int(line["step"]) for line in facts.validations], default=0)
        ends.append(f"{facts.name} to {done:,}")
    drawn = [
        Curve(name=kind, x=x, y=y, dots=True, banded=False)
        for kind, (x, y) in lines.items() if any(value is not None for value in y)
    ]  # fmt: skip
    if any(curve.name == "restored" for curve in drawn):
        title = f"{MOVED[name][0].upper()}{MOVED[name][1:]} over all stages"
        caption = f"Validation on {source} by update: {', '.join(ends)}."
        svg = curves(drawn, ident=f"moved-{source}-{name}", alt=f"{title}. {caption}", xlabel="update",
                     ylabel=MOVED[name])  # fmt: skip
        yield Figure(title=title, caption=caption, svg=svg)


def _pulls(ordered: Sequence[StageFacts]) -> Table | None:
    """Share of each term in the gradient of each stage."""
    rows = []
    for facts in ordered:
        epochs = facts.lines.get("epoch", ())
        for term, plan in facts.stage["terms"].items():
            known = [line.get(f"gradient_share/{term}") for line in epochs]
            shares = [share for share in known if share is not None]
            first, last = (percent(shares[0]), percent(shares[-1])) if shares else (NOTHING, NOTHING)
            rows.append(
                (facts.name, term, number(plan.get("weight")), ", ".join(plan.get("trains") or facts.stage["learn"]),
                 first, last)
            )  # fmt: skip
    caption = "How much of the gradient comes from each term, in the first and in the last epoch of its stage."
    columns = ("stage", "term", "weight", "trains", "first epoch", "last epoch")
    return Table(caption=caption, columns=columns, rows=rows) if rows else None
