"""Sweeps whose trials nobody trained: outcomes and values as they are given, in a real study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from small import small_recipe
from tracked_stores import write_lines

from orchestrator.adoption import base_of
from orchestrator.identity import fingerprint, plain
from orchestrator.plan import Asha, Search
from orchestrator.store import Store
from orchestrator.sweep import STUDY, Sweep
from orchestrator.sweep.about import write_about
from orchestrator.sweep.board import Board, Facts, Proposal
from orchestrator.sweep.space import Space

CONTENTS = {"rendered": "0" * 64, "worn": "1" * 64}
EPOCHS = 6


def suggest(trial: Any) -> None:
    trial.suggest_float("stages.finetune.optim.lr", 1e-5, 1e-2, log=True)
    if trial.suggest_categorical("stages.finetune.schedule", ["Constant", "Cosine"]) == "Cosine":
        trial.suggest_float("stages.finetune.schedule.warmup", 0.0, 0.3)


def sweep_in(
    root: Path, *, trials: int = 8, metrics: Sequence[str] = ("worn/cer",), modes: Sequence[str] = ("min",),
    pick: str = "first", suggests: Any = suggest,
) -> Sweep:  # fmt: skip
    """A sweep of the small recipe's last stage, with nothing in it yet."""
    recipe = small_recipe(**{"stages.finetune.epochs": EPOCHS})
    base = base_of(recipe, recipe.stage("finetune"))
    space = Space(name="tried", recipe="small", stage="finetune", metrics=tuple(metrics), modes=tuple(modes),
                  pick=pick, suggest=suggests, sha256="5" * 64)  # fmt: skip
    known = fingerprint(base, base.stage("finetune"), CONTENTS)
    folder = root / "sweeps" / f"tried-{known}"
    search = Search(space="tried", trials=trials, sampler="random", prune=Asha(first=1, factor=2))
    sweep = Sweep(base, space, search, Store(root), {}, CONTENTS, folder, f"sqlite:///{folder / STUDY}")
    folder.mkdir(parents=True)
    write_about(sweep)
    return sweep


def begin(sweep: Sweep, board: Board) -> Proposal:
    """The next trial, under way, with a plan in its folder as training leaves it."""
    proposal = board.next()
    planned = sweep.planned(proposal)
    facts = Facts(fingerprint=planned.fingerprint, folder=planned.folder.name, planned=EPOCHS)
    board.note(proposal.number, proposal.changes, facts)
    write_lines(planned.folder / "plan.json", plain(planned.recipe))
    return proposal


def measure(sweep: Sweep, board: Board, proposal: Proposal, curve: Sequence[float], *, first: int = 1,
            told: bool = True) -> None:  # fmt: skip
    """A value after each epoch from ``first``, in the journals and, where it was ``told``, in the study."""
    folder, name = sweep.planned(proposal).folder, sweep.space.metrics[0]
    for epoch, value in enumerate(curve, start=first):
        if told:
            board.reached(proposal.number, epoch, value, ())
        at = {"epoch": epoch, "step": 4 * epoch}
        write_lines(folder / "speed.jsonl", {"kind": "epoch", "time": 1e9 + epoch, "seconds": 0.5, **at})
        write_lines(folder / "metrics.jsonl", {"kind": "epoch", "lr": 1e-3, **at},
                    {"kind": "validation", name: value if math.isfinite(value) else None, **at})  # fmt: skip


def end(sweep: Sweep, board: Board, proposal: Proposal, outcome: str, values: Mapping[str, float], *,
        epochs: int = EPOCHS, reason: str = "") -> None:  # fmt: skip
    planned = sweep.planned(proposal)
    facts = Facts(reason=reason, fingerprint=planned.fingerprint, folder=planned.folder.name, epochs=epochs,
                  planned=EPOCHS, first_step_s=0.2, seconds=3.0)  # fmt: skip
    board.end(proposal.number, outcome, values, facts)


def made_sweep(root: Path, *, trials: int = 8, reason: str = "worse than others after epoch 2") -> tuple[Sweep, Board]:
    """Trial 0 at 0.5; then, in turn, finished with CER falling from 0.40, pruned at epoch 2, failed and finished."""
    sweep = sweep_in(root, trials=trials)
    board = sweep.board(resume=False)
    for number in range(trials):
        proposal = begin(sweep, board)
        last = 0.5 if number == 0 else 0.4 / number
        kind = "finished" if number == 0 else ("finished", "pruned", "failed", "finished")[(number - 1) % 4]
        curve = [last * (1 + 1 / epoch) for epoch in range(1, EPOCHS)] + [last]
        if kind == "finished":
            measure(sweep, board, proposal, curve)
            end(sweep, board, proposal, kind, {"worn/cer": last})
        elif kind == "pruned":
            measure(sweep, board, proposal, curve[:2])
            end(sweep, board, proposal, kind, {}, epochs=2, reason=reason)
        else:
            end(sweep, board, proposal, kind, {}, epochs=0, reason="ValueError: <b>no</b> & [never](x)")
    return sweep, board
