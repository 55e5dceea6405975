"""Where finished work lives: one folder per stage, and a record that is written last.

STORE/shards/NAME-KEY/                 ingested sources
STORE/runs/RECIPE/STAGE-FINGERPRINT/   record.json, plan.json, metrics.jsonl, speed.jsonl, checkpoints/
STORE/sweeps/SPACE-FINGERPRINT/        study.db, report.html, and a folder like a stage's for each trial
STORE/live/ID/                         of a launch under way: status.json, and stop when one is asked for
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.files import write_json

SCHEMA = 1


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


@dataclass(frozen=True)
class Store:
    root: Path

    def folder(self, recipe: str, stage: str, fingerprint: str) -> Path:
        return self.root / "runs" / recipe / f"{stage}-{fingerprint}"

    def read(self, folder: Path) -> Record | None:
        """The record in a stage's folder, or None while there is none. Raises :class:`StoreError` on a broken one."""
        path = folder / "record.json"
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

    def write(self, folder: Path, record: Record) -> None:
        write_json(folder / "record.json", asdict(record))

    def stages(self, recipe: str | None = None) -> Iterator[tuple[Path, Record | None]]:
        """Every stage folder, finished or not, oldest first."""
        folders = (self.root / "runs").glob(f"{recipe or '*'}/*-*/plan.json")
        for plan in sorted(folders, key=lambda path: path.stat().st_mtime):
            yield plan.parent, self.read(plan.parent)

    def ready(self) -> None:
        """Make the store's folder. Raises :class:`StoreError` when it cannot be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / ".writable"
            probe.write_text("")
            probe.unlink(missing_ok=True)  # two launches may probe at once
        except OSError as error:
            raise StoreError(
                f"{self.root}: cannot be written ({error.strerror}); give another place with --store"
            ) from error
