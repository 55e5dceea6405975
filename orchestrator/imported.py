"""Weights that another recipe trained, taken into a stage: pinned by hash, strict in what fits, remapped by symbol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from models.remap import remap, split
from models.text import Alphabet
from orchestrator.identity import plain
from orchestrator.plan import Imported, Recipe, Stage
from orchestrator.preflight import Found, PreflightError
from orchestrator.trained import Trained, find_trained


def load_imported(task: nn.Module, stage: Stage, recipe: Recipe) -> Found:
    """Load the named parts into ``task``; says what became of each symbol where the alphabets differ.

    Raises :class:`PreflightError` where the weights are not the pinned ones or do not fit this recipe, and what
    :func:`orchestrator.trained.find_trained` raises where they cannot be read.
    """
    start = stage.start_from
    assert isinstance(start, Imported)
    trained = find_trained(Path(start.place).expanduser())
    where = f"stages.{stage.name}.start_from"
    if trained.sha256 != start.sha256:
        raise PreflightError(
            f"{where}: the weights in {start.place} have SHA-256 {trained.sha256}, the plan says "
            f"{start.sha256 or 'nothing'}; if they are the ones that are meant: --set {where}.sha256={trained.sha256}"
        )
    _refuse_other_network(where, trained, recipe, start.parts)
    theirs: Alphabet = trained.recipe.alphabet  # type: ignore[assignment]
    ours: Alphabet = recipe.alphabet  # type: ignore[assignment]
    says, warnings = f"{', '.join(start.parts)} of {start.place}, {trained.sha256[:12]}", []
    weights: Mapping[str, Mapping[str, Tensor]] = trained.weights
    if theirs.sha256 != ours.sha256:
        weights, told = _remapped(where, trained, recipe, allowed=start.remap)
        warnings.append(told)
    for part in start.parts:
        task.get_submodule(part).load_state_dict(weights[part])
    return Found(says=says, warnings=tuple(warnings))


def _refuse_other_network(where: str, trained: Trained, recipe: Recipe, parts: Sequence[str]) -> None:
    """What is loaded and the image preparation must be the same; only the number of classes may differ."""
    left_out = set(recipe.task.parts) - set(parts)
    found, wanted = (
        {key: _without_classes(value) for key, value in task.items() if key not in left_out}
        for task in (trained.fits["task"], plain(recipe.task))
    )
    if found != wanted:
        raise PreflightError(f"{where}: the weights are of {found}, this recipe's network is {wanted}")
    if trained.recipe.image.sha256 != recipe.image.sha256:
        raise PreflightError(
            f"{where}: the weights were trained on images prepared as {plain(trained.recipe.image)}, this recipe "
            f"prepares {plain(recipe.image)}; give the recipe the same image settings"
        )


def _without_classes(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _without_classes(value) for key, value in node.items() if key != "classes"}
    return node


def _remapped(where: str, trained: Trained, recipe: Recipe, *, allowed: bool) -> tuple[dict[str, Any], str]:
    """The weights with the head's rows moved to this recipe's alphabet, and what became of the symbols."""
    theirs, ours = trained.recipe.alphabet, recipe.alphabet
    kept, new = split(ours.symbols, theirs.symbols)  # type: ignore[attr-defined]
    _, lost = split(theirs.symbols, ours.symbols)  # type: ignore[attr-defined]
    told = f"{len(kept)} symbols kept {kept!r}, {len(new)} new {new!r}, {len(lost)} lost {lost!r}"
    if not allowed:
        raise PreflightError(
            f"{where}: the weights read another alphabet ({theirs.sha256[:12]}, this recipe's is {ours.sha256[:12]}); "
            f"carried over by symbol it would be: {told}. To do that: --set {where}.remap=true"
        )
    part, _, layer = recipe.task.head.partition(".")  # type: ignore[attr-defined]
    moved = remap(trained.weights[part], head=layer, source=theirs, target=ours)  # type: ignore[arg-type]
    return {**trained.weights, part: moved.state}, f"last layer carried over to another alphabet: {told}"
