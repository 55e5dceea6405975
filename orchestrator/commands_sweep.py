"""What ``sweep`` does, and what ``train`` does where a stage of the recipe is searched."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING, Any

from orchestrator import commands, commands_train
from orchestrator.adoption import Adopted, with_adopted
from orchestrator.execution import Execution
from orchestrator.identity import fingerprint
from orchestrator.plan import Asha, Median, PlanError, Recipe, Search, Stage
from orchestrator.store import Store

if TYPE_CHECKING:
    from orchestrator.sweep import Places, Sweep
    from orchestrator.sweep.board import Board

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
PRUNERS = {"asha": Asha(), "median": Median(), "none": None}


def seconds_of(text: str) -> float:
    """``90``, ``90s``, ``30m``, ``2h`` or ``1d`` in seconds. Raises :class:`PlanError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not found or not float(found[1]):
        raise PlanError(f"--time-budget {text}: expected a duration such as 90s, 30m or 2h")
    return float(found[1]) * UNITS[found[2] or "s"]


def search_of(stage: Stage, space: str, *, trials: int, sampler: str, prune: str) -> Search:
    """The stage's own search where it has one of this space, with what the command line says instead."""
    known = stage.search if stage.search and stage.search.space == space else Search(space=space)
    said: dict[str, Any] = {}
    if trials:
        said["trials"] = trials
    if sampler:
        said["sampler"] = sampler
    if prune:
        said["prune"] = PRUNERS[prune]
    return replace(known, **said)


def sweep(
    recipe: Recipe, store: Store, execution: Execution, search: Search, places: Places, *,
    roots: Mapping[str, str], sources: Sequence[str], trackers: str, report: bool = True,
    name: str = "", storage: str = "", resume: bool = False, budget_s: float = 0.0, adopt: bool = False,
) -> int:  # fmt: skip
    """Train what the swept stage starts from, check the space, make the trials, and say what came of them."""
    from orchestrator.console import say
    from orchestrator.manifest import Manifest
    from orchestrator.sources import ingested
    from orchestrator.sweep import sweep_of
    from orchestrator.sweep.space import load_space

    space = load_space(search.space)
    stage = recipe.stage(space.stage)
    shards = ingested(recipe, store, roots=roots, sources=sources)
    contents = {source: Manifest.read(folder).content for source, folder in shards.items()}
    above = ancestors(recipe, stage)
    if above and any(not _recorded(name, recipe, store, contents) for name in above):
        code = commands_train.train_each(
            recipe, store, execution, shards, names=above, trackers=trackers, report=False
        )  # fmt: skip
        if code != commands.DONE:
            return code
    recipe, _ = with_adopted(recipe, store, contents, before=stage.name)
    made = sweep_of(recipe, space, search, store, shards, name=name, storage=storage)
    code, adopted = _swept(made, execution, places, trackers=trackers, report=report, resume=resume,
                           budget_s=budget_s, adopt=adopt)  # fmt: skip
    if code == commands.DONE and adopted is None:
        say(f"Nothing is adopted: `sweep {space.name} ... --resume --adopt` makes the winner the stage's result")
    return code


def search_stage(
    recipe: Recipe, stage: Stage, store: Store, execution: Execution, shards: Mapping[str, Path], *, trackers: str
) -> int:
    """In place of training a searched stage: its sweep, from wherever it stands, and the winner adopted."""
    from orchestrator.sweep import Places, sweep_of
    from orchestrator.sweep.space import load_space

    assert stage.search is not None
    made = sweep_of(recipe, load_space(stage.search.space), stage.search, store, shards)
    code, adopted = _swept(
        made, execution, Places(), trackers=trackers, report=True, resume=True, budget_s=0.0, adopt=True
    )  # fmt: skip
    if code == commands.DONE and adopted is None:
        raise PlanError(f"no trial of {made.name} has finished; stage {stage.name!r} has no result to go on from")
    return code


def _recorded(name: str, recipe: Recipe, store: Store, contents: Mapping[str, str]) -> bool:
    """Whether a stage has its record, as its sweep has made it where it is searched."""
    known, _ = with_adopted(recipe, store, contents)
    stage = known.stage(name)
    return (
        stage.search is None
        and store.find(store.folder(recipe.name, name, fingerprint(known, stage, contents))) is not None
    )


def ancestors(recipe: Recipe, stage: Stage) -> list[str]:
    """The stages that ``stage`` descends from, first to last."""
    above = recipe.parent(stage)
    return [*ancestors(recipe, above), above.name] if above else []


def _swept(
    sweep: Sweep, execution: Execution, places: Places, *,
    trackers: str, report: bool, resume: bool, budget_s: float, adopt: bool,
) -> tuple[int, Adopted | None]:  # fmt: skip
    """Make the trials that are to be made; the exit code, and the winner where it was adopted."""
    from orchestrator.console import say, watch_trials
    from orchestrator.live import LiveFolder
    from orchestrator.sweep import STOP, adopt_winner, run_sweep
    from orchestrator.sweep.about import write_about
    from orchestrator.sweep.checks import check_space
    from orchestrator.sweep.followed import following_trials
    from orchestrator.tracking import sinks_named
    from orchestrator.tracking.trials import ABOUT

    sweep.folder.mkdir(parents=True, exist_ok=True)
    (sweep.folder / STOP).unlink(missing_ok=True)
    received = commands_train.stop_on_signals(LiveFolder(sweep.folder))
    board = sweep.board(resume=resume)
    about = write_about(sweep)
    if not board.exhausted:
        check_space(sweep, execution, say)
    with following_trials(sweep, board, about, sinks_named(trackers), say=say) as following:
        over = following.over = board.exhausted or watch_trials(
            lambda: run_sweep(sweep, board, execution, places, budget_s=budget_s, say=say, begun=following.begun),
            lambda: _progress(board),
        )
        _tell(sweep, board)
        following.bring()
        if report:
            _reported(sweep)
    origin = sweep.store.origin
    origin.publish_files(sweep.folder, ABOUT)
    for folder in sweep.folder.glob("trial*"):
        origin.publish_files(folder, ["tracked.json"])
    for place in following.where if over else ():
        say(place)
    if not over:
        say("Stopped; what is under way goes on with")
        say(f"  python -m orchestrator.run {join(sys.argv[1:])}{'' if '--resume' in sys.argv else ' --resume'}")
        return (128 + received[0] if received else commands.DONE if budget_s else 128 + signal.SIGINT), None
    adopted = adopt_winner(sweep, board) if adopt else None
    if adopted:
        say(f"Adopted: trial {adopted.trial} is stage {sweep.space.stage!r} now, under {adopted.fingerprint}")
    return commands.DONE, adopted


def _reported(sweep: Sweep) -> None:
    """Write the sweep's report; a failure to do so is told and harms nothing."""
    from orchestrator.console import say
    from orchestrator.sweep.report import write_sweep_report

    try:
        page, _ = write_sweep_report(sweep.folder, sweep.store, sweep.url)
        say(f"Report: {page}")
    except Exception as error:
        say(f"warning: no report could be written: {type(error).__name__}: {error}")


def _progress(board: Board) -> tuple[int, int, str]:
    counts = board.counts()
    winner = board.winner() if board.space.single else None
    told = f"best {next(iter(winner.values.values())):.4f} (trial {winner.number})" if winner else ""
    return sum(counts[each] for each in ("finished", "pruned", "failed")), board.search.trials, told


def _tell(sweep: Sweep, board: Board) -> None:
    """How many trials ended how, and which one won."""
    from orchestrator.console import say

    counts = ", ".join(f"{number} {outcome}" for outcome, number in board.counts().items() if number)
    say(f"{sweep.name}: {counts}")
    winner = board.winner()
    if winner is None:
        return
    shown = ", ".join(f"{name} {value:.4f}" for name, value in winner.values.items())
    changed = ", ".join(f"{path}={value}" for path, value in winner.changes.items()) or "the settings as they stand"
    say(f"Winner: trial {winner.number} with {shown}: {changed}")
