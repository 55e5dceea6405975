"""Walk a recipe: skip what is recorded, train what is not, check the gate, record. With Ray and without."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.batch import Batch
from orchestrator import checkpoint
from orchestrator.batches import Samples, TrainingData, chosen_buckets, samples_of
from orchestrator.content import open_shards
from orchestrator.evaluate import evaluate
from orchestrator.execution import Execution
from orchestrator.files import write_json
from orchestrator.gate import GateNotMet, check_gate
from orchestrator.identity import digest, fingerprint, plain
from orchestrator.imported import load_imported
from orchestrator.live import Watch
from orchestrator.loop import Setting, train_stage
from orchestrator.machine import Machine
from orchestrator.order import Step
from orchestrator.plan import Imported, PlanError, Recipe, Stage, StartFrom
from orchestrator.preflight import Found, Preflight, PreflightError
from orchestrator.preflight.data import check_labels, check_shards_fit, check_splits_disjoint, check_validation
from orchestrator.preflight.frames import check_frames, widths_met
from orchestrator.preflight.machine import check_resources
from orchestrator.preflight.model import Trial, check_effective, check_gradients
from orchestrator.preflight.plan import check_headroom, check_settings, check_start, restores
from orchestrator.progress import Progress
from orchestrator.shards import Shards
from orchestrator.store import Record, Store
from orchestrator.trained import fits_of
from orchestrator.trying import Trying
from orchestrator.turn import Leased, turn
from orchestrator.weights import load_judged
from orchestrator.worn_anew import WornAnew

TRIED = 16  # samples of the first step that preflight takes gradients of
RECORDED_VERSIONS = ("plumbline", "torch", "ray", "numpy", "pyarrow", "opencv-python-headless")


def train_recipe(
    recipe: Recipe, store: Store, shards: Mapping[str, Path], execution: Execution, *,
    machine: Machine, watch: Watch, only: Sequence[str] = (),
) -> bool:  # fmt: skip
    """Bring every stage of ``recipe`` (or ``only`` those named) to a record, in order.

    Returns False when a stop was asked for: the same call then goes on where it was. Raises :class:`GateNotMet`,
    :class:`orchestrator.preflight.PreflightError`, :class:`orchestrator.plan.PlanError` and what the loop raises.
    """
    opened, contents = open_shards(store, shards, machine.ranks)
    stages = [stage for stage in recipe.stages if not only or stage.name in only]
    checked: Preflight | None = None
    for stage in stages:
        folder = store.folder(recipe.name, stage.name, fingerprint(recipe, stage, contents))
        with turn(store, folder, stage.name, machine.ranks, watch) as its:
            record = its.record
            if its.watch:
                checked = checked or check_data(recipe, stages, opened, Preflight(accept=execution.accept))
                run = StageRun(
                    recipe, stage, store, opened, contents, execution, machine, its.watch, checked.followed()
                )
                record = run.train(folder)
        if record is None:
            return False
        if not its.watch:
            watch.tell({"stage": stage.name, "skipped_stage": True, "validation": dict(record.metrics)})
        check_gate(stage, record, folder)
    return True


def check_recipe(
    recipe: Recipe, store: Store, shards: Mapping[str, Path], execution: Execution, *,
    machine: Machine, watch: Watch, only: Sequence[str] = (),
) -> Iterator[tuple[str, Preflight]]:  # fmt: skip
    """What the checks of the data find, as ``"data"``, then each stage with those and its own; nothing is trained.

    Checks go on after a refusal where they can. A stage whose parent has no record yet is checked with random weights,
    and its floor is not.
    """
    opened, contents = open_shards(store, shards, machine.ranks)
    stages = [stage for stage in recipe.stages if not only or stage.name in only]
    checked = Preflight(accept=execution.accept, collect=True)
    try:
        check_data(recipe, stages, opened, checked)
    except PreflightError:  # it is in the lines, and nothing else can be looked at without it
        stages = []
    yield "data", checked
    for stage in stages:
        preflight = checked.followed()
        run = StageRun(recipe, stage, store, opened, contents, execution, machine, Leased(watch), preflight)
        with suppress(PreflightError):
            run.check(store.folder(recipe.name, stage.name, fingerprint(recipe, stage, contents)))
        yield stage.name, preflight


def check_data(
    recipe: Recipe, stages: Sequence[Stage], shards: Mapping[str, Shards], preflight: Preflight
) -> Preflight:
    """What is the same for all stages, checked once: hashes, labels, splits. Returns ``preflight``."""
    learned_from = {name: shards[name] for stage in stages for name in stage.data.shares}
    preflight.run("hashes", lambda: check_shards_fit(recipe, shards))
    preflight.run("labels", lambda: check_labels(learned_from, recipe.alphabet))  # type: ignore[arg-type]
    preflight.run("splits", lambda: check_splits_disjoint(shards))
    return preflight


def stage_seed(recipe: Recipe, stage: Stage) -> int:
    """The seed of everything random in a stage; other stages and other seeds have nothing in common with it."""
    return int(digest([recipe.seed, stage.name])[:7], 16)


@dataclass(frozen=True)
class StageRun:
    """One stage on its way to a record."""

    recipe: Recipe
    stage: Stage
    store: Store
    shards: Mapping[str, Shards]
    contents: Mapping[str, str]
    execution: Execution
    machine: Machine
    watch: Leased
    preflight: Preflight
    trying: Trying | None = None

    def train(self, folder: Path) -> Record | None:
        """Train to the end and record it; None when a stop was asked for."""
        stage, machine = self.stage, self.machine
        parent, start = self._parent()
        task = self._task(start)
        data, sets = self._data()
        self._check(folder, task, data, sets)
        if machine.ranks.first:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "plan.json", plain(self.recipe))
        machine.ranks.wait()
        progress = train_stage(stage, task, data, self._setting(folder, task, sets))
        if not progress.finished:
            return None
        if machine.ranks.first:
            self._judge_start(progress.baseline)  # a run that was interrupted did so before
            self.watch.check()
            self.store.write(folder, self._record(folder, progress, parent))
        machine.ranks.wait()
        return self.store.find(folder)

    def look(self, folder: Path) -> None:
        """What :meth:`train` checks before the first step, on the weights it would begin with."""
        _, start = self._parent()
        self._check(folder, self._task(start), *self._data())

    def check(self, folder: Path) -> None:
        """Every check of :meth:`train`, and none of its steps."""
        start: Path | None = None
        waits = ""
        try:
            _, start = self._parent()
        except (PlanError, GateNotMet) as error:
            waits = f"not looked at: {error}"
        task = self._task(start)
        data, sets = self._data()
        self._check(folder, task, data, sets)
        if self.stage.start_from is not None:
            baseline = {} if waits else self._setting(folder, task, sets).evaluate(task)
            self.preflight.run("start", lambda: Found(says=waits) if waits else check_start(self.stage, baseline))
            self._check_headroom(baseline)

    def _task(self, start: Path | None) -> nn.Module:
        """The task with the weights that the stage starts from, on this machine's device."""
        stage = self.stage
        torch.manual_seed(stage_seed(self.recipe, stage))
        task: nn.Module = self.recipe.task.build()  # type: ignore[assignment]
        if start is not None and stage.start_from is not None:
            read = self.trying.read if self.trying else checkpoint.read
            load_judged(task, start, fits_of(self.recipe), stage.start_from.parts, read=read)
        elif isinstance(stage.start_from, Imported):
            self.preflight.run("hashes", lambda: load_imported(task, stage, self.recipe))
        return self.machine.place(task)

    def _check(self, folder: Path, task: nn.Module, data: TrainingData, sets: Mapping[str, Samples]) -> None:
        """All that must be true before the first step, on the batch that the first step takes."""
        recipe, stage, machine, run = self.recipe, self.stage, self.machine, self.preflight.run
        steps = data.steps(0)
        total = stage.epochs * data.steps_per_epoch
        run("validation", lambda: check_validation(stage, sets))
        run("settings", lambda: check_settings(
            stage, recipe, steps=total, samples=data.samples.sizes, draws=data.draws))  # fmt: skip
        run("resources", lambda: check_resources(
            stage, task, folder, smallest_step=min(len(step.samples) for step in steps),
            ranks=max(machine.ranks.count, self.execution.workers),
        ))  # fmt: skip
        run("frames", lambda: check_frames(task, recipe, widths_met(data.buckets, sets), machine.device))
        batch = data.batch_of(Step(steps[0].samples[:TRIED], steps[0].width))
        trial = Trial(
            stage=stage, task=task, batch=batch, autocast=machine.autocast, ranks=machine.ranks, steps=total
        )  # fmt: skip
        run("gradients", lambda: check_gradients(trial))
        run("effective", lambda: check_effective(trial))

    def _judge_start(self, measured: Mapping[str, float]) -> None:
        if self.stage.start_from is not None and all(line["check"] != "start" for line in self.preflight.lines):
            self.preflight.run("start", lambda: check_start(self.stage, measured))
            self._check_headroom(measured)

    def _check_headroom(self, measured: Mapping[str, float]) -> None:
        if restores(measured):
            self.preflight.run("headroom", lambda: check_headroom(self.stage, measured))

    def _parent(self) -> tuple[Record | None, Path | None]:
        """The record this stage starts from, and the checkpoint it names."""
        parent = self.recipe.parent(self.stage)
        if parent is None or not isinstance(self.stage.start_from, StartFrom):
            return None, None
        folder = self.store.folder(self.recipe.name, parent.name, fingerprint(self.recipe, parent, self.contents))
        record = self.store.find(folder)
        if record is None:
            raise PlanError(
                f"stage {self.stage.name!r} starts from {parent.name!r}, which has no record in {folder}; "
                f"train it first: --stage {parent.name}, or --stage all"
            )
        check_gate(parent, record, folder)
        wanted = record.last if self.stage.start_from.which == "last" else record.checkpoint
        self.store.origin.fetch_stage(folder, checkpoints=[Path(wanted).name])
        return record, folder / wanted

    def _data(self) -> tuple[TrainingData, dict[str, Samples]]:
        recipe, stage, machine = self.recipe, self.stage, self.machine
        alphabet, frames, seed = recipe.alphabet, recipe.task.frames, stage_seed(recipe, stage)
        train = samples_of(self.shards, dict.fromkeys(stage.data.shares, "train"), alphabet, frames)  # type: ignore[arg-type]
        sets = {
            name: samples_of(self.shards, {name: split}, alphabet, frames)  # type: ignore[arg-type]
            for name, split in stage.validate.items()
        }
        data = TrainingData(
            stage=stage, samples=train, buckets=chosen_buckets(train), seed=seed, ranks=machine.ranks,
            device=machine.device, worn=WornAnew.of(stage, self.shards, seed=seed),
        )  # fmt: skip
        return data, sets

    def _setting(self, folder: Path, task: nn.Module, sets: Mapping[str, Samples]) -> Setting:
        machine = self.machine

        def measure(judged: nn.Module) -> dict[str, float]:
            metrics = evaluate(
                judged, sets, self.recipe.alphabet,  # type: ignore[arg-type]
                device=machine.device, autocast=machine.autocast, ranks=machine.ranks, terms=self.stage.terms,
            )  # fmt: skip
            return metrics | {score.name: score.of(metrics).value for score in self.stage.scores}

        def put(place: Path, contents: checkpoint.Contents, keep: Sequence[str]) -> None:
            self.watch.check()
            checkpoint.put(place, contents, keep)
            self.store.origin.publish_stage(folder)

        forward: Callable[[Batch], Any] = torch.compile(task) if self.execution.compile else task
        trying = self.trying
        return Setting(
            folder=folder, fits=fits_of(self.recipe), seed=stage_seed(self.recipe, self.stage), device=machine.device,
            autocast=machine.autocast, symbols=self.recipe.alphabet.symbols,  # type: ignore[attr-defined]
            evaluate=trying.measured(self.stage, folder, measure) if trying else measure,
            forward=forward, ranks=machine.ranks, watch=self.watch,
            checkpoint_every_s=self.execution.checkpoint_every_s, judge_start=self._judge_start,
            put=put,
            until=trying.until if trying else 0,
        )  # fmt: skip

    def _record(self, folder: Path, progress: Progress, parent: Record | None) -> Record:
        name_of = lambda step: f"checkpoints/{checkpoint.folder_of(folder, step).name}"  # noqa: E731
        best = {metric: {**found, "checkpoint": name_of(found["step"])} for metric, found in progress.best.items()}
        metric = self.stage.best[0].metric
        if metric not in best:
            raise GateNotMet(
                f"stage {self.stage.name!r}: at no validation was {metric} a number and no red line crossed; there is "
                f"nothing to record. Look at {folder / 'metrics.jsonl'}"
            )
        result = best[metric]
        data = {
            name: {"content": each.manifest.content, "counts": dict(each.manifest.counts),
                   "rejects": dict(each.manifest.rejects)}
            for name, each in self.shards.items() if name in self.stage.sources
        }  # fmt: skip
        used = torch.cuda.get_device_name() if self.machine.device.type == "cuda" else platform.machine()
        execution = asdict(self.execution) | {"device_used": used, "precision_used": self.machine.precision}
        execution |= self.machine.where
        return Record(
            recipe=self.recipe.name, stage=self.stage.name, fingerprint=folder.name.rpartition("-")[2],
            checkpoint=result["checkpoint"], best=best, last=name_of(progress.step), metrics=result["metrics"],
            before=progress.baseline, steps=progress.step, epochs=progress.epoch, skipped=progress.skipped,
            finished=progress.finished, parent=parent.fingerprint if parent else "", plan=plain(self.recipe), data=data,
            execution=execution, versions={name: importlib.metadata.version(name) for name in RECORDED_VERSIONS},
            effective=self.preflight.facts.get("effective", {}), preflight=tuple(self.preflight.lines),
            accepted=dict(self.preflight.accepted), warnings=tuple(self.preflight.warnings),
            ended_at=datetime.now(UTC).isoformat(timespec="seconds"),
            trial=dict(self.trying.origin) if self.trying else {},
        )  # fmt: skip
