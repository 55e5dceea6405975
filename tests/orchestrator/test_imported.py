"""Weights from another recipe: pinned, judged before training, remapped by symbol only when asked for."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from small import Quiet, shards_of, small_recipe

from orchestrator.execution import Execution
from orchestrator.ingest import ingest, make_here
from orchestrator.override import override
from orchestrator.pipeline import Machine, train_recipe
from orchestrator.plan import Imported, PlanError
from orchestrator.preflight import PreflightError
from orchestrator.ranks import Ranks
from orchestrator.store import Store
from orchestrator.trained import find_trained


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> dict[str, Path]:
    return shards_of(small_recipe(), tmp_path_factory.mktemp("shards"))


def run(recipe, root, shards, *, accept=(), only=()) -> bool:
    execution = Execution(device="cpu", accept=accept)
    machine = Machine.of(execution, Ranks())
    return train_recipe(recipe, Store(root), shards, execution, machine=machine, watch=Quiet(), only=only)


def record_of(root: Path, stage: str) -> dict:
    [path] = root.glob(f"runs/small/{stage}-*/record.json")
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    assert run(small_recipe(), root, shards, only=["pretrain"])
    [folder] = root.glob("runs/small/pretrain-*")
    return folder


def importing(place: Path, **changes):
    """The fine-tuning stage alone, on weights from elsewhere."""
    given = {"sha256": find_trained(place).sha256, "floor": {"worn/ned": 0.0}} | changes
    recipe = small_recipe()
    stage = replace(
        recipe.stage("finetune"), epochs=1, start_from=Imported(place=str(place), parts=("cnn", "rnn"), **given)
    )
    return replace(recipe, stages=(stage,))


def test_imported_weights_are_loaded_judged_and_recorded(trained, shards, tmp_path):
    assert run(importing(trained), tmp_path, shards)
    record = record_of(tmp_path, "finetune")
    assert [line["check"] for line in record["preflight"]].count("hashes") == 2
    assert record["before"]["worn/n"] == 24 and "worn/ned" in record["preflight"][-1]["found"]


def test_weights_that_are_not_the_pinned_ones_are_refused_with_their_hash(trained, shards, tmp_path):
    sha256 = find_trained(trained).sha256
    with pytest.raises(
        PreflightError, match=rf"the plan says nothing; .*--set stages.finetune.start_from.sha256={sha256}"
    ):
        run(importing(trained, sha256=""), tmp_path, shards)


def test_moving_imported_weights_changes_no_fingerprint_but_other_weights_do(trained, tmp_path):
    from orchestrator.identity import fingerprint

    moved = tmp_path / "elsewhere"
    shutil.copytree(trained, moved)
    here, there = importing(trained), importing(moved)
    other = importing(trained, sha256="0" * 64)
    prints = [fingerprint(recipe, recipe.stages[0], {}) for recipe in (here, there, other)]
    assert prints[0] == prints[1] != prints[2]


def test_imported_weights_need_a_floor():
    with pytest.raises(PlanError, match=r"Imported\.floor: how many metrics"):
        Imported(place="x", sha256="", parts=("cnn",), floor={})


def with_alphabet(recipe, symbols: str):
    return override(recipe, {"alphabet.symbols": symbols, "task.recognizer.classes": len(symbols) + 1})


def other_letters(shards, store: Path, symbols: str) -> dict[str, Path]:
    recipe = with_alphabet(small_recipe(), symbols)
    return {
        name: ingest(
            source, None, name=name, image=recipe.image, alphabet=recipe.alphabet, frames=recipe.task.frames,
            store=store, make=make_here,
        )
        for name, source in recipe.sources.items()
    }  # fmt: skip


def test_another_alphabet_is_refused_with_its_remap_and_carried_over_by_symbol_when_asked_for(
    trained, shards, tmp_path
):
    symbols = small_recipe().alphabet.symbols[::-1].replace("Z", "\u00e9")
    others = other_letters(shards, tmp_path / "shards", symbols)
    with pytest.raises(
        PreflightError, match=r"61 symbols kept .* 1 new 'é', 1 lost 'Z'\. To do that: --set .*remap=true"
    ):
        run(with_alphabet(importing(trained), symbols), tmp_path, others)
    assert run(with_alphabet(importing(trained, remap=True), symbols), tmp_path, others)
    record = record_of(tmp_path, "finetune")
    assert any("61 symbols kept" in warning for warning in record["warnings"])


def test_weights_of_another_network_or_image_are_refused(trained, shards, tmp_path):
    wider = override(importing(trained), {"task.recognizer.hidden": 12})
    with pytest.raises(
        PreflightError, match=r"the weights are of .*'hidden': 8.*, this recipe's network is .*'hidden': 12"
    ):
        run(wider, tmp_path, shards)
