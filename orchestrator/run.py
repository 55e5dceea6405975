"""The command line: ``python -m orchestrator.run COMMAND ...``. The only importer of recipes."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

import orchestrator.recipes
from orchestrator import commands
from orchestrator.commands_train import train
from orchestrator.identity import fingerprint, plain
from orchestrator.options import (
    TRACKERS,
    command_line,
    execution_of,
    join_ray,
    known,
    pair,
    place_of,
    read_json,
    read_yaml,
    roots_of,
    store_of,
)
from orchestrator.override import from_plain, override
from orchestrator.plan import PlanError, Recipe, Stage
from orchestrator.redact import redacted


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
    print(redacted(f"{'mistake' if mistake else 'failed'}: {error}"), file=sys.stderr)
    return commands.MISTAKE if mistake else commands.FAILED


def parser() -> argparse.ArgumentParser:
    """The command line: every command, and what runs it."""
    return command_line(
        {
            "train": train_command, "sweep": sweep_command, "check": check_command, "ingest": ingest_command,
            "evaluate": evaluate_command, "predict": predict_command, "show": show_command, "runs": runs_command,
            "demo": demo_command, "report": report_command, "export": export_command,
        }
    )  # fmt: skip


def train_command(options: argparse.Namespace) -> int:
    recipe = resolved(options)
    only = [] if options.stage == "all" else [recipe.stage(options.stage).name]
    stages = [stage for stage in recipe.stages if not only or stage.name in only]
    return train(
        recipe, store_of(options), execution_of(options),
        roots=roots_of(options, recipe), sources=_sources_of(recipe, stages), only=only,
        trackers=options.trackers, report=options.report,
    )  # fmt: skip


def sweep_command(options: argparse.Namespace) -> int:
    from orchestrator.commands_sweep import search_of, seconds_of, sweep
    from orchestrator.sweep import Places
    from orchestrator.sweep.space import load_space

    space = load_space(options.space)
    options.recipe = space.recipe
    recipe = resolved(options)
    stage = recipe.stage(space.stage)
    search = search_of(stage, space.name, trials=options.trials, sampler=options.sampler, prune=options.prune)
    return sweep(
        recipe, store_of(options), execution_of(options), search, Places(limit=options.concurrent, gpus=options.gpus),
        roots=roots_of(options, recipe), sources=_sources_of(recipe, [stage]), trackers=options.trackers,
        report=options.report, name=options.name, storage=options.storage, resume=options.resume,
        budget_s=seconds_of(options.time_budget) if options.time_budget else 0.0, adopt=options.adopt,
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
    from orchestrator.sources import ingested

    folders = ingested(recipe, store_of(options), roots=roots_of(options, recipe), sources=sources)
    for name, folder in folders.items():
        print(f"{name}\t{folder}")
    return commands.DONE


def evaluate_command(options: argparse.Namespace) -> int:
    from orchestrator.sources import ingested

    recipe, store = resolved(options), store_of(options)
    if options.stage:
        recipe.stage(options.stage)  # a name that does not exist is told before anything is ingested
    names = [known(name, recipe) for name in options.on] or list(recipe.sources)
    needed = list(dict.fromkeys([*_sources_of(recipe, recipe.stages), *names]))
    shards = ingested(recipe, store, roots=roots_of(options, recipe), sources=needed)
    return commands.evaluate(
        recipe, store, execution_of(options), shards=shards, stage=options.stage, sources=names, split=options.split,
        lexicons=options.lexicons, beam=options.beam, as_json=options.json,
    )  # fmt: skip


def predict_command(options: argparse.Namespace) -> int:
    return commands.predict(
        options.images, place_of(options), execution_of(options), as_json=options.json, to=options.to,
        tracks=options.tracks, pages=options.pages, flip_vote=options.flip_vote,
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
    code = train(recipe, store, execution_of(options), roots={}, sources=sources, trackers=TRACKERS)
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
    return commands.report(place_of(options), store_of(options), execution_of(options), storage=options.storage)


def export_command(options: argparse.Namespace) -> int:
    place = place_of(options)
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
