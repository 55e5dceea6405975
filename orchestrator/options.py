"""Options that several commands share, and what they mean."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.cluster import described, refuse_unpacked, use_address
from orchestrator.execution import Execution
from orchestrator.plan import PlanError, Recipe
from orchestrator.store import Store

STORE = "plumbline-store"
TRACKERS = "mlflow,tensorboard"
RESTORED = "plumbline-restored"  # the folder that restored pictures go to

OVERVIEW = """\
Plumbline trains models that read text, through stages that each prove what they learned.

Without a command it runs the demo: words are rendered, a small network learns to read them in three stages, and
what it reads is shown. No download, no GPU, a few minutes.

  python -m orchestrator.run                                      the demo
  python -m orchestrator.run show words                           what the recipe `words` is, stage by stage
  python -m orchestrator.run check words --preset tiny --data iiit5k=DIR      all of preflight, no training
  python -m orchestrator.run train words --preset tiny --data iiit5k=DIR
  python -m orchestrator.run sweep words_finetune --preset tiny --data iiit5k=DIR --trials 16 --adopt
  python -m orchestrator.run evaluate words --preset tiny --data iiit5k=DIR --on iiit5k --lexicons
  python -m orchestrator.run report                               a page about the run that ended last
  python -m orchestrator.run predict photo.png scan.jpg
  python -m orchestrator.run export --to words-reader             a folder that anyone can deploy

Training is always safe to run again: finished stages are skipped, an interrupted one goes on where it was.
"""
CLOSING = """\
exit codes: 0 done; 1 a run failed; 2 a mistake in the command or plan; 128 + n stopped by signal n, resumable.
"""


def execution_of(options: argparse.Namespace) -> Execution:
    said = vars(options).items()
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in said}
    if isinstance(given.get("workers"), tuple):
        given["workers_min"], given["workers"] = given["workers"]
    return Execution(**{name: given[name] for name in Execution.__dataclass_fields__ if name in given})


def store_of(options: argparse.Namespace) -> Store:
    """The store that is asked for; of one at a URL, with this node's working copy."""
    from orchestrator.remote import is_url
    from orchestrator.working_copy import store_at

    if is_url(options.store):
        return store_at(options.store)
    place = Path(options.store.removeprefix("file://")).expanduser().resolve()
    refuse_unpacked(place, "--store")
    return Store(place)


def place_of(options: argparse.Namespace) -> Path:
    """The stage, checkpoint or export that is asked for, on this machine; else the stage that ended last."""
    from orchestrator import commands
    from orchestrator.bring import bring, path_of_place

    if options.place:
        return path_of_place(options.place)
    store = store_of(options)
    return bring(store, commands.newest(store))


def plan_options(command: argparse.ArgumentParser, *, named: bool = True) -> None:
    if named:
        command.add_argument("recipe", help="name of a recipe, such as words")
    command.add_argument("--preset", action="append", default=[], help="a named set of overrides, such as tiny")
    command.add_argument("--set", action="append", default=[], metavar="A.B=V",
                         help="change one setting, such as stages.finetune.optim.lr=3e-5; may be repeated")  # fmt: skip
    command.add_argument("--overrides", type=Path, metavar="FILE", help="YAML of settings to change, nested or dotted")
    command.add_argument("--plan", type=Path, metavar="FILE", help="a resolved plan, as `show --json` prints it")


def data_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", action="append", default=[], metavar="NAME=DIR",
                         help="where a source lies: a folder, or the URL of one")  # fmt: skip
    store_option(command, f"where results go: a folder or a URL, such as s3://BUCKET/NAME (default: {STORE})")


def store_option(command: argparse.ArgumentParser, text: str = f"a folder or a URL (default: {STORE})") -> None:
    command.add_argument("--store", default=STORE, help=text)


def device_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    command.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto",
                         help="of the forward pass (default: bf16 on a GPU, fp32 on a CPU)")  # fmt: skip
    command.add_argument(
        "--threads", type=int, default=0, help="CPU threads for each worker (default: share the cores)"
    )


def execution_options(command: argparse.ArgumentParser) -> None:
    device_options(command)
    command.add_argument("--workers", type=fewest_and_most, default=(0, 1), metavar="N|MIN:MAX",
                         help="Ray Train workers; 2:4 goes on with 2 when nodes are lost and takes 4 when they are "
                         "back; 0 trains in this process (default: 1)")  # fmt: skip
    ray_options(command)
    command.add_argument("--timeout", dest="timeout_s", type=float, default=600.0, metavar="SECONDS",
                         help="give up a group whose ranks wait this long for one of them (default: 600)")  # fmt: skip
    command.add_argument("--wait", dest="wait_s", type=float, default=1200.0, metavar="SECONDS",
                         help="wait this long for lost nodes, or for those to be started (default: 1200)")  # fmt: skip
    command.add_argument("--compile", action="store_true", help="torch.compile the network; pays on a GPU")
    command.add_argument("--checkpoint-every", dest="checkpoint_every_s", type=float, default=60.0, metavar="SECONDS")


def fewest_and_most(text: str) -> tuple[int, int]:
    """``"4"`` is (0, 4), four and no fewer; ``"2:4"`` is (2, 4)."""
    fewest, colon, most = text.partition(":")
    return (int(fewest), int(most)) if colon else (0, int(text))


def ray_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--address", default="", metavar="HOST:PORT",
                         help="Ray cluster to use (default: RAY_ADDRESS, else a Ray of its own here)")  # fmt: skip
    command.add_argument("--dashboard", action="store_true",
                         help="a Ray of its own has a dashboard and Prometheus metrics, on loopback")  # fmt: skip


def join_ray(options: argparse.Namespace) -> None:
    """Make ``--address`` the Ray of this process, or start one with a ``--dashboard`` and say where it is."""
    use_address(getattr(options, "address", ""))
    if getattr(options, "dashboard", False):
        if os.environ.get("RAY_ADDRESS"):
            raise PlanError("--dashboard is of a Ray that this command starts; the cluster that it joins has its own")
        from orchestrator.worker import get_ready

        get_ready(dashboard=True)
        print(described(), file=sys.stderr)


def sweep_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("space", help="a file of tune_spaces, such as words_finetune")
    command.add_argument("--trials", type=int, default=0, metavar="N", help="in all (default: the stage's, else 16)")
    command.add_argument("--concurrent", type=int, default=0, metavar="K", help="at once (default: what fits)")
    command.add_argument("--workers-per-trial", dest="workers", type=int, default=1, metavar="W",
                         help="above 1 each trial gets a Ray Train group (default: 1)")  # fmt: skip
    command.add_argument("--gpus-per-trial", dest="gpus", type=float, default=0.0, metavar="F",
                         help="a fraction lets trials share a GPU (default: 1 where there are GPUs)")  # fmt: skip
    command.add_argument("--time-budget", default="", metavar="2h",
                         help="then trials save a checkpoint and end; --resume goes on with them")  # fmt: skip
    command.add_argument("--sampler", choices=("tpe", "gp", "cma", "random"), default="", help="default: tpe")
    command.add_argument("--prune", choices=("asha", "median", "none"), default="",
                         help="how trials are cut short, at equal epochs (default: asha)")  # fmt: skip
    command.add_argument("--resume", action="store_true", help="go on with the sweep that was begun")
    command.add_argument("--adopt", action="store_true", help="make the winner the stage's result")
    command.add_argument("--name", default="", help="begin another sweep of the same space and stage under this name")
    command.add_argument("--storage", default="", metavar="URL",
                         help="database of the study, as Optuna takes it (default: SQLite in the store)")  # fmt: skip


def preflight_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--accept", action="append", default=[], metavar="CHECK",
                         help="record what this preflight check refuses and go on; may be repeated")  # fmt: skip


def roots_of(options: argparse.Namespace, recipe: Recipe) -> dict[str, str]:
    """Source -> the folder or URL that ``--data`` names."""
    roots = dict(pair(each, "--data") for each in options.data)
    for name, path in roots.items():
        known(name, recipe)
        if "://" not in path and not Path(path).expanduser().is_dir():
            raise PlanError(f"--data {name}={path}: there is no such folder")
    return roots


def known(name: str, recipe: Recipe) -> str:
    if name not in recipe.sources:
        raise PlanError(f"recipe {recipe.name!r} has no source {name!r}; it has: {', '.join(recipe.sources)}")
    return name


def pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise PlanError(f"{option} {text}: expected NAME=VALUE")
    return name, value


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PlanError(f"{path}: {error}") from error


def read_yaml(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PlanError(f"{path}: {' '.join(str(error).split())}") from error  # YAML's own messages have many lines
    if not isinstance(data, dict):
        raise PlanError(f"{path}: expected settings by name, got {type(data).__name__}")
    return data


def command_line(run: Mapping[str, Callable[[argparse.Namespace], int]]) -> argparse.ArgumentParser:
    """The parser of all commands; each ends in the function that ``run`` names for it."""
    top = argparse.ArgumentParser(
        prog="python -m orchestrator.run", description=OVERVIEW, epilog=CLOSING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = top.add_subparsers(metavar="COMMAND", title="commands", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=run[name])
        return added

    train = command("train", "train a recipe's stages; finished ones are skipped")
    plan_options(train)
    data_options(train)
    execution_options(train)
    preflight_options(train)
    train.add_argument("--stage", default="all", help="all, or one stage's name or number (default: all)")
    train.add_argument("--trackers", default=TRACKERS, metavar="NAMES",
                       help=f"mlflow, tensorboard, both by comma, or none (default: {TRACKERS})")  # fmt: skip
    train.add_argument("--no-report", dest="report", action="store_false", help="write no report at the end")
    sweep = command("sweep", "search a stage's settings, each trial from its parent's best checkpoint")
    sweep_options(sweep)
    plan_options(sweep, named=False)
    data_options(sweep)
    device_options(sweep)
    ray_options(sweep)
    preflight_options(sweep)
    sweep.add_argument("--trackers", default=TRACKERS, metavar="NAMES",
                       help=f"mlflow, tensorboard, both by comma, or none (default: {TRACKERS})")  # fmt: skip
    sweep.add_argument("--no-report", dest="report", action="store_false", help="write no report at the end")
    check = command("check", "run all of preflight for every stage; trains nothing")
    plan_options(check)
    data_options(check)
    execution_options(check)
    preflight_options(check)
    check.add_argument("--stage", default="all", help="all, or one stage's name or number (default: all)")
    check.add_argument("--json", action="store_true", help="one JSON object a line: of, check, verdict, found")
    ingest = command("ingest", "make a recipe's Arrow shards, and say what was rejected and why")
    plan_options(ingest)
    data_options(ingest)
    ray_options(ingest)
    ingest.add_argument("--source", action="append", default=[], help="only this source; may be repeated")
    evaluate = command("evaluate", "measure a trained stage on the test split")
    plan_options(evaluate)
    data_options(evaluate)
    execution_options(evaluate)
    evaluate.add_argument("--stage", default="", help="which stage (default: the last that has a record)")
    evaluate.add_argument(
        "--on", action="append", default=[], metavar="SOURCE", help="source to measure on; repeatable"
    )
    evaluate.add_argument("--split", default="test", choices=("test", "valid", "train"))
    evaluate.add_argument("--lexicons", action="store_true", help="also with the 50 and 1,000 words of each image")
    evaluate.add_argument("--beam", type=int, default=0, metavar="N",
                          help="also by beam search N wide; with plates, how wide for what layouts allow")  # fmt: skip
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    predict = command("predict", "read images; a restoring recipe writes them in high resolution")
    predict.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image file, or folder of them")
    predict.add_argument("--from", dest="place", metavar="PLACE",
                         help="stage folder, record, checkpoint or export (default: the newest stage)")  # fmt: skip
    store_option(predict)
    predict.add_argument("--to", type=Path, metavar="DIR",
                         help=f"where pictures and predictions.json go (default: {RESTORED})")  # fmt: skip
    predict.add_argument("--tracks", action="store_true",
                         help="the images of one folder show one plate (folders track_* always do)")  # fmt: skip
    predict.add_argument("--pages", action="store_true", help="all images are whole pages (else by their shape)")
    predict.add_argument("--flip-vote", action="store_true",
                         help="restore pages upside down too; black is what both say is black")  # fmt: skip
    predict.add_argument("--json", action="store_true", help="one JSON object a line")
    device_options(predict)
    show = command("show", "print the resolved plan and fingerprints; trains nothing, needs no Ray")
    plan_options(show)
    show.add_argument("--json", action="store_true", help="only the plan, as --plan reads it")
    runs = command("runs", "list stages in the store: status, best metrics, where they came from")
    runs.add_argument("recipe", nargs="?", help="only this recipe")
    store_option(runs)
    demo = command("demo", "the embedded demo, as without a command")
    store_option(demo)
    execution_options(demo)
    report = command("report", "write a page (HTML and Markdown) about a stage and its ancestors, or a sweep")
    report.add_argument("place", nargs="?", metavar="PLACE",
                        help="folder of a stage or sweep (default: the stage that ended last)")  # fmt: skip
    report.add_argument("--storage", default="", metavar="URL",
                        help="database of a sweep's study (default: SQLite in its folder)")  # fmt: skip
    store_option(report)
    device_options(report)
    export = command("export", "write a folder that anyone can deploy, and prove that it reads the same")
    export.add_argument("--from", dest="place", metavar="PLACE",
                        help="stage folder, record or checkpoint (default: the stage that ended last)")  # fmt: skip
    export.add_argument("--to", type=Path, required=True, metavar="DIR", help="the new folder")
    export.add_argument("--images", nargs="+", type=Path, default=[], metavar="IMAGE",
                        help="pictures to prove it on (default: validation rows in the store)")  # fmt: skip
    export.add_argument("--no-onnx", dest="onnx", action="store_false", help="leave ONNX out")
    export.add_argument("--force", action="store_true", help="replace an earlier export in DIR")
    store_option(export)
    return top
