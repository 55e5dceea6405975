"""The winner of a sweep as a stage's own result: a note beside the stage, and a plan that follows from it.

``STORE/runs/RECIPE/STAGE-FINGERPRINT/adopted.json`` says which settings took the place of that stage's. Whoever
resolves the recipe against the store goes on from them: later stages start from the winner, under its fingerprint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.files import write_json
from orchestrator.identity import fingerprint
from orchestrator.override import override
from orchestrator.plan import Recipe, Stage
from orchestrator.store import Store, StoreError

NOTE = "adopted.json"


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """Whose settings a stage has.

    Attributes:
        sweep: name of the sweep, and the ``trial``'s number in it, of ``trials``.
        changes: dotted path -> value, as :func:`orchestrator.override.override` takes them.
        fingerprint: of the stage with these settings.
        metrics: what the sweep compared by.
    """

    sweep: str
    trial: int
    trials: int
    changes: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str
    metrics: Mapping[str, float] = field(default_factory=dict)


def base_of(recipe: Recipe, stage: Stage) -> Recipe:
    """``recipe`` with ``stage`` as it stands, not searched."""
    stages = tuple(replace(each, search=None) if each.name == stage.name else each for each in recipe.stages)
    return replace(recipe, stages=stages)


def note_of(recipe: Recipe, stage: Stage, store: Store, contents: Mapping[str, str]) -> Path:
    """Where it is noted whose settings ``stage`` has."""
    return store.folder(recipe.name, stage.name, fingerprint(recipe, stage, contents)) / NOTE


def adopt(store: Store, path: Path, adopted: Adopted) -> None:
    """Note it; an earlier note is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(adopted))
    store.origin.publish_files(path.parent, [path.name])


def read_note(path: Path) -> Adopted | None:
    """The note, or None where there is none. Raises :class:`StoreError` for one that cannot be read."""
    if not path.exists():
        return None
    try:
        return Adopted(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(f"{path}: not a note of an adopted trial ({error}); delete it to go without") from error


def with_adopted(
    recipe: Recipe, store: Store, contents: Mapping[str, str], *, before: str = ""
) -> tuple[Recipe, dict[str, Adopted]]:
    """``recipe`` with the settings that its stages have adopted, and by stage from which trial.

    Args:
        contents: source -> content hash of its shards.
        before: only stages that come before this one; all when empty.

    Raises:
        StoreError: a note no longer leads to the fingerprint it names.
    """
    found: dict[str, Adopted] = {}
    for name in [stage.name for stage in recipe.stages]:
        if name == before:
            break
        path = note_of(recipe, recipe.stage(name), store, contents)
        store.origin.fetch_stage(path.parent)
        adopted = read_note(path)
        if adopted is None:
            continue
        recipe = override(base_of(recipe, recipe.stage(name)), adopted.changes)
        reached = fingerprint(recipe, recipe.stage(name), contents)
        if reached != adopted.fingerprint:
            raise StoreError(
                f"{path}: trial {adopted.trial} of {adopted.sweep} leads to the fingerprint {reached}, but was "
                f"recorded as {adopted.fingerprint}; delete the note, and adopt again with `sweep --resume --adopt`"
            )
        found[name] = adopted
    return recipe, found
