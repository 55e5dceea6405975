"""The parts of a report on stages that restore: plates in four pictures, what each stage moved, and what was mined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from orchestrator.checkpoint import CheckpointError, read
from orchestrator.curriculum import Curriculum, Mining
from orchestrator.mining import Difficulty, chances, hardest, suspects
from orchestrator.report.blocks import NOTHING, Block, Figure, PlateRows, Section, Table, Text, number, percent
from orchestrator.report.facts import StageFacts
from orchestrator.report.plates import Plates, told
from orchestrator.report.plots import Curve, curves
from orchestrator.shards import Shards

MOVED = {  # metric -> what it is called, and the names of its floor and its ceiling
    "recognition_rate": "recognition rate", "recognition_rate_track": "recognition rate of tracks",
    "character_accuracy": "character accuracy", "cer": "CER", "psnr": "PSNR, dB", "ssim": "SSIM",
}  # fmt: skip
NAMED = 12
TENTHS = 10


def moved(stages: Sequence[StageFacts]) -> Section:
    """Of each stage, in the order of training: bicubic, restored and target by every metric; and the terms' pull."""
    ordered = list(reversed(stages))
    source = next(iter(stages[0].stage["validate"]))
    blocks: list[Block] = []
    rows = [row for name in MOVED for row in _moved_rows(ordered, source, name)]
    if rows:
        caption = (
            f"Validation of each stage's result on {source}. Bicubic is the floor, the target read by the same "
            "recogniser the ceiling; a stage that trains the recogniser alone restores nothing. Before is the same "
            "metric ahead of the stage's first step."
        )
        columns = ("metric", "stage", "bicubic", "before", "restored", "target", "restored - bicubic")
        blocks += [Table(caption=caption, columns=columns, rows=rows)]
        blocks += [figure for name in ("recognition_rate", "psnr") for figure in _way(ordered, source, name)]
    shares = _pulls(ordered)
    blocks += [shares] if shares else []
    blocks = blocks or [Text(says="There is no validation yet.", tone="quiet")]
    parts = [Section(title="By stage", blocks=blocks)]
    return Section(title="What each stage moved", anchor="moved", blocks=[], sections=parts)


def restored_plates(plates: Plates) -> Section:
    """Plates in four pictures with the readings under each."""
    blocks: list[Block] = [Text(says=told(plates))]
    for title, says, some in plates.rows:
        if some:
            blocks.append(PlateRows(title=title, caption=says, plates=some))
        else:
            blocks.append(Text(says=f"{title}: there is no such plate.", tone="quiet"))
    if plates.parts:
        rows = [(*name.split("/", 1), number(rate), number(count)) for name, rate, count in plates.parts]
        caption = f"Restored plates of {plates.where} read without a mistake, by what they show."
        blocks.append(Table(caption=caption, columns=("part", "name", "recognition rate", "plates"), rows=rows))
    return Section(title="Plates", blocks=blocks)


def mined(facts: StageFacts) -> Section | None:
    """How a stage with mining drew its samples; None for any other stage."""
    if not facts.stage.get("mining"):
        return None
    epochs = facts.lines.get("epoch", ())
    names = list(dict.fromkeys(key for line in epochs for key in line if key.startswith("mining/")))
    blocks: list[Block] = []
    if names:
        rows = [(str(line["epoch"]), *(number(line.get(name)) for name in names)) for line in epochs]
        caption = (
            "By epoch. share: of the draws that follow difficulty; accuracy: mean character accuracy of the training "
            "readings; never_seen: share of samples without a visit; suspects: labels to look at."
        )
        columns = ("epoch", *(name.partition("/")[2] for name in names))
        blocks.append(Table(caption=caption, columns=columns, rows=rows))
    try:
        blocks += _difficulties(facts)
    except (CheckpointError, ValueError, OSError, KeyError) as error:
        blocks.append(Text(says=f"What was hard is unknown: {error}.", tone="quiet"))
    return Section(title="Hard examples", blocks=blocks)


def _moved_rows(ordered: Sequence[StageFacts], source: str, name: str) -> Iterator[tuple[str, ...]]:
    for facts in ordered:
        result = facts.result
        value, floor = result.get(f"{source}/{name}"), result.get(f"{source}/{name}_bicubic")
        if value is None:
            continue
        gained = f"{value - floor:+.4f}" if floor is not None else NOTHING
        yield (
            MOVED[name], facts.name, number(floor), number(facts.before.get(f"{source}/{name}")), number(value),
            number(result.get(f"{source}/{name}_target")), gained,
        )  # fmt: skip


def _way(ordered: Sequence[StageFacts], source: str, name: str) -> Iterator[Figure]:
    """One metric over all stages' updates, between its floor and its ceiling."""
    kinds = {"restored": name, "bicubic": f"{name}_bicubic", "target": f"{name}_target"}
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
    if drawn:
        title = f"{MOVED[name][0].upper()}{MOVED[name][1:]} over all stages"
        caption = f"Validation on {source} by update: {', '.join(ends)}."
        svg = curves(drawn, ident=f"moved-{name}", alt=f"{title}. {caption}", xlabel="update", ylabel=MOVED[name])
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


def _difficulties(facts: StageFacts) -> Iterator[Block]:
    """What the newest checkpoint knows of each sample, and how often the next lists would draw it."""
    newest = max((facts.folder / "checkpoints").glob("step-*"), default=None)
    if newest is None:
        raise ValueError("the stage has no checkpoint yet")
    arrays = {name: tensor.numpy() for name, tensor in read(newest).tensors["mining"].items()}
    known = Difficulty.of(arrays, len(arrays["accuracy"]))
    rule, epoch = _rule(facts.stage), len(facts.lines.get("epoch", ()))
    times = chances(known, rule, max(epoch - 1, 0)) * len(known)
    groups = np.array_split(np.argsort(known.accuracy, kind="stable"), TENTHS)
    rows = [
        (f"{place + 1}", number(float(known.accuracy[own].mean())), number(float(known.visits[own].mean())),
         f"{float(times[own].mean()):.2f}")
        for place, own in enumerate(groups) if len(own)
    ]  # fmt: skip
    says = (
        f"By the weights of the last lists the hardest tenth of {len(known):,} training samples comes "
        f"{float(times[groups[0]].mean()):.2f} times as often as in a uniform epoch, the easiest "
        f"{float(times[groups[-1]].mean()):.2f} times; no sample more than {float(times.max()):.2f} times."
    )
    yield Text(says=says)
    columns = ("tenth", "character accuracy", "visits", "times as often as in a uniform epoch")
    yield Table(caption=f"Training samples from hard to easy, at {newest.name}.", columns=columns, rows=rows)
    named, suspected = _names(facts), suspects(known, rule)
    yield from _listed("Hardest of those seen often enough", hardest(known, rule, NAMED), known, named)
    if suspected:
        title = f"{len(suspected)} labels to look at: no character was right in {rule.suspect_after} visits in a row"
        yield from _listed(title, suspected[:NAMED], known, named)
    else:
        yield Text(says=f"No label is suspected: none was wholly misread {rule.suspect_after} times in a row.")


def _listed(
    title: str, samples: Sequence[int], known: Difficulty, named: Mapping[int, tuple[str, str]]
) -> Iterator[Table]:  # fmt: skip
    rows = [
        (*named.get(sample, (f"#{sample}", NOTHING)), number(float(known.accuracy[sample])),
         number(int(known.visits[sample])), number(int(known.misses[sample])))
        for sample in samples
    ]  # fmt: skip
    columns = ("sample", "label", "character accuracy", "visits", "misses in a row")
    if rows:
        yield Table(caption=f"{title}.", columns=columns, rows=rows)


def _names(facts: StageFacts) -> dict[int, tuple[str, str]]:
    """Training sample -> its id and label, where its shards are in the store. Mining has one source."""
    source = next(iter(facts.stage["data"]["shares"]))
    if source not in facts.shards:
        return {}
    shards = Shards.open(facts.shards[source], verify=False)
    return {number: (shards.ids[row], shards.texts_raw[row]) for number, row in enumerate(shards.rows_of("train"))}


def _rule(stage: Mapping[str, Any]) -> Mining:
    plan = stage["mining"]
    fields = {name: value for name, value in plan.items() if name not in ("is", "curriculum")}
    curriculum = {name: value for name, value in plan.get("curriculum", {}).items() if name != "is"}
    return Mining(**fields, curriculum=Curriculum(**curriculum)).over(stage["epochs"])
