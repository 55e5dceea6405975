"""Curves as inline SVG: thinned to what a screen can show, in colours that the page sets for light and dark."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from numpy.typing import NDArray

from orchestrator.report.blocks import visible

BINS = 240  # as many points as a curve has at most: a plot is a few hundred pixels wide
INCHES = (4.6, 2.8)
ACROSS = 70  # letters of a legend that fit beside each other
INK, FAINT, CARD = "#101112", "#d0d1d2", "#f0f1f2"  # stand for the page's own colours, see :func:`_dressed`
RANKS = 100  # colours from the best to the worst, see :func:`rank_colour`
SERIES = (  # told apart by the colour-blind
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#777879", "#f0e442",
)  # fmt: skip
STYLE = {
    "svg.fonttype": "none",  # text stays text: small, sharp, and read aloud
    "svg.hashsalt": "report",  # the same curve gives the same bytes
    "text.parse_math": False,  # a label may hold any number of dollars
    "font.size": 9.0, "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK,
    "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": FAINT,
    "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.linewidth": 0.6, "legend.frameon": False,
    "legend.fontsize": 8.5, "legend.labelcolor": INK, "lines.linewidth": 1.4, "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Curve:
    """``y`` over ``x``; ``None`` where nothing finite was measured.

    Attributes:
        banded: draw what was least and greatest around a thinned curve.
        dots: draw each point.
        stepped: hold each value until the next.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    banded: bool = True
    dots: bool = False
    stepped: bool = False


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Single points that must not vanish however the curve is thinned; a ``y`` of None is marked at the top."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    shape: str


@dataclass(frozen=True, kw_only=True)
class Thinned:
    """``(bins,)`` each: the middle of a bin on x, and the least, median and greatest y in it."""

    x: NDArray[np.float64]
    least: NDArray[np.float64]
    median: NDArray[np.float64]
    most: NDArray[np.float64]


def thinned(x: Sequence[float], y: Sequence[float | None], bins: int = BINS) -> Thinned:
    """At most ``bins`` points; those that are not finite are left out, and bins of nothing else too."""
    at = np.asarray(x, np.float64)
    values = np.array([math.nan if value is None else value for value in y], np.float64)
    finite = np.isfinite(values)
    groups = [
        (xs[ok], ys[ok])
        for xs, ys, ok in zip(*(np.array_split(each, min(bins, max(len(at), 1))) for each in (at, values, finite)),
                              strict=True)
        if ok.any()
    ]  # fmt: skip
    rows = [(float(np.median(xs)), float(ys.min()), float(np.median(ys)), float(ys.max())) for xs, ys in groups]
    columns = np.array(rows, np.float64).reshape(-1, 4).T
    return Thinned(x=columns[0], least=columns[1], median=columns[2], most=columns[3])


def curves(
    lines: Sequence[Curve], *, ident: str, alt: str, xlabel: str, ylabel: str,
    marks: Sequence[Marks] = (), log: bool = False, share: bool = False,
) -> str:  # fmt: skip
    """A plot of ``lines`` as SVG.

    Args:
        ident: unlike that of any other plot on the page.
        alt: what the plot says, in words.
        log: logarithmic where all that is drawn is above zero.
        share: the y axis spans 0 to 1.
    """

    def draw(axes: Axes) -> None:
        found = [thinned(line.x, line.y) for line in lines]
        for number, (line, points) in enumerate(zip(lines, found, strict=True)):
            again, place = divmod(number, len(SERIES))
            _line(axes, line, points, SERIES[place], dashed=again > 0)
        if log and any(len(points.x) for points in found) and all((points.least > 0).all() for points in found):
            logarithmic(axes)
        if share:
            axes.set_ylim(-0.02, 1.02)
        for mark in marks:
            _marks(axes, mark)
        axes.set_xlim(left=min(0, axes.get_xlim()[0]))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # the others write formulas
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        if len(lines) + len(marks) > 1:
            names = [line.name for line in lines] + [mark.name for mark in marks]
            ncols = max(1, min(3, ACROSS // (max(map(len, names)) + 6)))  # the sample of the line takes six
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=ncols, columnspacing=1.2, handlelength=1.8)

    return drawing(draw, ident=ident, alt=alt)


def heat(counts: Mapping[tuple[str, str], int], rows: Sequence[str], columns: Sequence[str], *, ident: str,
         alt: str) -> str:  # fmt: skip
    """Counts of ``(row, column)`` as squares, darker where more; the number stands in each."""
    return drawing(_squares(counts, rows, columns), ident=ident, alt=alt, inches=_for_squares(rows))


def heat_png(counts: Mapping[tuple[str, str], int], rows: Sequence[str], columns: Sequence[str]) -> bytes:
    """The same as a PNG, on white."""
    file = io.BytesIO()
    with _styled():
        canvas = Canvas(figsize=_for_squares(rows), layout="constrained", dpi=150)
        FigureCanvasAgg(canvas)
        _squares(counts, rows, columns)(canvas.add_subplot())
        canvas.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _for_squares(rows: Sequence[str]) -> tuple[float, float]:
    return INCHES[0], 1.0 + 0.21 * max(len(rows), 4)


def _squares(
    counts: Mapping[tuple[str, str], int], rows: Sequence[str], columns: Sequence[str]
) -> Callable[[Axes], None]:  # fmt: skip
    most = max(counts.values(), default=1)

    def draw(axes: Axes) -> None:
        axes.grid(False)
        for (row, column), times in counts.items():
            x, y = columns.index(column), rows.index(row)
            share = times / most
            axes.add_patch(Rectangle((x, y), 1, 1, facecolor=SERIES[1], alpha=0.12 + 0.6 * share, linewidth=0))
            axes.text(x + 0.5, y + 0.52, str(times), ha="center", va="center", fontsize=7)
        axes.set_xlim(0, len(columns))
        axes.set_ylim(len(rows), 0)
        axes.set_xticks([place + 0.5 for place in range(len(columns))], list(map(visible, columns)))
        axes.set_yticks([place + 0.5 for place in range(len(rows))], list(map(visible, rows)))
        axes.tick_params(length=0)
        axes.hlines(range(len(rows) + 1), 0, len(columns), color=FAINT, linewidth=0.5, zorder=0)
        axes.vlines(range(len(columns) + 1), 0, len(rows), color=FAINT, linewidth=0.5, zorder=0)
        axes.set_xlabel("read as")
        axes.set_ylabel("true character")

    return draw


def logarithmic(axes: Axes) -> None:
    """A logarithmic y axis with enough numbers on it."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < 30 * low:  # else a single power of ten would be all there is to read
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def _line(axes: Axes, line: Curve, points: Thinned, colour: str, *, dashed: bool) -> None:
    dots = "o" if line.dots or len(points.x) == 1 else ""
    style = "steps-post" if line.stepped else "default"
    axes.plot(
        points.x, points.median, color=colour, label=visible(line.name), marker=dots, markersize=3, drawstyle=style,
        linestyle="--" if dashed else "-",
    )  # fmt: skip
    if line.banded and len(line.x) > len(points.x) and (points.most > points.least).any():
        axes.fill_between(points.x, points.least, points.most, color=colour, alpha=0.22, linewidth=0)


def _marks(axes: Axes, marks: Marks) -> None:
    top = axes.get_ylim()[1]
    heights = [top if value is None or not math.isfinite(value) else value for value in marks.y]
    axes.plot(
        marks.x, heights, linestyle="none", marker=marks.shape, markersize=8, markerfacecolor="none",
        markeredgecolor=INK, markeredgewidth=1.3, label=visible(marks.name), clip_on=False,
    )  # fmt: skip


def drawing(draw: Callable[[Axes], None], *, ident: str, alt: str, inches: tuple[float, float] = INCHES) -> str:
    """What ``draw`` draws, as SVG for a page; see :func:`curves`."""
    file = io.StringIO()
    with _styled():
        canvas = Canvas(figsize=inches, layout="constrained")
        FigureCanvasSVG(canvas)
        draw(canvas.add_subplot())
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(file, format="svg", metadata=nothing, transparent=True)
    return _dressed(file.getvalue(), ident=ident, alt=alt)


@contextmanager
def _styled() -> Iterator[None]:
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")  # the reader's browser has fonts that we lack here
        yield


def _dressed(svg: str, *, ident: str, alt: str) -> str:
    """The bare ``<svg>`` for a page: its ids its own, its colours and font the page's, its width the column's."""
    body = svg[svg.index("<svg") :]
    opening = re.compile(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', re.S)
    title = f'<title id="{ident}-alt">{_escaped(alt)}</title>'
    body = opening.sub(lambda found: f'<svg {found[1]} role="img" aria-labelledby="{ident}-alt">{title}', body, count=1)
    body = re.sub(r"<style.*?</style>", "", body, count=1, flags=re.S)  # it would speak for the whole page
    body = re.sub(r'(?<= d=")[^"]*', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), body)
    body = re.sub(r'(?<= id=")(?!' + re.escape(ident) + ")", f"{ident}-", body)
    body = re.sub(r'(?<=url\(#)|(?<=href="#)', f"{ident}-", body)
    body = body.replace("xlink:href=", "href=")
    body = re.sub(r"font-family: [^;\"]+", "font-family: var(--font)", body)
    own = (("--ink", INK), ("--line", FAINT), ("--card", CARD))
    for name, colour in (*own, *((f"--c{n}", c) for n, c in enumerate(SERIES))):
        body = body.replace(colour, f"var({name})")
    body = re.sub(r"#fed(\d{3})", _mixed, body)
    return body.strip()


def rank_colour(share: float) -> str:
    """Between the colour of the best, at 0, and that of the worst, at 1; the page mixes it, for light and dark."""
    return f"#fed{round(RANKS * min(max(share, 0.0), 1.0)):03d}"


def _mixed(found: re.Match[str]) -> str:
    return f"color-mix(in oklab, var(--c1) {int(found[1])}%, var(--c0))"


def _escaped(text: str) -> str:
    return visible(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
