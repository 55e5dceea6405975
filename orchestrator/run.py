"""The command line: ``python -m orchestrator.run COMMAND ...``. The only importer of recipes."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

import orchestrator.recipes
from orchestrator import commands
from orchestrator.commands import RESTORED
from orchestrator.identity import fingerprint, plain
from orchestrator.options import (
    STORE,
    data_options,
    device_options,
    execution_of,
    execution_options,
    join_ray,
    known,
    pair,
    plan_options,
    preflight_options,
    ray_options,
    read_json,
    read_yaml,
    roots_of,
    store_of,
)  # fmt: skip
from orchestrator.override import from_plain, override
from orchestrator.plan import PlanError, Recipe, Stage

TRACKERS = "mlflow,tensorboard"

OVERVIEW = """\
Plumbline trains models that read text, through stages that each prove what they learned.

Without a command it runs the demo: words are rendered, a small network learns to read them in three stages, and
what it reads is shown. No download, no GPU, a few minutes.

  python -m orchestrator.run                                      the demo
  python -m orchestrator.run show words                           what the recipe `words` is, stage by stage
  python -m orchestrator.run check words --preset tiny --data iiit5k=DIR      all of preflight, no training
  python -m orchestrator.run train words --preset tiny --data iiit5k=DIR
  python -m orchestrator.run evaluate words --preset tiny --data iiit5k=DIR --on iiit5k --lexicons
  python -m orchestrator.run report                               a page about the run that ended last
  python -m orchestrator.run predict photo.png scan.jpg
  python -m orchestrator.run export --to words-reader             a folder that anyone can deploy

Training is always safe to run again: finished stages are skipped, an interrupted one goes on where it was.
"""
CLOSING = """\
exit codes: 0 done; 1 a run failed; 2 a mistake in the command or plan; 128 + n stopped by signal n, resumable.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Mistakes and failures end in one clear message, not a traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(words or ["demo"])
    try:
        join_ray(options)
        return options.command(options)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return commands.DONE
    except Exception as error:
        return _told(error)


def _told(error: Exception) -> int:
    """Say in one line what a person can mend, and the exit code for it; anything else is raised again."""
    from orchestrator.failures import foreseen, is_mistake

    mistake = isinstance(error, PlanError) or is_mistake(error)  # the first needs no further imports
    if not mistake and not isinstance(error, foreseen()):
        raise error
    print(f"{'mistake' if mistake else 'failed'}: {error}", file=sys.stderr)
    return commands.MISTAKE if mistake else commands.FAILED


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m orchestrator.run", description=OVERVIEW, epilog=CLOSING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = top.add_subparsers(metavar="COMMAND", title="commands", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=run)
        return added

    train = command("train", train_command, "train a recipe's stages; finished ones are skipped")
    plan_options(train)
    data_options(train)
    execution_options(train)
    preflight_options(train)
    train.add_argument("--stage", default="all", help="all, or one stage's name or number (default: all)")
    train.add_argument("--trackers", default=TRACKERS, metavar="NAMES",
                       help=f"mlflow, tensorboard, both by comma, or none (default: {TRACKERS})")  # fmt: skip
    train.add_argument("--no-report", dest="report", action="store_false", help="write no report at the end")
    check = command("check", check_command, "run all of preflight for every stage; trains nothing")
    plan_options(check)
    data_options(check)
    execution_options(check)
    preflight_options(check)
    check.add_argument("--stage", default="all", help="all, or one stage's name or number (default: all)")
    check.add_argument("--json", action="store_true", help="one JSON object a line: of, check, verdict, found")
    ingest = command("ingest", ingest_command, "make a recipe's Arrow shards, and say what was rejected and why")
    plan_options(ingest)
    data_options(ingest)
    ray_options(ingest)
    ingest.add_argument("--source", action="append", default=[], help="only this source; may be repeated")
    evaluate = command("evaluate", evaluate_command, "measure a trained stage on the test split")
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
    predict = command("predict", predict_command, "read images; a restoring recipe writes them in high resolution")
    predict.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image file, or folder of them")
    predict.add_argument("--from", dest="place", type=Path, metavar="PLACE",
                         help="stage folder, record, checkpoint or export (default: the newest stage)")  # fmt: skip
    predict.add_argument("--store", type=Path, default=Path(STORE), help=f"default: {STORE}")
    predict.add_argument("--to", type=Path, metavar="DIR",
                         help=f"where pictures and predictions.json go (default: {RESTORED})")  # fmt: skip
    predict.add_argument("--tracks", action="store_true",
                         help="the images of one folder show one plate (folders track_* always do)")  # fmt: skip
    predict.add_argument("--pages", action="store_true", help="all images are whole pages (else by their shape)")
    predict.add_argument("--flip-vote", action="store_true",
                         help="restore pages upside down too; black is what both say is black")  # fmt: skip
    predict.add_argument("--json", action="store_true", help="one JSON object a line")
    device_options(predict)
    show = command("show", show_command, "print the resolved plan and fingerprints; trains nothing, needs no Ray")
    plan_options(show)
    show.add_argument("--json", action="store_true", help="only the plan, as --plan reads it")
    runs = command("runs", runs_command, "list stages in the store: status, best metrics, where they came from")
    runs.add_argument("recipe", nargs="?", help="only this recipe")
    runs.add_argument("--store", type=Path, default=Path(STORE), help=f"default: {STORE}")
    demo = command("demo", demo_command, "the embedded demo, as without a command")
    demo.add_argument("--store", type=Path, default=Path(STORE), help=f"default: {STORE}")
    execution_options(demo)
    report = command("report", report_command, "write a page (HTML and Markdown) about a stage and its ancestors")
    report.add_argument("place", nargs="?", type=Path, metavar="PLACE",
                        help="stage folder, finished or not (default: the stage that ended last)")  # fmt: skip
    report.add_argument("--store", type=Path, default=Path(STORE), help=f"default: {STORE}")
    device_options(report)
    export = command(
        "export", export_command, "write a folder that anyone can deploy, and prove that it reads the same"
    )
    export.add_argument("--from", dest="place", type=Path, metavar="PLACE",
                        help="stage folder, record or checkpoint (default: the stage that ended last)")  # fmt: skip
    export.add_argument("--to", type=Path, required=True, metavar="DIR", help="the new folder")
    export.add_argument("--images", nargs="+", type=Path, default=[], metavar="IMAGE",
                        help="pictures to prove it on (default: validation rows in the store)")  # fmt: skip
    export.add_argument("--no-onnx", dest="onnx", action="store_false", help="leave ONNX out")
    export.add_argument("--force", action="store_true", help="replace an earlier export in DIR")
    export.add_argument("--store", type=Path, default=Path(STORE), help=f"default: {STORE}")
    return top


def train_command(options: argparse.Namespace) -> int:
    recipe = resolved(options)
    only = [] if options.stage == "all" else [recipe.stage(options.stage).name]
    stages = [stage for stage in recipe.stages if not only or stage.name in only]
    return commands.train(
        recipe, store_of(options), execution_of(options),
        roots=roots_of(options, recipe), sources=_sources_of(recipe, stages), only=only,
        trackers=options.trackers, report=options.report,
    )  # fmt: skip


def check_command(options: argparse.Namespace) -> int:
    recipe = resolved(options)
    only = [] if options.stage == "all" else [recipe.stage(options.stage).name]
    stages = [stage for stage in recipe.stages if not only or stage.name in only]
    return commands.check(
        recipe, store_of(options), execution_of(options),
        roots=roots_of(options, recipe), sources=_sources_of(recipe, stages), only=only, as_json=options.json,
    )  # fmt: skip


def ingest_command(options: argparse.Namespace) -> int:
    recipe = resolved(options)
    sources = [known(name, recipe) for name in options.source] or list(recipe.sources)
    folders = commands.ingested(recipe, store_of(options), roots=roots_of(options, recipe), sources=sources)
    for name, folder in folders.items():
        print(f"{name}\t{folder}")
    return commands.DONE


def evaluate_command(options: argparse.Namespace) -> int:
    recipe, store = resolved(options), store_of(options)
    if options.stage:
        recipe.stage(options.stage)  # a name that does not exist is told before anything is ingested
    names = [known(name, recipe) for name in options.on] or list(recipe.sources)
    needed = list(dict.fromkeys([*_sources_of(recipe, recipe.stages), *names]))
    shards = commands.ingested(recipe, store, roots=roots_of(options, recipe), sources=needed)
    return commands.evaluate(
        recipe, store, execution_of(options), shards=shards, stage=options.stage, sources=names, split=options.split,
        lexicons=options.lexicons, beam=options.beam, as_json=options.json,
    )  # fmt: skip


def predict_command(options: argparse.Namespace) -> int:
    place = options.place or commands.newest(store_of(options))
    return commands.predict(
        options.images, place, execution_of(options), as_json=options.json, to=options.to, tracks=options.tracks,
        pages=options.pages, flip_vote=options.flip_vote,
    )  # fmt: skip


def show_command(options: argparse.Namespace) -> int:
    recipe = resolved(options)
    if options.json:
        print(json.dumps(plain(recipe), indent=2, ensure_ascii=False))
        return commands.DONE
    print(f"recipe {recipe.name}, alphabet {recipe.alphabet.sha256[:12]}, ImageSpec {recipe.image.sha256[:12]}")
    print("fingerprints are of the plan alone; with the data's own hashes a run's folders have others")
    for number, stage in enumerate(recipe.stages):
        parent = getattr(stage.start_from, "stage", None) or getattr(stage.start_from, "place", None)
        start = f" from {parent}" if parent else ""
        print(f"  {number} {stage.name} {fingerprint(recipe, stage, {})}{start}")
    print(json.dumps(plain(recipe), indent=2, ensure_ascii=False))
    return commands.DONE


def runs_command(options: argparse.Namespace) -> int:
    return commands.runs(store_of(options), options.recipe)


def demo_command(options: argparse.Namespace) -> int:
    """Train the demo's recipe, and say how well its last stage reads."""
    recipe, store = recipe_named("demo").recipe(), store_of(options)
    sources = _sources_of(recipe, recipe.stages)
    code = commands.train(recipe, store, execution_of(options), roots={}, sources=sources, trackers=TRACKERS)
    if code != commands.DONE:
        return code
    folder = commands.newest(store)
    record = store.read(folder)
    assert record is not None
    metric = recipe.stages[-1].best[0].metric
    words = record.metrics[f"{metric.split('/')[0]}/n"]
    print(f"{metric} of the last stage: {record.metrics[metric]:.4f} on {words:.0f} held-out rendered words")
    print(f"All of it is in {folder}. Next: python -m orchestrator.run show words, and README.md.")
    return commands.DONE


def report_command(options: argparse.Namespace) -> int:
    store = store_of(options)
    return commands.report(options.place or commands.newest(store), store, execution_of(options))


def export_command(options: argparse.Namespace) -> int:
    place = options.place or commands.newest(store_of(options))
    return commands.export(place, options.to, onnx=options.onnx, replace=options.force, images=options.images)


def recipe_named(name: str) -> ModuleType:
    known = sorted(module.name for module in iter_modules(orchestrator.recipes.__path__))
    if name not in known:
        raise PlanError(f"there is no recipe {name!r}; there are: {', '.join(known)}")
    return import_module(f"orchestrator.recipes.{name}")


def resolved(options: argparse.Namespace) -> Recipe:
    """The plan that the options describe: a recipe or ``--plan``, then presets, override file and ``--set``."""
    if options.plan:
        recipe = from_plain(read_json(options.plan))
        if recipe.name != options.recipe:
            raise PlanError(f"{options.plan} is a plan of recipe {recipe.name!r}, not of {options.recipe!r}")
        presets: Mapping[str, Mapping[str, Any]] = {}
    else:
        module = recipe_named(options.recipe)
        recipe, presets = module.recipe(), getattr(module, "PRESETS", {})
    for preset in options.preset:
        if preset not in presets:
            raise PlanError(
                f"recipe {options.recipe!r} has no preset {preset!r}; it has: {', '.join(presets) or 'none'}"
            )
        recipe = override(recipe, presets[preset])
    if options.overrides:
        recipe = override(recipe, read_yaml(options.overrides))
    return override(recipe, dict(pair(each, "--set") for each in options.set))


def _sources_of(recipe: Recipe, stages: Sequence[Stage]) -> list[str]:
    """The sources that these stages and the stages they descend from read."""
    names: dict[str, None] = {}
    for stage in stages:
        parent = recipe.parent(stage)
        names |= dict.fromkeys(_sources_of(recipe, [parent]) if parent else [])
        names |= dict.fromkeys(stage.sources)
    return list(names)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code) if code >= 128 else sys.exit(code)
