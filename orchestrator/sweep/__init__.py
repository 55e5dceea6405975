"""Sweeps: one stage trained again and again with other settings, always from its parent's recorded best checkpoint.

Everything of a sweep lies in ``STORE/sweeps/SPACE-FINGERPRINT/``: the study, its report, and a folder for each trial
that is like a stage's. The winner can become the stage's own result: see :mod:`orchestrator.adoption`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.adoption import Adopted, adopt, base_of, note_of
from orchestrator.execution import Execution
from orchestrator.identity import fingerprint, plain
from orchestrator.live import RunFailed
from orchestrator.manifest import Manifest
from orchestrator.override import override
from orchestrator.plan import PlanError, Recipe
from orchestrator.search import Search
from orchestrator.store import Store
from orchestrator.sweep.board import Board, Proposal, Row
from orchestrator.sweep.shared import bring_study, shared
from orchestrator.sweep.space import Space
from orchestrator.sweep.trial import STOP, Job, Planned, alone_in
from orchestrator.sweep.tuning import HOPELESS, Desk, UnderWay, run_trials

STUDY = "study.db"


@dataclass(frozen=True, kw_only=True)
class Places:
    """How many trials run at once, and what each of them takes.

    Attributes:
        limit: trials at once; 0 takes what fits.
        gpus: of each trial that runs in one process; a fraction shares a GPU.
    """

    limit: int = 0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.limit < 0 or self.gpus < 0:
            raise PlanError("--concurrent and --gpus-per-trial cannot be below 0")


@dataclass(frozen=True)
class Sweep:
    """One sweep of a stage as it stands in ``recipe``, which has none searched.

    Attributes:
        contents: source -> content hash of its shards.
        folder: where all of it lies.
    """

    recipe: Recipe
    space: Space
    search: Search
    store: Store
    shards: Mapping[str, Path]
    contents: Mapping[str, str]
    folder: Path
    url: str

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def study(self) -> Path | None:
        """The file of the study; None where a database elsewhere has it."""
        path = self.folder / STUDY
        return path if self.url == f"sqlite:///{path}" else None

    def board(self, *, resume: bool) -> Board:
        """The study, as the store has it now; see :meth:`Board.open`."""
        if self.study is not None:
            with alone_in(self.folder, wait_s=10.0):
                bring_study(self.store, self.study)
        return Board.open(self.url, self.name, self.space, self.recipe, self.search, resume=resume)

    def planned(self, proposal: Proposal) -> Planned:
        """The plan and the folder of a trial. Raises :class:`PlanError` where its settings do not go together."""
        recipe = override(self.recipe, proposal.changes)
        stage = recipe.stage(self.space.stage)
        known = fingerprint(recipe, stage, self.contents)
        return Planned(
            recipe=recipe, stage=stage, fingerprint=known,
            folder=self.folder / f"trial{proposal.number:04d}-{known}",
        )  # fmt: skip

    def job(self, execution: Execution, stop: str = STOP) -> Job:
        """What its trials have in common; ``stop`` is the file in the sweep's folder that ends them."""
        return Job(
            plan=plain(self.recipe), stage=self.space.stage, metrics=self.space.metrics, sweep=self.name,
            folder=self.store.name_of(self.folder), store=self.store.place,
            shards={name: self.store.name_of(path) for name, path in self.shards.items()},
            execution=asdict(execution), stop=stop,
        )  # fmt: skip


def sweep_of(
    recipe: Recipe, space: Space, search: Search, store: Store, shards: Mapping[str, Path], *,
    name: str = "", storage: str = "",
) -> Sweep:  # fmt: skip
    """The sweep of ``space`` over a recipe's stage, whether begun or not.

    Args:
        name: another one than the space's and the stage's fingerprint make.
        storage: address of a database for the study; a file in the sweep's folder when empty.

    Raises:
        PlanError: the space is of another recipe, or compares by what its stage does not choose checkpoints by.
    """
    if recipe.name != space.recipe:
        raise PlanError(f"tune_spaces/{space.name}.py is for recipe {space.recipe!r}, not {recipe.name!r}")
    stage = recipe.stage(space.stage)
    space = space.of(stage)
    kept = [best.metric for best in stage.best]
    wanted = kept[:1] if space.single else kept
    if missing := [metric for metric in space.metrics if metric not in wanted]:
        raise PlanError(
            f"tune_spaces/{space.name}.py compares by {', '.join(missing)}, but stage {stage.name!r} chooses what it "
            f"hands on by {', '.join(wanted)}; a trial is worth what it hands on: change METRIC, or the stage's best"
        )
    base = base_of(recipe, stage)
    contents = {source: Manifest.read(folder).content for source, folder in shards.items()}
    name = name or f"{space.name}-{fingerprint(base, base.stage(stage.name), contents)}"
    folder = store.root / "sweeps" / name
    return Sweep(base, space, search, store, shards, contents, folder, storage or f"sqlite:///{folder / STUDY}")


def run_sweep(
    sweep: Sweep, board: Board, execution: Execution, places: Places, *,
    budget_s: float, say: Callable[[str], None], begun: Callable[[UnderWay], None],
) -> bool:  # fmt: skip
    """Make the trials that are still to be made. False where a stop was asked for, or the time is up, before the end.

    Args:
        execution: of each trial; ``workers`` above 1 makes it a group of its own.
        budget_s: seconds after which trials under way save a checkpoint and end, to be continued; 0 for no limit.
        begun: is shown each trial as it begins.

    Raises:
        RunFailed: nothing but failures came of the first trials.
    """
    from orchestrator.worker import get_ready

    get_ready()
    limit, resources, execution = placed(execution, places)
    say(f"{sweep.name}: up to {limit} trials at once, each with {_told(resources, execution)}")
    if execution.workers > 1 and sweep.store.origin.place:
        raise PlanError(
            f"--workers-per-trial {execution.workers}: the workers of a trial tell each other of it in a folder that "
            f"all nodes see; {sweep.store} is none: --store DIR, or trials of one worker"
        )
    stop = sweep.folder / STOP
    sign = sweep.folder / f"{STOP}-{secrets.token_hex(4)}" if sweep.store.origin.place else stop
    desk = Desk(board, sweep.planned, limit, stop.exists, say, begun=begun)
    scratch = sweep.folder / f".tune-{os.getpid()}"
    with (
        alone_in(sweep.folder, wait_s=10.0), _ends_after(budget_s, stop),
        shared(sweep.store, sweep.folder, sweep.study, stop=stop, sign=sign),
    ):  # fmt: skip
        run_trials(
            desk, sweep.job(execution, sign.name), resources=resources, retries=execution.retries, scratch=scratch
        )
    forget_pruned(sweep.store, sweep.folder, board.rows())
    if desk.hopeless:
        raise RunFailed(
            f"{sweep.name}: the first {HOPELESS} trials failed, the last one for: {board.rows()[-1].reason}. No more "
            "are made; mend that, and begin another sweep with --name"
        )
    return not board.counts()["interrupted"] and board.exhausted


def forget_pruned(store: Store, folder: Path, rows: Sequence[Row]) -> None:
    """Delete the checkpoints of pruned trials whose processes came to no end of their own, as the last one's may."""
    for row in rows:
        if row.outcome == "pruned":
            shutil.rmtree(folder / row.folder / "checkpoints", ignore_errors=True)
            store.origin.forget(folder / row.folder / "checkpoints")


@contextmanager
def _ends_after(budget_s: float, stop: Path) -> Iterator[None]:
    """Ask all trials to stop when the time is up; nothing is asked of the next sweep."""
    timer = threading.Timer(budget_s, stop.touch)
    timer.daemon = True
    if budget_s:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        stop.unlink(missing_ok=True)


def placed(execution: Execution, places: Places) -> tuple[int, dict[str, float], Execution]:
    """How many trials at once, what the process of each takes, and how each runs, on the cluster there is.

    Raises :class:`PlanError` where not a single trial fits.
    """
    import ray

    there = ray.cluster_resources()
    cpus, gpus = int(there.get("CPU", 0)), there.get("GPU", 0.0)
    workers = max(execution.workers, 1)
    share = places.gpus or (1.0 if gpus and execution.device != "cpu" else 0.0)
    by_gpu = int(gpus / (share * workers) + 1e-9) if share else 0
    threads = execution.threads or (max(cpus // max(by_gpu * workers, 1), 1) if share else 1)
    fits = min(cpus // (threads * workers), by_gpu) if share else cpus // (threads * workers)
    if fits < 1:
        raise PlanError(
            f"a trial of {workers} workers with {threads} CPUs and {share:g} GPUs each does not fit: the cluster has "
            f"{cpus} CPUs and {gpus:g} GPUs"
        )
    device = execution.device if execution.device != "auto" else ("cuda" if share else "cpu")
    how = Execution(**asdict(execution) | {"workers": workers, "threads": threads, "device": device})
    # the process of a trial that has a group only waits for it: were it to take a CPU, the group might lack it
    process = {"memory": 1.0} if workers > 1 else {"CPU": float(threads), **({"GPU": share} if share else {})}
    return min(places.limit or fits, fits), process, how


def _told(resources: Mapping[str, float], execution: Execution) -> str:
    each = f"{execution.threads_each} CPU" + ("s" if execution.threads_each > 1 else "")
    if execution.workers > 1:
        return f"{execution.workers} workers of {each}"
    return each + (f" and {resources['GPU']:g} GPU" if resources.get("GPU") else "")


def adopt_winner(sweep: Sweep, board: Board) -> Adopted | None:
    """Make the winner the stage's result; None where no trial has finished."""
    row = board.winner()
    if row is None:
        return None
    stage = sweep.recipe.stage(sweep.space.stage)
    _bring_home(sweep, row)
    adopted = Adopted(
        sweep=sweep.name, trial=row.number, trials=len(board.rows()), changes=row.changes,
        fingerprint=row.fingerprint, metrics=row.values,
    )  # fmt: skip
    adopt(sweep.store, note_of(sweep.recipe, stage, sweep.store, sweep.contents), adopted)
    return adopted


def _bring_home(sweep: Sweep, row: Row) -> None:
    """The trial's folder, as the stage's folder with its settings: whole or not at all."""
    home = sweep.store.folder(sweep.recipe.name, sweep.space.stage, row.fingerprint)
    if sweep.store.find(home) is not None:
        return
    sweep.store.origin.fetch_stage(sweep.folder / row.folder, checkpoints=None)
    draft = sweep.folder / f".{home.name}.{os.getpid()}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    ignored = shutil.ignore_patterns(".lock", "live", "tracked.json")
    shutil.copytree(sweep.folder / row.folder, draft, ignore=ignored, copy_function=_linked)
    if home.exists():  # begun by `train`, never finished
        home.rename(sweep.folder / f"replaced-{time.time_ns()}-{home.name}")
    os.replace(draft, home)
    sweep.store.origin.publish_stage(home)


def _linked(source: str, target: str) -> None:
    """A second name for a file that nothing changes any more; a copy where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
