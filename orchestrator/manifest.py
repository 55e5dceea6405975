"""What a folder of shards holds, as one JSON file that is written last, and whether its source changed since."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from datasets.row import Source, Stamped
from orchestrator.files import replace, sha256_of
from orchestrator.identity import digest, plain

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
CODE = ("datasets/*.py", "models/text.py", *(f"orchestrator/{name}.py" for name in ("ingest", "prepare", "shards")))


class ShardError(ValueError):
    """Shards that are missing, damaged or of another version than this program reads."""


@dataclass(frozen=True, kw_only=True)
class ShardFile:
    """One shard: its file name, the SHA-256 and size of the file, its rows, and the key of the input it was made of."""

    file: str
    sha256: str
    bytes: int
    rows: int
    key: str

    def __post_init__(self) -> None:
        if Path(self.file).name != self.file:
            raise ShardError(
                f"a manifest names the shard {self.file!r}; shards lie beside their manifest; ingest again"
            )

    def check(self, folder: Path, *, contents: bool) -> None:
        """Raises :class:`ShardError` when the file is not there, has another size or (``contents``) another SHA-256."""
        path = folder / self.file
        if not path.is_file():
            raise ShardError(f"shard {path} is missing; ingest {folder.name} again: only what is missing is made")
        size = path.stat().st_size
        if size != self.bytes:
            raise ShardError(
                f"shard {path} is damaged: {size} bytes, expected {self.bytes}; "
                f"ingest {folder.name} again: only damaged shards are re-made"
            )
        found = sha256_of(path) if contents else self.sha256
        if found != self.sha256:
            raise ShardError(
                f"shard {path} is damaged: SHA-256 {found}, expected {self.sha256}; "
                f"delete it and ingest {folder.name} again: only what is missing is made"
            )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything a reader must know of a folder of shards before opening one.

    Attributes:
        schema: version of the layout.
        name: the source's name in the recipe.
        source: the source's settings, as plain data.
        image: the spec of images, as plain data, and ``channels``; of pairs also ``scale``. Its identity is
            ``image_sha256``.
        alphabet: the Alphabet, as plain data; ``alphabet_sha256`` is its identity.
        frames: the Frames that feasibility was judged by, as plain data.
        counts: split -> rows, those with a flaw included.
        rejects: reason -> rows that are in no split; each is named in ``rejects.jsonl``.
        flaws: split -> reason -> rows kept although their label cannot be trained on.
        missing_symbols: symbol -> labels (rejected or flawed) that need it and found it lacking in the alphabet.
        squeezed: rows narrowed to the spec's ``max_width``.
        widths: split -> width in pixels -> rows.
        characters: split -> symbol -> occurrences in the normalised labels.
        shards: in the order of the rows.
        notes: what the source says of itself (licence, citation ...).
        content: SHA-256 of the rows in order; the same however they were cut into shards, wherever they lie.
        stamp: what :func:`stamp_of` gave before the rows were listed; another one later means to list them again.
    """

    schema: int
    name: str
    source: Mapping[str, object]
    image: Mapping[str, Any]
    image_sha256: str
    alphabet: Mapping[str, Any]
    alphabet_sha256: str
    frames: Mapping[str, Any]
    counts: Mapping[str, int]
    rejects: Mapping[str, int]
    flaws: Mapping[str, Mapping[str, int]]
    missing_symbols: Mapping[str, int]
    squeezed: int
    widths: Mapping[str, Mapping[int, int]]
    characters: Mapping[str, Mapping[str, int]]
    shards: tuple[ShardFile, ...]
    notes: Mapping[str, object]
    content: str
    stamp: str

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def write(self, folder: Path) -> None:
        """Put ``manifest.json`` in place; a file that says the same already is left alone."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"
        path = folder / MANIFEST
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            put(path, text.encode())

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest in ``folder``. Raises :class:`ShardError`."""
        path = folder / MANIFEST
        try:
            return cls.of(path.read_bytes(), path)
        except FileNotFoundError as error:
            raise ShardError(f"{path} is missing: nothing is ingested there, or not to the end; ingest it") from error

    @classmethod
    def of(cls, text: bytes, path: Path) -> Manifest:
        """The manifest that ``text`` is; ``path`` is where it was read. Raises :class:`ShardError`."""
        folder = path.parent
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ShardError(f"{path} is not JSON ({error}); ingest {folder.name} again") from error
        found = data.get("schema") if isinstance(data, dict) else None
        if found != SCHEMA_VERSION:
            raise ShardError(
                f"{path} has schema version {found!r}; this program reads {SCHEMA_VERSION}; ingest {folder.name} again"
            )
        expected = {field.name for field in fields(cls)}
        if set(data) != expected:
            odd = sorted(set(data) ^ expected)
            raise ShardError(f"{path} lacks or adds {', '.join(odd)}; ingest {folder.name} again")
        widths = {split: {int(width): rows for width, rows in of.items()} for split, of in data["widths"].items()}
        shards = tuple(ShardFile(**shard) for shard in data["shards"])
        return cls(**data | {"widths": widths, "shards": shards})


def is_current(folder: Path, stamp: str) -> bool:
    """Whether the manifest in ``folder`` has this stamp and all its shards are there; what they hold is not read."""
    try:
        manifest = Manifest.read(folder)
        for shard in manifest.shards:
            shard.check(folder, contents=False)
    except ShardError:
        return False
    return manifest.stamp == stamp


def stamp_of(source: Source, root: Path | None) -> str:
    """Changes whenever the rows may have: with the source's settings, the files it reads and the code that reads them.

    Of files only names, sizes and times are looked at. Versions of libraries are no part of it.
    """
    files = source.stamp(root) if isinstance(source, Stamped) else _looks_below(root)
    package, own = Path(__file__).parents[1], getattr(sys.modules[type(source).__module__], "__file__", None)
    code = {path for pattern in CODE for path in package.glob(pattern)} | ({Path(own)} if own else set())
    return digest([plain(source), files, sorted(map(sha256_of, code))])


def _looks_below(root: Path | None) -> str:
    """SHA-256 over the place, size and time of every file below ``root``, or those of the file that ``root`` is."""
    if root is None or not root.is_dir():
        return _look_of(str(root))
    total = hashlib.sha256()
    for folder, folders, names in os.walk(root):
        folders.sort()  # the order in which the walk goes on
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]  # it does not follow them
        for path in (os.path.join(folder, name) for name in sorted([*names, *links])):
            total.update(os.fsencode(f"{path[len(str(root)) :]}\0{_look_of(path)}\n"))
    return total.hexdigest()


def _look_of(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return "missing"
    return f"{status.st_size}:{status.st_mtime_ns}"


def summary(manifest: Manifest) -> str:
    """A short table for people: rows per split, and what was rejected, flawed or squeezed, by reason."""
    size = sum(shard.bytes for shard in manifest.shards) / 1e6
    lines = [f"{manifest.name}: {manifest.rows} rows in {len(manifest.shards)} shards, {size:.1f} MB"]
    for split, rows in manifest.counts.items():
        flawed = manifest.flaws.get(split, {})
        kept = f"  ({_listed(flawed)}: kept, count as errors)" if flawed else ""
        lines.append(f"  {split:8}{rows:>9}{kept}")
    lines.append(f"  {'rejected':8}{sum(manifest.rejects.values()):>9}  {_listed(manifest.rejects)}".rstrip())
    if "max_width" in manifest.image:  # plates are never squeezed
        lines.append(f"  {'squeezed':8}{manifest.squeezed:>9}  wider than {manifest.image['max_width']} columns")
    if manifest.missing_symbols:
        lines.append(f"  symbols the alphabet lacks: {_listed(manifest.missing_symbols)}")
    return "\n".join(lines)


def put(path: Path, data: bytes | memoryview) -> None:
    """Write a file in one piece: it is there whole or not at all, and mapped readers keep the one they opened."""
    replace(path, data, draft=path.with_name(f"{path.name}.{os.getpid()}.tmp"))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
