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
from orchestrator.execution import Execution
from orchestrator.identity import fingerprint, plain
from orchestrator.override import from_plain, override
from orchestrator.plan import PlanError, Recipe, Stage
from orchestrator.store import Store

STORE = "plumbline-store"
LATER = ("report", "check", "export")

OVERVIEW = """\
Plumbline trains models that read text, through stages that each prove what they learned.

Without a command it runs the demo: words are rendered, a small network learns to read them in three stages, and
what it reads is shown. No download, no GPU, a few minutes.

  python -m orchestrator.run                                      the demo
  python -m orchestrator.run show words                           what the recipe `words` is, stage by stage
  python -m orchestrator.run train words --preset tiny --data iiit5k=DIR
  python -m orchestrator.run evaluate words --preset tiny --data iiit5k=DIR --on iiit5k --lexicons
  python -m orchestrator.run predict photo.png scan.jpg

Training is always safe to run again: finished stages are skipped, an interrupted one goes on where it was.
"""
CLOSING = """\
exit codes: 0 done; 1 a run failed; 2 a mistake in the command or plan; 128 + n stopped by signal n, resumable.
Coming with the next release: report (a page about a run), check (all of preflight, no training), export.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Mistakes and failures end in one clear message, not a traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(words or ["demo"])
    try:
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
    _plan_options(train)
    _data_options(train)
    _execution_options(train)
    train.add_argument("--stage", default="all", help="all, or one stage's name or number (default: all)")
    ingest = command("ingest", ingest_command, "make a recipe's Arrow shards, and say what was rejected and why")
    _plan_options(ingest)
    _data_options(ingest)
    ingest.add_argument("--source", action="append", default=[], help="only this source; may be repeated")
    evaluate = command("evaluate", evaluate_command, "measure a trained stage on the test split")
    _plan_options(evaluate)
    _data_options(evaluate)
    _execution_options(evaluate)
    evaluate.add_argument("--stage", default="", help="which stage (default: the last that has a record)")
    evaluate.add_argument(
        "--on", action="append", default=[], metavar="SOURCE", help="source to measure on; repeatable"
    )
    evaluate.add_argument("--split", default="test", choices=("test", "valid", "train"))
    evaluate.add_argument("--lexicons", action="store_true", help="also with the 50 and 1,000 words of each image")
    evaluate.add_argument("--beam", type=int, default=0, metavar="N", help="also by prefix beam search N wide")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    predict = command("predict", predict_command, "read images")
    predict.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    predict.add_argument("--from", dest="place", type=Path, help="stage folder, record or checkpoint (default: newest)")
    predict.add_argument("--store", type=Path, default=Path(STORE), help=f"default: {STORE}")
    predict.add_argument("--json", action="store_true", help="one JSON object a line")
    _device_options(predict)
    show = command("show", show_command, "print the resolved plan and fingerprints; trains nothing, needs no Ray")
    _plan_options(show)
    show.add_argument("--json", action="store_true", help="only the plan, as --plan reads it")
    runs = command("runs", runs_command, "list stages in the store: status, best metrics, where they came from")
    runs.add_argument("recipe", nargs="?", help="only this recipe")
    runs.add_argument("--store", type=Path, default=Path(STORE), help=f"default: {STORE}")
    demo = command("demo", demo_command, "the embedded demo, as without a command")
    demo.add_argument("--store", type=Path, default=Path(STORE), help=f"default: {STORE}")
    _execution_options(demo)
    for name in LATER:
        command(name, later_command, "comes with the next release").add_argument("rest", nargs="*")
    return top


def train_command(options: argparse.Namespace) -> int:
    recipe = resolved(options)
    only = [] if options.stage == "all" else [recipe.stage(options.stage).name]
    stages = [stage for stage in recipe.stages if not only or stage.name in only]
    return commands.train(
        recipe, _store(options), _execution(options),
        roots=_roots(options, recipe), sources=_sources_of(recipe, stages), only=only,
    )  # fmt: skip


def ingest_command(options: argparse.Namespace) -> int:
    recipe = resolved(options)
    sources = [_known(name, recipe) for name in options.source] or list(recipe.sources)
    folders = commands.ingested(recipe, _store(options), roots=_roots(options, recipe), sources=sources)
    for name, folder in folders.items():
        print(f"{name}\t{folder}")
    return commands.DONE


def evaluate_command(options: argparse.Namespace) -> int:
    recipe, store = resolved(options), _store(options)
    if options.stage:
        recipe.stage(options.stage)  # a name that does not exist is told before anything is ingested
    names = [_known(name, recipe) for name in options.on] or list(recipe.sources)
    needed = list(dict.fromkeys([*_sources_of(recipe, recipe.stages), *names]))
    shards = commands.ingested(recipe, store, roots=_roots(options, recipe), sources=needed)
    return commands.evaluate(
        recipe, store, _execution(options), shards=shards, stage=options.stage, sources=names, split=options.split,
        lexicons=options.lexicons, beam=options.beam, as_json=options.json,
    )  # fmt: skip


def predict_command(options: argparse.Namespace) -> int:
    place = options.place or commands.newest(_store(options))
    return commands.predict(options.images, place, _execution(options), as_json=options.json)


def show_command(options: argparse.Namespace) -> int:
    recipe = resolved(options)
    if options.json:
        print(json.dumps(plain(recipe), indent=2, ensure_ascii=False))
        return commands.DONE
    print(f"recipe {recipe.name}, alphabet {recipe.alphabet.sha256[:12]}, ImageSpec {recipe.image.sha256[:12]}")
    print("fingerprints are of the plan alone; with the data's own hashes a run's folders have others")
    for number, stage in enumerate(recipe.stages):
        start = f" from {stage.start_from.stage}" if stage.start_from else ""
        print(f"  {number} {stage.name} {fingerprint(recipe, stage, {})}{start}")
    print(json.dumps(plain(recipe), indent=2, ensure_ascii=False))
    return commands.DONE


def runs_command(options: argparse.Namespace) -> int:
    return commands.runs(_store(options), options.recipe)


def demo_command(options: argparse.Namespace) -> int:
    """Train the demo's recipe, and say how well its last stage reads."""
    recipe, store = recipe_named("demo").recipe(), _store(options)
    sources = _sources_of(recipe, recipe.stages)
    code = commands.train(recipe, store, _execution(options), roots={}, sources=sources)
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


def later_command(options: argparse.Namespace) -> int:
    raise PlanError(f"this command comes with the next release, as do {', '.join(LATER)}")


def recipe_named(name: str) -> ModuleType:
    known = sorted(module.name for module in iter_modules(orchestrator.recipes.__path__))
    if name not in known:
        raise PlanError(f"there is no recipe {name!r}; there are: {', '.join(known)}")
    return import_module(f"orchestrator.recipes.{name}")


def resolved(options: argparse.Namespace) -> Recipe:
    """The plan that the options describe: a recipe or ``--plan``, then presets, override file and ``--set``."""
    if options.plan:
        recipe = from_plain(_read_json(options.plan))
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
        recipe = override(recipe, _read_yaml(options.overrides))
    return override(recipe, dict(_pair(each, "--set") for each in options.set))


def _execution(options: argparse.Namespace) -> Execution:
    given = vars(options)
    return Execution(**{name: given[name] for name in Execution.__dataclass_fields__ if name in given})


def _store(options: argparse.Namespace) -> Store:
    return Store(options.store.expanduser().resolve())


def _plan_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", help="name of a recipe, such as words")
    command.add_argument("--preset", action="append", default=[], help="a named set of overrides, such as tiny")
    command.add_argument("--set", action="append", default=[], metavar="A.B=V",
                         help="change one setting, such as stages.finetune.optim.lr=3e-5; may be repeated")  # fmt: skip
    command.add_argument("--overrides", type=Path, metavar="FILE", help="YAML of settings to change, nested or dotted")
    command.add_argument("--plan", type=Path, metavar="FILE", help="a resolved plan, as `show --json` prints it")


def _data_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", action="append", default=[], metavar="NAME=DIR", help="where a source lies")
    command.add_argument("--store", type=Path, default=Path(STORE), help=f"where results go (default: {STORE})")


def _device_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    command.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto",
                         help="of the forward pass (default: bf16 on a GPU, fp32 on a CPU)")  # fmt: skip
    command.add_argument(
        "--threads", type=int, default=0, help="CPU threads for each worker (default: share the cores)"
    )


def _execution_options(command: argparse.ArgumentParser) -> None:
    _device_options(command)
    command.add_argument(
        "--workers", type=int, default=1, help="Ray Train workers; 0 trains in this process (default: 1)"
    )
    command.add_argument("--compile", action="store_true", help="torch.compile the network; pays on a GPU")
    command.add_argument("--checkpoint-every", dest="checkpoint_every_s", type=float, default=60.0, metavar="SECONDS")


def _sources_of(recipe: Recipe, stages: Sequence[Stage]) -> list[str]:
    """The sources that these stages and the stages they descend from read."""
    names: dict[str, None] = {}
    for stage in stages:
        parent = recipe.parent(stage)
        names |= dict.fromkeys(_sources_of(recipe, [parent]) if parent else [])
        names |= dict.fromkeys(stage.sources)
    return list(names)


def _roots(options: argparse.Namespace, recipe: Recipe) -> dict[str, Path]:
    roots = {name: Path(path).expanduser() for name, path in (_pair(each, "--data") for each in options.data)}
    for name, path in roots.items():
        _known(name, recipe)
        if not path.is_dir():
            raise PlanError(f"--data {name}={path}: there is no such folder")
    return roots


def _known(name: str, recipe: Recipe) -> str:
    if name not in recipe.sources:
        raise PlanError(f"recipe {recipe.name!r} has no source {name!r}; it has: {', '.join(recipe.sources)}")
    return name


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise PlanError(f"{option} {text}: expected NAME=VALUE")
    return name, value


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PlanError(f"{path}: {error}") from error


def _read_yaml(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PlanError(f"{path}: {' '.join(str(error).split())}") from error  # YAML's own messages have many lines
    if not isinstance(data, dict):
        raise PlanError(f"{path}: expected settings by name, got {type(data).__name__}")
    return data


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code) if code >= 128 else sys.exit(code)
