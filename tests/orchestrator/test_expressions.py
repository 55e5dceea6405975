"""Named scores: what may be written, the one spelling of it, its value, and what cannot be compared."""

import json
import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.expressions import Expression, NotComparable, Score
from orchestrator.identity import plain
from orchestrator.limits import PlanError


def score(text, mode="max"):
    return Expression(name="score", text=text, mode=mode)


def test_the_score_of_a_known_run():
    # PSNR 29.898 dB and CER 0.063105 were stored as 26.743.
    assert score("psnr - 50*cer").of({"psnr": 29.898, "cer": 0.063105}).value == pytest.approx(26.74275)


@pytest.mark.parametrize(
    ("text", "spelled", "value"),
    [
        ("a-b-c", "a - b - c", 2 - 3 - 5),
        ("a-(b-c)", "a - (b - c)", 2 - (3 - 5)),
        ("((a))*(b)", "a * b", 6),
        ("a/(b*c)", "a / (b * c)", 2 / 15),
        ("a/b*c", "a / b * c", 2 / 3 * 5),
        ("(a+b)*c", "(a + b) * c", 25),
        ("a+b*c", "a + b * c", 17),
        ("-(a+b)", "-(a + b)", -5),
        ("+(a+b)", "a + b", 5),
        ("a*-2.50", "a * -2.5", -5),
        ("5e1*a", "50 * a", 100),
        ("{a}+{ b }", "a + b", 5),
        ("{s/psnr}/{s/n}", "{s/psnr} / {s/n}", 7),
        ("{real-plates/psnr}-a", "{real-plates/psnr} - a", 9),
        ("{lambda}", "{lambda}", 13),
    ],
)
def test_values_and_the_one_spelling(text, spelled, value):
    metrics = {"a": 2, "b": 3, "c": 5, "s/psnr": 14, "s/n": 2, "real-plates/psnr": 11, "lambda": 13}
    found = score(text)
    assert found.text == spelled and found.of(metrics).value == pytest.approx(value)
    assert score(spelled) == found


def expressions():
    leaves = st.sampled_from(["a", "b", "{s/x}", "2", "0.5", "1e20"])
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.builds("({} {} {})".format, inner, st.sampled_from("+-*/"), inner), st.builds("(-{})".format, inner)
        ),
        max_leaves=8,
    )


def by_python(text, metrics):
    try:
        return eval(text.replace("{s/x}", "x"), {"x": metrics["s/x"], **metrics})
    except ZeroDivisionError:
        return math.nan


@given(expressions())
def test_it_means_what_python_means_and_so_does_its_spelling(text):
    metrics = {"a": 1.7, "b": -0.3, "s/x": 3.1}
    written = score(f"a + {text}")
    assert written.of(metrics).value == pytest.approx(by_python(f"a + {text}", metrics), nan_ok=True)
    assert by_python(written.text, metrics) == pytest.approx(written.of(metrics).value, nan_ok=True)
    assert score(written.text).text == written.text


def test_metrics_are_named_once_each_in_the_order_of_the_text():
    assert score("{b/psnr} - a * ({b/psnr} + c)").metrics == ("b/psnr", "a", "c")


@pytest.mark.parametrize(
    "text",
    ["psnr ** 2", "__import__('os').getpid()", "psnr.real", "psnr[0]", "f(psnr)", "psnr if a else b", "True * psnr",
     "'a' * psnr", "1e999 * psnr", "1j * psnr", "psnr and a", "psnr < 3", "(lambda: psnr)()", "psnr % 2", "psnr // 2",
     "~psnr", "[psnr]", "psnr, a", "{}", "{a{b}}", "{a", "psnr -", "", "a := 3", "psnr\n+ 1", "50",
     "metric_in_braces_0 + {a/b}", "a + " * 100 + "a", "(" * 150 + "a"],
)  # fmt: skip
def test_nothing_but_arithmetic_on_metrics_is_let_in(text):
    with pytest.raises(PlanError, match="score 'score'"):
        score(text)


def test_nothing_in_an_expression_is_run(monkeypatch):
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("ran"))
    with pytest.raises(PlanError, match="holds"):
        score("__import__('os').system('true')")


@pytest.mark.parametrize(
    ("text", "mode", "wrong"),
    [
        ("psnr + 50 * cer", "max", True),
        ("psnr - 50 * cer", "max", False),
        ("psnr - 50 * cer", "min", True),
        ("cer", "min", False),
        ("-{lines/loss}", "max", False),
        ("psnr / {lines/cer_macro}", "max", False),
        ("psnr - (1 - {lines/cer})", "max", True),
    ],
)
def test_a_score_may_not_reward_errors(text, mode, wrong):
    if not wrong:
        assert score(text, mode).mode == mode
        return
    with pytest.raises(PlanError, match="less is better; change its sign"):
        score(text, mode)


@pytest.mark.parametrize("wrong", [{"mode": "best"}, {"name": "my score"}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(PlanError, match="score"):
        Expression(**{"name": "score", "text": "psnr", **wrong})


def test_a_metric_that_was_not_measured_is_named_with_its_nearest():
    with pytest.raises(ValueError, match=r"score 'score' = psnr - 50 \* cer: .* psnr; did you mean \{lines/psnr\}\?"):
        score("psnr - 50 * cer").of({"lines/psnr": 1.0, "lines/cer": 0.1})
    with pytest.raises(ValueError, match=r"no metric ssim; measured are \{lines/cer\}, psnr$"):
        score("ssim").of({"psnr": 1.0, "lines/cer": 0.1})


@pytest.mark.parametrize(("text", "cer"), [("psnr - 50 * cer", math.nan), ("psnr / cer", 0.0), ("0 * cer", math.nan)])
def test_an_unknown_score_is_never_the_best_and_never_stays_it(text, cer):
    unknown = Expression(name="score", text=text).of({"psnr": 30.0, "cer": cer})
    known = Expression(name="score", text=text).of({"psnr": 30.0, "cer": 0.5})
    assert math.isnan(unknown.value)
    assert not unknown.beats(None) and not unknown.beats(known) and not unknown.beats(unknown)
    assert known.beats(unknown) and known.beats(None)


def test_better_is_more_or_less_by_more_than_the_margin():
    high, low = (score("psnr").of({"psnr": value}) for value in (31.0, 30.0))
    assert high.beats(low) and not low.beats(high) and not high.beats(high)
    assert high.beats(low, by=0.9) and not high.beats(low, by=1.0)
    wide, narrow = (score("cer", "min").of({"cer": value}) for value in (0.5, 0.25))
    assert narrow.beats(wide) and not wide.beats(narrow) and not narrow.beats(wide, by=0.25)


def test_scores_of_different_expressions_cannot_be_compared_but_spellings_can():
    # PSNR - 50 CER and PSNR - 2 CER of the same validation: 17.5 and 29.5.
    metrics = {"psnr": 30.0, "cer": 0.25}
    old, new = score("psnr - 50*cer").of(metrics), score("psnr - 2*cer").of(metrics)
    with pytest.raises(NotComparable, match=r"'psnr - 2 \* cer' \(max\) .* 'psnr - 50 \* cer' \(max\)"):
        new.beats(old)
    with pytest.raises(NotComparable):
        score("psnr", "max").of(metrics).beats(score("psnr", "min").of(metrics))
    assert not score("psnr-(50*cer)").of(metrics).beats(old)


def test_a_score_survives_a_checkpoint_with_its_expression():
    known = score("{lines/psnr} - 50 * {lines/cer}").of({"lines/psnr": 30.0, "lines/cer": 0.1})
    again = Score.read(json.loads(json.dumps(known.plain())))
    assert again == known and again.value == 25.0
    unknown = score("psnr").of({"psnr": math.nan})
    assert math.isnan(Score.read(json.loads(json.dumps(unknown.plain(), allow_nan=False))).value)


def test_it_is_plan_data():
    found = score("{lines/psnr}-50*{lines/cer}")
    data = json.loads(json.dumps(plain(found)))
    assert data.pop("is") == "orchestrator.plan.Expression"
    assert data["text"] == "{lines/psnr} - 50 * {lines/cer}" and Expression(**data) == found
