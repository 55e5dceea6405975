"""The parts of a report that show what a stage's result reads: words with pictures, and the characters it confuses."""

from __future__ import annotations

from collections.abc import Iterator

from models.metrics.confusions import NONE, Confusions
from orchestrator.report.blocks import NOTHING, Block, Figure, Section, Table, Text, Words, number, percent
from orchestrator.report.facts import StageFacts
from orchestrator.report.plates import Plates
from orchestrator.report.plots import heat, heat_png
from orchestrator.report.readings import Readings

PAIRS = 20
HEAT_SYMBOLS = 14
NO_SYMBOL = "\u2205"
MARKED = "Characters that differ are marked; a bar stands where one is missing."
AGREES_WITHIN = 0.005  # one word in 200: another batch size, device or precision may turn that many


def read_words(facts: StageFacts, readings: Readings) -> Section:
    """The best and the worst, with pictures, and how the whole set was read."""
    scores = ", ".join(f"{name} {number(value)}" for name, value in readings.metrics.items() if name != "n")
    says = f"{readings.where} was read again with {readings.how}: {scores} over {readings.words:,} words."
    blocks: list[Block] = [Text(says=says), *_disagreement(facts, readings)]
    for title, words, caption in (
        ("Wrong by most", readings.worst, f"Most edits first, and of as many edits the surest first. {MARKED}"),
        ("Wrong and sure of it", readings.surest, f"The most probable first: look at their labels too. {MARKED}"),
        ("Right and surest", readings.best, "The most probable of the right readings; short words are more probable."),
    ):
        if words:
            blocks.append(Words(title=title, caption=caption, words=words))
        else:
            blocks.append(Text(says=f"{title}: there is no such word.", tone="quiet"))
    return Section(title="Readings", blocks=blocks)


def confused(facts: StageFacts, readings: Readings | Plates) -> Section:
    """The pairs most often confused, as a table and as a map."""
    found, title = readings.confusions, "Confused characters"
    mistakes = found.mistakes()
    if not mistakes:
        says = f"Not one of {found.characters:,} characters was read wrong."
        return Section(title=title, blocks=[Text(says=says, tone="quiet")])
    seen = found.seen()
    rows = [
        (_symbol(true, "added"), _symbol(read, "left out"), number(times), number(seen.get(true)),
         percent(times / seen[true]) if true in seen else NOTHING)
        for true, read, times in mistakes[:PAIRS]
    ]  # fmt: skip
    caption = (
        f"The {len(rows)} most frequent of {len(mistakes)} kinds of mistake: {found.edits:,} edits over "
        f"{found.characters:,} true characters of {readings.where}."
    )
    columns = ("true", "read as", "times", "true in all", "share")
    return Section(title=title, blocks=[Table(caption=caption, columns=columns, rows=rows), _map(facts, found)])


def lengths(readings: Readings) -> Section:
    """Metrics by how long the true word is."""
    names = [name for name in readings.metrics if name != "n"]
    rows = [
        (length, number(metrics["n"]), *(number(metrics[name]) for name in names))
        for length, metrics in readings.lengths.items()
    ]
    caption = f"{readings.where} by characters of the true word. Few words make uncertain figures."
    table = Table(caption=caption, columns=("characters", "words", *names), rows=rows)
    return Section(title="By length of word", blocks=[table])


def confusion_picture(found: Confusions) -> bytes:
    """The map of confusions as a PNG."""
    counts, symbols = _frequent(found)
    return heat_png(counts, symbols, symbols)


def _map(facts: StageFacts, found: Confusions) -> Figure:
    """The mistakes among the symbols that are in most of them."""
    counts, symbols = _frequent(found)
    caption = f"Mistakes among the {len(symbols)} symbols that are in most of them."
    if NO_SYMBOL in symbols:
        caption += f" In column {NO_SYMBOL} are characters left out, in row {NO_SYMBOL} those added."
    alt = f"{caption} Rows are true characters, columns what was read; the table above lists the most frequent."
    svg = heat(counts, symbols, symbols, ident=f"{facts.name}-heat", alt=alt)
    return Figure(title="Map of confusions", caption=caption, svg=svg)


def _frequent(found: Confusions) -> tuple[dict[tuple[str, str], int], list[str]]:
    """``(true, read)`` -> how often, among the symbols that are in most mistakes, and those symbols."""
    weight: dict[str, int] = {}
    for true, read, times in found.mistakes():
        for symbol in (true, read):
            weight[symbol] = weight.get(symbol, 0) + times
    often = sorted(weight, key=lambda symbol: (-weight[symbol], symbol))[:HEAT_SYMBOLS]
    counts = {
        (_symbol(true, NO_SYMBOL), _symbol(read, NO_SYMBOL)): times
        for true, read, times in found.mistakes()
        if true in often and read in often
    }
    ranked = sorted(often, key=lambda symbol: (symbol == NONE, symbol))
    return counts, [_symbol(symbol, NO_SYMBOL) for symbol in ranked]


def _disagreement(facts: StageFacts, readings: Readings) -> Iterator[Text]:
    source = readings.where.split("/")[0]
    for name, value in readings.metrics.items():
        recorded = facts.record.metrics.get(f"{source}/{name}") if facts.record else None
        if name != "n" and recorded is not None and abs(recorded - value) > AGREES_WITHIN:
            says = (
                f"The record says {name} {number(recorded)}, reading again gives {number(value)}: "
                "not the same weights, data or precision."
            )
            yield Text(says=says, tone="warning")


def _symbol(symbol: str, none: str) -> str:
    return none if symbol == NONE else "space" if symbol == " " else symbol
