"""The parts of a report by hand: what is shown of readings and curves, how numbers are said, that texts stay texts."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from seen import Page

from models.metrics.confusions import aligned
from orchestrator.recipes.documents import recipe as documents
from orchestrator.report.blocks import Plate, Section, Table, Text, View, flattened, number, said, spoken, visible
from orchestrator.report.page import html, markdown
from orchestrator.report.pixels import comparison, picture
from orchestrator.report.plots import SERIES, Curve, Marks, curves, thinned
from orchestrator.report.readings import Judged, best_of, surest_mistakes, worst_of
from orchestrator.report.style import CSS
from orchestrator.report.summary import interval


def test_best_and_worst_by_hand():
    rows = [(0, 0.9, "sure"), (0, 0.99, "surer"), (1, 0.8, "slip"), (3, 0.1, "far"), (3, 0.2, "far and sure")]
    judged = [
        Judged(sample=sample, truth=name, reading="", confidence=confidence, edits=edits)
        for sample, (edits, confidence, name) in enumerate(rows)
    ]
    assert [each.truth for each in best_of(judged)] == ["surer", "sure"]
    assert [each.truth for each in worst_of(judged)] == ["far and sure", "far", "slip"]
    assert [each.truth for each in worst_of(judged, 1)] == ["far and sure"]
    assert [each.truth for each in surest_mistakes(judged)] == ["slip", "far and sure", "far"]


def test_terms_and_symbols_in_plots_are_only_ever_text():
    lines = [Curve(name="</svg><script>$x^{$ & \u202e", x=[0, 1], y=[1.0, None])]
    svg = curves(lines, ident="a", alt='"><script>', xlabel="<i>", ylabel="y", marks=[])
    drawn = Page(svg)
    assert not {"script", "i"} & {tag for tag, _ in drawn.tags}
    assert dict(drawn.tags)["svg"]["aria-labelledby"] == "a-alt" and '"><script>' in drawn.texts
    named = curves(lines, ident="a", alt="", xlabel="", ylabel="", marks=[Marks(name="m", x=[0], y=[1.0], shape="x")])
    assert "</svg><script>$x^{$ & \\u{202e}" in Page(named).texts


def test_a_long_curve_is_thinned_but_keeps_its_extremes():
    y: list[float | None] = [1.0] * 100_000
    y[31_234], y[77_777] = 50.0, -3.0
    y[1000:2100] = [None] * 1100
    points = thinned(range(100_000), y)
    assert len(points.x) == 238 and (points.most.max(), points.least.min()) == (50.0, -3.0)  # two bins hold nothing
    assert set(points.median) == {1.0} and points.x[0] < points.x[-1]
    assert len(curves([Curve(name="y", x=range(100_000), y=y)], ident="a", alt="", xlabel="", ylabel="")) < 40_000
    assert thinned([], []).x.shape == (0,) and thinned([3], [None]).x.shape == (0,)
    assert thinned([3], [4.0]).median.tolist() == [4.0]


def test_numbers_and_texts_as_they_are_said():
    assert [number(value) for value in (None, float("nan"), 0.0, 0.12345, 1e-5, 1234, 2000.0, 3.0)] == [
        "-", "-", "0.0000", "0.1235", "1e-05", "1,234", "2,000", "3.0000",
    ]  # fmt: skip
    assert [spoken(seconds) for seconds in (1.25, 59.4, 59.6, 200, 7500)] == [
        "1.2 s", "59.4 s", "1 min 0 s", "3 min 20 s", "2 h 05 min",
    ]  # fmt: skip
    assert said({"is": "a.b.Cosine", "warmup": 0.03, "parts": ["x", "y"]}) == "Cosine(warmup 0.03, parts x, y)"
    assert visible("a\u202eb\x00\nc") == "a\\u{202e}b\\u{0}\nc"
    assert list(flattened({"a": {"b": 1, "c": {}}, "d": None})) == [("a.b", "1"), ("a.c", "-"), ("d", "-")]


def test_the_interval_of_a_share_is_wilsons():
    # 193 of 200: the formula on paper gives 0.9562 -+ 0.0267; and it stays inside 0 .. 1 where all is right.
    assert interval(193 / 200, 200) == (pytest.approx(0.9295, abs=1e-4), pytest.approx(0.9829, abs=1e-4))
    low, high = interval(1.0, 10)
    assert 0.7 < low < 0.75 and high == pytest.approx(1.0)


def test_every_text_of_a_block_is_escaped_in_both_pages():
    table = Table(caption="<i>", columns=("<b>", "|"), rows=[("<u>", "# $ * [x](y) \u202e\n| z")])
    sections = [Section(title="<s>", blocks=[Text(says="<em>"), table], anchor="a")]
    page = Page(html("<h6>", sections))
    assert not {"i", "b", "u", "s", "em", "h6"} & {tag for tag, _ in page.tags}
    assert page.rows[1] == ["<u>", "# $ * [x](y) \\u{202e}\n| z"]
    lines = markdown("<h6>", sections, html="report.html").splitlines()
    assert r"| &lt;u&gt; | \# \$ \* \[x\](y) \\u{202e} \| z |" in lines and "# &lt;h6&gt;" in lines


@pytest.mark.parametrize(("wide", "size"), [(96, (4 * (288 + 8), 18 + 96 + 18)), (900, (900, 18 + 4 * (300 + 18)))])
def test_pictures_of_plates_stand_side_by_side_and_those_of_lines_below_each_other(wide, size):
    image = picture(np.full((wide // 3, wide), 90, np.uint8))
    views = [View(name=name, image=image, reading="A1", pairs=aligned("A1", "A1")) for name in "abcd"]
    plate = Plate(sample="one", truth="A1", views=views, facts="")
    sheet = Image.open(io.BytesIO(comparison([plate, plate])))
    assert sheet.size == (size[0], 2 * (size[1] + 8))
    assert sheet.getpixel((20, 40)) == (90, 90, 90)


def test_every_curve_of_a_stage_with_two_players_has_its_own_colour_in_light_and_dark():
    assert len(set(SERIES)) == len(SERIES) >= len(documents().stage("adversarial").all_terms) + 1
    assert [CSS.count(f"--c{place}:") for place in range(len(SERIES))] == [2] * len(SERIES)
