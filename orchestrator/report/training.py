"""The parts of a report that show a stage while it trained: its curves, its events and its speed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.report.blocks import (
    NOTHING,
    Block,
    Figure,
    Section,
    Table,
    Text,
    number,
    percent,
    said,
    spoken,
    thinned,
)  # fmt: skip
from orchestrator.report.facts import Event, StageFacts, measured
from orchestrator.report.plots import Curve, Marks, curves

HISTORY_ROWS = 60
SHARES = (
    "word_accuracy_36", "word_accuracy_62", "word_accuracy_94", "ned", "cer", "recognition_rate",
    "recognition_rate_bicubic", "recognition_rate_target", "recognition_rate_monitor", "character_accuracy",
    "cer_degraded", "cer_target", "wer", "f_measure", "f_measure_otsu", "f_measure_sauvola",
)  # fmt: skip
DECIBELS = ("psnr", "psnr_degraded", "psnr_bicubic")


def course(facts: StageFacts) -> Section:
    """Loss, validation, best so far, rate and gradients over the steps of a stage."""
    draw = (losses, validation, watched, best_history, learning_rates, gradients, gradient_shares)
    blocks = [block for part in draw for block in part(facts)]
    return Section(title="Course of training", blocks=[*blocks, *_history(facts)])


def losses(facts: StageFacts) -> Iterator[Block]:
    """Training loss of each term, and the validation loss of each set."""
    steps, epochs = facts.lines.get("step", ()), facts.lines.get("epoch", ())
    names = [name for name in dict.fromkeys(key for line in steps for key in line) if name.startswith("loss/")]
    lines = [
        Curve(name=f"{name.removeprefix('loss/')}, training", x=_steps(steps), y=[line.get(name) for line in steps])
        for name in names
    ]
    for name in _metric_names(facts):
        if name.endswith("/loss"):
            source = name.removesuffix("/loss")
            y = [line.get(name) for line in facts.validations]
            lines.append(Curve(name=f"{source}, validation", x=_steps(facts.validations), y=y, dots=True, banded=False))
    if not names:
        yield _missing("No training step has been written yet: there is no loss curve.")
        return
    told = [
        f"{name.removeprefix('loss/')} went from {number(epochs[0].get(name))} (mean of the first epoch) to "
        f"{number(epochs[-1].get(name))} (the last)"
        for name in names if len(epochs) > 1
    ]  # fmt: skip
    see = "The line is the median of neighbouring updates, the band their least and greatest."
    yield _figure(
        facts, "loss", "Loss", " ".join([see, *([f"{'; '.join(told)}."] if told else [])]), lines,
        ylabel="loss per counted item", log=True,
    )  # fmt: skip


def validation(facts: StageFacts) -> Iterator[Block]:
    """One plot a set, of what lies between 0 and 1."""
    if not facts.validations:
        yield _missing("There is no validation yet: there are no validation curves.")
    for source in facts.stage["validate"]:
        names = [f"{source}/{name}" for name in SHARES]
        lines = _validation_curves(facts, [name for name in names if name in _metric_names(facts)])
        words = [line[f"{source}/n"] for line in facts.validations if f"{source}/n" in line]
        if lines:
            caption = f"{number(words[-1]) if words else 'Some'} samples each time. Error rates are better low."
            yield _figure(facts, f"valid-{source}", f"Validation on {source}", caption, lines, ylabel="share")
        names = [f"{source}/{name}" for name in DECIBELS]
        if lines := _validation_curves(facts, [name for name in names if name in _metric_names(facts)]):
            caption = "Peak signal to noise ratio against the target."
            yield _figure(facts, f"psnr-{source}", f"PSNR on {source}", caption, lines, ylabel="dB")


def watched(facts: StageFacts) -> Iterator[Block]:
    """Signs of collapsing predictions, where they were measured."""
    for source in facts.stage["validate"]:
        names = [f"{source}/{name}" for name in ("blank_share", "distinct")]
        if lines := _validation_curves(facts, [name for name in names if name in _metric_names(facts)]):
            caption = (
                "Share of frames read as blank, and share of readings unlike all others. All blank, or all alike, is "
                "a collapse."
            )
            yield _figure(facts, f"watch-{source}", f"Predictions on {source}", caption, lines, ylabel="share")


def best_history(facts: StageFacts) -> Iterator[Block]:
    """What a stage is decided by at each validation, the best so far, and what became the result."""
    rule, known = facts.stage["best"][0], [line for line in facts.validations if _is_number(line.get(facts.metric))]
    if not known:
        yield _missing("Without a validation there is no history of the best.")
        return
    values = [float(line[facts.metric]) for line in known]
    keep = max if rule.get("mode", "max") == "max" else min
    crossed = {event.step for event in facts.events if event.name == "red_line"}
    counted = [(line["step"], value) for line, value in zip(known, values, strict=True) if line["step"] not in crossed]
    running = [keep(value for _, value in counted[: place + 1]) for place in range(len(counted))]
    lines = [
        Curve(name="each validation", x=_steps(known), y=list(values), dots=True, banded=False),
        Curve(name="best so far", x=[step for step, _ in counted], y=list(running), banded=False, stepped=True),
    ]
    found = facts.record.best.get(facts.metric) if facts.record else None
    marks = [Marks(name="the result", x=[found["step"]], y=[found["value"]], shape="*")] if found else []
    chosen = (
        f"The result is of step {found['step']:,}: {number(found['value'])}." if found else "There is no result yet."
    )
    guard = " Validations that crossed a red line could not become it." if facts.stage["red_lines"] else ""
    yield _figure(facts, "best", f"Best {facts.metric}", f"{chosen}{guard}", lines, marks=marks, ylabel=facts.metric)


def learning_rates(facts: StageFacts) -> Iterator[Block]:
    steps = [line for line in facts.lines.get("step", ()) if _is_number(line.get("lr"))]
    if not steps:
        yield _missing("No learning rate has been written yet.")
        return
    rates = [float(line["lr"]) for line in steps]
    caption = f"From {rates[0]:.3g} at the first update, {max(rates):.3g} at most, to {rates[-1]:.3g} at the last."
    lines = [Curve(name="learning rate", x=_steps(steps), y=list(rates), banded=False)]
    yield _figure(facts, "lr", "Learning rate", caption, lines, ylabel="learning rate")


def gradients(facts: StageFacts) -> Iterator[Block]:
    """Gradient norm of the whole and of each part, spikes and what was not finite marked."""
    steps = facts.lines.get("step", ())
    keys = dict.fromkeys(key for line in steps for key in line)
    names = [name for name in keys if name == "grad_norm" or name.startswith("grad_norm/")]
    if not names:
        yield _missing("No gradient norm has been written: there is no curve of it.")
        return
    lines = [
        Curve(name=name.removeprefix("grad_norm/") if "/" in name else "whole", x=_steps(steps),
              y=[line.get(name) for line in steps], banded=name == "grad_norm")
        for name in names
    ]  # fmt: skip
    norms = {line["step"]: line.get("grad_norm") for line in steps}
    spikes = sorted({event.step for event in facts.events if "spike" in event.name and event.step is not None})
    unsound = [line["step"] for line in steps if any(line.get(name, 0) is None for name in keys)]
    marks = [
        Marks(name=name, x=at, y=[norms.get(step) for step in at] if name == "spike" else [None] * len(at), shape=shape)
        for name, at, shape in (("spike", spikes, "v"), ("not finite", unsound, "x")) if at
    ]  # fmt: skip
    found = f"{len(spikes)} spike{_s(spikes)} and {len(unsound)} update{_s(unsound)} that were not finite are marked."
    told = found if spikes or unsound else "No spike and no update that was not finite."
    if len(names) == 1 and not spikes:
        told = f"Spikes were not looked for when this was trained. Updates that were not finite: {len(unsound)}."
    clip = facts.stage["optim"].get("clip_norm")
    caption = f"Norm before clipping{f' at {clip:g}' if clip else ''}; the band is the least and greatest. {told}"
    yield _figure(facts, "grad", "Gradient norm", caption, lines, marks=marks, ylabel="norm", log=True)


def gradient_shares(facts: StageFacts) -> Iterator[Block]:
    """Share of each term in the gradient, where several terms pull."""
    epochs = facts.lines.get("epoch", ())
    keys = dict.fromkeys(key for line in epochs for key in line)
    names = [name for name in keys if name.startswith("gradient_share/")]
    if len(names) > 1:
        lines = [
            Curve(name=name.removeprefix("gradient_share/"), x=_steps(epochs), y=[line.get(name) for line in epochs],
                  dots=True, banded=False)
            for name in names
        ]  # fmt: skip
        caption = "How much of the gradient comes from each term. A term near 0 teaches nothing."
        yield _figure(facts, "share", "Terms in the gradient", caption, lines, ylabel="share")


def happened(facts: StageFacts) -> Section:
    """Events with their evidence, likely cause and the setting to change."""
    events = facts.events
    if not events:
        return Section(
            title="Events", blocks=[Text(says="No event was written while this stage trained.", tone="quiet")]
        )
    rows = [
        (NOTHING if event.step is None else number(event.step), event.name, event.says, event.cause or NOTHING,
         event.change or NOTHING, _evidence(event))
        for event in thinned(events, HISTORY_ROWS)
    ]  # fmt: skip
    caption = f"{len(events)} event{_s(events)}, {len(rows)} shown, in the order of the updates."
    columns = ("step", "event", "what", "likely cause", "what to change", "evidence")
    return Section(title="Events", blocks=[Table(caption=caption, columns=columns, rows=rows)])


def speed(facts: StageFacts) -> Section:
    """Samples a second and the share of time that training waited for data, by epoch."""
    lines = facts.speed
    if not lines:
        return Section(title="Speed", blocks=[Text(says="No epoch has ended yet: its speed is unknown.", tone="quiet")])
    at = [line["epoch"] for line in lines]
    rates, waits = ([line.get(name) for line in lines] for name in ("samples_per_s", "data_wait_share"))
    known = [float(rate) for rate in rates if rate is not None and _is_number(rate)]
    rate = number(sum(known) / max(len(known), 1))
    told = f"{spoken(facts.seconds)} in {len(lines)} epoch{_s(lines)}, {rate} samples/s on average"
    figures = [
        Figure(title=title, caption=caption, svg=curves(
            [Curve(name=title, x=at, y=y, dots=True, banded=False)], ident=f"{facts.name}-{name}",
            alt=f"{title} of stage {facts.name}. {caption}", xlabel="epoch", ylabel=unit))
        for name, title, caption, y, unit in (
            ("rate", "Samples per second", f"{told}, without validation.", rates, "samples/s"),
            ("wait", "Waiting for data", "Share of an epoch that training waited for its next batch.", waits, "share"),
        )
    ]  # fmt: skip
    rows = [
        (str(line["epoch"]), f"{line['seconds']:.2f}", number(line.get("samples_per_s")),
         percent(line["data_wait_share"]) if "data_wait_share" in line else NOTHING)
        for line in thinned(lines, HISTORY_ROWS)
    ]  # fmt: skip
    columns = ("epoch", "seconds", "samples/s", "waiting for data")
    found = facts.record.best.get(facts.metric) if facts.record else None
    ends = {line["epoch"]: line["step"] for line in facts.lines.get("epoch", ())}
    if found and (spent := [line["seconds"] for line in lines if ends.get(line["epoch"], math.inf) <= found["step"]]):
        told += f"; the result was there after {spoken(sum(spent))}"
    table = Table(caption=f"Speed by epoch: {told}.", columns=columns, rows=rows, folded=True)
    return Section(title="Speed", blocks=[*figures, table])


def _figure(facts: StageFacts, name: str, title: str, caption: str, lines: Sequence[Curve], *,
            ylabel: str, marks: Sequence[Marks] = (), log: bool = False) -> Figure:  # fmt: skip
    alt = f"{title} of stage {facts.name} by update. {caption}"
    svg = curves(
        lines, ident=f"{facts.name}-{name}", alt=alt, xlabel="update", ylabel=ylabel, marks=marks, log=log,
    )  # fmt: skip
    return Figure(title=title, caption=caption, svg=svg)


def _history(facts: StageFacts) -> Iterator[Block]:
    names = [name for name in _metric_names(facts) if not name.endswith("/n")]
    rows = [
        (str(line["epoch"]), number(line["step"]), *(number(line.get(name)) for name in names))
        for line in thinned(facts.validations, HISTORY_ROWS)
    ]
    if rows:
        caption = f"{len(rows)} of {len(facts.validations)} validations."
        yield Table(caption=caption, columns=("epoch", "step", *names), rows=rows, folded=True)


def _validation_curves(facts: StageFacts, names: Sequence[str]) -> list[Curve]:
    x = _steps(facts.validations)
    return [
        Curve(
            name=name.partition("/")[2], x=x, y=[line.get(name) for line in facts.validations], dots=True, banded=False
        )
        for name in names
    ]


def _metric_names(facts: StageFacts) -> list[str]:
    return list(dict.fromkeys(name for line in facts.validations for name in measured(line)))


def _evidence(event: Event) -> str:
    told = []
    for name, value in event.evidence.items():
        items = list(value) if isinstance(value, list | tuple) else None
        more = f", and {len(items) - 5} more" if items and len(items) > 5 else ""
        told.append(f"{name} {said(items[:5]) if items else said(value)}{more}")
    return "; ".join(told) or NOTHING


def _steps(lines: Sequence[Mapping[str, Any]]) -> list[float]:
    return [line["step"] for line in lines]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _missing(says: str) -> Text:
    return Text(says=says, tone="quiet")


def _s(things: Sequence[Any]) -> str:
    return "" if len(things) == 1 else "s"
