"""Spaces: every suggestion is a legal override, the settings as they stand lie inside, and no range is idle."""

from __future__ import annotations

import optuna
import pytest

from orchestrator.identity import fingerprint
from orchestrator.override import override
from orchestrator.plan import Cosine, PlanError, Recipe
from orchestrator.run import recipe_named
from orchestrator.sweep.checks import check_current, check_drawn, ends_of
from orchestrator.sweep.space import changes_of, load_space, space_names
from tests.orchestrator.small_sweep import a_recipe, a_space, rate_and_schedule

RATE, SCHEDULE = "stages.finetune.optim.lr", "stages.finetune.schedule"


def recipes_of(name: str) -> list[Recipe]:
    """A recipe as it is, and with each preset."""
    module = recipe_named(name)
    return [module.recipe(), *(override(module.recipe(), preset) for preset in module.PRESETS.values())]


@pytest.mark.parametrize("name", space_names())
def test_every_suggestion_of_a_shipped_space_is_a_legal_override(name):
    space = load_space(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for recipe in recipes_of(space.recipe):
        before = fingerprint(recipe, recipe.stage(space.stage), {})
        for _ in range(25):
            changed = override(recipe, changes_of(space, study.ask(), recipe))
            assert fingerprint(changed, changed.stage(space.stage), {}) != before
            others = [stage for stage in recipe.stages if stage.name != space.stage]
            assert [stage for stage in changed.stages if stage.name != space.stage] == others


@pytest.mark.parametrize("name", space_names())
def test_a_shipped_space_holds_every_preset_as_it_stands_and_is_legal_at_its_ends(name):
    space = load_space(name)
    for recipe in recipes_of(space.recipe):
        known = check_current(space, recipe)
        ends = list(ends_of(space, recipe, known))
        assert {path for path, _, _ in ends} >= set(known.params) and check_drawn(space, recipe) == 64
        assert set(space.of(recipe.stage(space.stage)).metrics) <= {b.metric for b in recipe.stage(space.stage).best}


def test_each_recipe_has_a_space_for_the_stages_that_are_searched_most():
    found = {(load_space(name).recipe, load_space(name).stage) for name in space_names()}
    assert found >= {
        ("words", "finetune"),
        ("plates", "lcofl"),
        ("plates", "hard_mining"),
        ("documents", "adversarial"),
    }


def test_a_class_and_its_settings_become_one_value_and_a_class_that_is_there_only_gets_settings():
    space, recipe = a_space(rate_and_schedule), a_recipe()
    params = {RATE: 1e-3, SCHEDULE: "Cosine", f"{SCHEDULE}.warmup": 0.2}
    changes = changes_of(space, optuna.trial.FixedTrial(params), recipe)
    assert changes == {RATE: 1e-3, SCHEDULE: {"is": "Cosine", "warmup": 0.2}}
    assert override(recipe, changes).stages[-1].schedule == Cosine(warmup=0.2)
    cosine = override(recipe, {SCHEDULE: Cosine(warmup=0.1, floor=0.5)})
    assert changes_of(space, optuna.trial.FixedTrial(params), cosine) == {RATE: 1e-3, f"{SCHEDULE}.warmup": 0.2}


def test_conditional_settings_are_looked_at_under_each_choice_that_has_them():
    space, recipe = a_space(rate_and_schedule), a_recipe()
    ends = [(path, value) for path, value, _ in ends_of(space, recipe, check_current(space, recipe))]
    assert sorted(ends, key=str) == sorted(
        [(RATE, 1e-5), (RATE, 1e-1), (SCHEDULE, "Constant"), (SCHEDULE, "Cosine"), (f"{SCHEDULE}.warmup", 0.0),
         (f"{SCHEDULE}.warmup", 0.3)], key=str,
    )  # fmt: skip


def suggesting(path, low, high):
    """A space of one number, whole where its ends are."""

    def suggest(trial):
        (trial.suggest_int if isinstance(low, int) else trial.suggest_float)(path, low, high)

    return a_space(suggest)


def test_a_weight_of_a_term_that_the_stage_does_not_name_is_refused():
    with pytest.raises(PlanError, match=r"terms.lcofl.weight: the plan has no 'lcofl' there"):
        check_current(suggesting("stages.finetune.terms.lcofl.weight", 0.1, 1.0), a_recipe())


def test_more_warm_up_than_epochs_is_refused_with_the_end_it_happens_at():
    space = suggesting("stages.finetune.terms.ctc.ramp", 0, 8)
    with pytest.raises(PlanError, match=r"terms.ctc.ramp at 8 makes no plan: .* a ramp of 8 epochs, the stage has 3"):
        list(ends_of(space, a_recipe(), check_current(space, a_recipe())))


def test_a_setting_that_does_not_exist_names_what_is_there():
    with pytest.raises(PlanError, match=r"stages.finetune.optim.rate: the plan has no 'rate' there"):
        check_current(suggesting("stages.finetune.optim.rate", 0.1, 1.0), a_recipe())


def test_a_space_that_changes_more_than_it_suggests_is_refused():
    def further(trial):
        trial.suggest_float(RATE, 1e-5, 1e-1)
        return {"stages.finetune.batch_size": 8}

    with pytest.raises(PlanError, match=r"with the settings as they stand it would still change the plan: .*batch"):
        check_current(a_space(further), a_recipe())


def test_a_space_whose_settings_seldom_go_together_is_refused():
    recipe = a_recipe()  # three epochs
    assert check_drawn(suggesting("stages.finetune.validate_every", 1, 3), recipe) == 64
    assert 32 <= check_drawn(suggesting("stages.finetune.validate_every", 1, 4), recipe) < 64
    with pytest.raises(PlanError, match=r"of 64 random suggestions make no plan: .*validate_every"):
        check_drawn(suggesting("stages.finetune.validate_every", 3, 40), recipe)


def test_what_a_space_returns_are_changes_or_nothing():
    with pytest.raises(PlanError, match=r"space\(\) returned 0.5; it returns nothing, or further changes by path"):
        changes_of(a_space(lambda trial: 0.5), optuna.trial.FixedTrial({}), a_recipe())


def test_there_is_no_space_of_that_name():
    with pytest.raises(PlanError, match=r"there is no search space 'words_finetne'; there are: .*words_finetune"):
        load_space("words_finetne")
