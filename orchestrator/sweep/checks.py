"""Before the first trial: a space must hold the settings as they stand, be legal all over, and be able to matter.

Every setting is taken to each end of its range, alone, and the stage's own checks are run there: on the plan (an
illegal value, more warm-up than epochs, a term that the stage does not name) and on a real batch with the parent's
weights (a hard clip under the floor lets no gradient through).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.execution import Execution
from orchestrator.identity import fingerprint
from orchestrator.limits import PlanError
from orchestrator.machine import Machine
from orchestrator.override import override
from orchestrator.plan import Recipe
from orchestrator.preflight import PreflightError
from orchestrator.ranks import Ranks
from orchestrator.search import rungs_of
from orchestrator.shards import Shards
from orchestrator.sweep import Sweep
from orchestrator.sweep.space import Probe, Range, Space, changes_of, current
from orchestrator.trials import check_trial

DRAWN = 64  # random suggestions that must be legal, most of them


def check_space(sweep: Sweep, execution: Execution, say: Callable[[str], None]) -> None:
    """Run all checks. Raises :class:`PlanError` naming the setting, the value and what is wrong with it there."""
    space, recipe = sweep.space, sweep.recipe
    known = check_current(space, recipe)
    rungs_of(sweep.search.prune if space.single else None, recipe.stage(space.stage))
    if sweep.search.prune is not None and not space.single:
        say(f"{space.name}: compares by {len(space.metrics)} metrics, so no trial is cut short")
    ends = list(ends_of(space, recipe, known))
    for path, value, changed in ends:
        check_matters(path, value, changed, sweep, execution)
    legal = check_drawn(space, recipe)
    told = len({path for path, _, _ in ends})
    say(f"{space.name}: {told} settings, legal and with gradient at {len(ends)} ends; {legal} of {DRAWN} draws legal")


def check_current(space: Space, recipe: Recipe) -> Probe:
    """The settings as they stand, as a suggestion that changes nothing. Raises :class:`PlanError` where it would."""
    known = current(space, recipe)
    changes = changes_of(space, known, recipe)
    stage = recipe.stage(space.stage)
    same = override(recipe, changes)
    if fingerprint(same, same.stage(stage.name), {}) != fingerprint(recipe, stage, {}):
        raise PlanError(
            f"tune_spaces/{space.name}.py: with the settings as they stand it would still change the plan: {changes}. "
            "What space() returns must follow from its suggestions, and leave the present settings alone"
        )
    return known


def ends_of(space: Space, recipe: Recipe, known: Probe) -> Iterator[tuple[str, Any, Recipe]]:
    """Each setting at each end of its range, or choice, with the others as they stand, and the plan that it makes.

    A setting that only some choices have (the warm-up of a schedule) is looked at under each of these.

    Raises:
        PlanError: a plan that cannot be.
    """
    seen: set[tuple[str, Any]] = set()
    waiting: list[Mapping[str, Any]] = [{}]
    while waiting:
        fixed = waiting.pop()
        probe = Probe(lambda path, of, fixed=fixed: _chosen(path, of, fixed, known.params))  # type: ignore[misc]
        changes = changes_of(space, probe, recipe)
        if fixed:
            path, value = list(fixed.items())[-1]
            yield path, value, _legal(space, recipe, changes, path, value)
        for path, of in probe.ranges.items():
            for value in of.choices or (of.low, of.high):
                if (path, repr(value)) not in seen:
                    seen.add((path, repr(value)))
                    parents = {key: each for key, each in fixed.items() if path not in known.params}
                    waiting.append({**parents, path: value})


def _chosen(path: str, of: Range, fixed: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
    if path in fixed:
        return fixed[path]
    if path in known and (not of.choices or known[path] in of.choices):
        return known[path]
    return of.choices[0] if of.choices else of.low


def _legal(space: Space, recipe: Recipe, changes: Mapping[str, Any], path: str, value: Any) -> Recipe:
    try:
        return override(recipe, changes)
    except PlanError as error:
        raise PlanError(f"tune_spaces/{space.name}.py: {path} at {value!r} makes no plan: {error}") from error


def check_matters(path: str, value: Any, changed: Recipe, sweep: Sweep, execution: Execution) -> None:
    """That the stage can be trained with a setting at this value: its own checks, on the parent's weights.

    Raises :class:`PlanError` with what they refuse.
    """
    stage = changed.stage(sweep.space.stage)
    shards = {name: Shards.open(Path(folder), verify=False) for name, folder in sweep.shards.items()}
    how = replace(execution, workers=0)
    try:
        check_trial(
            changed, stage, sweep.store, shards, how, machine=Machine.of(how, Ranks()), folder=sweep.folder
        )  # fmt: skip
    except PreflightError as error:
        raise PlanError(
            f"tune_spaces/{sweep.space.name}.py: {path} at {value!r}, the other settings as they stand, cannot matter: "
            f"{error}. Narrow the range"
        ) from error


def check_drawn(space: Space, recipe: Recipe) -> int:
    """How many of some random suggestions are legal together. Raises :class:`PlanError` where fewer than half are."""
    draw, errors = random.Random(recipe.seed), []
    for _ in range(DRAWN):
        probe = Probe(lambda path, of: _drawn(of, draw))
        try:
            override(recipe, changes_of(space, probe, recipe))
        except PlanError as error:
            errors.append(str(error))
    if 2 * len(errors) > DRAWN:
        raise PlanError(
            f"tune_spaces/{space.name}.py: {len(errors)} of {DRAWN} random suggestions make no plan: {errors[0]}"
        )
    return DRAWN - len(errors)


def _drawn(of: Range, draw: random.Random) -> Any:
    if of.choices:
        return draw.choice(of.choices)
    if of.whole:
        return draw.randint(int(of.low), int(of.high))
    return of.low * (of.high / of.low) ** draw.random() if of.log else draw.uniform(of.low, of.high)
