"""Change fields of a plan by dotted path, typed: the language of ``--set``, override files and search spaces.

A value may be given as itself or as text; the field's type decides how text is read, so ``7e-4`` is a number for a
float and an error for an int. A field that holds one of several classes (a schedule) is replaced as a whole:
``stages.finetune.schedule=Cosine`` or ``{"is": "Cosine", "warmup": 0.1}``.
"""

from __future__ import annotations

import collections.abc
import difflib
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from orchestrator import plan
from orchestrator.identity import named, path_of
from orchestrator.plan import PlanError

T = TypeVar("T")
PLAIN = (int, float, str)


def override(plan: T, changes: Mapping[str, Any]) -> T:
    """Return ``plan`` with each ``{"stages.guide.optim.lr": 1e-4}`` applied, all at once.

    Raises :class:`PlanError` naming the key, what is allowed and the nearest match.
    """
    tree: dict[str, Any] = {}
    for path, value in changes.items():
        _plant(tree, str(path), value)
    return _changed(plan, tree, "", type(plan))


def from_plain(data: Any) -> Any:
    """The plan that :func:`orchestrator.identity.plain` wrote. Raises :class:`PlanError` where it does not fit."""
    if not isinstance(data, dict) or data.get("is") != "orchestrator.plan.Recipe":
        raise PlanError('not a plan: expected {"is": "orchestrator.plan.Recipe", ...}, as `show RECIPE` writes it')
    return _instance(data, "")


class _Leaf:
    """A value to set, as against a branch of further keys."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _plant(tree: dict[str, Any], path: str, value: Any) -> None:
    keys = path.split(".")
    for key in keys[:-1]:
        branch = tree.setdefault(key, {})
        if isinstance(branch, _Leaf):
            raise PlanError(f"{path}: {key!r} is set as a whole and in part; do one of the two")
        tree = branch
    if isinstance(value, Mapping) and "is" not in value:
        for key, item in value.items():
            _plant(tree, f"{keys[-1]}.{key}", item)
        return
    if keys[-1] in tree:
        raise PlanError(f"{path}: set twice, or as a whole and in part; do one of the two")
    tree[keys[-1]] = _Leaf(value)


def _changed(node: Any, tree: Mapping[str, Any], path: str, kind: Any) -> Any:
    """``node``, which is declared as ``kind``, with the changes in ``tree``."""
    children = _children(node, path)
    new: dict[str, Any] = {}
    for key, branch in tree.items():
        here = f"{path}.{key}" if path else key
        if key not in children:
            new[key] = _added(node, key, branch, here, kind)
        elif isinstance(branch, _Leaf):
            new[key] = _coerced(branch.value, _hint(node, key, kind), here, children[key])
        else:
            new[key] = _changed(children[key], branch, here, _hint(node, key, kind))
    return _rebuilt(node, new, path)


def _rebuilt(node: Any, new: Mapping[str, Any], path: str) -> Any:
    if is_dataclass(node) and not isinstance(node, type):
        try:
            return replace(node, **new)
        except ValueError as error:
            raise PlanError(f"{path}: {error}" if path else str(error)) from error
    if isinstance(node, tuple):
        return tuple(new.get(item.name, item) for item in node)
    return {key: value for key, value in {**node, **new}.items() if value is not None}


def _added(node: Any, key: str, branch: Any, path: str, kind: Any) -> Any:
    """A new entry of a mapping of plain values or lists of them (a share, a gate, patterns); nothing else may grow."""
    entry = get_args(kind)[-1] if isinstance(node, Mapping) else None
    grows = entry in PLAIN or (get_origin(entry) is tuple and get_args(entry)[0] in PLAIN)
    if not grows or not isinstance(branch, _Leaf):
        children = _children(node, path)
        close = difflib.get_close_matches(key, children, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(children) or 'nothing'}"
        raise PlanError(f"{path}: {type(node).__name__} has no {key!r}; {hint}")
    return _coerced(branch.value, get_args(kind)[-1], path, None)


def _children(node: Any, path: str) -> Mapping[str, Any]:
    if is_dataclass(node):
        return {field.name: getattr(node, field.name) for field in fields(node)}
    if isinstance(node, tuple) and node and all(hasattr(item, "name") for item in node):
        return {item.name: item for item in node}
    if isinstance(node, Mapping):
        return node
    raise PlanError(f"{path}: cannot look inside {node!r} ({type(node).__name__}); set it as a whole")


def _hint(node: Any, key: str, kind: Any) -> Any:
    """The declared type of an entry of ``node``, which itself is declared as ``kind``."""
    if is_dataclass(node):
        return get_type_hints(type(node))[key]
    if isinstance(node, Mapping):
        return get_args(kind)[-1] | None  # None takes the entry out
    return get_args(kind)[0]


def _coerced(value: Any, hint: Any, path: str, old: Any) -> Any:
    """``value`` as the field's type wants it, or a :class:`PlanError` that says what it wants."""
    origin = get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _either(value, get_args(hint), path, old)
    if origin is Literal:
        same = lambda choice: type(value) is type(choice) and value == choice  # noqa: E731 - True is not 1
        match = [choice for choice in get_args(hint) if same(choice) or value == str(choice)]
        return match[0] if match else _refuse(path, " or ".join(map(repr, get_args(hint))), value)
    if origin is tuple:
        items = _parsed(value) if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            return _refuse(path, "a list", value)
        return tuple(_coerced(item, get_args(hint)[0], f"{path}[{i}]", None) for i, item in enumerate(items))
    if origin is collections.abc.Mapping:
        if not isinstance(value, Mapping):
            return _refuse(path, "a mapping", value)
        return {key: _coerced(item, get_args(hint)[1], f"{path}.{key}", None) for key, item in value.items()}
    if origin is collections.abc.Callable:
        return _callable(value, path, old)
    return _scalar(value, hint, path, old)


def _callable(value: Any, path: str, old: Any) -> Any:
    """A function by its import path, or one with settings: an instance, as ``{"is": CLASS, ...}``."""
    spelled = _spelled(value) if isinstance(value, str) else value
    if isinstance(spelled, Mapping) and "is" in spelled:
        known = named(str(spelled["is"])) if "." in str(spelled["is"]) else None
        plain_function = known is not None and not isinstance(known, type) and len(spelled) == 1
        spelled = known if plain_function else _instance(spelled, path, near=old)
    return spelled if callable(spelled) and not isinstance(spelled, type) else _refuse(path, "a function", value)


def _scalar(value: Any, hint: Any, path: str, old: Any) -> Any:
    readers = {bool: _bool, int: _int, float: _float, str: _str, type(None): _none}
    if hint in readers:
        return readers[hint](value, path)
    spelled = _spelled(value) if isinstance(value, str) else value
    made = _instance(spelled, path, near=old) if isinstance(spelled, Mapping) and "is" in spelled else spelled
    if is_dataclass(made) and not isinstance(made, type) and _is_a(made, hint):
        return made
    return _refuse(path, f"a {getattr(hint, '__name__', hint)}, as {{'is': NAME, ...}}", value)


def _spelled(text: str) -> Any:
    """``Cosine`` or ``{"is": "Cosine", "warmup": 0.1}``, as data."""
    try:
        data = json.loads(text)
    except ValueError:
        return {"is": text}
    return data if isinstance(data, Mapping) else {"is": text}


def _is_a(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of the class, or has all that the protocol asks for."""
    if not isinstance(hint, type):
        return True
    if typing.Protocol in hint.__bases__:
        return all(hasattr(value, name) for name in dir(hint) if not name.startswith("_"))
    return isinstance(value, hint)


def _either(value: Any, hints: tuple[Any, ...], path: str, old: Any) -> Any:
    errors = []
    for hint in sorted(hints, key=lambda each: each is not type(None)):
        try:
            return _coerced(value, hint, path, old)
        except PlanError as error:
            errors.append(error)
    raise errors[-1]


def _instance(data: Mapping[str, Any], path: str, near: Any = None) -> Any:
    """Build the dataclass that ``data["is"]`` names: by its full path, or its name beside the present value's class.

    Where nothing is at present, the name may be one that ``plan.py`` offers.
    """
    name = data["is"]
    if not isinstance(name, str):
        return _refuse(path, "the name of a class", name)
    if "." not in name:
        if near is None and not hasattr(plan, name):
            return _refuse(path, "a full import path such as 'datasets.folder.LabelledFolder'", name)
        name = f"{path_of(type(near)).rpartition('.')[0] if near is not None else plan.__name__}.{name}"
    kind = named(name)
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise PlanError(f"{path}: {name!r} is not a part of a plan")
    hints, known = get_type_hints(kind), {field.name for field in fields(kind)}
    values = {}
    for key, item in data.items():
        if key == "is":
            continue
        here = f"{path}.{key}" if path else key
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            raise PlanError(f"{here}: {kind.__name__} has no {key!r}; " + (
                f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(sorted(known))}"))  # fmt: skip
        values[key] = _coerced(item, hints[key], here, None)
    try:
        return kind(**values)
    except TypeError as error:
        raise PlanError(f"{path or kind.__name__}: {error}") from error
    except ValueError as error:
        raise PlanError(f"{path}: {error}" if path else str(error)) from error


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return [part.strip() for part in text.split(",")]


def _bool(value: Any, path: str) -> bool:
    if isinstance(value, bool):
        return value
    spelled = {"true": True, "false": False}
    if isinstance(value, str) and value.lower() in spelled:
        return spelled[value.lower()]
    return _refuse(path, "bool (true or false)", value)


def _int(value: Any, path: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            return int(value.replace("_", ""))
        except ValueError:
            pass
    return _refuse(path, "int", value)


def _float(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return _refuse(path, "float", value)
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return _refuse(path, "float", value)
    return number if math.isfinite(number) else _refuse(path, "finite float", value)


def _str(value: Any, path: str) -> str:
    return value if isinstance(value, str) else _refuse(path, "str", value)


def _none(value: Any, path: str) -> None:
    if value is not None and not (isinstance(value, str) and value.lower() in ("none", "null")):
        _refuse(path, "none", value)


def _refuse(path: str, expected: str, value: Any) -> Any:
    raise PlanError(f"{path}: expected {expected}, got {value!r} ({type(value).__name__})")
