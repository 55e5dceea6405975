"""Writing that a crash cannot leave half done, and hashes of what was written."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from orchestrator.redact import redacted


def write_json(path: Path, data: Any) -> None:
    """Replace ``path`` in one step: a reader sees the old text or the new one, never a part, and no credentials."""
    text = redacted(json.dumps(data, indent=2, ensure_ascii=False)) + "\n"
    replace(path, text.encode(), draft=path.with_name(f".{path.name}.{os.getpid()}.draft"))


def replace(path: Path, data: bytes | memoryview, *, draft: Path) -> None:
    """Put ``data`` at ``path`` by way of a draft in the same folder, which is gone afterwards in any case."""
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
