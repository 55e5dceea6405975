"""What ``train`` does: stage after stage, and a sweep in place of a stage that is searched."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from orchestrator.commands import DONE, adopted_in
from orchestrator.commands import report as write_report
from orchestrator.execution import Execution
from orchestrator.identity import fingerprint
from orchestrator.plan import Recipe
from orchestrator.redact import redacted
from orchestrator.store import Store

if TYPE_CHECKING:
    from orchestrator.live import LiveFolder
    from orchestrator.tracking.points import StageAt


def train(
    recipe: Recipe, store: Store, execution: Execution, *,
    roots: Mapping[str, str], sources: Sequence[str], only: Sequence[str] = (),
    trackers: str = "none", report: bool = True,
) -> int:  # fmt: skip
    """Ingest what is not, then train; a stage that is searched is swept in place of that, and its winner adopted."""
    from orchestrator.sources import ingested

    shards = ingested(recipe, store, roots=roots, sources=sources)
    names = list(only) or [stage.name for stage in recipe.stages]
    return train_each(recipe, store, execution, shards, names=names, trackers=trackers, report=report)


def train_each(
    recipe: Recipe, store: Store, execution: Execution, shards: Mapping[str, Path], *,
    names: Sequence[str], trackers: str, report: bool,
) -> int:  # fmt: skip
    """Train these stages in order, each as its sweep has made it where it is searched."""
    from orchestrator.commands_sweep import search_stage

    left = list(names)
    while left:
        recipe = adopted_in(recipe, store, shards)
        searched = {stage.name for stage in recipe.stages if stage.search}
        ahead = list(takewhile(lambda name, searched=searched: name not in searched, left))  # type: ignore[misc]
        if ahead:
            code = train_stages(recipe, store, execution, shards, only=ahead, trackers=trackers, report=report)
            left = left[len(ahead) :]
        else:  # it is searched no more when its winner is adopted, and then found to have a record
            code = search_stage(recipe, recipe.stage(left[0]), store, execution, shards, trackers=trackers)
        if code != DONE:
            return code
    return DONE


def train_stages(
    recipe: Recipe, store: Store, execution: Execution, shards: Mapping[str, Path], *,
    only: Sequence[str], trackers: str, report: bool,
) -> int:  # fmt: skip
    """Train stages of which none is searched; shows how it goes, and after a stop what to say to go on."""
    from orchestrator.bring import bring
    from orchestrator.console import say, watch
    from orchestrator.live import LiveFolder
    from orchestrator.preflight import check_names
    from orchestrator.tracking import following, sinks_named
    from orchestrator.worker import get_ready, new_live_folder, train_here, train_on_ray

    check_names(execution.accept)
    sinks = sinks_named(trackers)
    stages = _folders(recipe, store, shards, only)
    live = LiveFolder(new_live_folder(store))
    launch = train_on_ray if execution.workers else train_here
    if execution.workers:
        get_ready()
    received = stop_on_signals(live)  # after Ray, whose start takes SIGTERM for itself
    with following(recipe, store, stages, sinks, say=say) as tracking:
        done = watch(live, lambda: launch(recipe, store, shards, execution, live=live.folder, only=only))
        shutil.rmtree(live.folder)
        for each in stages:  # another node may have trained them
            store.find(each.folder)
        if done and report:
            _reported(bring(store, stages[-1].folder), store, execution)
    for each in stages:
        store.origin.publish_files(each.folder, ["tracked.json"])
    if done:
        for place in tracking.where:
            say(place)
        return DONE
    say("Stopped; a checkpoint is saved. This goes on from there:")
    say(redacted(f"  python -m orchestrator.run {shlex.join(sys.argv[1:])}".rstrip()))
    return 128 + (received[0] if received else signal.SIGINT)


def _folders(recipe: Recipe, store: Store, shards: Mapping[str, Path], only: Sequence[str]) -> list[StageAt]:
    """Where each stage that is asked for lies, and its number in the recipe."""
    from orchestrator.manifest import Manifest
    from orchestrator.tracking.points import StageAt

    contents = {name: Manifest.read(folder).content for name, folder in shards.items()}
    return [
        StageAt(number, stage, store.folder(recipe.name, stage.name, fingerprint(recipe, stage, contents)))
        for number, stage in enumerate(recipe.stages)
        if not only or stage.name in only
    ]


def _reported(folder: Path, store: Store, execution: Execution) -> None:
    """Write the report of a finished stage; a failure to do so is told and harms nothing."""
    from orchestrator.console import say

    try:
        write_report(folder, store, execution)
    except Exception as error:
        say(f"warning: no report could be written: {type(error).__name__}: {error}")


def stop_on_signals(live: LiveFolder) -> list[int]:
    """The first SIGINT or SIGTERM asks for a stop after the current step; the next one ends the process."""
    received: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        received.append(number)
        live.ask_to_stop()
        signal.signal(number, signal.SIG_DFL)
        sys.stderr.write("\nstopping after this step; saving a checkpoint (again to end at once)\n")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    return received
