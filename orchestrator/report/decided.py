"""The parts of a report on what decided: each best over time, what each term weighed, and which settings to change."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.report.blocks import NOTHING, Block, Section, Table, Text, number, percent, thinned
from orchestrator.report.facts import Line, StageFacts

STEPS_SHOWN = 10
MUCH, LITTLE = 0.5, 0.05  # shares of the loss and of the gradient that contradict each other


def bests(facts: StageFacts) -> Section | None:
    """Each declared best as it rose, and what each alone would have picked; None where only one is declared."""
    rules = facts.stage["best"]
    rose = {rule["metric"]: risen(facts, rule) for rule in rules}
    if len(rules) < 2 or not any(rose.values()):
        return None
    rows = [
        (metric, number(line["epoch"]), number(line["step"]), number(line[metric]))
        for metric, lines in rose.items() for line in thinned(lines, STEPS_SHOWN)
    ]  # fmt: skip
    caption = "Each best as it rose; those that crossed a red line could not become one. " + _scores(facts)
    blocks: list[Block] = [
        Table(caption=caption.strip(), columns=("by", "epoch", "step", "value"), rows=rows),
    ]
    picked = {metric: lines[-1] for metric, lines in rose.items() if lines}
    rows = [
        (metric, number(line["epoch"]), number(line["step"]), *(number(line.get(other)) for other in rose))
        for metric, line in picked.items()
    ]
    caption = "What each would have picked, and all of them there. The first decides the stage's result."
    blocks.append(Table(caption=caption, columns=("by", "epoch", "step", *rose), rows=rows))
    if len({line["step"] for line in picked.values()}) > 1:
        told = ", ".join(f"{metric} step {line['step']:,}" for metric, line in picked.items())
        blocks.append(Text(says=f"They disagree: {told}. All of them are kept as checkpoints."))
    return Section(title="Best over time", blocks=blocks)


def risen(facts: StageFacts, rule: Mapping[str, Any]) -> list[Line]:
    """The validations at which a best rose, in their order."""
    metric, better = rule["metric"], -1 if rule.get("mode", "max") == "min" else 1
    crossed = {event.step for event in facts.events if event.name == "red_line"}
    found: list[Line] = []
    for line in facts.validations:
        value = line.get(metric)
        if not isinstance(value, int | float) or not math.isfinite(value) or line["step"] in crossed:
            continue
        if not found or better * value > better * found[-1][metric]:
            found.append(line)
    return found


def _scores(facts: StageFacts) -> str:
    told = [f"{score['name']} is {score['text']}" for score in facts.stage.get("scores") or ()]
    return f"{'; '.join(told)}." if told else ""


def components(facts: StageFacts) -> Section | None:
    """What each term was and weighed at first and at last: in the loss, and in the gradient; None with a single one."""
    epochs = facts.lines.get("epoch", ())
    own, against = facts.stage["terms"], (facts.stage.get("adversary") or {}).get("terms", {})
    if not epochs or len(own) + len(against) < 2:
        return None
    first, last = epochs[0], epochs[-1]
    shares = loss_shares(own, last)
    rows = [
        (term, "its own" if term in own else "the adversary", number(last.get(f"weight/{term}", plan.get("weight"))),
         number(first.get(f"loss/{term}")), number(last.get(f"loss/{term}")),
         percent(shares[term]) if term in shares else NOTHING, _share(last.get(f"gradient_share/{term}")))
        for term, plan in {**own, **against}.items()
    ]  # fmt: skip
    caption = (
        f"Losses are means of epochs {first['epoch']} and {last['epoch']}; weight and shares are of the last. What a "
        "term teaches is its share of the gradient, whatever its share of the loss."
    )
    columns = ("term", "player", "weight", "loss at first", "loss at last", "share of the loss",
               "share of the gradient")  # fmt: skip
    blocks: list[Block] = [Table(caption=caption, columns=columns, rows=rows), *_contradictions(shares, last)]
    if facts.stage.get("balance"):
        blocks += _balanced(epochs, own)
    return Section(title="Terms of the loss", blocks=blocks)


def loss_shares(terms: Mapping[str, Any], line: Line) -> dict[str, float]:
    """Term -> its share in the weighted sum of an epoch's line; none where a term is not in it, or they sum to 0."""
    parts = {
        term: abs(float(line.get(f"weight/{term}", plan.get("weight", 1.0))) * float(line[f"loss/{term}"]))
        for term, plan in terms.items() if line.get(f"loss/{term}") is not None
    }  # fmt: skip
    total = sum(parts.values())
    return {term: part / total for term, part in parts.items()} if total and len(parts) == len(terms) else {}


def _contradictions(shares: Mapping[str, float], line: Line) -> Iterator[Text]:
    for term, share in shares.items():
        pull = line.get(f"gradient_share/{term}")
        if pull is not None and share > MUCH and pull < LITTLE:
            says = (
                f"{term} is {percent(share)} of the loss and {percent(pull)} of the gradient: it fills the loss curve "
                "and teaches next to nothing."
            )
            yield Text(says=says, tone="warning")


def _balanced(epochs: Sequence[Line], terms: Mapping[str, Any]) -> Iterator[Block]:
    """What the balance of terms did: how often and how far it moved, and the shares it came to."""
    moved = [line for line in epochs if "balance/updates" in line]
    if not moved:
        yield Text(says="The balance of terms has not acted yet.", tone="quiet")
        return
    last = moved[-1]
    rows = [
        (term, number(last.get(f"weight/{term}")), _share(last[f"balance/share/{term}"]))
        for term in terms if f"balance/share/{term}" in last
    ]  # fmt: skip
    caption = (
        f"The balance of terms was set {number(last['balance/updates'])} times by epoch {last['epoch']} and moved "
        f"{number(last['balance/movement'])} in all (sum of changes of the logarithms of its factors)."
    )
    yield Table(caption=caption, columns=("term", "weight", "share it came to"), rows=rows)
    if last["balance/movement"] == 0:
        yield Text(says="It never moved: either its rule does not act, or its bounds hold it.", tone="warning")


def recommendations(stages: Sequence[StageFacts]) -> Section | None:
    """Each setting that a finding names, once; None where there was none."""
    told: dict[tuple[str, str, str], list[str]] = {}
    for facts in reversed(stages):
        for event in facts.events:
            if event.change:
                told.setdefault((facts.name, event.name, event.change), []).append(event.says)
    if not told:
        return None
    rows = [
        (change, name, number(len(says)), stage, says[-1]) for (stage, name, change), says in told.items()
    ]  # fmt: skip
    caption = "What the findings of all stages ask for, in the order of training; their evidence is in each stage."
    columns = ("what to change", "finding", "times", "stage", "what was seen, the last time")
    table = Table(caption=caption, columns=columns, rows=rows)
    return Section(title="Recommendations", anchor="recommendations", blocks=[table])


def _share(value: Any) -> str:
    return percent(float(value)) if isinstance(value, int | float) else NOTHING
