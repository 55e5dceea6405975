"""What is on disk about a stage and all it came from, gathered for a report. Reads only; says what is not there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from orchestrator.identity import fingerprint, plain
from orchestrator.manifest import Manifest, ShardError
from orchestrator.override import from_plain
from orchestrator.plan import PlanError, Recipe
from orchestrator.store import Record, Store, StoreError

Line = Mapping[str, Any]
PLACE = ("kind", "epoch", "step", "time")  # what a line says of itself
COUNTED = ("step", "epoch", "validation")  # kinds of lines that say at which step they were written


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened in training, as :mod:`orchestrator.events` tells it."""

    name: str
    epoch: int | None
    step: int | None
    says: str
    cause: str = ""
    change: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StageFacts:
    """One stage.

    Attributes:
        recipe: the whole plan as plain data; ``stage`` is this stage's part of it, ``number`` its place.
        record: None while the stage is not finished.
        lines: kind -> lines of ``metrics.jsonl``; ``clock`` those of ``speed.jsonl``.
        shards: source -> folder, of those whose content is still in the store; ``unread`` says of each other source
            why its shards are not used.
        evaluations: ``SOURCE-SPLIT`` -> metrics measured afterwards.
        parent: folder of the stage it started from; None when there is none, or when it is not in this store.
    """

    folder: Path
    recipe: Mapping[str, Any]
    stage: Mapping[str, Any]
    number: int
    record: Record | None
    lines: Mapping[str, Sequence[Line]]
    clock: Mapping[str, Sequence[Line]]
    shards: Mapping[str, Path]
    manifests: Mapping[str, Manifest]
    unread: Mapping[str, str]
    evaluations: Mapping[str, Mapping[str, Any]]
    parent: Path | None

    @property
    def name(self) -> str:
        return str(self.stage["name"])

    @property
    def fingerprint(self) -> str:
        return self.folder.name.rpartition("-")[2]

    @property
    def validations(self) -> Sequence[Line]:
        return self.lines.get("validation", ())

    @property
    def restores(self) -> bool:
        """Whether images come out of it, which are measured beside bicubic ones and their targets."""
        return str(self.recipe["image"].get("is", "")).endswith((".PairSpec", ".LineSpec"))

    @property
    def floor(self) -> str:
        """What metrics call an image that nobody restored: of documents as it came, of plates enlarged."""
        return "degraded" if str(self.recipe["image"].get("is", "")).endswith(".LineSpec") else "bicubic"

    @property
    def sources(self) -> list[str]:
        """Every source the stage reads, in the order the plan names them."""
        return list(dict.fromkeys((*self.stage["data"]["shares"], *self.stage["validate"])))

    @property
    def metric(self) -> str:
        """What the stage's result is chosen by."""
        return str(self.stage["best"][0]["metric"])

    @property
    def result(self) -> Mapping[str, float]:
        """Validation metrics of the result; of an unfinished stage those of its best validation so far."""
        if self.record is not None:
            return self.record.metrics
        known = [line for line in self.validations if isinstance(line.get(self.metric), int | float)]
        if not known:
            return {}
        mode = max if self.stage["best"][0].get("mode", "max") == "max" else min
        return measured(mode(known, key=lambda line: line[self.metric]))

    @property
    def before(self) -> Mapping[str, float]:
        """Validation metrics of the weights it started from; empty when it started from nothing."""
        if self.record is not None:
            return self.record.before
        first = self.validations[0] if self.validations else {}
        return measured(first) if first.get("step") == 0 else {}

    @property
    def seconds(self) -> float:
        """Training time: the epochs' seconds, without validation and pauses."""
        return sum(float(line["seconds"]) for line in self.speed)

    @property
    def speed(self) -> list[Line]:
        """One line an epoch, the newest where an epoch was repeated."""
        by_epoch = {line["epoch"]: line for line in self.clock.get("epoch", ())}
        return [by_epoch[epoch] for epoch in sorted(by_epoch)]

    @property
    def events(self) -> list[Event]:
        """What happened, in the order of the steps; lines of older versions are told likewise."""
        lines = [line for of in (self.lines, self.clock) for kind in EVENTS for line in of.get(kind, ())]
        found = [EVENTS[line["kind"]](line) for line in lines]
        return sorted(found, key=lambda event: (event.step is None, event.step or 0))


def gather(folder: Path, store: Store) -> list[StageFacts]:
    """The stage in ``folder``, then the one it started from, and so on. Raises :class:`StoreError`."""
    stages: list[StageFacts] = []
    place: Path | None = folder
    while place is not None and place not in [known.folder for known in stages]:
        stages.append(_stage(place, store))
        place = stages[-1].parent
    return stages


def measured(line: Line) -> dict[str, float]:
    """The metrics of a validation line, without where it was written."""
    return {name: value for name, value in line.items() if name not in PLACE}


def read_lines(path: Path) -> dict[str, list[Line]]:
    """Kind -> lines of a journal; an unfinished last line is left out. Raises :class:`StoreError`."""
    found: dict[str, list[Line]] = {}
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    for count, text in enumerate(whole.splitlines(), start=1):
        try:
            line = json.loads(text)
            kind = line["kind"]
            if kind in COUNTED and "time" not in line and not isinstance(line["step"], int):
                raise ValueError(f"its step is {line['step']!r}")
            found.setdefault(kind, []).append(line)
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path}: line {count} is damaged ({type(error).__name__}: {error}); restore the file, or delete the "
                "stage's folder to train it anew"
            ) from error
    return found


def _stage(folder: Path, store: Store) -> StageFacts:
    record = store.read(folder)
    recipe = record.plan if record else _json(folder / "plan.json")
    name = record.stage if record else _stage_name(folder)
    try:
        number, stage = next((n, each) for n, each in enumerate(recipe["stages"]) if each["name"] == name)
    except (KeyError, TypeError, StopIteration) as error:
        raise StoreError(f"{folder}: its plan has no stage {name!r}; give a stage's folder of the store") from error
    contents = {name: each["content"] for name, each in record.data.items()} if record else {}
    parent = record.parent if record else ""
    if record is None:
        contents, parent = _unrecorded(folder, recipe, stage, store)
    known, odd = _manifests(store)
    by_content = {manifest.content: (folder, manifest) for folder, manifest in known}
    shards = {name: by_content[content] for name, content in contents.items() if content in by_content}
    return StageFacts(
        folder=folder, recipe=recipe, stage=stage, number=number, record=record,
        lines=read_lines(folder / "metrics.jsonl"), clock=read_lines(folder / "speed.jsonl"),
        shards={name: place for name, (place, _) in shards.items()},
        manifests={name: manifest for name, (_, manifest) in shards.items()},
        unread={name: _why_not(name, contents, odd) for name in recipe["sources"] if name not in shards},
        evaluations={path.stem.removeprefix("evaluation-"): _json(path) for path in
                     sorted(folder.glob("evaluation-*.json"))},
        parent=next((store.root / "runs").glob(f"{recipe['name']}/*-{parent}"), None) if parent else None,
    )  # fmt: skip


def _stage_name(folder: Path) -> str:
    """What a folder without a record is of; a trial's folder lies beside what its sweep says of itself."""
    about = folder.parent / "sweep.json"
    return str(_json(about).get("stage", "")) if about.exists() else folder.name.rpartition("-")[0]


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError(f"expected an object, got {type(data).__name__}")
        return data
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); a report needs a stage's folder of the store") from error


def _manifests(store: Store) -> tuple[list[tuple[Path, Manifest]], list[str]]:
    """Every folder of shards with its manifest, and why others cannot be read."""
    known: list[tuple[Path, Manifest]] = []
    odd: list[str] = []
    for path in sorted((store.root / "shards").glob("*/manifest.json")):
        try:
            known.append((path.parent, Manifest.read(path.parent)))
        except (ShardError, OSError) as error:
            odd.append(str(error))
    return known, odd


def _why_not(name: str, contents: Mapping[str, str], odd: Sequence[str]) -> str:
    wanted = f"with content {contents[name][:12]}" if name in contents else "that give this stage's fingerprint"
    others = f"; of others nothing is known: {'; '.join(odd)}" if odd else ""
    return f"the store has no shards of {name!r} {wanted}; ingest the same data again{others}"


def _unrecorded(folder: Path, recipe: Line, stage: Line, store: Store) -> tuple[dict[str, str], str]:
    """Contents and parent of a stage without a record: those shards of the store that give its fingerprint."""
    try:
        plan = from_plain(recipe)
    except (PlanError, ValueError, TypeError, KeyError):
        return {}, ""  # a plan of another version: without its classes nobody knows what it read
    if not isinstance(plan, Recipe):
        raise StoreError(f"{folder / 'plan.json'}: not a recipe; a report needs a stage's folder of the store")
    this = plan.stage(stage["name"])
    names = list(dict.fromkeys((*this.sources, *(s for each in plan.stages for s in each.sources))))
    wanted = {name: plain(plan.sources[name]) for name in names}
    known, _ = _manifests(store)
    choices = [{m.content for _, m in known if m.source == wanted[name]} or {""} for name in names]
    for combination in product(*map(sorted, choices)):
        contents = dict(zip(names, combination, strict=True))
        if fingerprint(plan, this, contents) == folder.name.rpartition("-")[2]:
            parent = plan.parent(this)
            own = {name: content for name, content in contents.items() if name in this.sources}
            return own, fingerprint(plan, parent, contents) if parent else ""
    return {}, ""


def _told(line: Line) -> Event:
    names = ("says", "cause", "change")
    return Event(
        name=str(line.get("event", "event")), epoch=line.get("epoch"), step=line.get("step"),
        **{name: str(line.get(name, "")) for name in names}, evidence=line.get("evidence") or {},
    )  # fmt: skip


def _old_nonfinite(line: Line) -> Event:
    evidence = {"terms": line.get("terms", {}), "samples": line.get("samples", [])}
    says = "The loss or a gradient was not finite; the update was left out."
    return Event(name="nonfinite", epoch=line.get("epoch"), step=line.get("step"), says=says, evidence=evidence)


def _old_red_line(line: Line) -> Event:
    fell = line.get("crossed", {})
    says = "Fell below its red line, so this checkpoint could not become the best."
    return Event(name="red_line", epoch=line.get("epoch"), step=line.get("step"), says=says, evidence={"fell by": fell})


def _damaged(line: Line) -> Event:
    says = f"A checkpoint was passed over: {line.get('what', 'damaged')}"
    return Event(name="damaged_checkpoint", epoch=None, step=None, says=says)


def _resumed(line: Line) -> Event:
    says = f"Training went on from the checkpoint of step {line.get('step')}."
    return Event(name="resumed", epoch=None, step=line.get("step"), says=says)


EVENTS = {
    "event": _told, "nonfinite": _old_nonfinite, "red_line": _old_red_line,
    "damaged_checkpoint": _damaged, "resumed": _resumed,
}  # fmt: skip
