"""Seconds that training waits for a checkpoint, and that loading one takes, against ``torch.save`` and ``torch.load``.

Run: ``python -m benchmarks.checkpoint``

Saving is what the loop does: a copy in memory, handed to the thread that writes. Loading reads the files back into the
network and its optimiser, every SHA-256 checked. The baseline does the same with one ``torch.save`` file, unchecked.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from benchmarks.measure import Sample, flag, interleaved, middle, options, ratio, report, verdict
from benchmarks.words import a_stage
from models.recognizers.crnn import CRNNConfig
from models.tasks.read import ReadTask
from models.text import ALNUM62
from orchestrator import checkpoint
from orchestrator.checkpoint import Staging, Writer
from orchestrator.update import Trainee, trainee_of
from orchestrator.weights import contents_of, restore


def a_trainee(width: float, hidden: int, *, seed: int = 0) -> Trainee:
    """A CRNN of 62 symbols and its AdamW, whose moments are there and not zero."""
    torch.manual_seed(seed)
    task = ReadTask(recognizer=CRNNConfig(classes=ALNUM62.classes, width=width, hidden=hidden)).build()
    trainee = trainee_of(a_stage(64), task.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    for parameter in trainee.names:
        parameter.grad = torch.randn_like(parameter)
    trainee.optimizer.step()
    trainee.optimizer.zero_grad()
    return trainee


@dataclass(frozen=True)
class Saves:
    """One state, saved and loaded both ways below ``folder``."""

    trainee: Trainee
    folder: Path
    times: int

    @property
    def ours(self) -> Path:
        return checkpoint.folder_of(self.folder, 1)

    @property
    def theirs(self) -> Path:
        return self.folder / "checkpoint.pt"

    def save_ours(self) -> float:
        """Median seconds for which the loop stands still; the writing itself is waited for, but not counted."""
        writer, staging, seconds = Writer(), Staging(), []
        staging.copy(contents_of(self.trainee, {}))  # the first one of a stage takes its memory from the system
        for _ in range(self.times):
            start = time.perf_counter()
            contents = staging.copy(contents_of(self.trainee, {}))
            writer.submit(lambda contents=contents: checkpoint.write(self.ours, contents))  # type: ignore[misc]
            seconds.append(time.perf_counter() - start)
            del contents
            writer.wait()
        return median(seconds)

    def save_theirs(self) -> float:
        """Median seconds of ``torch.save``, neither synced nor renamed: what most scripts do."""
        seconds = []
        for _ in range(self.times):
            start = time.perf_counter()
            state = {"model": self.trainee.task.state_dict(), "optimizer": self.trainee.optimizer.state_dict()}
            torch.save(state, self.theirs)
            seconds.append(time.perf_counter() - start)
        return median(seconds)

    def load_ours(self, into: Trainee) -> float:
        seconds = []
        for _ in range(self.times):
            start = time.perf_counter()
            restore(into, checkpoint.read(self.ours))
            seconds.append(time.perf_counter() - start)
        return median(seconds)

    def load_theirs(self, into: Trainee) -> float:
        seconds = []
        for _ in range(self.times):
            start = time.perf_counter()
            state = torch.load(self.theirs, weights_only=True)
            into.task.load_state_dict(state["model"])
            into.optimizer.load_state_dict(state["optimizer"])
            seconds.append(time.perf_counter() - start)
        return median(seconds)


def size_of(trainee: Trainee) -> int:
    """Bytes of everything that is saved."""
    tensors = contents_of(trainee, {}).tensors.values()
    return sum(value.nbytes for each in tensors for value in each.values())


def refuse_difference(left: Trainee, right: Trainee) -> None:
    """Raise unless both hold the same weights, buffers and moments, bit for bit."""
    for ours, theirs in zip(_all(left), _all(right), strict=True):
        if not torch.equal(ours, theirs):
            raise AssertionError("what was loaded is not what was saved")


def _all(trainee: Trainee) -> list[torch.Tensor]:
    optimizer = checkpoint.optimizer_tensors(trainee.optimizer, trainee.names)
    return [*trainee.task.state_dict().values(), *(optimizer[name] for name in sorted(optimizer))]


def measured_state(width: float, hidden: int, *, rounds: int, times: int) -> tuple[list[list[str]], list[Sample]]:
    """The rows of one size of network."""
    trainee = a_trainee(width, hidden)
    size = f"{size_of(trainee) / 1e6:.0f} MB"
    first, second = a_trainee(width, hidden, seed=1), a_trainee(width, hidden, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        saves = Saves(trainee, Path(folder), times)
        samples = interleaved(
            {
                "torch.save": saves.save_theirs, "save": saves.save_ours,
                "torch.load": lambda: saves.load_theirs(first), "load": lambda: saves.load_ours(second),
            },
            rounds,
        )  # fmt: skip
    refuse_difference(trainee, first)
    refuse_difference(trainee, second)
    rows = [
        _row(f"a save of {size} stops training for", samples["torch.save"], samples["save"], goal=8.0),
        _row(f"{size} back in network and optimiser", samples["torch.load"], samples["load"], goal=None),
    ]
    return rows, [sample for each in samples.values() for sample in each]


def _row(what: str, theirs: list[Sample], ours: list[Sample], *, goal: float | None) -> list[str]:
    def seconds(sample: Sample) -> float:
        return float(sample.result)

    times = ratio(theirs, ours, seconds)
    return [
        what, f"{middle(theirs, seconds) * 1e3:.1f} ms", f"{middle(ours, seconds) * 1e3:.1f} ms",
        f"{times:.2f}x{flag(theirs, ours)}", verdict(times, goal) if goal else "",
    ]  # fmt: skip


def main() -> None:
    asked = options(__doc__).parse_args()
    torch.set_num_threads(asked.threads)
    rounds = asked.rounds or (1 if asked.quick else 7)
    sizes: list[tuple[float, int]] = [(0.0625, 8)] if asked.quick else [(1.0, 256), (0.5, 128)]
    rows: list[list[str]] = []
    samples: list[Sample] = []
    for width, hidden in sizes:
        more, taken = measured_state(width, hidden, rounds=rounds, times=1 if asked.quick else 5)
        rows, samples = rows + more, samples + taken
    report(rows, samples, quick=asked.quick)


if __name__ == "__main__":
    main()
