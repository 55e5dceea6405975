"""The sources of a recipe, ingested: where their files lie, and the folders that their shards are in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from datasets.row import Stamped
from orchestrator.console import counting, say
from orchestrator.fetched import Fetched, fetch_folder
from orchestrator.ingest import ingest, make_all, shard_folder
from orchestrator.manifest import Manifest, summary
from orchestrator.plan import Recipe
from orchestrator.prepare import Preparation
from orchestrator.remote import is_url
from orchestrator.store import Store, told_of_disk


def ingested(recipe: Recipe, store: Store, *, roots: Mapping[str, str], sources: Sequence[str]) -> dict[str, Path]:
    """Source -> folder of its shards, made where they are not there or not up to date.

    Args:
        roots: source -> the path or URL of what it reads.
    """
    for name in set(sources) - set(roots):  # who reads a folder asks for it now, not after the hours another takes
        if not isinstance(recipe.sources[name], Stamped):
            next(iter(recipe.sources[name].rows(None)), None)
    store.ready()
    folders = {}
    for name in sources:
        folders[name] = _ingested(recipe, store, name, roots.get(name))
        say(summary(Manifest.read(folders[name])))
    return folders


def _ingested(recipe: Recipe, store: Store, name: str, root: str | None) -> Path:
    fetched = _fetched(name, root) if root and is_url(root) else None
    path = fetched.path if fetched else Path(root).expanduser() if root else None
    how = Preparation(name=name, image=recipe.image, alphabet=recipe.alphabet, frames=recipe.task.frames)  # type: ignore[arg-type]
    there = shard_folder(recipe.sources[name], how, store.root)  # type: ignore[arg-type]
    store.origin.fetch_shards(there, mend=lambda what: say(f"warning: {what}"))
    with counting(f"ingest {name}") as progress, told_of_disk(there):
        folder = ingest(
            recipe.sources[name], path, name=name, image=recipe.image, alphabet=recipe.alphabet,  # type: ignore[arg-type]
            frames=recipe.task.frames, store=store.root, progress=progress,  # type: ignore[arg-type]
            make=partial(make_all, place=store.origin.place, fetched=fetched),
        )  # fmt: skip
    store.origin.publish_shards(folder)
    return folder


def _fetched(name: str, url: str) -> Fetched:
    with counting(f"fetch {name}") as progress:
        return fetch_folder(url, progress=progress)
