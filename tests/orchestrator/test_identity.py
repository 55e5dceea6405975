"""What a stage's fingerprint follows, the golden text of every recipe, and that a plan holds no idle setting."""

import ast
import functools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

import orchestrator.recipes
from datasets.plates_tracks import PlateTracks
from datasets.register import Register
from models.losses.text import ctc, infeasible
from orchestrator import identity, plan
from orchestrator.execution import Execution
from orchestrator.identity import digest, fingerprint, plain
from orchestrator.override import from_plain, override
from orchestrator.plan import Mix, PlanError
from orchestrator.recipes.words import recipe

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
WORDS = recipe()
ALL = {"pretrain", "finetune_frozen", "finetune"}


def fingerprints(plan, data=None):
    return {stage.name: fingerprint(plan, stage, data or {}) for stage in plan.stages}


def moved(changes=None, *, data=None, base=WORDS, base_data=None):
    """The stages whose fingerprint is another after ``changes`` to the plan or its data."""
    before = fingerprints(base, base_data)
    after = fingerprints(override(base, changes or {}), data or base_data)
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"stages.finetune.optim.lr": 1e-3}, {"finetune"}),  # not those that ran before it
        ({"stages.finetune_frozen.epochs": 6}, {"finetune_frozen", "finetune"}),
        ({"stages.pretrain.augment.blur": 0.5}, ALL),  # all that descend from it
        ({"stages.pretrain.terms.ctc.loss": infeasible}, ALL),
        ({"stages.finetune.start_from.which": "last"}, {"finetune"}),
        ({"stages.finetune.start_from.stage": "pretrain"}, {"finetune"}),
        ({"seed": 1}, ALL),
        ({"task.recognizer.hidden": 8}, ALL),
        ({"image.max_width": 100}, ALL),
        ({"alphabet.unicode": "NFKC"}, ALL),
        ({"sources.rendered.count": 5}, ALL),
        ({"sources.iiit5k.valid_rows": 5}, {"finetune_frozen", "finetune"}),  # pretrain does not read it
        ({"name": "verses"}, set()),  # what it is called is not what it learns
    ],
)
def test_a_fingerprint_follows_what_its_stage_depends_on_and_nothing_else(changes, stages):
    assert moved(changes) == stages


def test_the_alphabet_is_part_of_what_a_stage_is():
    symbols = WORDS.alphabet.symbols
    assert moved({"alphabet.symbols": symbols[1:] + symbols[0]}) == ALL  # the same symbols in another order


def test_a_source_that_is_ingested_stands_for_its_content_and_no_longer_for_its_settings():
    here, there = {"rendered": "a" * 64, "iiit5k": "b" * 64}, {"rendered": "a" * 64, "iiit5k": "c" * 64}
    assert moved(data=there, base_data=here) == {"finetune_frozen", "finetune"}
    assert moved({"sources.rendered.count": 5}, base_data=here) == set()
    assert moved(data={**here, "another": "d" * 64}, base_data=here) == set()


def test_which_source_comes_first_is_part_of_what_a_stage_is():
    # The first is the primary one: an epoch is one pass over it. JSON's sorted keys alone would forget that.
    stage = WORDS.stages[-1]
    turned = replace(stage, data=Mix(shares=dict(reversed(stage.data.shares.items()))))
    assert turned == stage
    assert fingerprint(WORDS, turned, {}) != fingerprint(WORDS, stage, {})


def test_where_and_how_fast_a_plan_runs_is_not_in_it():
    inside = json.dumps(plain(WORDS))
    assert not [field.name for field in fields(Execution) if f'"{field.name}"' in inside]


def test_a_fingerprint_is_the_same_in_every_process_and_through_json():
    again = from_plain(json.loads(json.dumps(plain(WORDS))))
    assert fingerprints(again) == fingerprints(WORDS)
    assert all(len(each) == 12 and int(each, 16) >= 0 for each in fingerprints(WORDS).values())
    assert len(set(fingerprints(WORDS).values())) == 3


def test_a_digest_forgets_the_order_of_keys_and_of_nothing_else():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1}) != digest({"a": 1, "b": [2, 1]})


class Loss:
    def method(self, batch, out):
        return 0


@pytest.mark.parametrize(
    "thing", [lambda batch, out: 0, Loss().method, Loss.method, functools.partial(ctc, None)],
    ids=["lambda", "bound method", "method", "partial"],
)  # fmt: skip
def test_only_functions_that_can_be_found_again_enter_a_plan(thing):
    with pytest.raises(PlanError, match="plans may only name module-level functions"):
        plain({"loss": thing})


def test_plain_data_name_classes_and_functions_by_import_path():
    @dataclass(frozen=True)
    class Here:
        pass

    assert plain(ctc) == "models.losses.text.ctc"
    assert plain(Mix(shares={"a": 1.0})) == {"is": "orchestrator.plan.Mix", "shares": {"a": 1.0}, "epoch_samples": 0}
    assert plain((1, [2.5, None], "x")) == [1, [2.5, None], "x"]
    with pytest.raises(PlanError, match=r"Here has no import path"):
        plain(Here())


def plans():
    for name in sorted(module.name for module in iter_modules(orchestrator.recipes.__path__)):
        module = import_module(f"orchestrator.recipes.{name}")
        yield name, module.recipe()
        for preset, changes in getattr(module, "PRESETS", {}).items():
            yield f"{name}-{preset}", override(module.recipe(), changes)


@pytest.mark.parametrize(("name", "built"), plans(), ids=[name for name, _ in plans()])
def test_a_recipe_reads_as_reviewed(name, built):
    """Its resolved form is committed: a changed default, wherever it lies, shows up as a diff that a human can read."""
    text = json.dumps(plain(built), indent=2, ensure_ascii=False) + "\n"
    golden = GOLDEN / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert golden.exists() and text == golden.read_text(encoding="utf-8"), (
        f"{golden.name} differs; reviewed and meant? run UPDATE_GOLDEN=1 pytest {Path(__file__).name}"
    )


def test_no_golden_text_outlives_its_recipe():
    assert {path.stem for path in GOLDEN.glob("*.json")} == {name for name, _ in plans()}


WRITTEN_IN = [ROOT / "orchestrator" / name for name in ("plan.py", "objective.py", "schedule.py", "limits.py")]


def read_in(tree: ast.AST) -> Iterator[str]:
    """Names of the attributes that code reads: the ``lr`` of ``stage.optim.lr``, never that of ``replace(lr=...)``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def methods(of: ast.ClassDef, name: str) -> list[ast.stmt]:
    return [each for each in of.body if isinstance(each, ast.FunctionDef) and each.name == name]


def test_a_plan_holds_no_setting_that_nothing_reads():
    """Every field of every class of a plan is read by code that trains, evaluates or launches.

    Proves: a field cannot be added to a plan, or lose its last reader, unnoticed; the replaced systems carried early
    stopping and loss balancing that were configured and never ran. What a plan's own files read does not count, for
    checking a value is not using it, except where they are the user: a schedule's ``factor`` and ``Recipe.parent``.

    Does not prove: that the reader does the right thing, or that it reads *this* class's field: readers are found by
    the attribute's name alone, so two fields of one name vouch for each other.
    """
    packages = [path for name in ("orchestrator", "models", "datasets") for path in (ROOT / name).rglob("*.py")]
    others = [path for path in packages if path.parent.name != "recipes" and path not in WRITTEN_IN]
    read = {name for path in others for name in read_in(parsed(path))}
    classes = [each for path in WRITTEN_IN for each in parsed(path).body if isinstance(each, ast.ClassDef)]
    read |= {name for each in classes for method in methods(each, "parent") for name in read_in(method)}
    plans = {each.name: each for each in classes if is_dataclass(getattr(plan, each.name, None))}
    assert {"Recipe", "Stage", "Optim", "Cosine"} <= plans.keys()
    idle = []
    for name, written in plans.items():
        schedule = {each for method in methods(written, "factor") for each in read_in(method)}
        idle += [f"{name}.{each.name}" for each in fields(getattr(plan, name)) if each.name not in (schedule or read)]
    assert idle == []


def test_a_later_setting_of_a_source_changes_no_fingerprint_while_it_is_not_used(monkeypatch):
    plates = override(import_module("orchestrator.recipes.plates").recipe(), {"sources.plates": PlateTracks()})
    asked = override(plates, {"sources.plates.register": Register()})
    now = fingerprint(plates, plates.stages[0], {})
    assert fingerprint(asked, asked.stages[0], {}) != now
    known = {name: fields for name, fields in identity.LATER.items() if not name.startswith("datasets.")}
    monkeypatch.setattr(identity, "LATER", known)
    assert fingerprint(plates, plates.stages[0], {}) != now  # now that the setting is said although it is not used
