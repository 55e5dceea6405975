"""A stage's identity: the same plan on the same data always lands in the same place, a changed one never does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

from orchestrator import plan
from orchestrator.plan import PlanError, Recipe, Stage

LATER: Mapping[str, Mapping[str, Any]] = {  # settings that came when stages had been recorded, and what they were then
    "orchestrator.plan.Optim": {"factors": {}},
    "orchestrator.plan.Term": {"ramp": 0},
    "orchestrator.plan.Stage": {
        "weigh": None,
        "mining": None,
        "adversary": None,
        "balance": None,
        "scores": [],
        "freeze_norm": False,
        "wear": None,
    },
    "datasets.plates_tracks.PlateTracks": {"register": None},
    "datasets.pair_list.PairList": {"register": None},
}
OWN_PACKAGES = ("models", "datasets", "orchestrator", "tune_spaces")


def plain(value: Any) -> Any:
    """``value`` as JSON data. Functions and classes become their import path."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"is": path_of(type(value))} | {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if callable(value):
        return path_of(value)
    return value


def named(path: str) -> Any:
    """The class or function at an import path that :func:`plain` wrote. Only the project's own packages are opened."""
    module, _, name = path.rpartition(".")
    if module.split(".")[0] not in OWN_PACKAGES:
        raise PlanError(f"{path!r} is not in {', '.join(OWN_PACKAGES)}; a plan may name nothing else")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise PlanError(f"{path!r} cannot be found: {error}") from error
    if str(getattr(found, "__module__", "")).split(".")[0] not in OWN_PACKAGES:
        raise PlanError(f"{path!r} only passes through there; a plan may name nothing that comes from elsewhere")
    return found


def fingerprint(recipe: Recipe, stage: Stage, data: Mapping[str, str]) -> str:
    """Twelve hex digits that change when what this stage learns, learns from or starts from changes.

    A gate or a floor only judges, so that lowering one trains nothing again; nor does moving imported weights. A search
    finds settings that are part of the identity, and is none itself.

    Args:
        data: source name -> content hash of its shards; a source that is not yet ingested stands for its settings.
    """
    parent = recipe.parent(stage)
    identity = {
        "seed": recipe.seed,
        "task": plain(recipe.task),
        "image": recipe.image.sha256,
        "alphabet": recipe.alphabet.sha256,
        "stage": _decisive(plain(stage)),
        "data": {name: data.get(name) or _as_ever(plain(recipe.sources[name])) for name in stage.sources},
        "start_from": fingerprint(recipe, parent, data) if parent else None,
    }
    shares = list(stage.data.shares)
    if shares != sorted(shares):  # the first is the primary source, but digest() forgets the order of keys
        identity["shares"] = shares
    return digest(identity)[:12]


def _decisive(stage: Any) -> Any:
    """A stage as JSON data, without what decides only whether it may run or where something lies."""
    start = stage["start_from"]
    kept = {key: value for key, value in start.items() if key not in ("floor", "place")} if start else start
    return _as_ever(
        {key: value for key, value in stage.items() if key not in ("gate", "search")} | {"start_from": kept}
    )


def _as_ever(data: Any) -> Any:
    """JSON data without later settings that are not used: a stage that does without them is what it always was."""
    if isinstance(data, list):
        return [_as_ever(item) for item in data]
    if not isinstance(data, dict):
        return data
    unused = LATER.get(str(data.get("is")), {})
    return {key: _as_ever(item) for key, item in data.items() if key not in unused or item != unused[key]}


def digest(data: Any) -> str:
    """SHA-256 of JSON data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def path_of(thing: Any) -> str:
    """Where :func:`named` finds a class or function. Raises :class:`PlanError` where it could not."""
    name = getattr(thing, "__qualname__", repr(thing))
    if not name.isidentifier():  # a lambda, a method, a partial: named() could not find it again
        raise PlanError(f"{thing.__module__}.{name} has no import path; plans may only name module-level functions")
    # What plan.py offers goes by its name wherever it is written: moving code must not change what a stage is.
    return f"{plan.__name__ if getattr(plan, name, None) is thing else thing.__module__}.{name}"
