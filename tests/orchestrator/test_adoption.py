"""A winner in a stage's place: the plan follows, and so do the stages after it."""

from __future__ import annotations

import pytest

from orchestrator.adoption import Adopted, adopt, base_of, note_of, with_adopted
from orchestrator.identity import fingerprint
from orchestrator.override import override
from orchestrator.plan import Search
from orchestrator.store import Store, StoreError
from tests.orchestrator.small import small_recipe

FROZEN = "stages.finetune_frozen"


def noted(recipe, store, changes, **more):
    """A note that ``finetune_frozen`` has these settings, and the recipe that has them."""
    changed = override(base_of(recipe, recipe.stage("finetune_frozen")), changes)
    reached = fingerprint(changed, changed.stage("finetune_frozen"), {})
    said = {"sweep": "made-1", "trial": 7, "trials": 16, "changes": changes, "fingerprint": reached} | more
    adopt(store, note_of(recipe, recipe.stage("finetune_frozen"), store, {}), Adopted(**said))
    return changed


def test_the_next_stage_starts_from_the_winner_under_its_fingerprint(tmp_path):
    recipe, store = small_recipe(**{f"{FROZEN}.search": Search(space="made")}), Store(tmp_path)
    before = {stage.name: fingerprint(recipe, stage, {}) for stage in recipe.stages}
    changed = noted(recipe, store, {f"{FROZEN}.optim.lr": 1e-3})
    after, found = with_adopted(recipe, store, {})
    assert after == changed and after.stage("finetune_frozen").search is None
    assert {name: each.trial for name, each in found.items()} == {"finetune_frozen": 7}
    now = {stage.name: fingerprint(after, stage, {}) for stage in after.stages}
    assert now["pretrain"] == before["pretrain"]
    assert now["finetune_frozen"] == found["finetune_frozen"].fingerprint != before["finetune_frozen"]
    assert now["finetune"] != before["finetune"]  # for its parent is another one


def test_nothing_is_adopted_where_the_plan_or_the_data_is_another(tmp_path):
    recipe, store = small_recipe(), Store(tmp_path)
    noted(recipe, store, {f"{FROZEN}.optim.lr": 1e-3})
    assert with_adopted(recipe, store, {})[1]
    assert with_adopted(recipe, store, {"worn": "other data"}) == (recipe, {})
    other = small_recipe(**{f"{FROZEN}.epochs": 2})
    assert with_adopted(other, store, {}) == (other, {})
    assert with_adopted(recipe, store, {}, before="finetune_frozen") == (recipe, {})


def test_a_note_that_leads_elsewhere_or_cannot_be_read_is_refused(tmp_path):
    recipe, store = small_recipe(), Store(tmp_path)
    noted(recipe, store, {f"{FROZEN}.optim.lr": 1e-3}, fingerprint="0123456789ab")
    with pytest.raises(StoreError, match=r"trial 7 of made-1 leads to the fingerprint [0-9a-f]{12}, but was recorded"):
        with_adopted(recipe, store, {})
    note_of(recipe, recipe.stage("finetune_frozen"), store, {}).write_text("{}")
    with pytest.raises(StoreError, match="not a note of an adopted trial"):
        with_adopted(recipe, store, {})
