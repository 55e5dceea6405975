"""What a person sees of a run: bars on a terminal, one plain line an epoch everywhere else."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from orchestrator.live import LiveFolder

POLL_S = 0.2


def epoch_line(status: Mapping[str, Any]) -> str:
    """``Epoch 3/100 - Loss: 0.4750 - LR: 0.000500 - iiit5k/word_accuracy_36: 0.5150 - ...``."""
    loss = sum(status["loss"].values())
    shown = "".join(f" - {name}: {value:.4f}" for name, value in _headline(status).items())
    skipped = f" - skipped updates: {status['skipped']}" if status["skipped"] else ""
    line = f"Epoch {status['epoch']}/{status['epochs']} - Loss: {loss:.4f} - LR: {status['lr']:.6f}{shown}{skipped}"
    return f"{line} - {status['finished']}" if status["finished"].startswith("early") else line


def event_line(event: Mapping[str, Any]) -> str:
    """``warning: WHAT WAS FOUND. Likely cause: CAUSE. What to change: CHANGE.``."""
    return f"warning: {event['says']}. Likely cause: {event['cause']}. What to change: {event['change']}."


def watch(live: LiveFolder, work: Callable[[], bool]) -> bool:
    """Run ``work`` in a thread and show what it tells in ``live`` until it ends. Returns or raises what it does."""
    outcome: list[Any] = []
    thread = threading.Thread(target=lambda: outcome.append(_caught(work)), name="training")
    thread.start()
    with _view(live) as refresh:
        while thread.is_alive():
            thread.join(POLL_S)
            refresh()
        refresh()
    result = outcome[0]
    if isinstance(result, BaseException):
        raise result
    return bool(result)


def watch_trials(work: Callable[[], bool], progress: Callable[[], tuple[int, int, str]]) -> bool:
    """Run ``work`` in a thread beside a bar. Returns or raises what it does.

    Args:
        progress: trials that have ended, trials in all, and what to say beside them.
    """
    outcome: list[Any] = []
    thread = threading.Thread(target=lambda: outcome.append(_caught(work)), name="sweep")
    thread.start()
    with _bars() if sys.stderr.isatty() else nullcontext() as bars:
        task = bars.add_task("trials", total=progress()[1]) if bars else None
        while thread.is_alive():
            thread.join(POLL_S)
            if bars and task is not None:
                done, total, text = progress()
                bars.update(task, completed=done, total=total, description=f"trials {text}")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return bool(outcome[0])


@contextmanager
def counting(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for work that says ``(done, total)``; silent where there is no terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    with _bars() as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def say(text: str) -> None:
    """One line to a person; standard output is kept for results."""
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False).print(text)


@contextmanager
def _view(live: LiveFolder) -> Iterator[Callable[[], None]]:
    told = _Told(live)
    if not sys.stderr.isatty():
        yield lambda: told.new(say)
        return
    with _bars() as progress:
        bars: dict[str, Any] = {}

        def refresh() -> None:
            told.new(lambda line: progress.console.print(line, highlight=False, markup=False, emoji=False))
            status = live.status()
            if status is not None and "step" in status:
                name = status["stage"]
                if name not in bars:
                    bars[name] = progress.add_task(name, total=status["steps"])
                progress.update(bars[name], completed=status["step"], description=_bar_text(status))

        yield refresh


class _Told:
    """The ends of epochs and the events that were already shown."""

    def __init__(self, live: LiveFolder) -> None:
        self.path, self.place, self.stage = live.folder / "events.jsonl", 0, ""

    def new(self, show: Callable[[str], None]) -> None:
        import json

        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.place)
            whole = file.read().rpartition(b"\n")[0]
        self.place += len(whole) + 1 if whole else 0
        for row in map(json.loads, whole.splitlines()):
            if "says" in row:
                show(row["says"])
                continue
            if row["stage"] != self.stage:
                self.stage = row["stage"]
                show(f"Stage {self.stage}" + (": has a record already, skipped" if row.get("skipped_stage") else ""))
            if row.get("waits_for"):
                show(f"waits for {row['waits_for']}, which trains this stage; its record will be used")
            if row.get("ended"):
                show(epoch_line(row))
            for event in row.get("events", ()):
                show(event_line(event))


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True),
    )  # fmt: skip


def _bar_text(status: Mapping[str, Any]) -> str:
    loss = sum(value for value in status["loss"].values() if value is not None)
    rate = f" {status['samples_per_s']:.0f}/s" if status["samples_per_s"] else ""
    best = "".join(f" {name} {value:.3f}" for name, value in list(_headline(status).items())[:1])
    epoch = f"epoch {min(status['epoch'] + 1, status['epochs'])}/{status['epochs']}"
    return f"{status['stage']} {epoch} loss {loss:.4f}{best}{rate}"


def _headline(status: Mapping[str, Any]) -> dict[str, float]:
    """What a stage decides by, and what most people look for."""
    found, wanted = status["validation"], ("word_accuracy_36", "recognition_rate", "cer", "psnr")
    decisive = [name for name in status.get("best", ()) if name in found]
    return {name: found[name] for name in (*decisive, *found) if name in decisive or name.rpartition("/")[2] in wanted}


def _caught(work: Callable[[], bool]) -> object:
    try:
        return work()
    except BaseException as error:
        return error
