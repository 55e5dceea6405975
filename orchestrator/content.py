"""The shards of a launch, opened on this node: sound, and on every rank the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchestrator.manifest import Manifest
from orchestrator.ranks import Ranks
from orchestrator.shards import ShardError, Shards
from orchestrator.store import Store


def open_shards(store: Store, shards: Mapping[str, Path], ranks: Ranks) -> tuple[dict[str, Shards], dict[str, str]]:
    """Source -> its shards, fetched first where the store is elsewhere, and source -> hash of their content.

    Raises :class:`ShardError`, also where another launch ingested other data in between, which would mix two runs.
    """
    for folder in shards.values():
        store.origin.fetch_shards(folder)
    if not store.origin.place:  # what was fetched has just been compared with its hashes
        verify_together(list(shards.values()), ranks)
    opened = {name: Shards.open(folder, verify=False) for name, folder in shards.items()}
    contents = {name: each.manifest.content for name, each in opened.items()}
    agreed = ranks.agree(contents)
    if agreed != contents:
        raise ShardError(
            f"worker {ranks.rank} has shards of content {contents}, worker 0 of {agreed}: another launch ingested "
            f"other data into {store} just now; run the same command again"
        )
    return opened, contents


def verify_together(folders: list[Path], ranks: Ranks) -> None:
    """Read every shard on one rank each and compare its SHA-256. Raises :class:`ShardError` on all ranks for any."""
    found = ""
    try:
        files = [(folder, shard) for folder in folders for shard in Manifest.read(folder).shards]
        for folder, shard in files[ranks.rank :: ranks.count]:
            shard.check(folder, contents=True)
    except ShardError as error:
        found = str(error)
    if damaged := next(filter(None, ranks.gather(found)), ""):
        raise ShardError(damaged)
