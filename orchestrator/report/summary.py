"""The parts of a report that say what was trained, from what, on what data, and what came of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from models.text import ALNUM36, ALNUM62, PRINTABLE94
from orchestrator.limits import less_is_better
from orchestrator.report.blocks import (
    NOTHING,
    Block,
    Folded,
    Section,
    Table,
    Text,
    flattened,
    number,
    said,
    spoken,
)  # fmt: skip
from orchestrator.report.facts import StageFacts

ALPHABETS = {"ALNUM36": ALNUM36, "ALNUM62": ALNUM62, "PRINTABLE94": PRINTABLE94}
PLATE_METRICS = (
    "recognition_rate is the share of plates read without a mistake; after _bicubic and _target stand the floor and "
    "the ceiling; cer is edits per true character; psnr is in dB; loss is the weighted sum of the stage's terms."
)
DOCUMENT_METRICS = (
    "cer is edits per true character, wer per true word, consistency edits against the reading of the clean image; "
    "after _degraded and _target stand the start and the floor, after _otsu and _sauvola thresholds instead of a "
    "network; psnr is in dB; loss is the weighted sum of the stage's terms."
)
LESS = ("wer", "ctc", "consistency", "drd")  # metrics of which less is better, besides losses and CER
CASES = {"keep": "case is kept", "lower": "all lower case", "upper": "all upper case"}


def summary(stages: Sequence[StageFacts]) -> Section:
    """The result of the newest stage, warnings of all of them first."""
    newest = stages[0]
    blocks: list[Block] = [Text(says=says, tone="warning") for facts in stages for says in warnings(facts)]
    blocks += [Text(says=says) for says in outcome(newest)]
    blocks += [_at_a_glance(stages), metrics_table(newest), *evaluations(newest)]
    return Section(title="Summary", anchor="summary", blocks=blocks)


def warnings(facts: StageFacts) -> Iterator[str]:
    """Everything a reader must know before believing a number, most serious first."""
    where = f"Stage {facts.name}"
    if facts.record is None:
        yield f"{where} is not finished: {_standing(facts)}. Everything below is what there is so far."
    for metric, floor in facts.stage["gate"].items():
        value = facts.result.get(metric, math.nan)
        if facts.record is not None and not value >= floor:
            yield f"{where} is below its gate: {metric} is {number(value)}, and must be at least {number(floor)}."
    if facts.record is not None:
        yield from (f"{where}: {warning}" for warning in facts.record.warnings)
        told = " ".join(facts.record.warnings)
        yield from (f"{where}: {name} was accepted on purpose: {found}" for name, found in
                    facts.record.accepted.items() if found not in told)  # fmt: skip
        if facts.record.skipped:
            yield f"{where}: {facts.record.skipped} updates were left out for a gradient that was not finite."
    named = [event.name for event in facts.events if event.name != "resumed"]
    if named:
        counts = ", ".join(f"{name} ({named.count(name)})" for name in dict.fromkeys(named))
        yield f"{where}: events while training: {counts}; see its section."
    if "stage" in (facts.stage["start_from"] or {}) and facts.parent is None:
        yield f"{where} started from {facts.stage['start_from']['stage']}, which is not in this store."


def outcome(facts: StageFacts) -> Iterator[str]:
    """The result in sentences, each number with how many words it is over."""
    metric, value = facts.metric, facts.result.get(facts.metric)
    words = facts.result.get(f"{_source(facts, metric)}/n")
    if value is None:
        yield f"Stage {facts.name} of recipe {facts.recipe['name']} has no validation yet."
        return
    before = facts.before.get(metric)
    began = f", from {number(before)} before its first step" if before is not None else ", trained from nothing"
    state = "reached" if facts.record else "stands, at its best so far, at"
    of_set = "/" in metric  # a score is of several
    over = f" over {number(words)} {_kind(facts)}{_interval(metric, value, words)}" if of_set else ""
    yield f"Stage {facts.name} of recipe {facts.recipe['name']} {state} {metric} {number(value)}{over}{began}."
    where = f" on {_set(facts, metric)}" if of_set else ""
    yield (
        f"It is the best of {len(facts.validations)} validations{where} by this very metric, so it flatters a little; "
        "only a set that decided nothing gives an unbiased figure."
    )
    found = facts.record.best.get(metric) if facts.record else None
    if found and found["step"] == 0 and len(facts.validations) > 1:
        yield (
            f"The stage changed nothing: none of {len(facts.validations) - 1} validations after its first step was "
            f"better by {metric} than the weights it started from, and those are its result."
        )
    for name, metrics in facts.evaluations.items():
        other = metric.partition("/")[2]
        if isinstance(metrics.get(other), int | float):
            count = metrics.get(f"{other}_n", metrics.get("n"))
            interval = _interval(metric, metrics[other], count)
            told = f"{other} {number(metrics[other])} over {number(count)} {_kind(facts)}{interval}"
            yield f"Measured afterwards on {name}: {told}."


def lineage(stages: Sequence[StageFacts]) -> Section:
    """One row a stage, in the order of training."""
    rows = []
    for facts in reversed(stages):
        ended = facts.record.finished if facts.record else f"not finished: {_standing(facts)}"
        rows.append(
            (facts.name, facts.fingerprint, ended, origin(facts), facts.metric,
             number(facts.before.get(facts.metric)), number(facts.result.get(facts.metric)),
             gates(facts), spoken(facts.seconds).replace(" ", "\u00a0") if facts.speed else NOTHING)
        )  # fmt: skip
    columns = ("stage", "fingerprint", "ended", "started from", "decided by", "before", "after", "gate", "time")
    caption = "Every stage on the way to this result, first to last. Times are without validation and pauses."
    table = Table(caption=caption, columns=columns, rows=rows)
    return Section(title="Lineage", anchor="lineage", blocks=[table, *_searched(stages)])


def _searched(stages: Sequence[StageFacts]) -> Iterator[Block]:
    """Which trial of which sweep a stage is, and what that changed in the plan."""
    rows = [
        (facts.name, trial["sweep"], str(trial["number"]),
         ", ".join(f"{path} {said(value)}" for path, value in trial["changes"].items()) or "none")
        for facts in reversed(stages) if facts.record and (trial := facts.record.trial)
    ]  # fmt: skip
    if rows:
        columns = ("stage", "sweep", "trial", "changed settings")
        yield Table(caption="Stages that are trials of a sweep.", columns=columns, rows=rows)


def origin(facts: StageFacts) -> str:
    """Which weights the stage began with."""
    start = facts.stage["start_from"]
    if not start:
        return "nothing"
    if "stage" in start:
        return f"{start['which']} of {start['stage']}: {said(start['parts'])}"
    remapped = ", last layer carried over by symbol" if start.get("remap") else ""
    return f"weights from elsewhere, SHA-256 {start['sha256'][:12]}: {said(start['parts'])}{remapped}"


def gates(facts: StageFacts) -> str:
    """Each gate, and whether the result passes it."""
    told = []
    for metric, floor in facts.stage["gate"].items():
        value = facts.result.get(metric, math.nan)
        told.append(f"{metric} at least {number(floor)}: {'passed' if value >= floor else 'not passed'}")
    return "; ".join(told) or "none"


def result(facts: StageFacts) -> Section:
    """What came of an earlier stage."""
    return Section(title="Result", blocks=[metrics_table(facts), *evaluations(facts)])


def metrics_table(facts: StageFacts) -> Block:
    """All validation metrics of the result beside those before the first step."""
    if not facts.result:
        return Text(says="There is no validation yet.", tone="quiet")
    rows = []
    for name, after in facts.result.items():
        if not name.endswith("/n"):
            change = _change(name, after, facts.before.get(name)) if facts.before else ()
            rows.append((name, number(after), *change, number(facts.result.get(f"{_source(facts, name)}/n"))))
    columns = ("metric", "after", *(("before", "change", "verdict") if facts.before else ()), _kind(facts))
    what = f"Validation of {'the result' if facts.record else 'the best so far'} of stage {facts.name}."
    told = PLATE_METRICS if facts.floor == "bicubic" else DOCUMENT_METRICS
    caption = f"{what} {told}" if facts.restores else (
        f"{what} In word_accuracy_36 case is folded and all but letters and digits ignored; cer is edits per true "
        "character; ned is one minus the normalised edit distance; loss is CTC in nats per character."
    )  # fmt: skip
    return Table(caption=caption, columns=columns, rows=rows)


def evaluations(facts: StageFacts) -> Iterator[Block]:
    """What was measured after training with `evaluate`."""
    for name, metrics in facts.evaluations.items():
        rows = [
            (metric, number(value), number(metrics.get(f"{metric}_n", metrics.get("n"))))
            for metric, value in metrics.items()
            if not metric.endswith(("_n", "_skipped")) and metric != "n"
        ]
        yield Table(caption=f"Evaluation on {name}, after training.", columns=("metric", "value", "words"), rows=rows)


def _kind(facts: StageFacts) -> str:
    """What the metrics count."""
    return ("plates" if facts.floor == "bicubic" else "pictures") if facts.restores else "words"


def settings(facts: StageFacts, newest: StageFacts) -> Section:
    """What the plan asks for, what was really in force, and the whole plan where ``newest`` has another one."""
    shown = {name: value for name, value in facts.stage.items() if name not in ("is", "name")}
    shown["augment"] = {name: value for name, value in shown.get("augment", {}).items() if name != "is" and value}
    recipe = {name: facts.recipe[name] for name in ("seed", "task", "image") if name in facts.recipe}
    rows = [(name, said(value)) for name, value in (recipe | shown).items()]
    blocks: list[Block] = [Table(caption="What the plan sets.", columns=("setting", "value"), rows=rows)]
    effective = facts.record.effective if facts.record else {}
    if effective:
        rows = list(flattened(effective))
        blocks.append(Table(caption="What was really in force.", columns=("quantity", "value"), rows=rows))
    else:
        blocks.append(Text(says="The record holds no effective values.", tone="quiet"))
    if facts.recipe == newest.recipe and facts is not newest:
        blocks.append(Text(says=f"The whole plan is that of stage {newest.name}, above.", tone="quiet"))
    else:
        blocks.append(Folded(title="The whole plan", text=json.dumps(facts.recipe, indent=1, ensure_ascii=False)))
    return Section(title="Settings", blocks=blocks)


def preflight(facts: StageFacts) -> Section:
    """Each check with what it found."""
    record = facts.record
    if record is None or not record.preflight:
        return Section(title="Preflight", blocks=[Text(says="The record holds no preflight.", tone="quiet")])
    rows = [
        (str(check.get("check", "")), str(check.get("found", "")), f"{check.get('seconds', 0):.2f}",
         str(check.get("verdict", "")))
        for check in record.preflight
    ]  # fmt: skip
    table = Table(caption="Checks before the first step.", columns=("check", "found", "seconds", "verdict"), rows=rows)
    return Section(title="Preflight", blocks=[table])


def versions(facts: StageFacts) -> Section:
    if facts.record is None:
        return Section(title="Machine and versions", blocks=[Text(says="Recorded when the stage ends.", tone="quiet")])
    rows = [(name, said(value)) for name, value in (*facts.record.execution.items(), *facts.record.versions.items())]
    table = Table(caption="Where it ran, and what with.", columns=("what", "value"), rows=rows, folded=True)
    return Section(title="Machine and versions", blocks=[table])


def alphabet_of(recipe: Mapping[str, Any]) -> str:
    """Name, size, case and hash of the alphabet."""
    fields = {key: value for key, value in recipe["alphabet"].items() if key != "is"}
    for name, known in ALPHABETS.items():
        if fields == {key: getattr(known, key) for key in fields}:
            return f"{name}: {len(known.symbols)} symbols, {CASES[known.case]}, SHA-256 {known.sha256[:12]}"
    symbols, case = str(fields.get("symbols", "")), str(fields.get("case", ""))
    return f"{len(symbols)} symbols of its own ({symbols}), {CASES.get(case, case)}"


def interval(share: float, words: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share that was measured over ``words`` independent words."""
    z = 1.96
    middle = (share + z * z / (2 * words)) / (1 + z * z / words)
    half = z * math.sqrt(share * (1 - share) / words + z * z / (4 * words * words)) / (1 + z * z / words)
    return middle - half, middle + half


def _interval(metric: str, value: float, words: float | None) -> str:
    if "word_accuracy" not in metric or not words or not 0 <= value <= 1:
        return ""
    low, high = interval(value, words)
    return f" (95\u00a0% interval {low:.3f} to {high:.3f})"


def _at_a_glance(stages: Sequence[StageFacts]) -> Table:
    newest = stages[0]
    record = newest.record
    device = said(record.execution.get("device_used")) if record else NOTHING
    precision = said(record.execution.get("precision_used")) if record else NOTHING
    times = [facts.seconds for facts in stages if facts.speed]
    total = f"{spoken(sum(times))} over {len(times)} stage{'s' if len(times) > 1 else ''}" if times else NOTHING
    rows = [
        ("recipe", f"{newest.recipe['name']}, seed {newest.recipe.get('seed', NOTHING)}"),
        ("network", said(newest.recipe["task"])),
        ("alphabet", alphabet_of(newest.recipe)),
        ("images", said(newest.recipe["image"])),
        ("stages", ", then ".join(facts.name for facts in reversed(stages))),
        ("updates", f"{record.steps:,} in {record.epochs} epochs" if record else _standing(newest)),
        ("training time", total),
        ("device", f"{device}, {precision}"),
        ("ended", f"{record.ended_at or NOTHING}: {record.finished}" if record else "not finished"),
    ]
    return Table(caption="At a glance.", columns=("what", "value"), rows=rows)


def _standing(facts: StageFacts) -> str:
    steps, epochs = facts.lines.get("step", ()), facts.lines.get("epoch", ())
    if not steps and not epochs:
        return "no update yet"
    updates = max([line["step"] + 1 for line in steps] + [line["step"] for line in epochs])
    return f"{updates:,} updates, {len(epochs)} of {facts.stage['epochs']} epochs"


def _change(name: str, after: float, before: float | None) -> tuple[str, str, str]:
    """The value before, by how much it changed, and whether that is better; of some metrics nobody can say."""
    if before is None:
        return NOTHING, NOTHING, ""
    metric = name.rpartition("/")[2]
    alike = abs(after - before) < 5e-5 or metric.startswith(("blank_share", "entropy", "distinct"))
    less = less_is_better(name) or metric.startswith(LESS)
    verdict = "" if alike else "better" if (after < before) == less else "worse"
    return number(before), f"{after - before:+.4f}", verdict


def _source(facts: StageFacts, metric: str) -> str:
    """The set a metric is of; a score is told with the first one."""
    return metric.split("/")[0] if "/" in metric else str(next(iter(facts.stage["validate"])))


def _set(facts: StageFacts, metric: str) -> str:
    name = _source(facts, metric)
    return f"{name}/{facts.stage['validate'].get(name, '')}"
