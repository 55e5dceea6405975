"""A sweep in pictures: values in order, curves by epoch, settings side by side, their importance, the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from orchestrator.report.blocks import number, visible
from orchestrator.report.plots import CARD, INCHES, INK, SERIES, drawing, logarithmic, rank_colour
from orchestrator.sweep.board import Row

COLOURS = {"finished": SERIES[0], "pruned": SERIES[1], "failed": SERIES[3], "interrupted": SERIES[4]}
BEST = SERIES[2]
ABSENT_AT = -0.16  # where a line passes that has no such setting; those that have one lie in 0 .. 1
SPREAD = 50.0  # a greatest value so many times the least is shown on a logarithmic axis


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Where the values of one setting lie on its axis.

    Attributes:
        choices: one after another where it is one of several; else numbers from ``low`` to ``high``.
    """

    name: str
    low: float = 0.0
    high: float = 1.0
    choices: tuple[Any, ...] = ()
    log: bool = False

    def place(self, value: Any) -> float:
        """Of a value, from 0 to 1."""
        if self.choices:
            return self.choices.index(value) / max(len(self.choices) - 1, 1)
        low, high, at = (math.log(x) if self.log else float(x) for x in (self.low, self.high, value))
        return (at - low) / ((high - low) or 1.0)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """What stands below the axis, and where."""
        if self.choices:
            return [(self.place(choice), str(choice)) for choice in self.choices]
        return [(0.0, f"{self.low:.3g}"), (1.0, f"{self.high:.3g}" + (" (log)" if self.log else ""))]


def history(rows: Sequence[Row], metric: str, mode: str, *, alt: str) -> str:
    """Values in the order of the trials, and the best finished one so far."""

    def draw(axes: Axes) -> None:
        for outcome, shape in (("finished", "o"), ("pruned", "x")):
            some = [row for row in rows if row.outcome == outcome and _finite(row.values.get(metric))]
            axes.plot(
                [row.number for row in some], [row.values[metric] for row in some], linestyle="none", marker=shape,
                markersize=4.5, color=COLOURS[outcome], label=outcome if some else None,
            )  # fmt: skip
        best = best_so_far(rows, metric, mode)
        if best:
            steps = [*best.items(), (rows[-1].number, list(best.values())[-1])]
            axes.plot(*zip(*steps, strict=True), color=BEST, drawstyle="steps-post", label="best so far")
        _spread(axes, [row.values[metric] for row in rows if row.outcome in ("finished", "pruned") and row.values])
        without = [row.number for row in rows if row.outcome == "failed"]
        axes.plot(
            without, [0.0] * len(without), linestyle="none", marker="^", markersize=5, color=COLOURS["failed"],
            transform=axes.get_xaxis_transform(), clip_on=False, label="failed" if without else None,
        )  # fmt: skip
        axes.set_xlim(-0.5, max(rows[-1].number, 1) + 0.5)
        _labelled(axes, "trial", metric)

    return drawing(draw, ident="history-" + _ident(metric), alt=alt)


def best_so_far(rows: Sequence[Row], metric: str, mode: str) -> dict[int, float]:
    """Number of each finished trial -> the best value up to there."""
    better, best = max if mode == "max" else min, {}
    value = None
    for row in rows:
        if row.outcome == "finished" and _finite(row.values.get(metric)):
            value = row.values[metric] if value is None else better(value, row.values[metric])
            best[row.number] = value
    return best


def learning(
    rows: Sequence[Row], reached: Mapping[int, Mapping[int, float]], metric: str, rungs: Sequence[int],
    winner: int | None, before: float | None, *, alt: str,
) -> str:  # fmt: skip
    """What every trial measured after each epoch; those that were cut end there, on a rung.

    Args:
        reached: trial -> epoch -> value.
        before: of the weights that all of them started from.
    """

    def draw(axes: Axes) -> None:
        for rung in rungs:
            axes.axvline(rung, color=INK, linewidth=0.8, linestyle=(0, (1, 3)), zorder=0)
        if before is not None:
            axes.axhline(before, color=INK, linewidth=0.8, linestyle=(0, (5, 3)), label="before", zorder=0)
        named = set()
        for row in rows:
            points = sorted((epoch, value) for epoch, value in reached.get(row.number, {}).items() if _finite(value))
            if not points or row.number == winner:
                continue
            label = None if row.outcome in named else row.outcome
            axes.plot(*zip(*points, strict=True), color=COLOURS[row.outcome], alpha=0.65, linewidth=1.0, label=label)
            named.add(row.outcome)
            if row.outcome != "finished" or len(points) == 1:
                axes.plot(*points[-1], marker="x" if row.outcome == "pruned" else "o", markersize=4,
                          color=COLOURS[row.outcome])  # fmt: skip
        best = sorted(reached.get(winner, {}).items()) if winner is not None else []
        if best:
            axes.plot(*zip(*best, strict=True), color=BEST, linewidth=2.4, label="winner", zorder=3,
                      marker="o" if len(best) == 1 else "")  # fmt: skip
        _spread(axes, [value for each in reached.values() for value in each.values() if _finite(value)])
        axes.set_xlim(left=0)
        _labelled(axes, "epoch", metric)

    return drawing(draw, ident="learning-" + _ident(metric), alt=alt)


def side_by_side(
    rows: Sequence[Row], scales: Sequence[Scale], metric: str, mode: str, winner: int | None, *, alt: str
) -> str:
    """Parallel coordinates, one axis below the other: each line is a trial, from its settings down to its value."""
    finished = [row for row in rows if row.outcome == "finished" and _finite(row.values.get(metric))]
    values = sorted({row.values[metric] for row in finished}, reverse=mode == "max")
    result = Scale(name=metric, low=min(values), high=max(values))
    axes_of = [*scales, result]

    def path(row: Row) -> tuple[list[float], list[int]]:
        places = [scale.place(row.params[scale.name]) if scale.name in row.params else ABSENT_AT for scale in scales]
        ends = [result.place(row.values[metric])] if row in finished else []
        return places + ends, list(range(len(places) + len(ends)))

    def draw(axes: Axes) -> None:
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for row in rows:
            if row.outcome == "pruned":
                axes.plot(*path(row), color=INK, alpha=0.35, linewidth=0.7, linestyle=(0, (1, 2)))
        for row in sorted(finished, key=lambda row: values.index(row.values[metric]), reverse=True):
            share = values.index(row.values[metric]) / max(len(values) - 1, 1)
            axes.plot(*path(row), color=rank_colour(share), linewidth=3.0 if row.number == winner else 1.2)
        absent = {scale.name for scale in scales if any(scale.name not in row.params for row in rows)}
        for level, scale in enumerate(axes_of):
            _axis(axes, level, scale, absent=scale.name in absent)
        axes.set_ylim(len(axes_of) - 0.45, -0.55)
        axes.set_xlim(-0.22 if absent else -0.03, 1.06)
        axes.set_xticks([])
        axes.set_yticks([])

    return drawing(draw, ident="side-by-side-" + _ident(metric), alt=alt, inches=(INCHES[0], 0.5 + 0.62 * len(axes_of)))


def bars(shares: Mapping[str, float], *, ident: str, alt: str) -> str:
    """Shares of one, longest first, the name above each."""

    def draw(axes: Axes) -> None:
        axes.grid(False)
        for level, (name, share) in enumerate(shares.items()):
            axes.barh(level + 0.2, share, height=0.32, color=SERIES[0])
            axes.text(0.0, level - 0.04, visible(name), ha="left", va="bottom", fontsize=8.5)
            axes.text(share + 0.01, level + 0.2, f"{share:.2f}", ha="left", va="center", fontsize=8)
        axes.set_ylim(len(shares) - 0.4, -0.5)
        axes.set_xlim(0, max(max(shares.values(), default=1.0) * 1.15, 0.1))
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("share")

    return drawing(draw, ident=ident, alt=alt, inches=(INCHES[0], 0.7 + 0.42 * len(shares)))


def front_of(
    rows: Sequence[Row], front: Sequence[int], metrics: tuple[str, str], winner: int | None, *, alt: str
) -> str:
    """Finished trials by two metrics, those that no other beats in both, and the one that was picked."""

    def points(numbers: Callable[[Row], bool]) -> list[tuple[float, float]]:
        return sorted((row.values[metrics[0]], row.values[metrics[1]]) for row in rows
                      if row.outcome == "finished" and numbers(row))  # fmt: skip

    def draw(axes: Axes) -> None:
        for some, label, style in (
            (points(lambda row: row.number not in front), "beaten in both", {"color": SERIES[0], "marker": "o"}),
            (points(lambda row: row.number in front), "Pareto set", {"color": BEST, "marker": "D"}),
            (points(lambda row: row.number == 0), "as it stands",
             {"color": INK, "marker": "s", "markerfacecolor": "none", "markersize": 9}),
            (points(lambda row: row.number == winner), "picked",
             {"color": INK, "marker": "o", "markerfacecolor": "none", "markersize": 13}),
        ):  # fmt: skip
            if some:
                joined = (0, (3, 3)) if label == "Pareto set" else "none"
                look: dict[str, Any] = {"markersize": 5, "linestyle": joined, "linewidth": 0.9, **style}
                axes.plot(*zip(*some, strict=True), label=label, **look)
        axes.set_xlabel(visible(metrics[0]))
        axes.set_ylabel(visible(metrics[1]))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=1.2, handlelength=1.4)

    return drawing(draw, ident="pareto", alt=alt)


def _axis(axes: Axes, level: int, scale: Scale, *, absent: bool) -> None:
    axes.plot([0, 1], [level, level], color=INK, linewidth=0.9, zorder=0)
    axes.text(0.0, level - 0.12, visible(scale.name), ha="left", va="bottom", fontsize=8.5, fontweight="bold",
              bbox={"facecolor": CARD, "edgecolor": "none", "pad": 0.8, "alpha": 0.85})  # fmt: skip
    for place, text in scale.ticks + ([(ABSENT_AT, "not set")] if absent else []):
        axes.plot([place], [level], marker="|", color=INK, markersize=6)
        side = "center" if scale.choices or place < 0 else "left" if place == 0 else "right"
        axes.text(place, level + 0.1, visible(text), ha=side, va="top", fontsize=7.5)


def _spread(axes: Axes, values: Sequence[float]) -> None:
    known = [value for value in values if _finite(value)]
    if known and min(known) > 0 and max(known) > SPREAD * min(known):
        logarithmic(axes)


def _labelled(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(xlabel)
    axes.set_ylabel(visible(ylabel))
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1.2, handlelength=1.4)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _ident(name: str) -> str:
    return "".join(symbol if symbol.isascii() and symbol.isalnum() else "-" for symbol in name)


def said_value(value: Any) -> str:
    """A setting in few letters: ``3.2e-05``, ``Cosine``."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return number(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)
