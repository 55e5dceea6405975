"""The parts of a report on what a stage made of its mistakes in training: symbols that weigh more, hard samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from orchestrator.checkpoint import CheckpointError, read
from orchestrator.curriculum import Curriculum, Mining
from orchestrator.mining import Difficulty, chances, hardest, suspects
from orchestrator.report.blocks import NOTHING, Block, Section, Table, Text, number
from orchestrator.report.facts import StageFacts
from orchestrator.shards import Shards

NAMED = 12
TENTHS = 10


def weighed(facts: StageFacts) -> Section | None:
    """Which symbols weighed most in the last epoch; None where none were weighed."""
    known = [line for line in facts.lines.get("epoch", ()) if line.get("symbols")]
    if not known:
        return None
    rows = [
        (each["symbol"], term, number(each["weight"]), number(each["seen"]), number(each["wrong"]))
        for term, symbols in known[-1]["symbols"].items()
        for each in symbols
    ]
    caption = (
        f"The symbols that weighed most in epoch {known[-1]['epoch']}; seen and wrong are moving averages over epochs."
    )
    columns = ("symbol", "term", "weight", "seen", "read wrong")
    return Section(title="Symbols that weigh more", blocks=[Table(caption=caption, columns=columns, rows=rows)])


def mined(facts: StageFacts) -> Section | None:
    """How a stage with mining drew its samples; None for any other stage."""
    if not facts.stage.get("mining"):
        return None
    epochs = facts.lines.get("epoch", ())
    names = list(dict.fromkeys(key for line in epochs for key in line if key.startswith("mining/")))
    blocks: list[Block] = []
    if names:
        rows = [(str(line["epoch"]), *(number(line.get(name)) for name in names)) for line in epochs]
        caption = (
            "By epoch. share: of the draws that follow difficulty; hard_part_drawn: share of the draws the hardest "
            "tenth gets; most_drawn: how many times as often as in a uniform epoch any sample comes; accuracy: mean "
            "character accuracy of the training readings; never_seen: share of samples without a visit; suspects: "
            "labels to look at."
        )
        columns = ("epoch", *(name.partition("/")[2] for name in names))
        blocks.append(Table(caption=caption, columns=columns, rows=rows))
    try:
        blocks += _difficulties(facts)
    except (CheckpointError, ValueError, OSError, KeyError) as error:
        blocks.append(Text(says=f"What was hard is known from the journal alone: {error}.", tone="quiet"))
        blocks += _journaled(epochs)
    return Section(title="Hard examples", blocks=blocks)


def _difficulties(facts: StageFacts) -> Iterator[Block]:
    """What the newest checkpoint knows of each sample, and how often the next lists would draw it."""
    newest = max((facts.folder / "checkpoints").glob("step-*"), default=None)
    if newest is None:
        raise ValueError("the stage has no checkpoint yet")
    arrays = {name: tensor.numpy() for name, tensor in read(newest).tensors["mining"].items()}
    known = Difficulty.of(arrays, len(arrays["accuracy"]))
    rule, epoch = _rule(facts.stage), len(facts.lines.get("epoch", ()))
    times = chances(known, rule, max(epoch - 1, 0)) * len(known)
    groups = np.array_split(np.argsort(known.accuracy, kind="stable"), TENTHS)
    rows = [
        (f"{place + 1}", number(float(known.accuracy[own].mean())), number(float(known.visits[own].mean())),
         f"{float(times[own].mean()):.2f}")
        for place, own in enumerate(groups) if len(own)
    ]  # fmt: skip
    says = (
        f"By the weights of the last lists the hardest tenth of {len(known):,} training samples comes "
        f"{float(times[groups[0]].mean()):.2f} times as often as in a uniform epoch, the easiest "
        f"{float(times[groups[-1]].mean()):.2f} times; no sample more than {float(times.max()):.2f} times."
    )
    yield Text(says=says)
    columns = ("tenth", "character accuracy", "visits", "times as often as in a uniform epoch")
    yield Table(caption=f"Training samples from hard to easy, at {newest.name}.", columns=columns, rows=rows)
    named, suspected = _names(facts), suspects(known, rule)
    yield from _listed("Hardest of those seen often enough", hardest(known, rule, NAMED), known, named, times)
    if suspected:
        title = f"{len(suspected)} labels to look at: no character was right in {rule.suspect_after} visits in a row"
        yield from _listed(title, suspected[:NAMED], known, named, times)
    else:
        yield Text(says=f"No label is suspected: none was wholly misread {rule.suspect_after} times in a row.")


def _journaled(epochs: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    """What the last epoch's line says of the hardest samples and of suspected labels."""
    last = next((line for line in reversed(epochs) if line.get("hardest")), None)
    if last is None:
        return
    rows = [
        (each["id"], number(each["accuracy"]), number(each["visits"]), f"{each['drawn']:.2f}")
        for each in last["hardest"]
    ]
    columns = ("sample", "character accuracy", "visits", "times as often")
    yield Table(caption=f"The hardest samples after epoch {last['epoch']}.", columns=columns, rows=rows)
    if last.get("suspects"):
        yield Text(says=f"Labels to look at: {', '.join(map(str, last['suspects']))}.")


def _listed(
    title: str, samples: Sequence[int], known: Difficulty, named: Mapping[int, tuple[str, str]], times: Any
) -> Iterator[Table]:  # fmt: skip
    rows = [
        (*named.get(sample, (f"#{sample}", NOTHING)), number(float(known.accuracy[sample])),
         number(int(known.visits[sample])), number(int(known.misses[sample])), f"{float(times[sample]):.2f}")
        for sample in samples
    ]  # fmt: skip
    columns = ("sample", "label", "character accuracy", "visits", "misses in a row", "times as often")
    if rows:
        yield Table(caption=f"{title}.", columns=columns, rows=rows)


def _names(facts: StageFacts) -> dict[int, tuple[str, str]]:
    """Training sample -> its id and label, where its shards are in the store. Mining has one source."""
    source = next(iter(facts.stage["data"]["shares"]))
    if source not in facts.shards:
        return {}
    shards = Shards.open(facts.shards[source], verify=False)
    return {number: (shards.ids[row], shards.texts_raw[row]) for number, row in enumerate(shards.rows_of("train"))}


def _rule(stage: Mapping[str, Any]) -> Mining:
    plan = stage["mining"]
    fields = {name: value for name, value in plan.items() if name not in ("is", "curriculum")}
    curriculum = {name: value for name, value in plan.get("curriculum", {}).items() if name != "is"}
    return Mining(**fields, curriculum=Curriculum(**curriculum)).over(stage["epochs"])
