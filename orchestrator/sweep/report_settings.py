"""The parts of a sweep's report that say where it searched, what mattered, and what several metrics left to choose."""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.plan import PlanError
from orchestrator.report.blocks import NOTHING, Block, Figure, Section, Table, Text, number
from orchestrator.sweep import plots
from orchestrator.sweep.board import Row
from orchestrator.sweep.space import value_at
from orchestrator.sweep.told import DIRECTIONS, Told, range_of
from orchestrator.sweep.weighed import FEW, Weighed, weighed

MEANS = {
    "fANOVA": "share of the variance of the values that the setting explains",
    "PED-ANOVA": "share in deciding who is among the best tenth",
}


def settings(told: Told) -> Section:
    """The space, what was tried in it, and what mattered."""
    blocks: list[Block] = []
    finished = [row for row in told.rows if row.outcome == "finished"]
    scales = told.scales
    for place, (metric, mode) in enumerate(told.metrics):
        if any(math.isfinite(row.values.get(metric, math.nan)) for row in finished) and scales:
            blocks.append(_parallel(told, scales, metric, mode))
        found = weighed(told.board.study, place, mode, seed=told.board.recipe.seed)
        blocks += _importance(told, metric, found)
    rows = [(scale.name, range_of(scale), _current(told, scale.name),
             told.setting(told.winner, told.prefix + scale.name),
             str(sum(told.prefix + scale.name in row.params or scale.name in row.params for row in told.rows)))
            for scale in scales]  # fmt: skip
    space = Table(
        caption="A setting that depends on another is in those trials alone that chose so.",
        columns=("setting", "searched", "as it stands", "winner", "trials that had it"), rows=rows,
    )  # fmt: skip
    parts = [Section(title="What was tried, and what mattered", blocks=blocks), Section(title="Space", blocks=[space])]
    return Section(title="Settings", anchor="settings", blocks=(), sections=parts)


def _parallel(told: Told, scales: Sequence[plots.Scale], metric: str, mode: str) -> Figure:
    rows = [_shortened(told, row) for row in told.rows]
    alt = f"Settings of every trial and {metric}; the table of trials has the same."
    svg = plots.side_by_side(rows, scales, metric, mode, told.picked, alt=alt)
    caption = ("Each line is a trial, from its settings down to its value: blue the best, orange the worst by rank, "
               "the winner thick, pruned ones dotted and without a value.")  # fmt: skip
    return Figure(title="Settings side by side" + told.of(metric), caption=caption, svg=svg, tall=True)


def _importance(told: Told, metric: str, found: Weighed) -> list[Block]:
    title = "Importance of settings" + told.of(metric)
    if not found.method:
        return [Text(says=f"{title}: {found.why}.", tone="quiet")]
    shares = {told.short(name): share for name, share in found.shares.items()}
    few = f" So few trials give a hint, and no more ({FEW} are wanted)." if found.trials < FEW else ""
    partly = {name: f"{told.short(name)} in {had}" for name, had in found.had.items() if had < found.trials}
    judged = [says for name, says in partly.items() if name in found.shares]
    left = [says for name, says in partly.items() if name not in found.shares]
    some = f" Among those alone that had it: {', '.join(judged)}." if judged else ""
    some += f" Left out, for too few had it: {', '.join(left)}." if left else ""
    caption = f"{found.method}: {MEANS[found.method]}, over {found.trials} finished trials.{some}{few}"
    first = next(iter(shares), NOTHING)
    svg = plots.bars(shares, ident=f"importance-{told.about.metrics.index(metric)}",
                     alt=f"Importance for {metric}; most important is {first}.")  # fmt: skip
    return [Figure(title=title, caption=caption, svg=svg, tall=True)]


def front(told: Told) -> Section:
    """Of several metrics: the trials that no other one beats in all of them, and which one was picked."""
    numbers = told.board.pareto()
    metrics = told.about.metrics
    blocks: list[Block] = []
    if len(metrics) == 2 and numbers:
        svg = plots.front_of(told.rows, numbers, (metrics[0], metrics[1]), told.picked,
                             alt=f"{metrics[0]} and {metrics[1]} of the finished trials.")  # fmt: skip
        directions = "; ".join(f"{name}: {DIRECTIONS[mode]}" for name, mode in told.metrics)
        blocks.append(Figure(title="Two metrics at once", caption=f"{directions}.", svg=svg))
    rows = [
        (str(row.number), *(number(row.values.get(metric)) for metric in metrics), told.changed(row),
         "picked" if told.winner and row.number == told.winner.number else "")
        for row in told.rows if row.number in numbers
    ]  # fmt: skip
    caption = f"The Pareto set: no other finished trial is better in every metric. Picked {told.rule}."
    blocks.append(Table(caption=caption, columns=("trial", *metrics, "changed settings", ""), rows=rows))
    part = Section(title="Beaten by no other trial", blocks=blocks)
    return Section(title="Pareto set", anchor="pareto", blocks=(), sections=[part])


def _shortened(told: Told, row: Row) -> Row:
    return Row(**{**vars(row), "params": {told.short(name): value for name, value in row.params.items()}})


def _current(told: Told, name: str) -> str:
    for path in (told.prefix + name, name):
        try:
            value = value_at(told.board.recipe, path)
        except PlanError:
            continue
        return type(value).__name__ if hasattr(value, "__dataclass_fields__") else plots.said_value(value)
    return "not set"
