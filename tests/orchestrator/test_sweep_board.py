"""The study: three ends of a trial that are never mixed up, proposals that repeat, resumption, and who wins."""

from __future__ import annotations

import math

import optuna
import pytest
from ray import tune
from ray.tune.search import Searcher

from orchestrator.plan import Asha, Median, PlanError, Search
from orchestrator.sweep import board as board_module
from orchestrator.sweep.board import Facts
from orchestrator.sweep.trial import Asked, Job, Planned
from orchestrator.sweep.tuning import HOPELESS, Desk, Line
from tests.orchestrator.small_sweep import a_board, a_recipe, a_space, rate_and_schedule

CER = "worn/cer"


def ended(board, *cers):
    """Trials that finish with these values."""
    for cer in cers:
        board.end(board.next().number, "finished", {CER: cer}, Facts())


def test_the_first_trial_has_the_settings_as_they_stand(tmp_path):
    board = a_board(tmp_path, space=a_space(rate_and_schedule))
    assert board.counts()["interrupted"] == 0  # it waits, and has not begun
    first = board.next()
    assert first.changes == {"stages.finetune.optim.lr": 5e-5}  # it stays Constant, which is no change
    assert board.rows()[0].params == {"stages.finetune.optim.lr": 5e-5, "stages.finetune.schedule": "Constant"}
    assert board.next().changes != first.changes


def test_finished_pruned_failed_and_interrupted_are_four_different_things(tmp_path):
    board = a_board(tmp_path, search=Search(space="made", trials=9))
    for outcome in ("finished", "pruned", "failed", None):
        number = board.next().number
        board.reached(number, 1, 0.5, planned=[])
        if outcome:
            board.end(number, outcome, {CER: 0.5} if outcome == "finished" else {}, Facts(reason=f"it {outcome}"))
    assert [row.outcome for row in board.rows()] == ["finished", "pruned", "failed", "interrupted"]
    assert board.counts() == {"finished": 1, "pruned": 1, "failed": 1, "interrupted": 1}
    assert [row.reason for row in board.rows()] == ["it finished", "it pruned", "it failed", ""]
    states = [trial.state.name for trial in board.study.get_trials()]
    assert states == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert board.winner().number == 0


def test_an_error_rate_of_zero_wins(tmp_path):
    board = a_board(tmp_path)
    ended(board, 0.2, 0.0, 0.1)
    assert (board.winner().number, board.winner().values) == (1, {CER: 0.0})


def test_of_equals_the_first_wins_so_that_nothing_changes_without_a_gain(tmp_path):
    board = a_board(tmp_path)
    ended(board, 0.2, 0.2, 0.3)
    assert board.winner().number == 0


def test_a_result_that_is_no_number_is_a_failure_with_its_reason(tmp_path):
    board = a_board(tmp_path)
    ended(board, math.nan)
    (row,) = board.rows()
    assert (row.outcome, row.reason) == ("failed", "worn/cer: not a number")
    assert board.winner() is None


def test_trials_are_compared_at_equal_epochs_and_only_where_planned(tmp_path):
    board = a_board(tmp_path, search=Search(space="made", trials=9, prune=Asha(first=1, factor=2)))
    good, bad, late = (board.next().number for _ in range(3))
    assert not board.reached(good, 1, 0.3, planned=[1, 2])
    assert not board.reached(good, 2, 0.1, planned=[1, 2])
    assert not board.reached(bad, 2, 0.9, planned=[4])  # its warm-up is longer
    assert board.reached(late, 1, 0.4, planned=[1, 2])  # worse than 0.3, whatever others had at epoch 2
    assert board.rows()[good].reached == {1: 0.3, 2: 0.1}


def test_failed_trials_are_no_measure_for_others(tmp_path):
    board = a_board(tmp_path, search=Search(space="made", trials=9, prune=Median(least=1)))
    failed, after = board.next().number, board.next().number
    board.reached(failed, 1, 0.0, planned=[1])
    board.end(failed, "failed", {}, Facts(reason="it broke"))
    assert not board.reached(after, 1, 0.9, planned=[1])


def test_a_sweep_begun_again_goes_on_with_the_same_trials_and_proposes_the_same_ones(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    undisturbed = a_board(whole, space=a_space(rate_and_schedule), search=Search(space="made", trials=6))
    for value in (0.5, 0.4, 0.3, 0.2, 0.1, 0.05):
        ended(undisturbed, value)
    known = {"space": a_space(rate_and_schedule), "search": Search(space="made", trials=6)}
    board = a_board(cut, **known)
    ended(board, 0.5, 0.4)
    assert board.next().number == 2  # and the process is killed here
    again = a_board(cut, resume=True, **known)
    assert not again.exhausted
    for value in (0.3, 0.2, 0.1, 0.05):
        ended(again, value)
    assert again.exhausted
    assert [row.params for row in again.rows()] == [row.params for row in undisturbed.rows()]
    assert [row.number for row in again.rows()] == list(range(6))


def test_a_sweep_is_not_begun_twice_by_mistake_nor_gone_on_with_in_another_space(tmp_path):
    ended(a_board(tmp_path), 0.5)
    with pytest.raises(PlanError, match=r"was begun before \(1 finished\); go on with --resume, or begin another"):
        a_board(tmp_path)
    with pytest.raises(PlanError, match="has changed since the sweep 'made' was begun"):
        a_board(tmp_path, space=a_space(sha256="b"), resume=True)
    assert a_board(tmp_path, name="other").rows() == []  # in the same database, and untouched by the first


def test_the_settings_as_they_stand_must_lie_in_the_space(tmp_path):
    with pytest.raises(PlanError, match=r"optim.lr is 0.5 at present, which is not within 1e-05 .. 0.1; the first"):
        a_board(tmp_path, recipe=a_recipe(**{"stages.finetune.optim.lr": 0.5}))


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_every_sampler_proposes_within_the_space(tmp_path, sampler):
    board = a_board(tmp_path, search=Search(space="made", trials=14, sampler=sampler))
    for number in range(13):
        ended(board, 0.5 / (number + 1))
    rates = [row.params["stages.finetune.optim.lr"] for row in board.rows()]
    assert all(1e-5 <= rate <= 1e-1 for rate in rates) and len(set(rates)) > 9


def test_a_sampler_whose_package_is_not_there_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(board_module, "find_spec", lambda name: None)
    with pytest.raises(PlanError, match=r"needs the package cmaes: pip install 'plumbline\[cma\]'"):
        a_board(tmp_path, search=Search(space="made", trials=3, sampler="cma")).next()


def test_several_metrics_have_a_front_and_a_rule_that_picks(tmp_path):
    fronts = {}
    for pick in ("first", "knee"):
        space = a_space(metrics=(CER, "worn/psnr"), modes=("min", "max"), pick=pick)
        board = a_board(tmp_path / pick, space=space)
        for cer, psnr in ((0.1, 10.0), (0.2, 19.0), (0.5, 20.0), (0.6, 12.0)):
            board.end(board.next().number, "finished", {CER: cer, "worn/psnr": psnr}, Facts())
        assert not board.reached(0, 1, 0.9, planned=[1])  # nothing is cut: no order among several metrics
        fronts[pick] = (board.pareto(), board.winner().number)
    assert fronts == {"first": ([0, 1, 2], 0), "knee": ([0, 1, 2], 1)}


def desk_of(board, folder):
    """A desk whose plans are all the same, and what it said."""
    said = []
    plan = Planned(recipe=board.recipe, stage=board.recipe.stages[-1], fingerprint="f", folder=folder / "t")
    return Desk(board, lambda proposal: plan, 2, lambda: False, said.append), said


def test_a_trial_with_the_very_settings_of_a_finished_one_is_not_made_again(tmp_path):
    board = a_board(tmp_path, search=Search(space="made", trials=3))
    desk, said = desk_of(board, tmp_path)
    first = desk.propose()
    desk.take(first.number, {"outcome": "finished", "values": {CER: 0.25}, "epochs": 3})
    assert desk.propose() == Searcher.FINISHED  # the other two have its fingerprint
    assert [(row.outcome, row.values, row.epochs) for row in board.rows()] == [
        ("finished", {CER: 0.25}, 3), ("finished", {CER: 0.25}, 0), ("finished", {CER: 0.25}, 0),
    ]  # fmt: skip
    assert board.rows()[2].reason == "the same settings as trial 0" and len(said) == 3


def test_a_sweep_of_which_nothing_comes_ends_early(tmp_path):
    board = a_board(tmp_path, search=Search(space="made", trials=100))
    desk, _ = desk_of(board, tmp_path)
    while isinstance(asked := desk.propose(), Asked):
        desk.take(asked.number, {"outcome": "failed", "reason": "the disk is full"})
    assert asked == Searcher.FINISHED and desk.hopeless and len(board.rows()) == HOPELESS
    assert all(row.reason == "the disk is full" for row in board.rows())


def test_no_more_trials_are_under_way_than_there_are_places(tmp_path):
    desk, _ = desk_of(a_board(tmp_path), tmp_path)
    assert isinstance(desk.propose(), Asked) and isinstance(desk.propose(), Asked)
    assert desk.propose() is None


def test_a_trial_that_was_cut_is_not_waited_for_and_its_checkpoints_go_when_it_has_ended(tmp_path, monkeypatch):
    def cut(metrics):
        raise SystemExit  # as Tune ends a trial, inside the report after which it is to stop

    monkeypatch.setattr(tune, "report", cut)
    for name in ("trial0003-abc", "trial0004-def"):
        (tmp_path / name / "checkpoints" / "step-1").mkdir(parents=True)

    job = Job(
        plan={}, stage="", metrics=(), sweep="made", folder="", store=str(tmp_path), shards={}, execution={}
    )  # fmt: skip

    def make_trial():
        with Line(job, 3) as line:
            try:
                line.tell({"epoch": 1})
            finally:
                assert (tmp_path / "trial0003-abc" / "checkpoints").exists()  # one may still be written
                monkeypatch.setattr(tune, "report", lambda metrics: pytest.fail("nobody would answer it"))
                line.tell({"outcome": "failed"})  # what an error on the way out would have it say

    with pytest.raises(SystemExit):
        make_trial()
    assert not (tmp_path / "trial0003-abc" / "checkpoints").exists()
    assert (tmp_path / "trial0004-def" / "checkpoints" / "step-1").exists()


def test_optuna_itself_reads_the_study(tmp_path):
    ended(a_board(tmp_path), 0.5)
    study = optuna.load_study(study_name="made", storage=f"sqlite:///{tmp_path}/study.db")
    assert study.best_value == 0.5 and study.metric_names == [CER]
