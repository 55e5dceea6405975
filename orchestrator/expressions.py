"""Selection scores: a named expression of metrics, such as ``{lines/psnr} - 50 * {lines/cer}``, kept beside its value.

An expression holds names of metrics, numbers, ``+ - * /`` and parentheses, and nothing else can be said in it. A name
of letters, digits and ``_`` may stand alone; any other, as ``lines/psnr``, stands in braces, so that ``/`` is a
division and ``-`` a difference wherever they are outside of them.

Four systems of one project each had another "combined score" under one name. So a score carries the expression it is
of, in one spelling, and scores of different expressions cannot be compared.
"""

from __future__ import annotations

import ast
import difflib
import keyword
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.limits import PlanError, less_is_better, one_of

LONGEST = 300  # characters
NAMED = re.compile(r"\{([^{}]*)\}")
ALLOWED = (ast.BinOp, ast.UnaryOp, ast.Name, ast.Load, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.UAdd, ast.USub)
AHEAD = "metric_in_braces_"  # how a name in braces is called while Python's parser looks at it


class NotComparable(ValueError):
    """Two scores of different expressions were to be compared."""


@dataclass(frozen=True, kw_only=True)
class Expression:
    """A score by which checkpoints can be chosen.

    Attributes:
        name: it is logged and stored under.
        text: the expression; afterwards its one spelling, so that blanks and brackets make no other of it.
        mode: whether more of it is better.
    """

    name: str
    text: str
    mode: Literal["max", "min"] = "max"

    def __post_init__(self) -> None:
        one_of(f"score {self.name!r}: mode", self.mode, ("max", "min"))
        if not self.name.isidentifier():
            raise PlanError(f"score {self.name!r}: a score is called by letters, digits and _")
        tree = _parsed(f"score {self.name!r}", self.text)
        object.__setattr__(self, "text", _spelled(tree))
        if not self.metrics:
            raise PlanError(f"score {self.name!r}: {self.text!r} names no metric; it would be the same for all")
        for metric in filter(less_is_better, self.metrics):
            if self._rewards(metric):
                raise PlanError(
                    f"score {self.name!r}: {self.text!r} with mode {self.mode!r} rewards a greater {metric!r}, of "
                    "which less is better; change its sign"
                )

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics it is made of, each once, in the order of the text."""
        nodes = [node for node in ast.walk(_parsed(self.name, self.text)) if isinstance(node, ast.Name)]
        return tuple(dict.fromkeys(node.id for node in sorted(nodes, key=lambda node: node.col_offset)))

    def of(self, metrics: Mapping[str, float]) -> Score:
        """The score of these metrics: NaN where one it needs is NaN, or where it divides by 0.

        Raises :class:`ValueError` for a metric that was not measured.
        """
        for name in self.metrics:
            if name not in metrics:
                ends = [known for known in metrics if known.rpartition("/")[2] == name]
                close = ends or difflib.get_close_matches(name, metrics, n=1)
                known = ", ".join(map(_called, sorted(metrics))) or "none"
                hint = f"did you mean {_called(close[0])}?" if close else f"measured are {known}"
                raise ValueError(f"score {self.name!r} = {self.text}: there is no metric {_called(name)}; {hint}")
        value = _value(_parsed(self.name, self.text), metrics)
        return Score(expression=self.text, mode=self.mode, value=value)

    def _rewards(self, metric: str) -> bool:
        """Whether the score gets better as ``metric`` rises from 0.25 to 0.75, all others at 0.5."""
        low, high = (self.of(dict.fromkeys(self.metrics, 0.5) | {metric: value}).value for value in (0.25, 0.75))
        return high > low if self.mode == "max" else high < low


@dataclass(frozen=True, kw_only=True)
class Score:
    """A value and the expression it is of.

    Attributes:
        expression: in its one spelling.
        mode: whether more of it is better.
        value: NaN where it is unknown.
    """

    expression: str
    mode: Literal["max", "min"]
    value: float

    def beats(self, other: Score | None, by: float = 0.0) -> bool:
        """Whether this score is better by more than ``by``. NaN beats nothing; all else beats NaN and None.

        Raises :class:`NotComparable` where the other is of another expression.
        """
        if other is not None and (self.expression, self.mode) != (other.expression, other.mode):
            raise NotComparable(
                f"a score of {self.expression!r} ({self.mode}) cannot be compared with one of {other.expression!r} "
                f"({other.mode}); compute both from their metrics by one expression"
            )
        if math.isnan(self.value):
            return False
        if other is None or math.isnan(other.value):
            return True
        return self.value > other.value + by if self.mode == "max" else self.value < other.value - by

    def plain(self) -> dict[str, Any]:
        """As JSON data; an unknown value is null."""
        return {
            "expression": self.expression,
            "mode": self.mode,
            "value": None if math.isnan(self.value) else self.value,
        }

    @staticmethod
    def read(data: Mapping[str, Any]) -> Score:
        """What :meth:`plain` gave."""
        value = math.nan if data["value"] is None else float(data["value"])
        return Score(expression=data["expression"], mode=data["mode"], value=value)


def _parsed(where: str, text: str) -> ast.expr:
    """The tree of an expression, metrics as names, even those no identifier could be. Raises :class:`PlanError`."""
    if len(text) > LONGEST:
        raise PlanError(f"{where}: {len(text)} characters, at most {LONGEST}")
    if AHEAD in text:
        raise PlanError(f"{where}: no metric may be called {AHEAD!r}")
    names: list[str] = []

    def stand_in(match: re.Match[str]) -> str:
        names.append(match[1].strip())
        return f" {AHEAD}{len(names) - 1} "

    try:
        tree = ast.parse(NAMED.sub(stand_in, text).strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise PlanError(f"{where}: {text!r} is no expression: {error}") from error
    for node in ast.walk(tree):
        _refuse(where, text, node)
        if isinstance(node, ast.Name) and node.id.startswith(AHEAD):
            node.id = names[int(node.id.removeprefix(AHEAD))]
            if not node.id:
                raise PlanError(f"{where}: {text!r}: braces without a name")
    return tree


def _refuse(where: str, text: str, node: ast.AST) -> None:
    """Raise :class:`PlanError` for whatever is not arithmetic on metrics and numbers."""
    if isinstance(node, ALLOWED):
        return
    number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
    if number and math.isfinite(float(node.value)):  # type: ignore[attr-defined]
        return
    found = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
    raise PlanError(
        f"{where}: {text!r} holds {found!r}; allowed: names of metrics (in braces where they have more than letters, "
        "digits and _), numbers, + - * / and parentheses"
    )


def _spelled(tree: ast.expr) -> str:
    """The one spelling: single blanks, no bracket that changes nothing, numbers at their shortest."""
    if isinstance(tree, ast.Name):
        return _called(tree.id)
    if isinstance(tree, ast.Constant):
        value = float(tree.value)  # type: ignore[arg-type]
        return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(tree, ast.UnaryOp):
        inner = tree.operand
        return _spelled(inner) if isinstance(tree.op, ast.UAdd) else f"-{_bracketed(inner, _rank(inner) < 3)}"
    assert isinstance(tree, ast.BinOp)
    sign = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}[type(tree.op)]
    rank = _rank(tree)
    left = _bracketed(tree.left, _rank(tree.left) < rank)
    return f"{left} {sign} {_bracketed(tree.right, _rank(tree.right) <= rank)}"


def _called(name: str) -> str:
    """A metric as it is written in an expression."""
    return name if name.isidentifier() and name.isascii() and not keyword.iskeyword(name) else f"{{{name}}}"


def _rank(tree: ast.expr) -> int:
    """How tightly it holds together: 1 sums, 2 products, 3 signs, 4 names and numbers."""
    if isinstance(tree, ast.BinOp):
        return 1 if isinstance(tree.op, ast.Add | ast.Sub) else 2
    if isinstance(tree, ast.UnaryOp):
        return 3 if isinstance(tree.op, ast.USub) else _rank(tree.operand)
    return 4


def _bracketed(tree: ast.expr, needed: bool) -> str:
    return f"({_spelled(tree)})" if needed else _spelled(tree)


def _value(tree: ast.expr, metrics: Mapping[str, float]) -> float:
    if isinstance(tree, ast.Name):
        return float(metrics[tree.id])
    if isinstance(tree, ast.Constant):
        return float(tree.value)  # type: ignore[arg-type]
    if isinstance(tree, ast.UnaryOp):
        inner = _value(tree.operand, metrics)
        return -inner if isinstance(tree.op, ast.USub) else inner
    assert isinstance(tree, ast.BinOp)
    left, right = _value(tree.left, metrics), _value(tree.right, metrics)
    if isinstance(tree.op, ast.Div):
        return left / right if right else math.nan
    if isinstance(tree.op, ast.Mult):
        return left * right
    return left + right if isinstance(tree.op, ast.Add) else left - right
