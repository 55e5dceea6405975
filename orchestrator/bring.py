"""Where trained things are that a command was given: a path, or a URL of which a copy is brought here."""

from __future__ import annotations

from pathlib import Path

from orchestrator.fetched import fetch_folder
from orchestrator.manifest import Manifest, ShardError
from orchestrator.remote import is_url
from orchestrator.store import Store
from orchestrator.working_copy import store_at

IN_A_STORE = "/runs/"  # in the URL of a stage, a record or a checkpoint


def path_of_place(place: str) -> Path:
    """A stage, record, checkpoint or export as a path on this machine. Raises :class:`StoreError`."""
    if not is_url(place):
        return Path(place.removeprefix("file://")).expanduser()
    address, _, query = place.partition("?")
    top, inside, within = address.rstrip("/").rpartition(IN_A_STORE)
    if not inside:
        return fetch_folder(place).path
    store = store_at(f"{top}?{query}" if query else top)
    path = store.root / "runs" / within
    bring(store, store.root.joinpath(*Path("runs", within).parts[:3]))
    return path


def bring(store: Store, folder: Path) -> Path:
    """``folder``, once all that a report, an export or a reader asks of a stage is here.

    That is its files and checkpoint, the stages it came from, and its shards.
    """
    if not store.origin.place or not folder.is_relative_to(store.root):
        return folder
    store.origin.fetch_stages(folder.parent.name)
    record = store.find(folder)
    store.origin.fetch_stage(folder, checkpoints=[Path(record.checkpoint).name] if record else None)
    contents = {each["content"] for each in record.data.values()} if record else set()
    parent = record.parent if record else ""
    while parent:
        above = next(folder.parent.glob(f"*-{parent}"), None)
        found = store.find(above) if above else None
        parent = found.parent if found else ""
    store.origin.fetch_manifests()
    for path in (store.root / "shards").glob("*/manifest.json"):
        if record is None or _content(path) in contents:
            store.origin.fetch_shards(path.parent)
    return folder


def _content(path: Path) -> str:
    try:
        return Manifest.read(path.parent).content
    except ShardError:  # of another version: nothing that this one could open
        return ""
