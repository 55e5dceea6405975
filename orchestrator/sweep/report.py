"""A sweep as one page to read: report.html and report.md in its folder, in the manner of a stage's report.

python -m orchestrator.run report STORE/sweeps/NAME
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote

from orchestrator.manifest import put
from orchestrator.plan import PlanError, Stage
from orchestrator.report import HTML, MARKDOWN, page
from orchestrator.report.blocks import NOTHING, Block, Figure, Folded, Link, Section, Table, Text, number, percent, said
from orchestrator.report.facts import read_lines
from orchestrator.store import Store
from orchestrator.sweep import plots
from orchestrator.sweep.board import Row
from orchestrator.sweep.report_settings import front, settings
from orchestrator.sweep.space import value_at
from orchestrator.sweep.told import DIRECTIONS, Told, gathered, summed

OUTCOMES = ("finished", "pruned", "failed", "interrupted")


def write_sweep_report(folder: Path, store: Store, url: str = "") -> tuple[Path, Path]:
    """Write the report of the sweep in ``folder``, over or not, and return its HTML and its Markdown file.

    Args:
        url: database of the study, where it does not lie in the folder.

    Raises:
        StoreError: the folder holds no sweep, or one that cannot be read.
    """
    told = gathered(folder, store, url)
    sections = [
        summary(told), compared(told), course(told), settings(told),
        *([] if told.board.space.single else [front(told)]), saved(told), trials(told), plan(told),
    ]  # fmt: skip
    title = f"Sweep {told.about.sweep}"
    html, text = folder / HTML, folder / MARKDOWN
    put(html, page.html(title, sections).encode())
    put(text, page.markdown(title, sections, html=HTML).encode())
    return html, text


def summary(told: Told) -> Section:
    """What came of it, what was searched, and by which rules."""
    about, search = told.about, told.board.search
    ended = ", ".join(f"{told.counts[name]} {name}" for name in OUTCOMES)
    blocks: list[Block] = [Text(says=says, tone="warning") for says in _warnings(told)]
    blocks.append(Text(says=f"Of {len(told.rows)} trials: {ended}. {_won(told)}"))
    parent = about.parent
    rows = [
        ("recipe and stage", f"{told.board.recipe.name}, stage {about.stage}"),
        ("compared by", "; ".join(f"{name}, {DIRECTIONS[mode]}" for name, mode in told.metrics)),
        *([] if told.board.space.single else [("picked", told.rule)]),
        ("space", f"tune_spaces/{about.space}.py, SHA-256 {about.sha256[:12]}"),
        ("trials asked for", number(search.trials)),
        ("sampler", f"{search.sampler}, seed {told.board.recipe.seed}; trial 0 has the settings as they stand"),
        ("pruning", _pruning(told)),
        ("every trial starts from", f"stage {parent['stage']}, record {parent['fingerprint']}, {parent['checkpoint']}"
         if parent else _start(told.stage)),
        ("stage as it stands", about.fingerprint),
        ("winner's record", told.winner.fingerprint if told.winner else NOTHING),
        ("study", about.database or "study.db in this folder"),
    ]  # fmt: skip
    blocks.append(Table(caption="At a glance.", columns=("what", "value"), rows=rows))
    return Section(title="Summary", anchor="summary", blocks=blocks)


def _warnings(told: Told) -> Iterator[str]:
    left = told.board.search.trials - len(told.rows)
    if told.counts["interrupted"] or left > 0:
        yield (f"The sweep is not over: {told.counts['interrupted']} trials are under way or interrupted, and "
               f"{max(left, 0)} were not begun. `sweep` with --resume goes on with them.")  # fmt: skip
    if not told.counts["finished"]:
        yield "No trial has finished, so there is no winner."
    if told.counts["failed"]:
        yield f"{told.counts['failed']} trials failed; the table of trials says why."


def _won(told: Told) -> str:
    if told.winner is None:
        return ""
    shown = ", ".join(f"{name} {number(value)}" for name, value in told.winner.values.items())
    if told.winner.number == 0:
        return f"The settings as they stand, trial 0, are the best found, with {shown}."
    first = told.first
    before = ", ".join(map(number, first.values.values())) if first and first.outcome == "finished" else ""
    beside = f"; the settings as they stand have {before}" if before else ""
    return (f"Trial {told.winner.number} wins with {shown}{beside}. It was chosen by this very metric, so it flatters; "
            "only a set that decided nothing gives an unbiased figure.")  # fmt: skip


def _pruning(told: Told) -> str:
    prune = told.board.search.prune
    if prune is None or not told.board.space.single:
        return "none: every trial is trained to its end"
    rungs = told.rungs
    after = f"compared after epoch {', '.join(map(str, rungs))}" if rungs else "never compared before its end"
    settings = ", ".join(f"{name} {value}" for name, value in vars(prune).items())
    return f"{type(prune).__name__} ({settings}); a trial of the plan as it stands is {after}"


def _start(stage: Stage) -> str:
    if stage.start_from is None:
        return "nothing"
    return f"weights from elsewhere, SHA-256 {getattr(stage.start_from, 'sha256', '')[:12]}"


def compared(told: Told) -> Section:
    """The winner beside the settings as they stand."""
    first, title, anchor = told.first, "Winner", "winner"
    if told.winner is None or first is None:
        return Section(title=title, anchor=anchor, blocks=[Text(says="There is none yet.", tone="quiet")])
    rows = [(f"{metric} ({DIRECTIONS[mode]})", _value(first, metric), number(told.winner.values[metric]))
            for metric, mode in told.metrics]  # fmt: skip
    names = dict.fromkeys((*told.winner.params, *first.params))
    rows += [(told.short(path), told.setting(first, path), told.setting(told.winner, path)) for path in names]
    further = {path: value for path, value in told.winner.changes.items() if path not in told.winner.params}
    rows += [(told.short(path), _standing(told, path), said(value)) for path, value in further.items()]
    who = "trial 0, as it stands" + (f" ({first.outcome})" if first.outcome != "finished" else "")
    table = Table(
        caption="What the winner changes. In the whole stage nothing else differs.",
        columns=("metric or setting", who, f"trial {told.winner.number}, the winner"), rows=rows,
    )  # fmt: skip
    given = " ".join(quote(f"--set={path}={json.dumps(value)}") for path, value in told.winner.changes.items())
    blocks: list[Block] = [table, *([Folded(title="The same by hand", text=given)] if given else [])]
    return Section(title=title, anchor=anchor, blocks=blocks)


def _value(row: Row, metric: str) -> str:
    return number(row.values.get(metric)) if row.outcome == "finished" else row.outcome


def _standing(told: Told, path: str) -> str:
    try:
        return said(value_at(told.board.recipe, path))
    except PlanError:
        return NOTHING


def course(told: Told) -> Section:
    """Values in order, and curves by epoch, of each metric."""
    blocks: list[Block] = []
    for place, (metric, mode) in enumerate(told.metrics):
        if not any(metric in row.values or row.reached for row in told.rows):
            continue
        shown = f"{metric}, {DIRECTIONS[mode]}"
        caption = f"{shown}. Of pruned trials the last value they reached, which is of an earlier epoch."
        svg = plots.history(told.rows, metric, mode, alt=f"{metric} of every trial by number. {_won(told)}")
        blocks.append(Figure(title="Values in order" + told.of(metric), caption=caption, svg=svg))
        reached = {row.number: _reached(told, row, metric, place) for row in told.rows}
        if any(reached.values()):
            record = told.record(told.winner)
            svg = plots.learning(
                told.rows, reached, metric, told.rungs, told.picked, record.before.get(metric) if record else None,
                alt=f"{metric} after each epoch, a curve for each trial.",
            )  # fmt: skip
            rungs = " Dotted lines are the epochs at which trials are compared." if told.rungs else ""
            caption = f"{shown}. A pruned trial ends with a cross where it was cut.{rungs}"
            blocks.append(Figure(title="Learning curves" + told.of(metric), caption=caption, svg=svg))
    found = blocks or [Text(says="No trial has measured anything yet.", tone="quiet")]
    part = Section(title="By trial and by epoch", blocks=found)
    return Section(title="Course", anchor="course", blocks=(), sections=[part])


def _reached(told: Told, row: Row, metric: str, place: int) -> Mapping[int, float]:
    """Epoch -> value; from the trial's journal where the study keeps none."""
    if place == 0 and row.reached:
        return row.reached
    lines = read_lines(told.folder / row.folder / "metrics.jsonl").get("validation", ()) if row.folder else ()
    return {line["epoch"]: line[metric] for line in lines if isinstance(line.get(metric), int | float)
            and line["epoch"] > 0}  # fmt: skip


def saved(told: Told) -> Section:
    """Epochs trained against epochs planned."""
    rows = []
    for outcome in (*OUTCOMES, "all"):
        some = [row for row in told.rows if outcome in ("all", row.outcome)]
        trained, planned = sum(map(told.trained, some)), sum(map(told.planned, some))
        share = percent(trained / planned) if planned else NOTHING
        rows.append((outcome, str(len(some)), str(trained), str(planned), share, summed(row.seconds for row in some)))
    cut = [row for row in told.rows if row.outcome == "pruned"]
    left = sum(told.planned(row) - told.trained(row) for row in cut)
    planned = sum(map(told.planned, told.rows))
    says = (f"Pruning left out {left} of {planned} planned epochs ({percent(left / planned)}), in {len(cut)} trials."
            if planned else "Nothing was planned yet.")  # fmt: skip
    table = Table(
        caption="Epochs by outcome. A finished trial may have stopped early by its own rule, or have the settings of "
        "an earlier one and its result; seconds are of each trial's last attempt, summed over trials side by side.",
        columns=("outcome", "trials", "epochs trained", "epochs planned", "share", "seconds"), rows=rows,
    )  # fmt: skip
    return Section(title="What pruning saved", anchor="saved", blocks=[Text(says=says), table])


def trials(told: Told) -> Section:
    """One row a trial."""
    rows = [
        (Link(str(row.number), f"{row.folder}/") if row.folder else str(row.number), row.outcome,
         *(number(row.values.get(metric)) for metric in told.about.metrics),
         f"{told.trained(row)} of {told.planned(row)}", row.reason, told.changed(row),
         summed([row.seconds]), NOTHING if row.first_step_s is None else f"{row.first_step_s:.2f}")
        for row in told.rows
    ]  # fmt: skip
    columns = ("trial", "outcome", *told.about.metrics, "epochs", "reason", "changed settings", "seconds",
               "first step after, s")  # fmt: skip
    caption = "Every trial; its number leads to its folder. An interrupted trial is under way, or can go on."
    table = Table(caption=caption, columns=columns, rows=rows)
    return Section(title="Trials", anchor="trials", blocks=[table])


def plan(told: Told) -> Section:
    text = json.dumps(told.about.plan, indent=1, ensure_ascii=False)
    shown = Text(says="The recipe with the stage as it stands; a trial changes what the table of trials says.")
    return Section(title="Plan", anchor="plan", blocks=[shown, Folded(title="The whole plan", text=text)])
