"""The command line: frozen text, mistakes in one line, and one language for every way to change a plan."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.console import epoch_line, say
from orchestrator.files import write_json
from orchestrator.identity import fingerprint, plain
from orchestrator.recipes.words import recipe
from orchestrator.run import main, parser, resolved
from orchestrator.store import Record, Store

CLI = Path(__file__).parents[1] / "golden" / "cli.txt"
COMMANDS = ("train", "sweep", "check", "ingest", "evaluate", "predict", "show", "runs", "demo", "report", "export")


def ran(capsys, *words):
    """Exit code, standard output and standard error of one command."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    return code, *capsys.readouterr()


def mistake(capsys, *words):
    """The one line that a command with a mistake ends in."""
    code, out, err = ran(capsys, *words)
    assert code == 2 and out == ""
    assert err.startswith("mistake: ") and err.count("\n") == 1 and err.endswith("\n")
    return err


def plan_of(*words):
    return resolved(parser().parse_args([str(word) for word in words]))


def help_of(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_the_command_line_is_frozen(capsys, monkeypatch):
    """A changed option, default or sentence shows up as a diff; UPDATE_GOLDEN=1 writes it down."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    texts = [help_of(capsys), *(help_of(capsys, command) for command in COMMANDS)]
    text = f"\n{'=' * 100}\n".join(texts)
    if os.environ.get("UPDATE_GOLDEN"):
        CLI.write_text(text, encoding="utf-8")
    assert text == CLI.read_text(encoding="utf-8"), "reviewed and meant? run UPDATE_GOLDEN=1 pytest test_run.py"


def test_every_command_is_in_the_frozen_text():
    [commands] = [each for each in parser()._actions if isinstance(each, argparse._SubParsersAction)]
    assert tuple(commands.choices) == COMMANDS


def test_help_answers_without_loading_torch_or_ray():
    script = f"""
import contextlib, io, sys
from orchestrator.run import main
for words in ([], *([command] for command in {COMMANDS}), ["nonsense"], ["train"]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with contextlib.suppress(SystemExit):
            main([*words, *(() if words in (["nonsense"], ["train"]) else ("--help",))])
print([name for name in ("torch", "ray", "mlflow", "pyarrow", "cv2", "numpy", "optuna") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "wrods"], "there is no recipe 'wrods'; there are: demo, documents, plates, words"),
        (["show", "words", "--preset", "huge"], "recipe 'words' has no preset 'huge'; it has: tiny"),
        (["show", "demo", "--preset", "tiny"], "recipe 'demo' has no preset 'tiny'; it has: none"),
        (["show", "words", "--set", "seed"], "--set seed: expected NAME=VALUE"),
        (["show", "words", "--set", "=5"], "--set =5: expected NAME=VALUE"),
        (["show", "words", "--set", "sed=5"], "sed: Recipe has no 'sed'; did you mean 'seed'?"),
        (["show", "words", "--set", "seed=7e-4"], "seed: expected int, got '7e-4' (str)"),
        (
            ["show", "words", "--set", "stages.pretrain.optim.lr=-1"],
            "stages.pretrain.optim: Optim.lr: must be a finite",
        ),
        (
            ["train", "words", "--stage", "polish"],
            "has no stage 'polish'; it has: 0 pretrain, 1 finetune_frozen, 2 fine",
        ),
        (["train", "words", "--data", "iiit5k"], "--data iiit5k: expected NAME=VALUE"),
        (["train", "words", "--data", "iiit5k=/no/such"], "--data iiit5k=/no/such: there is no such folder"),
        (["train", "words", "--data", "ic15=/"], "recipe 'words' has no source 'ic15'; it has: rendered, iiit5k"),
        (["ingest", "words", "--source", "ic15"], "recipe 'words' has no source 'ic15'"),
        (["evaluate", "words", "--on", "ic15"], "recipe 'words' has no source 'ic15'"),
        (["evaluate", "words", "--stage", "polish"], "has no stage 'polish'"),
        (["predict", "photo.png"], "holds no finished stage; train one, or name a checkpoint with --from"),
        (["report"], "holds no finished stage; train one, or name"),
    ],
)
def test_a_mistake_ends_in_one_clear_line(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)  # the store is below
    assert message in mistake(capsys, *words)


def test_a_folder_that_is_not_given_is_told_before_any_other_source_is_ingested(capsys, tmp_path):
    # `words` renders a million words before it comes to the photographs; a few will do here, should it fail.
    few = ["--set", "sources.rendered.count=8", "--set", "sources.rendered.style=plain"]
    assert "no root given" in mistake(capsys, "train", "words", *few, "--store", tmp_path / "store")
    assert not list(tmp_path.rglob("*.arrow"))


@pytest.mark.parametrize("words", [["nonsense"], ["train"], ["predict"], ["show", "words", "--workers", "1"]])
def test_what_the_parser_refuses_is_a_mistake_too(capsys, words):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file or directory"),
        ("stages: {pretrain: [", "while parsing a flow"),
        ("- seed", "expected settings by name, got list"),
        ("", "expected settings by name, got NoneType"),
        (b"\xff\xfe\x00", "FILE: "),
        ("7: 1", "Recipe has no '7'"),
        ("seed: [1, 2]", "seed: expected int, got [1, 2] (list)"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
    ],
    ids=["missing", "cut short", "list", "empty", "binary", "number as key", "wrong type", "code"],
)
def test_an_override_file_that_cannot_be_used_is_a_mistake_of_one_line(capsys, tmp_path, text, message):
    path = tmp_path / "changes.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    err = mistake(capsys, "show", "words", "--overrides", path)
    assert message.replace("FILE", str(path)) in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file or directory"),
        ("{", "Expecting property name"),
        ("{}", 'not a plan: expected {"is": "orchestrator.plan.Recipe", ...}, as `show RECIPE` writes it'),
        (json.dumps(plain(recipe())), "is a plan of recipe 'words', not of 'demo'"),
        (json.dumps(plain(recipe()) | {"sede": 1}), "sede: Recipe has no 'sede'; did you mean 'seed'?"),
        (json.dumps(plain(recipe())).replace("models.losses.text.ctc", "os.system"), "'os.system' is not in models"),
    ],
    ids=["missing", "half", "no plan", "another recipe", "unknown field", "code"],
)
def test_a_plan_that_cannot_be_used_is_a_mistake_of_one_line(capsys, tmp_path, text, message):
    path = tmp_path / "plan.json"
    if text is not None:
        path.write_text(text)
    assert message in mistake(capsys, "show", "demo", "--plan", path)


def test_a_shown_plan_trains_as_what_it_was_shown_of(capsys, tmp_path):
    words = ["words", "--preset", "tiny", "--set", "stages.pretrain.optim.lr=7e-4"]
    code, out, err = ran(capsys, "show", *words, "--json")
    assert (code, err) == (0, "")
    (tmp_path / "plan.json").write_text(out)
    first, again = plan_of("train", *words), plan_of("train", "words", "--plan", tmp_path / "plan.json")
    assert first == again
    assert first.stages[0].optim.lr == 7e-4
    for stage in first.stages:
        assert fingerprint(first, stage, {}) == fingerprint(again, again.stage(stage.name), {})


def test_show_names_every_stage_with_its_fingerprint_and_prints_the_plan(capsys):
    code, out, _ = ran(capsys, "show", "words")
    assert code == 0
    for number, stage in enumerate(recipe().stages):
        assert f"  {number} {stage.name} {fingerprint(recipe(), stage, {})}" in out
    assert json.loads(out[out.index("{") :]) == plain(recipe())


def test_every_way_to_change_a_plan_says_the_same(tmp_path):
    changes = {"stages.pretrain.optim.lr": "7e-4", "stages.pretrain.schedule": "Cosine", "seed": "3"}
    (tmp_path / "dotted.yaml").write_text(yaml.safe_dump(changes))
    (tmp_path / "nested.yaml").write_text(
        "seed: 3\nstages:\n  pretrain:\n    optim:\n      lr: 7e-4\n    schedule: {is: Cosine}\n"
    )
    words = [each for path, value in changes.items() for each in ("--set", f"{path}={value}")]
    by_set = plan_of("show", "words", *words)
    assert by_set.seed == 3 and by_set != recipe()
    assert plan_of("show", "words", "--overrides", tmp_path / "dotted.yaml") == by_set
    assert plan_of("show", "words", "--overrides", tmp_path / "nested.yaml") == by_set


def test_what_is_said_later_wins(tmp_path):
    (tmp_path / "changes.yaml").write_text("seed: 3\nstages.pretrain.epochs: 5\n")
    file = ["--overrides", tmp_path / "changes.yaml"]
    found = plan_of("show", "words", "--set", "seed=4", "--set", "seed=5", *file, "--preset", "tiny")
    assert (found.seed, found.stages[0].epochs) == (5, 5)  # preset, then file, then --set in their order
    assert found.task == plan_of("show", "words", "--preset", "tiny").task


def test_an_empty_store_has_no_runs(capsys, tmp_path):
    assert ran(capsys, "runs", "--store", tmp_path / "none")[:2] == (0, f"nothing in {tmp_path / 'none'}\n")


def test_runs_lists_what_is_done_begun_and_interrupted(capsys, tmp_path):
    store = Store(tmp_path)
    folders = [store.folder("words", stage, "0" * 12) for stage in ("pretrain", "finetune", "polish")]
    for folder in folders:
        folder.mkdir(parents=True)
        write_json(folder / "plan.json", {})
    (folders[1] / "checkpoints" / "step-00000005").mkdir(parents=True)
    record = Record(
        recipe="words", stage="polish", fingerprint="0" * 12, checkpoint="c", last="c",
        best={"iiit5k/ned": {"value": 0.5, "step": 9}}, metrics={}, before={}, steps=9, epochs=1, skipped=0,
        finished="all epochs done", parent="f" * 12, plan={}, data={}, execution={}, versions={},
    )  # fmt: skip
    store.write(folders[2], record)
    code, out, _ = ran(capsys, "runs", "words", "--store", tmp_path)
    assert code == 0
    assert out.splitlines() == [
        "words/pretrain-000000000000\tbegun",
        "words/finetune-000000000000\tnot finished, resumable",
        f"words/polish-000000000000\tdone (all epochs done) from {'f' * 12}\tiiit5k/ned 0.5000 at step 9",
    ]
    assert ran(capsys, "runs", "demo", "--store", tmp_path)[1] == f"nothing in {tmp_path}\n"


def test_a_broken_record_is_a_failure_that_names_the_file(capsys, tmp_path):
    folder = Store(tmp_path).folder("words", "pretrain", "0" * 12)
    folder.mkdir(parents=True)
    write_json(folder / "plan.json", {})
    (folder / "record.json").write_text("{")
    code, _, err = ran(capsys, "runs", "--store", tmp_path)
    assert code == 1
    assert err.startswith(f"failed: {folder / 'record.json'}: not a record of this version") and err.count("\n") == 1


def test_what_is_said_is_printed_as_it_is(capsys):
    say("labels.tsv:100: no split; [red]x[/red] :smile: " + "long " * 50)
    assert capsys.readouterr().err == "labels.tsv:100: no split; [red]x[/red] :smile: " + "long " * 50 + "\n"


def test_the_line_of_an_epoch_shows_loss_rate_and_headline_metrics():
    status = {
        "epoch": 3, "epochs": 100, "loss": {"loss/ctc": 0.475}, "lr": 5e-4, "skipped": 0, "finished": "",
        "validation": {"iiit5k/word_accuracy_36": 0.515, "iiit5k/ned": 0.8, "iiit5k/cer": 0.1},
    }  # fmt: skip
    line = "Epoch 3/100 - Loss: 0.4750 - LR: 0.000500 - iiit5k/word_accuracy_36: 0.5150 - iiit5k/cer: 0.1000"
    assert epoch_line(status) == line
    assert epoch_line(status | {"skipped": 2, "finished": "early stop: x"}) == (
        line + " - skipped updates: 2 - early stop: x"
    )
