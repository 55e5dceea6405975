"""The one training loop. Plain Torch: it does not know that Ray exists, nor where batches come from.

Everything that decides the outcome is a function of the plan, the data and the step, so a run that is killed and
started again takes the same path: see :class:`Progress` for what a checkpoint has to remember.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from models.batch import Batch
from models.mean import Mean
from orchestrator import checkpoint
from orchestrator.checkpoint import Contents, Writer
from orchestrator.journal import Journal
from orchestrator.plan import Best, Stage
from orchestrator.ranks import Ranks

FLUSH_EVERY = {"cpu": 1, "cuda": 16}  # steps between reads of the device; on a GPU each read is a stall
KEEP_NEWEST = 2


class NonFinite(RuntimeError):
    """More updates than the plan allows had a gradient that was not finite."""


class StageData(Protocol):
    """What a stage learns from: ``steps_per_epoch`` updates, each a list of micro-batches of this rank."""

    @property
    def steps_per_epoch(self) -> int: ...
    @property
    def samples_per_epoch(self) -> int: ...
    def batches(self, epoch: int, first_step: int) -> AbstractContextManager[Iterator[list[Batch]]]: ...


class Watch(Protocol):
    """The world outside: who may ask for a stop, and who wants to know how far training is."""

    def stop_asked(self) -> bool: ...
    def tell(self, status: Mapping[str, Any]) -> None: ...


@dataclass
class Progress:
    """Where training stands: everything beside tensors that resuming needs, as JSON data.

    Attributes:
        epoch: epochs finished; ``step_in_epoch`` updates of the next one are done, ``step`` in all.
        skipped: updates left out because a gradient was not finite.
        sums: term -> [total, count] over the unfinished epoch.
        baseline: validation before the first step, by metric.
        latest: the newest validation.
        best: metric -> value, step and all metrics of the best validation by it.
        stop_best: value that early stopping compares with; ``stale`` validations without a gain since.
        finished: why training ended, empty while it has not.
        journal: bytes of ``metrics.jsonl`` that belong to this point.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    skipped: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict)
    baseline: dict[str, float] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    best: dict[str, dict[str, Any]] = field(default_factory=dict)
    stop_best: float | None = None
    stale: int = 0
    finished: str = ""
    journal: int = 0


@dataclass
class Trainee:
    """What changes while a stage runs."""

    task: nn.Module
    averaged: nn.Module | None
    optimizer: torch.optim.Optimizer
    names: dict[Tensor, str]
    progress: Progress

    @property
    def judged(self) -> nn.Module:
        """The weights that are validated and handed on: the moving average when there is one."""
        return self.averaged if self.averaged is not None else self.task


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


def train_stage(stage: Stage, task: nn.Module, data: StageData, setting: Setting) -> Progress:
    """Train ``task`` in place to the end of ``stage``, or until a stop is asked for, from wherever it stood.

    Returns the progress; ``progress.finished`` is empty when it was stopped, and a checkpoint says where to go on.
    """
    trainee = trainee_of(stage, task)
    resumed = _resume(trainee, setting)
    frozen = _hash_of_frozen(task, stage.learn)
    session = _Session(stage, trainee, setting, data)
    try:
        if resumed:
            session.event("resumed", step=trainee.progress.step)
        elif stage.start_from:
            trainee.progress.baseline = session.validate()
            session.save()
        while not trainee.progress.finished and session.run_epoch():
            pass
        if _hash_of_frozen(task, stage.learn) != frozen:
            raise AssertionError(f"stage {stage.name!r} changed a frozen part; {stage.learn} should be all that learns")
        return trainee.progress
    finally:
        session.close()


def trainee_of(stage: Stage, task: nn.Module) -> Trainee:
    """``task`` with everything frozen but what ``stage`` trains, and a fresh optimiser for that."""
    names = {parameter: name for name, parameter in freeze_all_but(task, stage.learn).items()}
    matrices = [p for p in names if p.ndim > 1]
    vectors = [p for p in names if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": stage.optim.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=stage.optim.lr, betas=tuple(stage.optim.betas), fused=True
    )
    averaged = copy.deepcopy(task).requires_grad_(False) if stage.ema else None
    return Trainee(task, averaged, optimizer, names, Progress())


def freeze_all_but(task: nn.Module, parts: Sequence[str]) -> dict[str, nn.Parameter]:
    """Put ``parts`` in training mode and all else in eval mode without gradient; what learns, by name."""
    task.requires_grad_(False).eval()
    for part in parts:
        task.get_submodule(part).requires_grad_(True).train()
    return {name: parameter for name, parameter in task.named_parameters() if parameter.requires_grad}


def learning_rate(stage: Stage, step: int, steps: int) -> float:
    """The learning rate of update ``step`` of ``steps``: the plan's, scaled by its schedule."""
    return stage.optim.lr * stage.schedule.factor(step, steps)


def update(
    trainee: Trainee, stage: Stage, batches: Sequence[Batch], *, lr: float, forward: Callable[[Batch], Any],
    autocast: Callable[[], AbstractContextManager[Any]], ranks: Ranks, stop_asked: bool = False,
) -> Tensor:  # fmt: skip
    """One optimiser step on this rank's micro-batches; what it measured stays on the device.

    The gradient is that of the mean over all samples of all ranks and micro-batches. A loss or gradient that is not
    finite on any rank leaves weights, moments and buffers of all ranks as they were.

    Returns:
        ``(2 * terms + 3,)`` float64: totals, counts, ranks that were asked to stop, gradient norm, 1.0 if skipped.
    """
    for group in trainee.optimizer.param_groups:
        group["lr"] = lr
    buffers = [buffer for buffer in trainee.task.buffers() if buffer.is_floating_point()]
    before = [buffer.clone() for buffer in buffers]
    learning = list(trainee.names)
    if len(batches) == 1:
        means = _measure(stage, batches[0], forward, autocast)
        sums = ranks.sum(_sums([means], stop_asked))
        _weighted(stage, means, sums[len(means) : 2 * len(means)]).backward()
    else:
        sums = _accumulate(stage, batches, forward, autocast, ranks, stop_asked, learning)
    ranks.sum_gradients(learning)
    norm = nn.utils.clip_grad_norm_(learning, stage.optim.clip_norm)
    bad = (~(torch.isfinite(norm) & torch.isfinite(sums).all())).float()
    trainee.optimizer.found_inf = bad  # type: ignore[attr-defined]  # the fused kernel skips the update where it is 1
    trainee.optimizer.step()
    trainee.optimizer.zero_grad()
    for buffer, old in zip(buffers, before, strict=True):
        buffer.copy_(torch.where(bad.bool(), old, buffer))
    if trainee.averaged is not None:
        _follow(trainee.averaged, trainee.task, stage.ema)
    return torch.cat([sums, norm.double()[None], bad.double()[None]])


def _measure(stage: Stage, batch: Batch, forward: Callable[[Batch], Any], autocast: Callable[[], Any]) -> list[Mean]:
    with autocast():
        outputs = forward(batch)
    return [term.loss(batch, outputs) for term in stage.terms.values()]  # type: ignore[misc]


def _sums(means: Sequence[Sequence[Mean]], stop_asked: bool) -> Tensor:
    """``(2 * terms + 1,)`` float64 totals and counts over micro-batches, and whether a stop was asked for."""
    totals = torch.stack([torch.stack([mean.total.detach().double() for mean in each]) for each in means]).sum(0)
    counts = torch.stack([torch.stack([mean.count.double() for mean in each]) for each in means]).sum(0)
    return torch.cat([totals, counts, totals.new_tensor([float(stop_asked)])])


def _weighted(stage: Stage, means: Sequence[Mean], counts: Tensor) -> Tensor:
    """``()`` objective whose gradient, summed over ranks, is that of the mean over all of them."""
    shares = [
        term.weight * mean.total / count.clamp(min=1).to(mean.total.dtype)
        for term, mean, count in zip(stage.terms.values(), means, counts, strict=True)
    ]
    return torch.stack(shares).sum()


def _accumulate(
    stage: Stage, batches: Sequence[Batch], forward: Callable[[Batch], Any], autocast: Callable[[], Any],
    ranks: Ranks, stop_asked: bool, learning: Sequence[Tensor],
) -> Tensor:  # fmt: skip
    """Several micro-batches of one term: the count is known only at the end, so the gradient is divided then."""
    if len(stage.terms) > 1:
        raise ValueError(
            f"stage {stage.name!r}: optim.accumulate is {stage.optim.accumulate} and it has {len(stage.terms)} terms; "
            "their denominators differ, so accumulating would not give their means. Set accumulate to 1."
        )
    measured = []
    for batch in batches:
        means = _measure(stage, batch, forward, autocast)
        _weighted(stage, means, means[0].count.new_ones(1)).backward()
        measured.append([Mean(mean.total.detach(), mean.count) for mean in means])
    sums = ranks.sum(_sums(measured, stop_asked))
    for parameter in learning:
        if parameter.grad is not None:
            parameter.grad.div_(sums[1].clamp(min=1).to(parameter.grad.dtype))
    return sums


@torch.no_grad()
def _follow(averaged: nn.Module, task: nn.Module, decay: float) -> None:
    """Move the averaged parameters a little towards the present ones; buffers are taken as they are."""
    for mean, now in zip(averaged.parameters(), task.parameters(), strict=True):
        mean.lerp_(now, 1 - decay)
    for mean, now in zip(averaged.buffers(), task.buffers(), strict=True):
        mean.copy_(now)


def _hash_of_frozen(task: nn.Module, learn: Sequence[str]) -> str:
    """SHA-256 of every parameter and buffer outside the parts that learn."""
    digest = hashlib.sha256()
    for name, value in task.state_dict().items():
        if name.split(".")[0] not in learn:
            digest.update(name.encode() + value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class _Session:
    """One stretch of training between start (or resume) and end (or stop): the side effects of the loop."""

    def __init__(self, stage: Stage, trainee: Trainee, setting: Setting, data: StageData) -> None:
        self.stage, self.trainee, self.setting, self.data = stage, trainee, setting, data
        self.writer = Writer()
        self.steps = stage.epochs * data.steps_per_epoch
        self.pending: list[tuple[Tensor, Sequence[int]]] = []
        self.saved_at = time.monotonic()
        first = setting.ranks.first
        self.journal = Journal(setting.folder / "metrics.jsonl", length=trainee.progress.journal) if first else None
        self.speed = (setting.folder / "speed.jsonl").open("a") if first else None

    def run_epoch(self) -> bool:
        """Train to the end of the epoch, validate and save. False when a stop was asked for on the way."""
        progress = self.trainee.progress
        torch.manual_seed(self.setting.seed)
        started, waited, done = time.monotonic(), 0.0, 0
        with self.data.batches(progress.epoch, progress.step_in_epoch) as batches:
            waiting = time.monotonic()
            for micro in batches:
                waited += time.monotonic() - waiting
                done += sum(len(batch.ids) for batch in micro)
                if self._step(micro, samples_per_s=done / max(time.monotonic() - started, 1e-9)):
                    self.save()
                    return False
                waiting = time.monotonic()
        self._flush()
        self._end_epoch()
        self._tell_speed(time.monotonic() - started, waited, done)
        return True

    def _step(self, micro: list[Batch], *, samples_per_s: float) -> bool:
        """One update. True when any rank was asked to stop."""
        stage, setting, progress = self.stage, self.setting, self.trainee.progress
        torch.manual_seed(hash((setting.seed, progress.step)) & 0x7FFFFFFF)  # whatever draws in the step is repeatable
        lr = learning_rate(stage, progress.step, self.steps)
        measured = update(
            self.trainee, stage, micro, lr=lr, forward=setting.forward, autocast=setting.autocast,
            ranks=setting.ranks, stop_asked=setting.watch.stop_asked(),
        )  # fmt: skip
        self.pending.append((measured, [sample for batch in micro for sample in batch.ids]))
        progress.step += 1
        progress.step_in_epoch += 1
        if len(self.pending) < FLUSH_EVERY[setting.device.type]:
            return False
        stop = self._flush()
        self._tell(samples_per_s)
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
        for offset, (row, (_, samples)) in enumerate(zip(rows, self.pending, strict=True)):
            means = self._add(names, row)
            step, norm, skipped = first + offset, row[-2], bool(row[-1])
            line = {"step": step, "epoch": progress.epoch, "lr": learning_rate(self.stage, step, self.steps)}
            self.line("step", line | means | {"grad_norm": _finite_or_none(norm)})
            if skipped:
                progress.skipped += 1
                self.event("nonfinite", step=step, terms=means, samples=list(samples))
        self.pending.clear()
        if progress.skipped > self.stage.nonfinite_limit:
            raise NonFinite(
                f"stage {self.stage.name!r}, step {progress.step - 1}: {progress.skipped} updates had a gradient that was not "
                f"finite, more than nonfinite_limit {self.stage.nonfinite_limit}; steps, terms and samples are in "
                f"{self.setting.folder / 'metrics.jsonl'} (kind: nonfinite). Lower optim.lr or look at those samples."
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
        means = {f"loss/{name}": total / max(count, 1) for name, (total, count) in progress.sums.items()}
        progress.epoch += 1
        progress.step_in_epoch, progress.sums = 0, {}
        lr = learning_rate(stage, progress.step - 1, self.steps)
        self.line("epoch", {"epoch": progress.epoch, "step": progress.step, "lr": lr} | means)
        last = progress.epoch == stage.epochs
        if last or progress.epoch % stage.validate_every == 0:
            self.validate()
            if _stops_early(stage, progress):
                progress.finished = f"early stop: {stage.early_stop.metric} gained nothing in {progress.stale} validations"  # type: ignore[union-attr]
        if last and not progress.finished:
            progress.finished = "all epochs done"
        self.save()
        self._tell(0.0, epoch_loss=means)

    def validate(self) -> dict[str, float]:
        """Measure, write the line, and note every metric that is now at its best."""
        stage, progress = self.stage, self.trainee.progress
        freeze_all_but(self.trainee.task, ())
        metrics = self.setting.evaluate(self.trainee.judged)
        freeze_all_but(self.trainee.task, stage.learn)
        if missing := set(stage.metrics_named) - set(metrics):
            raise ValueError(f"stage {stage.name!r} decides by {sorted(missing)}; measured are {sorted(metrics)}")
        progress.latest = metrics
        crossed = _red_lines_crossed(stage, progress.baseline, metrics)
        self.line("validation", {"epoch": progress.epoch, "step": progress.step} | metrics)
        if crossed:
            self.event("red_line", step=progress.step, crossed=crossed)
        for best in stage.best:
            known = progress.best.get(best.metric)
            if not crossed and (known is None or _better(metrics[best.metric], known["value"], best.mode)):
                progress.best[best.metric] = {"value": metrics[best.metric], "step": progress.step, "metrics": metrics}
        return metrics

    def save(self) -> None:
        """Hand a copy of everything to the writer; the old checkpoints go once the new one is on disk."""
        self._flush()
        if self.journal is None:
            return
        self.trainee.progress.journal = self.journal.sync()
        contents = _contents(self.trainee, self.setting.fits).staged()
        folder = checkpoint.folder_of(self.setting.folder / "checkpoints", self.trainee.progress.step)
        keep = [checkpoint.folder_of(folder.parent, best["step"]).name for best in self.trainee.progress.best.values()]

        def task() -> None:
            checkpoint.write(folder, contents)
            checkpoint.rotate(folder.parent, keep=keep, newest=KEEP_NEWEST)

        self.writer.submit(task)
        self.saved_at = time.monotonic()

    def line(self, kind: str, line: Mapping[str, Any]) -> None:
        if self.journal is not None:
            self.journal.write(kind, line)

    def event(self, name: str, **evidence: Any) -> None:  # noqa: ANN401 - evidence is JSON data of any shape
        """Something a person should know. What repeats exactly on resume is a metric line, what does not is speed."""
        if name == "resumed" and self.speed is not None:
            self.speed.write(_json_line({"kind": name, "time": time.time(), **evidence}))
        else:
            self.line(name, evidence)

    def close(self) -> None:
        self.writer.wait()
        if self.journal is not None and self.speed is not None:
            self.journal.close()
            self.speed.close()

    def _tell(self, samples_per_s: float, epoch_loss: Mapping[str, float] | None = None) -> None:
        if self.journal is None:
            return
        progress = self.trainee.progress
        means = {f"loss/{name}": total / max(count, 1) for name, (total, count) in progress.sums.items()}
        self.setting.watch.tell(
            {"stage": self.stage.name, "epoch": progress.epoch, "epochs": self.stage.epochs, "step": progress.step,
             "steps": self.steps, "step_in_epoch": progress.step_in_epoch, "steps_per_epoch": self.data.steps_per_epoch,
             "lr": learning_rate(self.stage, max(progress.step - 1, 0), self.steps), "loss": epoch_loss or means,
             "samples_per_s": samples_per_s * self.setting.ranks.count, "validation": progress.latest,
             "ended": epoch_loss is not None, "skipped": progress.skipped, "finished": progress.finished}
        )  # fmt: skip

    def _tell_speed(self, seconds: float, waited: float, samples: int) -> None:
        if self.speed is not None:
            row = {"kind": "epoch", "time": time.time(), "epoch": self.trainee.progress.epoch, "seconds": seconds}
            rates = {"samples_per_s": samples * self.setting.ranks.count / seconds, "data_wait_share": waited / seconds}
            self.speed.write(_json_line(row | rates))
            self.speed.flush()


def _resume(trainee: Trainee, setting: Setting) -> bool:
    """Put back the newest sound checkpoint of this stage, on every rank the same one. False when there is none."""
    folder = setting.folder / "checkpoints"
    damaged: list[str] = []
    found = checkpoint.newest_sound(folder, passed_over=damaged.append) if setting.ranks.first else None
    if damaged:
        rows = "".join(_json_line({"kind": "damaged_checkpoint", "time": time.time(), "what": each}) for each in damaged)
        with (setting.folder / "speed.jsonl").open("a") as file:
            file.write(rows)
    name = setting.ranks.agree(found[0].name if found else None)
    if name is None:
        return False
    contents = found[1] if found else checkpoint.read(folder / str(name))
    checkpoint.refuse_unfit(contents.fits, setting.fits, folder / str(name))
    load_parts(trainee.task, contents, "weights")
    if trainee.averaged is not None:
        load_parts(trainee.averaged, contents, "averaged")
    checkpoint.load_optimizer(trainee.optimizer, contents.tensors["optimizer"], trainee.names)
    trainee.progress = Progress(**contents.progress)
    return True


def _contents(trainee: Trainee, fits: Mapping[str, Any]) -> Contents:
    tensors = {f"weights.{name}": part.state_dict() for name, part in trainee.task.named_children()}
    if trainee.averaged is not None:
        tensors |= {f"averaged.{name}": part.state_dict() for name, part in trainee.averaged.named_children()}
    tensors["optimizer"] = checkpoint.optimizer_tensors(trainee.optimizer, trainee.names)
    return Contents(tensors=tensors, progress=asdict(trainee.progress), fits=fits)


def load_parts(task: nn.Module, contents: Contents, kind: str, parts: Iterable[str] | None = None) -> None:
    """Load ``kind`` (``"weights"`` or ``"averaged"``) of the named parts, every tensor of them, strictly."""
    for part in parts or [name for name, _ in task.named_children()]:
        try:
            task.get_submodule(part).load_state_dict(contents.tensors[f"{kind}.{part}"])
        except (KeyError, RuntimeError) as error:
            raise checkpoint.CheckpointError(f"part {part!r} does not fit the checkpoint: {error}") from error


def judged_kind(contents: Contents) -> str:
    """Which of a checkpoint's weights were validated: the averaged ones where there are any."""
    return "averaged" if any(name.startswith("averaged.") for name in contents.tensors) else "weights"


def _better(value: float, known: float, mode: str, by: float = 0.0) -> bool:
    return value > known + by if mode == "max" else value < known - by


def _red_lines_crossed(stage: Stage, before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """Metric -> how far it fell, for each that fell further than its red line below ``before``."""
    modes = {best.metric: best.mode for best in (*stage.best, *([stage.early_stop] if stage.early_stop else []))}
    falls = {
        metric: (before[metric] - now[metric]) * (-1 if modes.get(metric, _mode_of(metric)) == "min" else 1)
        for metric in stage.red_lines
        if metric in before
    }
    return {metric: fall for metric, fall in falls.items() if fall > stage.red_lines[metric]}


def _mode_of(metric: str) -> str:
    return "min" if metric.rpartition("/")[2] in ("loss", "cer") else "max"


def _stops_early(stage: Stage, progress: Progress) -> bool:
    """Whether patience has run out; counts in ``progress``."""
    rule = stage.early_stop
    if rule is None:
        return False
    value = progress.latest[rule.metric]
    if progress.stop_best is None or _better(value, progress.stop_best, rule.mode, rule.min_delta):
        progress.stop_best, progress.stale = value, 0
    else:
        progress.stale += 1
    return progress.stale >= rule.patience


def best_checkpoint(folder: Path, progress: Progress, best: Best) -> Path:
    """Where the checkpoint that is best by ``best`` lies in a stage's folder."""
    return checkpoint.folder_of(folder / "checkpoints", progress.best[best.metric]["step"])


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _json_line(row: Mapping[str, Any]) -> str:
    import json

    return json.dumps(row) + "\n"
