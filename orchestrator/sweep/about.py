"""What a sweep's folder says of itself: enough to tell of it without the command that made it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna

from orchestrator.adoption import base_of
from orchestrator.files import write_json
from orchestrator.identity import fingerprint, plain
from orchestrator.override import from_plain
from orchestrator.plan import PlanError, Recipe, Stage
from orchestrator.store import Store, StoreError
from orchestrator.sweep import STUDY, Sweep
from orchestrator.sweep.board import Board, Row, storage_at
from orchestrator.sweep.shared import COPY
from orchestrator.sweep.space import Space

ABOUT = "sweep.json"


@dataclass(frozen=True, kw_only=True)
class About:
    """A sweep, as plain data.

    Attributes:
        plan: the recipe, in which the stage has this sweep as its search; ``fingerprint`` is that of the stage as it
            stands.
        parent: of the stage, in the same store: ``stage``, ``fingerprint`` and the ``checkpoint`` that trials start
            from, relative to its folder; empty where trials start from elsewhere.
        database: where the study lies, without credentials; empty for the file in the folder.
    """

    sweep: str
    stage: str
    fingerprint: str
    space: str
    sha256: str
    metrics: tuple[str, ...]
    modes: tuple[str, ...]
    pick: str
    plan: Mapping[str, Any]
    parent: Mapping[str, str] = field(default_factory=dict)
    database: str = ""


def write_about(sweep: Sweep) -> About:
    """Say of the sweep what it is, in its folder; what was said before is replaced."""
    stage, space = sweep.recipe.stage(sweep.space.stage), sweep.space
    own = sweep.url == f"sqlite:///{sweep.folder / STUDY}"
    about = About(
        sweep=sweep.name, stage=stage.name, fingerprint=fingerprint(sweep.recipe, stage, sweep.contents),
        space=space.name, sha256=space.sha256, metrics=space.metrics, modes=space.modes, pick=space.pick,
        plan=plain(_searched(sweep)), parent=_parent(sweep, stage),
        database="" if own else masked(sweep.url),
    )  # fmt: skip
    write_json(sweep.folder / ABOUT, asdict(about))
    sweep.store.origin.publish_files(sweep.folder, [ABOUT])
    return about


def read_about(folder: Path) -> About:
    """What the sweep in ``folder`` says of itself. Raises :class:`StoreError` where there is none."""
    path = folder / ABOUT
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return About(**data | {name: tuple(data[name]) for name in ("metrics", "modes")})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); give a sweep's folder of the store") from error


def opened_board(folder: Path, about: About, url: str = "") -> Board:
    """The study of the sweep in ``folder``, to look at.

    Args:
        url: database of the study, where it does not lie in the folder.

    Raises:
        StoreError: it cannot be opened, or belongs to another version.
    """
    if about.database and not url:
        raise StoreError(f"{folder}: its study lies in {about.database}; give that address with --storage")
    if not url and not (folder / STUDY).exists():
        raise StoreError(f"{folder / STUDY}: there is no study; the sweep has not begun")
    space = Space(
        name=about.space, recipe=str(about.plan.get("name", "")), stage=about.stage, metrics=about.metrics,
        modes=about.modes, pick=about.pick, suggest=lambda trial: None, sha256=about.sha256,
    )  # fmt: skip
    try:
        recipe = from_plain(about.plan)
    except (PlanError, ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{folder / ABOUT}: of another version ({error}); look at it with that one") from error
    stage = recipe.stage(about.stage)
    assert stage.search is not None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.load_study(study_name=about.sweep, storage=storage_at(url or f"sqlite:///{folder / STUDY}"))
    except Exception as error:  # of SQLAlchemy, of a driver for a database, of Optuna
        raise StoreError(f"{folder}: the study cannot be opened: {type(error).__name__}: {error}") from error
    return Board(study, space, base_of(recipe, stage), stage.search)


def sweeps_in(store: Store) -> Iterator[tuple[About, dict[str, int], Row | None]]:
    """Every sweep of a store, oldest first: how many of its trials ended how, and the winner so far.

    Of one whose study lies in a database elsewhere neither is known here.
    """
    root = store.root / "sweeps"
    for name in store.origin.names(root):
        if name.rpartition("/")[2] in (ABOUT, COPY):
            store.origin.pull(root / name)
    study = COPY if store.origin.place else STUDY
    for path in sorted(root.glob(f"*/{ABOUT}"), key=lambda path: path.stat().st_mtime):
        about = read_about(path.parent)
        if about.database or not (path.parent / study).exists():
            yield about, {}, None
            continue
        board = opened_board(path.parent, about, f"sqlite:///{path.parent / study}")
        yield about, counted(board.rows()), board.winner()


def counted(rows: Sequence[Row]) -> dict[str, int]:
    """How many of the trials that were proposed had each outcome."""
    outcomes = [row.outcome for row in rows]
    return {name: outcomes.count(name) for name in ("finished", "pruned", "failed", "interrupted")}


def masked(url: str) -> str:
    """An address of a database without its credentials."""
    return re.sub(r"//[^/@\s]*@", "//***@", url.partition("?")[0])


def _searched(sweep: Sweep) -> Recipe:
    stages = (replace(each, search=sweep.search) if each.name == sweep.space.stage else each
              for each in sweep.recipe.stages)  # fmt: skip
    return replace(sweep.recipe, stages=tuple(stages))


def _parent(sweep: Sweep, stage: Stage) -> dict[str, str]:
    above = sweep.recipe.parent(stage)
    if above is None:
        return {}
    known = fingerprint(sweep.recipe, above, sweep.contents)
    record = sweep.store.read(sweep.store.folder(sweep.recipe.name, above.name, known))
    which = getattr(stage.start_from, "which", "best")
    checkpoint = (record.last if which == "last" else record.checkpoint) if record else ""
    return {"stage": above.name, "fingerprint": known, "checkpoint": checkpoint}
