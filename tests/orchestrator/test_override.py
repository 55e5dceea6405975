"""The one language of --set, override files and search spaces."""

import json
import math
from dataclasses import replace
from importlib import import_module
from pkgutil import iter_modules

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import orchestrator.recipes
from datasets.folder import LabelledFolder
from datasets.plate_folder import PlateFolder
from models.losses.text import infeasible
from orchestrator.identity import plain
from orchestrator.override import from_plain, override
from orchestrator.plan import Cosine, EarlyStop, Optim, PlanError, StepDown
from orchestrator.recipes.words import recipe

WORDS = recipe()
RECIPES = sorted(module.name for module in iter_modules(orchestrator.recipes.__path__))
STOP = "stages.finetune.early_stop"
quick = settings(deadline=None, max_examples=40)


def first(changes):
    """The first stage of `words` after ``changes``."""
    return override(WORDS, changes).stages[0]


def last(changes):
    return override(WORDS, changes).stages[-1]


def refused(changes):
    with pytest.raises(PlanError) as error:
        override(WORDS, changes)
    return str(error.value)


def test_an_override_changes_one_setting_and_not_the_plan_it_was_given():
    assert first({"stages.pretrain.optim.lr": 3e-4}) == replace(
        WORDS.stages[0], optim=replace(WORDS.stages[0].optim, lr=3e-4)
    )
    assert recipe() == WORDS


def test_dotted_nested_and_mixed_settings_mean_the_same():
    dotted = {"stages.pretrain.optim.lr": 3e-4, "stages.pretrain.epochs": 2, "seed": 7}
    nested = {"stages": {"pretrain": {"optim": {"lr": 3e-4}, "epochs": 2}}, "seed": 7}
    mixed = {"stages": {"pretrain.optim": {"lr": 3e-4}}, "stages.pretrain.epochs": 2, "seed": 7}
    assert override(WORDS, dotted) == override(WORDS, nested) == override(WORDS, mixed)


def test_all_changes_come_at_once():
    # One after the other, the shares would not sum to 1 in between.
    shares = {"stages.finetune.data.shares.iiit5k": 0.6, "stages.finetune.data.shares.rendered": 0.4}
    assert last(shares).data.shares == {"iiit5k": 0.6, "rendered": 0.4}


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("stages.pretrain.optim.lr", "7e-4", 7e-4),
        ("stages.pretrain.optim.lr", "1", 1.0),
        ("stages.pretrain.batch_size", "96", 96),
        ("stages.pretrain.batch_size", "1_000", 1000),
        ("stages.pretrain.learn", "cnn, rnn", ("cnn", "rnn")),
        ("stages.pretrain.learn", '["cnn", "rnn"]', ("cnn", "rnn")),
        ("stages.pretrain.optim.betas", "0.8,0.99", (0.8, 0.99)),
        ("stages.finetune.start_from.which", "last", "last"),
        ("image.channels", "1", 1),
        ("image.wider", "reject", "reject"),
        ("sources.rendered.colour", "True", True),
        ("sources.rendered.colour", "false", False),
        ("stages.pretrain.terms.ctc.loss", "models.losses.text.infeasible", infeasible),
        ("stages.finetune.early_stop", "none", None),
        ("stages.finetune.early_stop", "null", None),
    ],
)
def test_text_is_read_as_its_fields_type_wants_it(path, text, value):
    changed = override(WORDS, {path: text})
    assert changed == override(WORDS, {path: value})
    found = changed
    for key in path.split("."):
        named = {each.name: each for each in found} if isinstance(found, tuple) else found
        found = named[key] if isinstance(named, dict) else getattr(named, key)
    assert found == value
    assert type(found) is type(value)


def test_a_yaml_number_that_yaml_takes_for_text_is_a_number():
    data = yaml.safe_load("stages:\n  pretrain:\n    optim:\n      lr: 7e-4\n")
    assert isinstance(data["stages"]["pretrain"]["optim"]["lr"], str)
    assert first(data).optim.lr == 7e-4


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("stages.pretrain.epochs", "7e-4", "stages.pretrain.epochs: expected int, got '7e-4' (str)"),
        ("stages.pretrain.epochs", 3.0, "stages.pretrain.epochs: expected int, got 3.0 (float)"),
        ("stages.pretrain.epochs", True, "expected int, got True (bool)"),
        ("stages.pretrain.optim.lr", "fast", "stages.pretrain.optim.lr: expected float, got 'fast' (str)"),
        ("stages.pretrain.optim.lr", True, "expected float, got True (bool)"),
        ("stages.pretrain.optim.lr", 10**400, "expected float, got 1000"),
        ("stages.pretrain.optim.betas", "0.9", "expected a list, got '0.9' (str)"),
        ("stages.pretrain.optim.betas", "0.9,x", "betas[1]: expected float, got 'x'"),
        ("sources.rendered.colour", 1, "sources.rendered.colour: expected bool (true or false), got 1 (int)"),
        ("stages.finetune.start_from.which", "newest", "expected 'best' or 'last', got 'newest' (str)"),
        ("image.channels", 2, "image.channels: expected 1 or 3, got 2 (int)"),
        ("image.channels", True, "image.channels: expected 1 or 3, got True (bool)"),
        ("name", 5, "name: expected str, got 5 (int)"),
        ("stages.pretrain.terms.ctc.loss", 5, "loss: expected a function, got 5 (int)"),
        ("stages.pretrain.gate", 0.5, "stages.pretrain.gate: expected a mapping, got 0.5 (float)"),
        (
            "stages.pretrain.schedule",
            "orchestrator.plan.Augment",
            "schedule: expected a ScheduleLike, as {'is': NAME, ..",
        ),
        ("stages.pretrain.optim", "Augment", "optim: expected a Optim, as {'is': NAME, ...}, got 'Augment' (str)"),
        ("stages.pretrain.optim", 0.1, "optim: expected a Optim, as {'is': NAME, ...}, got 0.1 (float)"),
        ("stages.pretrain.schedule", Optim(lr=1.0), "schedule: expected a ScheduleLike"),
        ("alphabet", {"is": "datasets.image.ImageSpec"}, "alphabet: expected a AlphabetLike"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_what_is_expected_and_found(path, value, message):
    assert message in refused({path: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, "nan", "-inf", "1e999"])
def test_numbers_that_are_not_finite_are_refused_everywhere(value):
    assert "stages.pretrain.optim.lr: expected finite float" in refused({"stages.pretrain.optim.lr": value})
    assert "gate.rendered/ned: expected finite float" in refused({"stages.pretrain.gate.rendered/ned": value})
    assert "betas[1]: expected finite float" in refused({"stages.pretrain.optim.betas": [0.9, value]})


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("stages.pretrian.epochs", "stages.pretrian: tuple has no 'pretrian'; did you mean 'pretrain'?"),
        ("stages.pretrain.optim.learning_rate", "Optim has no 'learning_rate'; it has: lr, weight_decay, clip_norm"),
        ("stages.pretrain.epoch", "stages.pretrain.epoch: Stage has no 'epoch'; did you mean 'epochs'?"),
        ("sources.iit5k.valid_rows", "sources.iit5k: dict has no 'iit5k'; did you mean 'iiit5k'?"),
        ("stages.pretrain.terms.attention.weight", "dict has no 'attention'; it has: ctc"),
        ("stages.0.epochs", "tuple has no '0'; it has: pretrain, finetune_frozen, finetune"),
        ("", "Recipe has no ''; it has: name, seed"),
        (5, "Recipe has no '5'; it has: name, seed"),  # YAML keys need not be text
        ("stages.pretrain.epochs.first", "cannot look inside 100 (int); set it as a whole"),
        ("stages.pretrain.early_stop.patience", "cannot look inside None (NoneType); set it as a whole"),
    ],
)
def test_an_unknown_key_is_named_with_its_nearest_match(path, message):
    assert message in refused({path: 1})


def test_a_rule_of_the_plan_is_broken_where_it_was_changed():
    assert refused({"stages.pretrain.optim.lr": -1}).startswith("stages.pretrain.optim: Optim.lr: must be a finite")
    assert "must sum to 1" in refused({"stages.finetune.data.shares.iiit5k": 0.5})
    assert "the task reads 9 classes, but the alphabet needs 63" in refused({"task.recognizer.classes": 9})


@pytest.mark.parametrize(
    ("value", "schedule"),
    [
        ("Cosine", Cosine()),
        ({"is": "StepDown", "by": 0.5}, StepDown(by=0.5)),
        ({"is": "orchestrator.plan.StepDown", "at": "0.1,0.2"}, StepDown(at=(0.1, 0.2))),
        ('{"is": "Cosine", "warmup": 0.2}', Cosine(warmup=0.2)),
        (Cosine(floor=0.5), Cosine(floor=0.5)),
    ],
)
def test_a_field_that_holds_one_of_several_classes_is_replaced_as_a_whole(value, schedule):
    assert first({"stages.pretrain.schedule": value}).schedule == schedule


@pytest.mark.parametrize("name", ["orchestrator.plan.EarlyStop", "EarlyStop"])
def test_what_has_no_class_yet_is_set_by_a_path_or_a_name_that_plans_have(name):
    stop = {"is": name, "metric": "rendered/ned", "patience": "3"}
    assert first({"stages.pretrain.early_stop": stop}).early_stop == EarlyStop(metric="rendered/ned", patience=3)
    assert "a full import path such as" in refused({"stages.pretrain.early_stop": {**stop, "is": "Sleep"}})


def test_a_source_may_be_replaced_by_one_of_another_kind():
    changed = override(WORDS, {"sources.iiit5k": {"is": "datasets.folder.LabelledFolder", "labels": "gt.txt"}})
    assert changed.sources["iiit5k"] == LabelledFolder(labels="gt.txt")
    assert "sources.iiit5k: expected a SourceLike" in refused({"sources.iiit5k": Cosine()})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"is": "Cosine", "warm_up": 0.1}, "schedule.warm_up: Cosine has no 'warm_up'; did you mean 'warmup'?"),
        ({"is": "Cosine", "warmup": "x"}, "schedule.warmup: expected float, got 'x'"),
        ({"is": "Cosine", "warmup": 2}, "schedule: Cosine.warmup: 2.0 is outside 0 .. 0.999"),
        ({"is": "Cosin"}, "Cosin' cannot be found"),
        ({"is": "orchestrator.plan.PlanError"}, "'orchestrator.plan.PlanError' is not a part of a plan"),
        ({"is": 5}, "expected the name of a class, got 5"),
        ({"is": "orchestrator.plan.EarlyStop"}, "missing 2 required keyword-only arguments: 'metric' and 'patience'"),
    ],
)
def test_a_class_that_cannot_be_built_says_why(value, message):
    assert message in refused({"stages.pretrain.schedule": value})


@pytest.mark.parametrize(
    "changes",
    [
        {STOP: None, f"{STOP}.patience": 3},
        {f"{STOP}.patience": 3, STOP: None},
        {f"{STOP}.patience": 3, "stages": {"finetune": {"early_stop": {"patience": 4}}}},
        {"stages.finetune": {"early_stop": {"is": "EarlyStop"}, "early_stop.patience": 4}},
    ],
)
def test_what_is_set_twice_or_as_a_whole_and_in_part_is_refused(changes):
    assert "do one of the two" in refused(changes)


def test_mappings_of_plain_values_grow_and_shrink():
    shares = "stages.pretrain.data.shares"
    grown = first({f"{shares}.iiit5k": "0.25", f"{shares}.rendered": 0.75, "stages.pretrain.gate.rendered/ned": 0.5})
    assert grown.data.shares == {"rendered": 0.75, "iiit5k": 0.25}
    assert grown.gate == {"rendered/word_accuracy_36": 0.4, "rendered/ned": 0.5}
    assert first({"stages.pretrain.gate.rendered/word_accuracy_36": None}).gate == {}
    lines = last({"stages.finetune.red_lines.rendered/cer": "0.1"}).red_lines
    assert lines == {"rendered/word_accuracy_36": 0.1, "rendered/cer": 0.1}
    swapped = last({"stages.finetune.data.shares.rendered": "none", "stages.finetune.data.shares.iiit5k": 1})
    assert swapped.data.shares == {"iiit5k": 1.0}
    assert override(PlateFolder(), {"alike": {"us": ["0O"]}}).alike == {"us": ("0O",)}


def test_what_is_not_there_cannot_be_taken_out():
    assert "gate.renderd/ned: expected float, got None" in refused({"stages.pretrain.gate.renderd/ned": None})


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_and_preset_comes_back_from_its_json(name):
    module = import_module(f"orchestrator.recipes.{name}")
    plans = [module.recipe(), *(override(module.recipe(), each) for each in getattr(module, "PRESETS", {}).values())]
    for plan in plans:
        assert from_plain(json.loads(json.dumps(plain(plan)))) == plan


@quick
@given(
    st.fixed_dictionaries(
        {
            "stages.pretrain.optim.lr": st.floats(1e-12, 1e3),
            "stages.pretrain.epochs": st.integers(1, 10**9),
            "stages.pretrain.optim.betas": st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
            "stages.pretrain.schedule": st.builds(Cosine, warmup=st.floats(0, 0.9), floor=st.floats(0, 1)),
            "stages.pretrain.data.shares.rendered": st.none(),
            "stages.pretrain.data.shares.iiit5k": st.just(1.0),
            "sources.rendered.colour": st.booleans(),
            "sources.rendered.symbols": st.sampled_from(["0123", 'a"1', "é0", "\\0"]),
        }
    )
)
def test_any_plan_comes_back_from_its_json(changes):
    plan = override(WORDS, changes)
    assert from_plain(json.loads(json.dumps(plain(plan)))) == plan


@quick
@given(st.floats(1e-12, 1e3), st.integers(1, 10**9))
def test_a_value_and_its_text_mean_the_same(lr, epochs):
    values = {"stages.pretrain.optim.lr": lr, "stages.pretrain.epochs": epochs}
    assert override(WORDS, values) == override(WORDS, {path: str(value) for path, value in values.items()})


def edited(change):
    data = json.loads(json.dumps(plain(WORDS)))
    change(data)
    with pytest.raises(PlanError) as error:
        from_plain(data)
    return str(error.value)


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "builtins.eval",
        "system",
        "orchestrator.run.os.system",  # through a module that the project's own one imported
        "orchestrator.run.os",
        "orchestrator.identity.import_module",
        "models.losses.text.F",
        "models.losses.text.no_such_loss",
        "models..losses",
    ],
)
def test_a_plan_file_names_nothing_from_outside_the_project(path):
    assert repr(path) in edited(lambda data: data["stages"][0]["terms"]["ctc"].update(loss=path))
    assert repr(path) in edited(lambda data: data["stages"][0]["schedule"].update({"is": path}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["stages"][0].update(step=5), "stages[0].step: Stage has no 'step'"),
        (lambda data: data["stages"][0]["optim"].pop("lr"), "stages[0].optim: "),
        (lambda data: data["stages"][0]["optim"].update(lr=None), "stages[0].optim.lr: expected float, got None"),
        (lambda data: data.update({"is": "orchestrator.plan.Stage"}), "not a plan: expected"),
        (lambda data: data.update(image=data["task"]), "image: expected a Fingerprinted"),
        (lambda data: data.update(stages=[]), "recipe 'words' has no stages"),
        (lambda data: data["stages"].reverse(), "starts from 'finetune_frozen', which does not run before it"),
    ],
)
def test_a_plan_file_that_does_not_fit_is_refused_where_it_does_not(change, message):
    assert message in edited(change)


@pytest.mark.parametrize("data", [None, [], "words", {}, {"stages": []}])
def test_what_is_no_plan_at_all_says_how_to_get_one(data):
    with pytest.raises(PlanError, match=r"not a plan: expected .* as `show RECIPE` writes it"):
        from_plain(data)
