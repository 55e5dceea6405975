"""Between the study and trackers: which trials are under way, which have ended, and how."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.identity import fingerprint, plain
from orchestrator.plan import PlanError
from orchestrator.store import StoreError
from orchestrator.sweep import Sweep
from orchestrator.sweep.about import About, counted
from orchestrator.sweep.board import Board, Proposal, Row
from orchestrator.sweep.shared import bring_trial
from orchestrator.sweep.told import range_of, scales_of
from orchestrator.sweep.tuning import UnderWay
from orchestrator.tracking.points import StageAt, TrialAt, flat
from orchestrator.tracking.trials import Ending, Standing, SweepAt, trial_tracking


@dataclass
class Following:
    """What trackers are told of a sweep.

    Attributes:
        keys: under which the trackers keep what they have of a trial; ``where`` is how each of them is looked at.
        over: whether the sweep has come to its end; whoever follows says so.
    """

    sweep: Sweep
    board: Board
    keys: Sequence[str] = ()
    where: Sequence[str] = ()
    over: bool = False
    _begun: set[int] = field(default_factory=set)
    _known: set[int] = field(default_factory=set)
    _settled: set[int] = field(default_factory=set)

    def begun(self, trial: UnderWay) -> None:
        """A trial begins, or goes on."""
        self._begun.add(trial.number)

    def look(self) -> tuple[Standing, list[TrialAt]]:
        """How far the sweep has come, and the trials that were not there before."""
        rows = self.board.rows()
        new = [row for row in rows if row.number not in self._known and (_over(row) or row.number in self._begun)]
        self._known |= {row.number for row in new}
        places = [self._at(row) for row in new]
        self._settle(rows)
        winner = self.board.winner()
        standing = Standing(
            endings={row.number: Ending(outcome=row.outcome, reason=row.reason) for row in rows
                     if row.number in self._settled},
            counts=counted(rows), best=winner.values if winner else {},
            ranges={scale.name: range_of(scale) for scale in scales_of(self.board.study)}, at=self._newest(),
        )  # fmt: skip
        return standing, [at for at in places if not self._has_all(at.folder)]

    def bring(self) -> None:
        """What the trials that are over have left, to this node, which need not have seen it, trackers or none."""
        self._settle(self.board.rows())

    def _settle(self, rows: Sequence[Row]) -> None:
        self._settled |= {row.number for row in rows if _over(row) and self._is_left(row)}

    def _at(self, row: Row) -> TrialAt:
        recipe, name, own = self.sweep.recipe, self.sweep.space.stage, f"trial{row.number:04d}"
        try:
            stage = self.sweep.planned(Proposal(number=row.number, changes=row.changes)).stage
        except PlanError:  # its settings do not go together; that is why it failed
            stage = recipe.stage(name)
        if row.folder.startswith(f"{own}-"):  # else it was not trained, or has another trial's result
            own = row.folder
        number = [each.name for each in recipe.stages].index(name)
        return TrialAt(number, stage, self.sweep.folder / own, trial=row.number, changes=row.changes)

    def _is_left(self, row: Row) -> bool:
        """Whether no process is at work in the trial's folder any more, so that its journal is complete."""
        if row.number in self._settled or not row.folder:
            return True
        folder, store = self.sweep.folder / row.folder, self.sweep.store
        if store.origin.place:
            try:
                return bring_trial(store, folder)
            except StoreError:  # it is asked again
                return False
        path = folder / ".lock"
        if not path.exists():
            return True
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def _has_all(self, folder: Path) -> bool:
        """Whether every tracker has had the trial to its end."""
        path = folder / "tracked.json"
        places = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return all(places.get(key, {}).get("outcome") for key in self.keys)

    def _newest(self) -> float:
        ends = [trial.datetime_complete for trial in self.board.study.get_trials(deepcopy=False)]
        return max((end.timestamp() for end in ends if end), default=0.0)


@contextmanager
def following_trials(
    sweep: Sweep, board: Board, about: About, sinks: Sequence[str], *, say: Callable[[str], None]
) -> Iterator[Following]:
    """Mirror the sweep to ``sinks`` while the body runs, and deliver the rest when it ends."""
    following = Following(sweep, board)
    stage = sweep.recipe.stage(sweep.space.stage)
    number = [each.name for each in sweep.recipe.stages].index(stage.name)
    known = fingerprint(sweep.recipe, stage, sweep.contents)
    at = StageAt(number, stage, sweep.store.folder(sweep.recipe.name, stage.name, known))
    where = SweepAt(name=sweep.name, folder=sweep.folder, stage=at, settings=_settings(sweep, about))
    tracking = trial_tracking(sweep.recipe, sweep.store, where, sinks, following.look, say=say)
    following.keys, following.where = [sink.key for sink in tracking.sinks], tracking.where
    tracking.start()
    error = ""
    try:
        yield following
    except Exception as failure:
        error = str(failure) or type(failure).__name__
        raise
    finally:
        tracking.over = following.over
        tracking.close(error)


def _settings(sweep: Sweep, about: About) -> dict[str, str]:
    found: dict[str, Any] = {
        "seed": sweep.recipe.seed, "stage": about.stage, "fingerprint": about.fingerprint, "parent": about.parent,
        "metrics": about.metrics, "modes": about.modes, "pick": about.pick, "sha256": about.sha256,
        "search": plain(sweep.search),
    }  # fmt: skip
    return flat(found)


def _over(row: Row) -> bool:
    return row.outcome != "interrupted"
