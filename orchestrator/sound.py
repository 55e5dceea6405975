"""Whether files here are those that a manifest names, by their hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from orchestrator.files import sha256_of
from orchestrator.manifest import ShardError, ShardFile
from orchestrator.remote import below


def is_sound(folder: Path, shard: ShardFile) -> bool:
    """Whether the shard is in ``folder``, byte for byte."""
    try:
        shard.check(folder, contents=True)
    except ShardError:
        return False
    return True


def files_of(manifest: bytes) -> dict[str, dict[str, object]]:
    """The files that a checkpoint's manifest names; none where it cannot be read, as whoever opens it will say."""
    try:
        return {str(name): dict(of) for name, of in json.loads(manifest)["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def are_sound(folder: Path, files: Mapping[str, Mapping[str, object]]) -> bool:
    """Whether all of a checkpoint's ``files`` are in ``folder``, byte for byte."""
    paths = {below(folder, name): of.get("sha256") for name, of in files.items()}
    return all(path.is_file() and sha256_of(path) == sha256 for path, sha256 in paths.items())
