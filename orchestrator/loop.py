"""The one training loop. Plain Torch: it does not know that Ray exists, nor where batches come from.

Everything that decides the outcome is a function of the plan, the data and the step, so a run that is killed and
started again takes the same path: see :class:`orchestrator.progress.Progress` for what a checkpoint has to remember.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from models.batch import Batch
from orchestrator import checkpoint
from orchestrator.checkpoint import Contents, Staging, Writer
from orchestrator.events import Event
from orchestrator.events_clock import damaged_checkpoint, events_of_clock
from orchestrator.events_validation import criteria_disagree, events_of_validation, red_line
from orchestrator.journal import Journal, Log
from orchestrator.ledger import Ledger
from orchestrator.live import Watch
from orchestrator.mining import unknown
from orchestrator.moving import balances, drawn_now, stage_now
from orchestrator.pace import Pace
from orchestrator.plan import Stage
from orchestrator.players import freeze_all_but, set_learning
from orchestrator.progress import Progress, note_validation, stops_early
from orchestrator.ranks import Ranks
from orchestrator.update import Trainee, learning_rate, trainee_of, update
from orchestrator.weights import contents_of, hash_of_frozen, restore

FLUSH_EVERY = {"cpu": 1, "cuda": 16}  # steps between reads of the device; on a GPU each read is a stall


class NonFinite(RuntimeError):
    """More updates than the plan allows had a loss or gradient that was not finite."""


class FrozenChanged(RuntimeError):
    """A part that a stage freezes was not the same afterwards."""


class StageData(Protocol):
    """What a stage learns from: ``steps_per_epoch`` updates, each a list of micro-batches of this rank.

    Mining alone asks how many samples there are, and for an epoch of those that were ``drawn``.
    """

    @property
    def steps_per_epoch(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def samples_per_epoch(self) -> int: ...
    def batches(
        self, epoch: int, first_step: int, drawn: Any = None
    ) -> AbstractContextManager[Iterator[list[Batch]]]: ...
    def source_ids(self, samples: Sequence[int]) -> list[str]: ...


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
        symbols: of the alphabet, in order; lines about symbols name them.
        judge_start: is shown the validation before the first step; raises if a stage must not start from there.
        put: writes a checkpoint and deletes older ones, but those named; :func:`orchestrator.checkpoint.put`.
        until: epochs after which to pause, as if a stop were asked for; 0 trains to the end.
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
    symbols: str = ""
    judge_start: Callable[[Mapping[str, float]], None] = lambda metrics: None
    until: int = 0
    put: Callable[[Path, Contents, Sequence[str]], None] = checkpoint.put

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"


def train_stage(stage: Stage, task: nn.Module, data: StageData, setting: Setting) -> Progress:
    """Train ``task`` in place to the end of ``stage``, or until a stop is asked for, from wherever it stood.

    Returns the progress; ``progress.finished`` is empty when it was stopped, and a checkpoint says where to go on.

    Raises:
        NonFinite: too many updates were skipped.
        FrozenChanged: a part that must not learn has changed.
        CheckpointError: a checkpoint does not fit, or could not be written.
    """
    trainee = trainee_of(stage, task)
    trainee.difficulty = unknown(data.size) if stage.mining else None
    log = Log(setting.folder / "speed.jsonl", writes=setting.ranks.first)
    damaged: list[str] = []
    resumed = _resume(trainee, setting, log, damaged)
    frozen = hash_of_frozen(task, stage.moves)
    session = _Session(stage, trainee, setting, data, log)
    session.say_of_clock([damaged_checkpoint(trainee.progress.epoch, trainee.progress.step, what) for what in damaged])
    try:
        if stage.start_from and not resumed:
            trainee.progress.baseline = session.validate()
            setting.judge_start(trainee.progress.baseline)
            session.save()
        while not session.over and session.run_epoch():
            pass
    finally:
        session.close()
    if hash_of_frozen(task, stage.moves) != frozen:
        raise FrozenChanged(
            f"stage {stage.name!r} changed a parameter or buffer of a frozen part; only {list(stage.moves)} may learn. "
            "Look for a forward pass that updates a buffer although its part is in eval mode"
        )
    return trainee.progress


def _resume(trainee: Trainee, setting: Setting, log: Log, damaged: list[str]) -> bool:
    """Put back the newest sound checkpoint of this stage, on every rank the same one. False when there is none.

    Args:
        damaged: what is wrong with each newer one is added here.
    """
    first = setting.ranks.first
    found = checkpoint.newest_sound(setting.checkpoints, passed_over=damaged.append) if first else None
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
        self.writer, self.staging = Writer(), Staging()
        self.steps = stage.epochs * data.steps_per_epoch
        self.saved_at = time.monotonic()
        self.said: set[str] = set()
        self.journal = Journal(
            setting.folder / "metrics.jsonl", length=trainee.progress.journal, writes=setting.ranks.first
        )
        self.now = stage
        ranks, symbols = setting.ranks, setting.symbols
        self.ledger = Ledger(stage, trainee, self.journal, ranks=ranks, named=data.source_ids, symbols=symbols)

    @property
    def over(self) -> bool:
        """Whether training has come to its end, or as far as it is to come for now."""
        progress = self.trainee.progress
        return bool(progress.finished) or 0 < self.setting.until <= progress.epoch

    def run_epoch(self) -> bool:
        """Train to the end of the epoch, validate and save. False when a stop was asked for on the way."""
        progress, setting, pace = self.trainee.progress, self.setting, Pace()
        self.now = self.ledger.now = stage_now(self.stage, progress)
        with self._batches() as batches:
            for micro in pace.over(batches, at=self._at):
                pace.took(sum(len(batch.ids) for batch in micro), setting.ranks)
                if self._step(micro, pace):
                    self.save()
                    return False
        self._read()
        line, waited, busy = pace.of_ranks(setting.ranks, setting.device)
        now: dict[str, Any] = {"epoch": progress.epoch + 1}
        self.log.write("epoch", now | line)
        clock: dict[str, Any] = {"step": progress.step, "seconds": line["seconds"], "waited": waited, "busy": busy}
        self.say_of_clock(events_of_clock(self.stage, nodes=setting.ranks.nodes, **now, **clock))
        self._end_epoch()
        return True

    def _batches(self) -> AbstractContextManager[Iterator[list[Batch]]]:
        """The steps of the epoch that are still to be made."""
        progress, data = self.trainee.progress, self.data
        if self.stage.mining is None:
            return data.batches(progress.epoch, progress.step_in_epoch)
        drawn = drawn_now(self.stage, self.trainee, count=data.samples_per_epoch, seed=self.setting.seed)
        return data.batches(progress.epoch, progress.step_in_epoch, drawn)

    def _step(self, micro: list[Batch], pace: Pace) -> bool:
        """One update. True when any rank was asked to stop."""
        setting, progress = self.setting, self.trainee.progress
        torch.manual_seed(hash((setting.seed, progress.step)) & 0x7FFFFFFF)  # whatever draws in the step is repeatable
        balanced = balances(self.stage, progress.epoch, progress.step)
        measured = update(
            self.trainee, self.now, micro, lr=learning_rate(self.stage, progress.step, self.steps),
            forward=setting.forward, autocast=setting.autocast, ranks=setting.ranks,
            stop_asked=setting.watch.stop_asked(), compare_terms=progress.step_in_epoch == 0, look_at_image=balanced,
        )  # fmt: skip
        self.ledger.note(measured, [sample for batch in micro for sample in batch.ids])
        if self.ledger.pending < FLUSH_EVERY[setting.device.type] and not balanced:
            return False
        stop = self._read()
        if balanced:
            self.now = self.ledger.now = stage_now(self.stage, progress)
        self._tell(self.ledger.means(), samples_per_s=pace.samples_per_s)
        if not stop and time.monotonic() - self.saved_at > setting.checkpoint_every_s:
            self.save()
        return stop

    def _read(self) -> bool:
        """Enter what the last steps measured. True when any rank was asked to stop."""
        stop, progress = self.ledger.read(), self.trainee.progress
        if progress.skipped > self.stage.nonfinite_limit:
            raise NonFinite(
                f"stage {self.stage.name!r}, step {progress.step - 1}: {progress.skipped} updates had a loss or "
                f"gradient that was not finite, more than nonfinite_limit {self.stage.nonfinite_limit}; steps, terms "
                f"and samples are in {self.setting.folder / 'metrics.jsonl'} (event: nonfinite). Lower optim.lr, or "
                "look at those samples."
            )
        return stop

    def _end_epoch(self) -> None:
        """Close the epoch's books, validate if it is time, decide about stopping, and save."""
        stage, progress, means = self.stage, self.trainee.progress, self.ledger.means()
        loss = self.ledger.close_epoch()
        last = progress.epoch == stage.epochs
        if last or progress.epoch % stage.validate_every == 0:
            self.validate(loss)
            stops_early(stage, progress)
        if last and not progress.finished:
            progress.finished = "all epochs done"
        if progress.finished:
            self.ledger.say(criteria_disagree(stage, progress.seen, progress.best, progress.epoch, progress.step))
        self.save()
        self._tell(means, ended=True)

    def validate(self, loss: float | None = None) -> dict[str, float]:
        """Measure, write the line, and take in what it says.

        Args:
            loss: of the epoch that was just trained; none before the first.
        """
        stage, progress = self.stage, self.trainee.progress
        self._at("validation")
        freeze_all_but(self.trainee.task, ())
        metrics = self.setting.evaluate(self.trainee.judged)
        set_learning(self.trainee.task, stage)
        crossed = note_validation(stage, progress, metrics)
        now = {"epoch": progress.epoch, "step": progress.step}
        self.journal.write("validation", now | metrics)
        self.ledger.say(red_line(stage, **now, crossed=crossed))
        if loss is not None:
            self.ledger.say(events_of_validation(stage, progress.seen, **now, metrics=metrics, loss=loss))
        return metrics

    def save(self) -> None:
        """Hand a copy of everything to the writer; older checkpoints go once the new one is on disk."""
        self._read()
        self._at("saving")
        progress = self.trainee.progress
        progress.journal = self.journal.sync()
        if not self.setting.ranks.first:
            return
        self.writer.wait()  # it may still read what the copy goes to
        contents = self.staging.copy(contents_of(self.trainee, self.setting.fits))
        folder = checkpoint.folder_of(self.setting.checkpoints, progress.step)
        keep = [checkpoint.folder_of(folder.parent, best["step"]).name for best in progress.best.values()]
        self.writer.submit(lambda: self.setting.put(folder, contents, keep))
        self.saved_at = time.monotonic()

    def close(self) -> None:
        self.writer.wait()
        self.journal.close()

    def say_of_clock(self, found: Sequence[Event]) -> None:
        """Log events that depend on the clock or the machine, and tell each kind once."""
        for event in found:
            self.log.write("event", event.line())
            if event.event not in self.said:
                self.said.add(event.event)
                self.ledger.untold.append(event)

    def _at(self, phase: str) -> None:
        self.setting.watch.at(f"{phase} (stage {self.stage.name}, update {self.trainee.progress.step})")

    def _tell(self, loss: Mapping[str, float], *, samples_per_s: float = 0.0, ended: bool = False) -> None:
        progress = self.trainee.progress
        self.setting.watch.tell(
            {"stage": self.stage.name, "epoch": progress.epoch, "epochs": self.stage.epochs, "step": progress.step,
             "steps": self.steps, "lr": progress.lr, "loss": loss,
             "samples_per_s": samples_per_s, "validation": progress.latest,
             "best": [best.metric for best in self.stage.best], "events": self.ledger.told(),
             "ended": ended, "skipped": progress.skipped, "finished": progress.finished}
        )  # fmt: skip
