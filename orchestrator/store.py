"""Where finished work lives: one folder per stage, and a record that is written last.

STORE/shards/NAME-KEY/                 ingested sources
STORE/runs/RECIPE/STAGE-FINGERPRINT/   record.json, plan.json, metrics.jsonl, speed.jsonl, checkpoints/
STORE/sweeps/SPACE-FINGERPRINT/        study.db, report.html, and a folder like a stage's for each trial
STORE/live/ID/                         of a launch under way: status.json, and stop when one is asked for
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from orchestrator.files import write_json
from orchestrator.lease import Claims, FileClaims

SCHEMA, RECORD = 1, "record.json"


class StoreError(RuntimeError):
    """A store that cannot be used, or a record that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """Proof that a stage finished. No record, no result: a crash can leave files, but never this.

    Attributes:
        checkpoint: folder of the result, relative to the stage's folder: the best by the stage's first metric.
        best: metric -> value, step, checkpoint, and all metrics of that validation.
        last: folder of the checkpoint at the end.
        metrics: validation metrics of the result; ``before`` are those of the weights the stage began with.
        steps: updates made; ``skipped`` of them were left out for a gradient that was not finite.
        parent: fingerprint of the stage it started from, empty when it started from nothing.
        plan: the whole resolved recipe, as ``--plan`` takes it.
        data: source -> content hash and counts.
        execution: where and how it ran; ``versions`` of what it ran with. Not part of the identity.
        effective: what the stage really ran with: rates at its first, highest and last step, steps, weights ...
        preflight: what each check found, in order: ``check``, ``found``, ``seconds``.
        accepted: check that was accepted on purpose -> what it had refused.
        trial: of a sweep, where it was one: ``sweep``, ``number`` and ``changes``; empty elsewhere.
    """

    recipe: str
    stage: str
    fingerprint: str
    checkpoint: str
    best: Mapping[str, Mapping[str, Any]]
    last: str
    metrics: Mapping[str, float]
    before: Mapping[str, float]
    steps: int
    epochs: int
    skipped: int
    finished: str
    parent: str
    plan: Mapping[str, Any]
    data: Mapping[str, Any]
    execution: Mapping[str, Any]
    versions: Mapping[str, str]
    effective: Mapping[str, Any] = field(default_factory=dict)
    preflight: tuple[Mapping[str, Any], ...] = ()
    accepted: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    ended_at: str = ""
    trial: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Raises :class:`StoreError` for a metric that does not say over how many words it is."""
        sets = {name.rpartition("/")[0] for name in self.metrics if "/" in name}  # a score is of several sets
        if silent := sorted(each for each in sets if f"{each}/n" not in self.metrics):
            raise StoreError(f"record of stage {self.stage!r}: metrics of {', '.join(silent)} do not say their N")


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@contextmanager
def told_of_disk(place: Path) -> Iterator[None]:
    """Turn a disk that takes nothing more into a :class:`StoreError` with the cure. What counted before still does."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StoreError(
            f"{error.filename or place}: cannot be written ({error.strerror}); make room there, then run the same "
            "command again: it goes on from what is whole"
        ) from error


class Origin(Protocol):
    """Where the files of a store really are when its root is but this node's working copy of them.

    Paths are those of the working copy. Fetching brings files here, publishing there, what makes others count last.
    """

    @property
    def place(self) -> str:
        """As ``--store`` takes it, on any node; empty where the root is the store itself."""

    def ready(self) -> None: ...
    def fetch_shards(self, folder: Path, *, mend: Callable[[str], None] | None = None) -> None: ...
    def publish_shard(self, path: Path) -> None: ...
    def publish_shards(self, folder: Path) -> None: ...
    def fetch_manifests(self) -> None: ...
    def fetch_stages(self, recipe: str | None = None) -> None: ...
    def fetch_stage(self, folder: Path, *, checkpoints: Iterable[str] | None = ()) -> None: ...
    def publish_stage(self, folder: Path) -> None: ...
    def publish_files(self, folder: Path, names: Iterable[str]) -> None: ...
    def resumable(self, folder: Path) -> bool: ...
    def writing(self, folder: Path) -> AbstractContextManager[None]: ...
    def claims(self, folder: Path) -> Claims: ...
    def push(self, path: Path) -> None: ...
    def pull(self, path: Path) -> None: ...
    def names(self, folder: Path) -> list[str]: ...
    def take_back(self, path: Path) -> None: ...
    def forget(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class Here:
    """The origin of a store whose root is the store itself: there is nothing to fetch, and nowhere to publish to."""

    place: str = ""

    def ready(self) -> None: ...
    def fetch_shards(self, folder: Path, *, mend: Callable[[str], None] | None = None) -> None: ...
    def publish_shard(self, path: Path) -> None: ...
    def publish_shards(self, folder: Path) -> None: ...
    def fetch_manifests(self) -> None: ...
    def fetch_stages(self, recipe: str | None = None) -> None: ...
    def fetch_stage(self, folder: Path, *, checkpoints: Iterable[str] | None = ()) -> None: ...
    def publish_stage(self, folder: Path) -> None: ...
    def publish_files(self, folder: Path, names: Iterable[str]) -> None: ...
    def push(self, path: Path) -> None: ...
    def pull(self, path: Path) -> None: ...
    def take_back(self, path: Path) -> None: ...
    def forget(self, folder: Path) -> None: ...

    def names(self, folder: Path) -> list[str]:
        return []

    def resumable(self, folder: Path) -> bool:
        return any((folder / "checkpoints").glob("step-*"))

    def writing(self, folder: Path) -> AbstractContextManager[None]:
        return nullcontext()

    def claims(self, folder: Path) -> Claims:
        return FileClaims(folder)


@dataclass(frozen=True)
class Store:
    """The store below ``root``; ``origin`` is where its files really are."""

    root: Path
    origin: Origin = Here()

    @property
    def place(self) -> str:
        """What any node opens the store by."""
        return self.origin.place or str(self.root)

    def name_of(self, path: Path) -> str:
        """How any node finds ``path``: from the store's root, or where it is, if that is elsewhere."""
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)

    def __str__(self) -> str:
        return str(self.origin) if self.origin.place else str(self.root)

    def folder(self, recipe: str, stage: str, fingerprint: str) -> Path:
        return self.root / "runs" / recipe / f"{stage}-{fingerprint}"

    def read(self, folder: Path) -> Record | None:
        """The record in a stage's folder, or None while there is none. Raises :class:`StoreError` on a broken one."""
        path = folder / RECORD
        if not path.exists():
            return None
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            lists = {name: tuple(data.get(name, ())) for name in ("warnings", "preflight")}
            record = Record(**data | lists)
            if record.schema != SCHEMA:
                raise ValueError(f"schema {record.schema!r}, this version reads {SCHEMA}")
            return record
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise StoreError(f"{path}: not a record of this version ({error}); move it away and train again") from error

    def find(self, folder: Path) -> Record | None:
        """Like :meth:`read`, of what the store has now."""
        self.origin.fetch_stage(folder)
        return self.read(folder)

    def write(self, folder: Path, record: Record) -> None:
        write_json(folder / RECORD, asdict(record))
        self.origin.publish_stage(folder)

    def stages(self, recipe: str | None = None) -> Iterator[tuple[Path, Record | None]]:
        """Every stage folder, finished or not, oldest first."""
        self.origin.fetch_stages(recipe)
        folders = (self.root / "runs").glob(f"{recipe or '*'}/*-*/plan.json")
        for plan in sorted(folders, key=lambda path: path.stat().st_mtime):
            yield plan.parent, self.read(plan.parent)

    def ready(self) -> None:
        """Make the store's folder. Raises :class:`StoreError` when it cannot be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / ".writable"
            probe.write_text("." * 4096)  # an empty file fits on a full disk
            probe.unlink(missing_ok=True)  # two launches may probe at once
        except OSError as error:
            raise StoreError(
                f"{self.root}: cannot be written ({error.strerror}); give another place with --store"
            ) from error
        self.origin.ready()
