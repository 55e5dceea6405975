"""A recipe whose stage declares its search: one `train` sweeps it, adopts the winner, and goes on from there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator import commands, commands_sweep, commands_train
from orchestrator.execution import Execution
from orchestrator.override import override
from orchestrator.plan import PlanError, Search, StartFrom
from orchestrator.run import main
from orchestrator.store import Store
from orchestrator.sweep import Places
from tests.orchestrator.small import small_recipe

HERE = Execution(workers=0, threads=1, accept=("settings",))  # a warm-up of one step is what five steps have room for


def searched_in_the_middle():
    """`words` in small: its second stage is searched in the space of `words_finetune`, and a third goes on from it."""
    small = small_recipe()
    pretrain, _, finetune = small.stages
    finetune = replace(finetune, start_from=StartFrom(stage="pretrain", parts=("cnn", "rnn")), epochs=1, ema=0.0)
    polish = replace(finetune, name="polish", start_from=StartFrom(stage="finetune", parts=("cnn", "rnn")))
    recipe = replace(small, name="words", stages=(pretrain, finetune, polish))
    return override(recipe, {"stages.finetune.search": Search(space="words_finetune", trials=2, prune=None)})


@pytest.mark.ray
@pytest.mark.usefixtures("ray_of_two_cpus")
def test_the_stage_is_swept_and_the_next_one_starts_from_its_winner(tmp_path, capfd):
    recipe, store = searched_in_the_middle(), Store(tmp_path)
    code = commands_train.train(recipe, store, HERE, roots={}, sources=list(recipe.sources), report=False)
    said = capfd.readouterr().err
    assert code == commands.DONE, said
    assert "2 finished" in said and "Adopted: trial " in said
    records = {record.stage: record for _, record in store.stages("words") if record}
    winner = records["finetune"]
    assert set(records) == {"pretrain", "finetune", "polish"}
    assert winner.trial["sweep"].startswith("words_finetune-") and records["polish"].parent == winner.fingerprint
    assert main(["runs", "--store", str(tmp_path)]) == commands.DONE
    assert f"trial {winner.trial['number']} of {winner.trial['sweep']}" in capfd.readouterr().out

    again = commands_train.train(recipe, store, HERE, roots={}, sources=list(recipe.sources), report=False)
    said = capfd.readouterr().err
    assert again == commands.DONE and "Stage finetune: as trial" in said and said.count("has a record already") == 3

    search = Search(space="words_finetune", trials=2, prune=None)
    how = {"roots": {}, "sources": list(recipe.sources), "trackers": "none", "report": False}
    with pytest.raises(PlanError, match="was begun before"):
        commands_sweep.sweep(recipe, store, HERE, search, Places(), **how)
    more = replace(search, trials=3)
    assert commands_sweep.sweep(recipe, store, HERE, more, Places(), resume=True, **how) == commands.DONE
    assert "3 finished" in capfd.readouterr().err


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400)])
def test_durations(text, seconds):
    assert commands_sweep.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "h", "2 hours", "-1m"])
def test_what_is_no_duration(text):
    with pytest.raises(PlanError, match="expected a duration such as 90s, 30m or 2h"):
        commands_sweep.seconds_of(text)


def test_the_command_line_changes_the_search_that_the_stage_declares():
    stage = searched_in_the_middle().stage("finetune")
    kept = commands_sweep.search_of(stage, "words_finetune", trials=0, sampler="", prune="")
    assert kept == stage.search
    said = commands_sweep.search_of(stage, "words_finetune", trials=7, sampler="gp", prune="median")
    assert (said.trials, said.sampler, type(said.prune).__name__) == (7, "gp", "Median")
    assert commands_sweep.search_of(stage, "other", trials=0, sampler="", prune="none").prune is None


def test_a_space_of_another_recipe_is_refused(tmp_path, capsys):
    assert main(["sweep", "no_such_space"]) == commands.MISTAKE
    assert "there is no search space 'no_such_space'" in capsys.readouterr().err
