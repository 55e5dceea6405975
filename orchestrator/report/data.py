"""The part of a report on the data: how many rows, which of them are not trained on, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.report.blocks import NOTHING, Block, Section, Table, Text, number, percent
from orchestrator.report.facts import StageFacts
from orchestrator.store import StoreError

REJECTS_NAMED = 8


def data(facts: StageFacts) -> Section:
    """Rows by source and split, and what is not among them, and why."""
    rows, whys = [], []
    for name in facts.sources:
        manifest, recorded = facts.manifests.get(name), facts.record.data.get(name, {}) if facts.record else {}
        counts = manifest.counts if manifest else recorded.get("counts", {})
        rejects = manifest.rejects if manifest else recorded.get("rejects", {})
        whys += [(name, "rejected", reason, number(rows)) for reason, rows in rejects.items()]
        if manifest:
            whys += [(name, f"flawed in {split}", reason, number(rows)) for split, of in manifest.flaws.items()
                     for reason, rows in of.items()]  # fmt: skip
            whys += [(name, "symbol not in the alphabet", symbol, number(rows)) for symbol, rows in
                     manifest.missing_symbols.items()]  # fmt: skip
        flawed = sum(sum(of.values()) for of in manifest.flaws.values()) if manifest else None
        rows.append(
            (name, _use(facts, name), *(number(counts.get(split)) for split in ("train", "valid", "test")),
             number(sum(rejects.values())), number(flawed), number(manifest.squeezed if manifest else None),
             (manifest.content if manifest else str(recorded.get("content", "")))[:12] or NOTHING)
        )  # fmt: skip
    columns = ("source", "use", "train", "valid", "test", "rejected", "flawed", "squeezed", "content")
    caption = (
        "Rows by split. Rejected rows are in no split; flawed ones are kept outside training and count as errors; "
        "squeezed ones were wider than the network's images."
    )
    blocks: list[Block] = [Table(caption=caption, columns=columns, rows=rows)]
    if whys:
        caption = "Why rows are not trained on, and symbols their labels need."
        blocks.append(Table(caption=caption, columns=("source", "what", "reason", "rows"), rows=whys))
    blocks += _named_rejects(facts)
    for name in facts.sources:
        if name in facts.unread:
            says = f"Flaws and squeezed rows of {name} are unknown: {facts.unread[name]}."
            blocks.append(Text(says=says, tone="quiet"))
    return Section(title="Data", blocks=blocks)


def _use(facts: StageFacts, name: str) -> str:
    share, split = facts.stage["data"]["shares"].get(name), facts.stage["validate"].get(name)
    uses = [f"{percent(share / sum(facts.stage['data']['shares'].values()))} of training"] if share else []
    return ", ".join([*uses, *([f"validated on {split}"] if split else [])])


def _named_rejects(facts: StageFacts) -> Iterator[Block]:
    """The first rejected rows of each source, by name."""
    for name, folder in facts.shards.items():
        path = folder / "rejects.jsonl"
        texts = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if texts:
            found = [_row(text, path) for text in texts[:REJECTS_NAMED]]
            rows = [tuple(str(row.get(key, "")) for key in ("id", "reason", "detail")) for row in found]
            caption = f"{len(rows)} of {len(texts):,} rejected rows of {name}, by name."
            yield Table(caption=caption, columns=("row", "reason", "detail"), rows=rows, folded=True)


def _row(text: str, path: Path) -> Mapping[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise StoreError(f"{path}: a damaged line ({error}); ingest {path.parent.name} again") from error
