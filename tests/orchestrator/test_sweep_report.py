"""The report of a sweep: what it says of trials that ended in every way, of settings, of several metrics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from seen import Page
from sweeps_made_up import begin, end, made_sweep, measure, sweep_in

from orchestrator.run import main
from orchestrator.store import Store, StoreError
from orchestrator.sweep import STUDY, Sweep
from orchestrator.sweep.plots import ABSENT_AT, Scale, best_so_far
from orchestrator.sweep.report import write_sweep_report
from orchestrator.sweep.told import gathered
from orchestrator.sweep.weighed import weighed


def reported(sweep: Sweep) -> tuple[Page, str]:
    """The page and the Markdown."""
    html, markdown = write_sweep_report(sweep.folder, sweep.store)
    return Page(html.read_text(encoding="utf-8")), markdown.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Sweep:
    return made_sweep(tmp_path_factory.mktemp("made"), trials=9)[0]


@pytest.fixture(scope="module")
def seen(made) -> tuple[Page, str]:
    return reported(made)


def test_it_tells_finished_pruned_failed_and_interrupted_apart_and_who_won(seen):
    page, _ = seen
    assert "Of 9 trials: 5 finished, 2 pruned, 2 failed, 0 interrupted." in page.text
    assert "Trial 8 wins with worn/cer 0.0500; the settings as they stand have 0.5000." in page.text
    assert [page.row(str(number))[1] for number in range(9)] == [
        "finished", "finished", "pruned", "failed", "finished", "finished", "pruned", "failed", "finished",
    ]  # fmt: skip
    assert page.row("worn/cer (less is better)")[1:] == ["0.5000", "0.0500"]


def test_it_says_what_was_searched_by_whom_and_from_where(seen, made):
    page, _ = seen
    assert page.row("recipe and stage")[1] == "small, stage finetune"
    assert page.row("sampler")[1].startswith("random, seed 0")
    assert page.row("pruning")[1] == (
        "Asha (first 1, factor 2); a trial of the plan as it stands is compared after epoch 1, 2, 4"
    )
    assert page.row("every trial starts from")[1].startswith("stage finetune_frozen, record ")
    assert page.row("stage as it stands")[1] == made.folder.name.removeprefix("tried-")
    searched = {row[0]: row[1:3] for row in page.rows if len(row) == 5 and " to " in row[1]}
    assert searched == {"optim.lr": ["1e-05 to 0.01, logarithmic", "5e-05"], "schedule.warmup": ["0 to 0.3", "not set"]}


def test_it_counts_the_epochs_that_pruning_left_out(seen):
    page, _ = seen
    assert "Pruning left out 8 of 54 planned epochs (14.8\u00a0%), in 2 trials." in page.text
    assert page.row("pruned")[1:5] == ["2", "4", "12", "33.3\u00a0%"]
    assert page.row("all")[1:4] == ["9", "34", "54"]


def test_reasons_are_text_and_numbers_lead_to_folders(seen, made):
    page, markdown = seen
    assert page.row("3")[4] == "ValueError: <b>no</b> & [never](x)"
    assert not {"b", "script"} & {tag for tag, _ in page.tags}
    links = {dict(attributes).get("href") for tag, attributes in page.tags if tag == "a"}
    assert sorted(link for link in links if not link.startswith("#")) == sorted(
        f"{path.name}/" for path in made.folder.glob("trial*")
    )
    assert r"ValueError: &lt;b&gt;no&lt;/b&gt; &amp; \[never\](x)" in markdown and "[3](trial0003-" in markdown


def test_it_draws_what_it_promises_and_needs_nothing_else(seen):
    page, _ = seen
    titles = [text for text in page.texts if text in ("Values in order", "Learning curves", "Settings side by side",
                                                      "Importance of settings")]  # fmt: skip
    assert titles == ["Values in order", "Learning curves", "Settings side by side", "Importance of settings"]
    assert not [attributes for _, attributes in page.tags if "http" in str(attributes.get("src", ""))]
    assert "fANOVA: share of the variance" in page.text
    assert "Left out, for too few had it: schedule.warmup in " in page.text
    assert "So few trials give a hint" in page.text


def test_the_same_study_gives_the_same_bytes(made, seen):
    before = (made.folder / "report.html").read_bytes()
    reported(made)
    assert (made.folder / "report.html").read_bytes() == before


def test_settings_that_all_trials_have_are_weighed_by_fanova(tmp_path):
    def suggest(trial):
        trial.suggest_float("stages.finetune.optim.lr", 1e-5, 1e-2, log=True)
        trial.suggest_float("stages.finetune.optim.weight_decay", 0.0, 0.1)

    sweep = sweep_in(tmp_path, trials=12, suggests=suggest)
    board = sweep.board(resume=False)
    for _ in range(12):
        proposal = begin(sweep, board)
        decay = board.study.get_trials()[proposal.number].params["stages.finetune.optim.weight_decay"]
        end(sweep, board, proposal, "finished", {"worn/cer": decay})
    found = weighed(board.study, 0, "min", seed=0)
    assert (found.method, found.trials) == ("fANOVA", 12)
    assert found.shares["stages.finetune.optim.weight_decay"] > 0.6
    assert "fANOVA: share of the variance" in reported(sweep)[0].text


def test_a_conditional_setting_is_weighed_among_the_trials_that_had_it(tmp_path):
    sweep = sweep_in(tmp_path, trials=24)
    board = sweep.board(resume=False)
    for _ in range(24):
        proposal = begin(sweep, board)
        params = board.study.get_trials()[proposal.number].params
        end(sweep, board, proposal, "finished", {"worn/cer": params.get("stages.finetune.schedule.warmup", 0.15)})
    found = weighed(board.study, 0, "min", seed=0)
    had = sum("stages.finetune.schedule.warmup" in row.params for row in board.rows())
    assert found.had["stages.finetune.schedule.warmup"] == had and 8 <= had < 24
    assert found.shares["stages.finetune.schedule.warmup"] > 0.6
    whole = [found.shares[f"stages.finetune.{name}"] for name in ("optim.lr", "schedule")]
    assert sum(whole) == pytest.approx(1.0)
    assert f"Among those alone that had it: schedule.warmup in {had}." in reported(sweep)[0].text


def test_few_trials_or_equal_ones_say_nothing_of_importance(tmp_path):
    sweep = sweep_in(tmp_path, trials=4)
    board = sweep.board(resume=False)
    for _ in range(3):
        end(sweep, board, begin(sweep, board), "finished", {"worn/cer": 0.0})
    assert "3 finished trials are too few; it takes 4" in reported(sweep)[0].text
    end(sweep, board, begin(sweep, board), "finished", {"worn/cer": 0.0})
    page, _ = reported(sweep)
    assert "all finished trials have the same value" in page.text
    assert "The settings as they stand, trial 0, are the best found, with worn/cer 0.0000." in page.text  # 0.0 counts


def test_two_metrics_show_the_pareto_set_and_the_rule_that_picked(tmp_path):
    sweep = sweep_in(tmp_path, trials=4, metrics=("worn/cer", "worn/ned"), modes=("min", "max"), pick="knee")
    board = sweep.board(resume=False)
    for cer, ned in ((0.5, 0.2), (0.1, 0.3), (0.2, 0.9), (0.3, 0.95)):
        proposal = begin(sweep, board)
        measure(sweep, board, proposal, [cer])
        end(sweep, board, proposal, "finished", {"worn/cer": cer, "worn/ned": ned})
    page, markdown = reported(sweep)
    assert [row[0] for row in page.rows if len(row) == 5 and row[0].isdigit()] == ["1", "2", "3"]
    assert [row[0] for row in page.rows if row[-1] == "picked"] == ["2"]
    assert "Picked from the Pareto set, the knee" in page.text and "Two metrics at once" in page.text
    assert "none: every trial is trained to its end" in page.text and "## Pareto set" in markdown
    assert "Learning curves of worn/cer" in page.text  # from the journals: the study keeps no values between


def test_a_sweep_under_way_is_told_as_far_as_it_is(tmp_path):
    sweep = sweep_in(tmp_path)
    board = sweep.board(resume=False)
    page, _ = reported(sweep)
    assert "The sweep is not over: 0 trials are under way or interrupted, and 8 were not begun." in page.text
    assert "No trial has finished, so there is no winner." in page.text
    measure(sweep, board, begin(sweep, board), [0.5, float("nan")])
    page, _ = reported(sweep)
    assert page.row("0")[1:4] == ["interrupted", "-", "2 of 6"]


def test_a_folder_that_holds_no_sweep_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"sweep\.json: cannot be read"):
        write_sweep_report(tmp_path, Store(tmp_path))
    sweep = sweep_in(tmp_path)
    with pytest.raises(StoreError, match="there is no study; the sweep has not begun"):
        write_sweep_report(sweep.folder, sweep.store)
    about = json.loads((sweep.folder / "sweep.json").read_text())
    (sweep.folder / "sweep.json").write_text(json.dumps(about | {"database": "postgresql://***@db/x"}))
    with pytest.raises(StoreError, match=r"lies in postgresql://\*\*\*@db/x; give that address with --storage"):
        write_sweep_report(sweep.folder, sweep.store)


def test_commands_report_a_sweep_and_its_trials_and_list_it(made, capsys):
    root = made.store.root
    assert main(["report", str(made.folder), "--store", str(root)]) == 0
    [cut] = made.folder.glob("trial0002-*")
    assert main(["report", str(cut), "--store", str(root)]) == 0  # pruned: it has no record
    assert "finetune" in (cut / "report.md").read_text().splitlines()[0]
    capsys.readouterr()
    assert main(["runs", "--store", str(root)]) == 0
    assert capsys.readouterr().out == (
        f"sweeps/{made.name}\tsweep of small/finetune: 5 finished, 2 pruned, 2 failed\tworn/cer 0.0500 in trial 8\n"
    )


def test_best_so_far_counts_finished_trials_alone(made):
    told = gathered(made.folder, made.store)
    best = best_so_far(told.rows, "worn/cer", "min")
    assert best == {0: 0.5, 1: 0.4, 4: 0.1, 5: 0.08, 8: 0.05}
    assert [scale.name for scale in told.scales] == ["optim.lr", "schedule", "schedule.warmup"]


def test_places_on_an_axis():
    assert Scale(name="lr", low=1e-4, high=1e-2, log=True).place(1e-3) == pytest.approx(0.5)
    assert Scale(name="same", low=2.0, high=2.0).place(2.0) == 0.0
    kinds = Scale(name="kind", choices=("a", "b", "c"))
    assert [kinds.place(choice) for choice in "abc"] == [0.0, 0.5, 1.0] and ABSENT_AT < 0


def test_a_study_elsewhere_is_read_where_it_is_said_to_be(made, tmp_path):
    there = tmp_path / "elsewhere.db"
    there.write_bytes((made.folder / STUDY).read_bytes())
    html, _ = write_sweep_report(made.folder, made.store, f"sqlite:///{there}")
    assert Path(html).exists()
