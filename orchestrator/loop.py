"""The one training loop. Plain Torch: it does not know that Ray exists, nor where batches come from.

Everything that decides the outcome is a function of the plan, the data and the step, so a run that is killed and
started again takes the same path: see :class:`orchestrator.progress.Progress` for what a checkpoint has to remember.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from models.batch import Batch
from orchestrator import checkpoint
from orchestrator.checkpoint import Writer
from orchestrator.journal import Journal, Log
from orchestrator.plan import Stage
from orchestrator.progress import Progress, note_validation, stops_early
from orchestrator.ranks import Ranks
from orchestrator.update import Trainee, freeze_all_but, learning_rate, trainee_of, update
from orchestrator.weights import contents_of, hash_of_frozen, restore

FLUSH_EVERY = {"cpu": 1, "cuda": 16}  # steps between reads of the device; on a GPU each read is a stall
KEEP_NEWEST = 2


class NonFinite(RuntimeError):
    """More updates than the plan allows had a loss or gradient that was not finite."""


class StageData(Protocol):
    """What a stage learns from: ``steps_per_epoch`` updates, each a list of micro-batches of this rank."""

    @property
    def steps_per_epoch(self) -> int: ...
    def batches(self, epoch: int, first_step: int) -> AbstractContextManager[Iterator[list[Batch]]]: ...


class Watch(Protocol):
    """The world outside: who may ask for a stop, and who wants to know how far training is."""

    def stop_asked(self) -> bool: ...
    def tell(self, status: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What surrounds the training of one stage.

    Attributes:
        folder: the stage's folder; ``checkpoints/``, ``metrics.jsonl`` and ``speed.jsonl`` go below it.
        fits: what the weights belong to; a checkpoint that says otherwise is refused.
        seed: of the stage's random draws.
        autocast: entered around each forward pass.
        evaluate: all validation metrics of the task it is given.
        forward: runs the task; another function than the task itself when it is compiled.
        checkpoint_every_s: seconds between checkpoints inside an epoch.
    """

    folder: Path
    fits: Mapping[str, Any]
    seed: int
    device: torch.device
    autocast: Callable[[], AbstractContextManager[Any]]
    evaluate: Callable[[nn.Module], dict[str, float]]
    forward: Callable[[Batch], Any]
    ranks: Ranks
    watch: Watch
    checkpoint_every_s: float

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"


def train_stage(stage: Stage, task: nn.Module, data: StageData, setting: Setting) -> Progress:
    """Train ``task`` in place to the end of ``stage``, or until a stop is asked for, from wherever it stood.

    Returns the progress; ``progress.finished`` is empty when it was stopped, and a checkpoint says where to go on.

    Raises:
        NonFinite: too many updates were skipped.
        CheckpointError: a checkpoint does not fit, or could not be written.
    """
    trainee = trainee_of(stage, task)
    log = Log(setting.folder / "speed.jsonl", writes=setting.ranks.first)
    resumed = _resume(trainee, setting, log)
    frozen = hash_of_frozen(task, stage.learn)
    session = _Session(stage, trainee, setting, data, log)
    try:
        if stage.start_from and not resumed:
            trainee.progress.baseline = session.validate()
            session.save()
        while not trainee.progress.finished and session.run_epoch():
            pass
    finally:
        session.close()
    if hash_of_frozen(task, stage.learn) != frozen:
        raise AssertionError(f"stage {stage.name!r} changed a frozen part; only {stage.learn} may learn")
    return trainee.progress


def _resume(trainee: Trainee, setting: Setting, log: Log) -> bool:
    """Put back the newest sound checkpoint of this stage, on every rank the same one. False when there is none."""
    damaged: list[str] = []
    first = setting.ranks.first
    found = checkpoint.newest_sound(setting.checkpoints, passed_over=damaged.append) if first else None
    for what in damaged:
        log.write("damaged_checkpoint", {"what": what})
    name = setting.ranks.agree(found[0].name if found else None)
    if name is None:
        return False
    folder = setting.checkpoints / str(name)
    contents = found[1] if found else checkpoint.read(folder)
    checkpoint.refuse_unfit(contents.fits, setting.fits, folder)
    restore(trainee, contents)
    log.write("resumed", {"step": trainee.progress.step})
    return True


class _Session:
    """One stretch of training between start (or resume) and end (or stop): the side effects of the loop."""

    def __init__(self, stage: Stage, trainee: Trainee, setting: Setting, data: StageData, log: Log) -> None:
        self.stage, self.trainee, self.setting, self.data, self.log = stage, trainee, setting, data, log
        self.writer = Writer()
        self.steps = stage.epochs * data.steps_per_epoch
        self.pending: list[tuple[Tensor, Sequence[int]]] = []
        self.saved_at = time.monotonic()
        self.journal = Journal(
            setting.folder / "metrics.jsonl", length=trainee.progress.journal, writes=setting.ranks.first
        )

    def run_epoch(self) -> bool:
        """Train to the end of the epoch, validate and save. False when a stop was asked for on the way."""
        progress = self.trainee.progress
        started, waited, done = time.monotonic(), 0.0, 0
        with self.data.batches(progress.epoch, progress.step_in_epoch) as batches:
            waiting = time.monotonic()
            for micro in batches:
                waited += time.monotonic() - waiting
                done += sum(len(batch.ids) for batch in micro) * self.setting.ranks.count
                if self._step(micro, samples_per_s=done / max(time.monotonic() - started, 1e-9)):
                    self.save()
                    return False
                waiting = time.monotonic()
        self._flush()
        seconds = time.monotonic() - started
        rates = {"samples_per_s": done / max(seconds, 1e-9), "data_wait_share": waited / max(seconds, 1e-9)}
        self.log.write("epoch", {"epoch": progress.epoch + 1, "seconds": seconds} | rates)
        self._end_epoch()
        return True

    def _step(self, micro: list[Batch], *, samples_per_s: float) -> bool:
        """One update. True when any rank was asked to stop."""
        setting, progress = self.setting, self.trainee.progress
        torch.manual_seed(hash((setting.seed, progress.step)) & 0x7FFFFFFF)  # whatever draws in the step is repeatable
        measured = update(
            self.trainee, self.stage, micro, lr=self._lr(progress.step), forward=setting.forward,
            autocast=setting.autocast, ranks=setting.ranks, stop_asked=setting.watch.stop_asked(),
        )  # fmt: skip
        self.pending.append((measured, [sample for batch in micro for sample in batch.ids]))
        progress.step += 1
        progress.step_in_epoch += 1
        if len(self.pending) < FLUSH_EVERY[setting.device.type]:
            return False
        stop = self._flush()
        self._tell(self._means(), samples_per_s=samples_per_s)
        if not stop and time.monotonic() - self.saved_at > setting.checkpoint_every_s:
            self.save()
        return stop

    def _flush(self) -> bool:
        """Read what the last steps measured, write their lines, check for non-finite ones. True to stop."""
        if not self.pending:
            return False
        progress, names = self.trainee.progress, list(self.stage.terms)
        rows = torch.stack([measured for measured, _ in self.pending]).tolist()
        first = progress.step - len(rows)
        for step, (row, (_, samples)) in enumerate(zip(rows, self.pending, strict=True), start=first):
            means = self._add(names, row)
            line = {"step": step, "epoch": progress.epoch, "lr": self._lr(step)}
            self.journal.write("step", line | means | {"grad_norm": _finite_or_none(row[-2])})
            if row[-1]:
                progress.skipped += 1
                self.journal.write("nonfinite", {"step": step, "terms": means, "samples": list(samples)})
        self.pending.clear()
        if progress.skipped > self.stage.nonfinite_limit:
            raise NonFinite(
                f"stage {self.stage.name!r}, step {progress.step - 1}: {progress.skipped} updates had a loss or "
                f"gradient that was not finite, more than nonfinite_limit {self.stage.nonfinite_limit}; steps, terms "
                f"and samples are in {self.setting.folder / 'metrics.jsonl'} (kind: nonfinite). Lower optim.lr, or "
                "look at those samples."
            )
        return any(row[2 * len(names)] > 0 for row in rows)

    def _add(self, names: Sequence[str], row: Sequence[float]) -> dict[str, float | None]:
        """Add one step's totals to the epoch's, and return its means by ``loss/TERM``."""
        means: dict[str, float | None] = {}
        for index, name in enumerate(names):
            total, count = row[index], row[len(names) + index]
            means[f"loss/{name}"] = _finite_or_none(total / max(count, 1))
            if math.isfinite(total):
                sums = self.trainee.progress.sums.setdefault(name, [0.0, 0.0])
                sums[0] += total
                sums[1] += count
        return means

    def _end_epoch(self) -> None:
        """Close the epoch's books, validate if it is time, decide about stopping, and save."""
        stage, progress = self.stage, self.trainee.progress
        means = self._means()
        progress.epoch += 1
        progress.step_in_epoch, progress.sums = 0, {}
        line = {"epoch": progress.epoch, "step": progress.step, "lr": self._lr(progress.step - 1)}
        self.journal.write("epoch", line | means)
        last = progress.epoch == stage.epochs
        if last or progress.epoch % stage.validate_every == 0:
            self.validate()
            stops_early(stage, progress)
        if last and not progress.finished:
            progress.finished = "all epochs done"
        self.save()
        self._tell(means, ended=True)

    def validate(self) -> dict[str, float]:
        """Measure, write the line, and take in what it says."""
        stage, progress = self.stage, self.trainee.progress
        freeze_all_but(self.trainee.task, ())
        metrics = self.setting.evaluate(self.trainee.judged)
        freeze_all_but(self.trainee.task, stage.learn)
        crossed = note_validation(stage, progress, metrics)
        self.journal.write("validation", {"epoch": progress.epoch, "step": progress.step} | metrics)
        if crossed:
            self.journal.write("red_line", {"step": progress.step, "crossed": crossed})
        return metrics

    def save(self) -> None:
        """Hand a copy of everything to the writer; older checkpoints go once the new one is on disk."""
        self._flush()
        progress = self.trainee.progress
        progress.journal = self.journal.sync()
        if not self.setting.ranks.first:
            return
        contents = contents_of(self.trainee, self.setting.fits).staged()
        folder = checkpoint.folder_of(self.setting.checkpoints, progress.step)
        keep = [checkpoint.folder_of(folder.parent, best["step"]).name for best in progress.best.values()]

        def written() -> None:
            checkpoint.write(folder, contents)
            checkpoint.rotate(folder.parent, keep=keep, newest=KEEP_NEWEST)

        self.writer.submit(written)
        self.saved_at = time.monotonic()

    def close(self) -> None:
        self.writer.wait()
        self.journal.close()

    def _lr(self, step: int) -> float:
        return learning_rate(self.stage, step, self.steps)

    def _means(self) -> dict[str, float]:
        """Each term's mean over the epoch so far, as ``loss/TERM``."""
        sums = self.trainee.progress.sums
        return {f"loss/{name}": total / max(count, 1) for name, (total, count) in sums.items()}

    def _tell(self, loss: Mapping[str, float], *, samples_per_s: float = 0.0, ended: bool = False) -> None:
        progress = self.trainee.progress
        self.setting.watch.tell(
            {"stage": self.stage.name, "epoch": progress.epoch, "epochs": self.stage.epochs, "step": progress.step,
             "steps": self.steps, "lr": self._lr(max(progress.step - 1, 0)), "loss": loss,
             "samples_per_s": samples_per_s, "validation": progress.latest,
             "ended": ended, "skipped": progress.skipped, "finished": progress.finished}
        )  # fmt: skip


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
