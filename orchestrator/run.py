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
from types import FrameType, ModuleType
from typing import Any

import orchestrator.recipes
from orchestrator.execution import Execution
from orchestrator.identity import fingerprint, plain
from orchestrator.override import from_plain, override
from orchestrator.plan import PlanError, Recipe, Stage

DONE, FAILED, MISTAKE = 0, 1, 2
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
    from datasets.row import SourceError
    from orchestrator.console import say

    try:
        return options.command(options)
    except (PlanError, SourceError) as error:
        say(f"mistake: {error}")
        return MISTAKE
    except KeyboardInterrupt:
        say("stopped")
        return 128 + signal.SIGINT
    except Exception as error:
        known = _known_failure(error)
        if known is None:
            raise
        say(f"failed: {known}")
        return MISTAKE if isinstance(known, PlanError | SourceError) else FAILED


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
    return train(recipe, options, only=only, sources=_sources_of(recipe, stages))


def train(recipe: Recipe, options: argparse.Namespace, *, only: Sequence[str], sources: Sequence[str]) -> int:
    """Ingest what is not, then train; shows how it goes and what to say to go on after a stop."""
    from orchestrator.console import say, watch
    from orchestrator.live import LiveFolder
    from orchestrator.store import Store
    from orchestrator.worker import new_live_folder, train_here, train_on_ray

    store = Store(options.store.resolve())
    store.ready()
    shards = ingested(recipe, sources, store, _roots(options, recipe))
    live = LiveFolder(new_live_folder(store))
    execution = execution_of(options)
    launch = train_on_ray if execution.workers else train_here
    received = stop_on_signals(live)
    done = watch(live, lambda: launch(recipe, store, shards, execution, live=live.folder, only=only))
    if not done:
        say("Stopped; a checkpoint is saved. This goes on from there:")
        say(f"  python -m orchestrator.run {' '.join(map(_quoted, sys.argv[1:]))}".rstrip())
        return 128 + (received[0] if received else signal.SIGINT)
    return DONE


def stop_on_signals(live: Any) -> list[int]:
    """The first SIGINT or SIGTERM asks for a stop after the current step; the next one ends the process."""
    received: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        received.append(number)
        live.ask_to_stop()
        signal.signal(number, signal.SIG_DFL)
        sys.stderr.write("\nstopping after this step; saving a checkpoint (again to end at once)\n")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    return received


def ingested(recipe: Recipe, sources: Sequence[str], store: Any, roots: Mapping[str, Path]) -> dict[str, Path]:
    """Source -> folder of its shards, made where they are not there or not up to date."""
    from orchestrator.console import counting, say
    from orchestrator.ingest import ingest
    from orchestrator.manifest import Manifest, summary

    folders = {}
    for name in sources:
        with counting(f"ingest {name}") as progress:
            folders[name] = ingest(
                recipe.sources[name], roots.get(name), name=name, image=recipe.image, alphabet=recipe.alphabet,
                frames=recipe.task.frames, store=store.root, progress=progress,
            )  # type: ignore[arg-type]  # fmt: skip
        say(summary(Manifest.read(folders[name])))
    return folders


def ingest_command(options: argparse.Namespace) -> int:
    from orchestrator.store import Store

    recipe = resolved(options)
    sources = options.source or list(recipe.sources)
    for name in sources:
        _known(name, recipe)
    store = Store(options.store.resolve())
    store.ready()
    for name, folder in ingested(recipe, sources, store, _roots(options, recipe)).items():
        print(f"{name}\t{folder}")
    return DONE


def evaluate_command(options: argparse.Namespace) -> int:
    from orchestrator.batches import samples_of
    from orchestrator.files import write_json
    from orchestrator.pipeline import Machine
    from orchestrator.ranks import Ranks
    from orchestrator.reader import open_reader, score
    from orchestrator.shards import Shards
    from orchestrator.store import Store

    recipe = resolved(options)
    store = Store(options.store.resolve())
    names = [_known(name, recipe) for name in options.on] or list(recipe.sources)
    needed = _sources_of(recipe, recipe.stages)
    shards = ingested(recipe, list(dict.fromkeys([*needed, *names])), store, _roots(options, recipe))
    opened = {name: Shards.open(folder, verify=False) for name, folder in shards.items()}
    folder = _recorded(recipe, options.stage, store, {name: each.manifest.content for name, each in opened.items()})
    reader = open_reader(folder, Machine.of(execution_of(options), Ranks()))
    for name in names:
        samples = samples_of(opened, {name: options.split}, reader.alphabet, recipe.task.frames)  # type: ignore[arg-type]
        metrics = score(reader, samples, lexicons=options.lexicons, beam=options.beam)
        write_json(folder / f"evaluation-{name}-{options.split}.json", metrics)
        _print_scores(folder.name, name, options.split, metrics, as_json=options.json)
    return DONE


def predict_command(options: argparse.Namespace) -> int:
    from orchestrator.pipeline import Machine
    from orchestrator.ranks import Ranks
    from orchestrator.reader import open_reader, read_images

    reader = open_reader(options.place or _newest(options.store), Machine.of(execution_of(options), Ranks()))
    failed = False
    for path, reading in read_images(reader, options.images):
        if isinstance(reading, Exception):
            failed = True
            print(f"{path}: {reading}", file=sys.stderr)
        elif options.json:
            print(json.dumps({"image": str(path), "text": reading.text, "confidence": round(reading.confidence, 6)}))
        else:
            print(f"{path}\t{reading.text}\t{reading.confidence:.3f}")
    return FAILED if failed else DONE


def show_command(options: argparse.Namespace) -> int:
    recipe = resolved(options)
    if options.json:
        print(json.dumps(plain(recipe), indent=2, ensure_ascii=False))
        return DONE
    print(f"recipe {recipe.name}, alphabet {recipe.alphabet.sha256[:12]}, ImageSpec {recipe.image.sha256[:12]}")
    print("fingerprints are of the plan alone; with the data's own hashes a run's folders have others")
    for number, stage in enumerate(recipe.stages):
        start = f" from {stage.start_from.stage}" if stage.start_from else ""
        print(f"  {number} {stage.name} {fingerprint(recipe, stage, {})}{start}")
    print(json.dumps(plain(recipe), indent=2, ensure_ascii=False))
    return DONE


def runs_command(options: argparse.Namespace) -> int:
    from orchestrator.store import Store

    found = False
    for folder, record in Store(options.store.resolve()).stages(options.recipe):
        found = True
        if record is None:
            begun = any((folder / "checkpoints").glob("step-*"))
            print(f"{folder.parent.name}/{folder.name}\t{'interrupted, resumable' if begun else 'begun'}")
            continue
        best = ", ".join(
            f"{metric} {found['value']:.4f} at step {found['step']}" for metric, found in record.best.items()
        )
        lineage = f" from {record.parent}" if record.parent else ""
        print(f"{record.recipe}/{folder.name}\tdone ({record.finished}){lineage}\t{best}")
    if not found:
        print(f"nothing in {options.store}")
    return DONE


def demo_command(options: argparse.Namespace) -> int:
    """The demo: train its recipe, then read some held-out pictures with what was trained."""
    from orchestrator.console import say
    from orchestrator.store import Store

    recipe = recipe_named("demo").recipe()
    options.data = []
    code = train(recipe, options, only=[], sources=_sources_of(recipe, recipe.stages))
    if code != DONE:
        return code
    *_, (folder, record) = ((f, r) for f, r in Store(options.store.resolve()).stages(recipe.name) if r)
    assert record is not None
    primary = recipe.stages[-1].best[0].metric
    words = int(record.metrics[f"{primary.split('/')[0]}/n"])
    say(f"{primary} of the last stage: {record.metrics[primary]:.4f} on {words} held-out rendered words")
    say(f"All of it is in {folder}. Next: python -m orchestrator.run show words, and README.md.")
    return DONE


def later_command(options: argparse.Namespace) -> int:
    raise PlanError(f"this command comes with the next release; there are {', '.join(LATER)} to come")


def recipe_named(name: str) -> ModuleType:
    known = sorted(module.name for module in iter_modules(orchestrator.recipes.__path__))
    if name not in known:
        raise PlanError(f"there is no recipe {name!r}; there are: {', '.join(known)}")
    return import_module(f"orchestrator.recipes.{name}")


def resolved(options: argparse.Namespace) -> Recipe:
    """The plan that the options describe: a recipe or ``--plan``, then preset, override file and ``--set``, in order."""
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


def execution_of(options: argparse.Namespace) -> Execution:
    given = vars(options)
    return Execution(**{name: given[name] for name in Execution.__dataclass_fields__ if name in given})


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


def _recorded(recipe: Recipe, wanted: str, store: Any, contents: Mapping[str, str]) -> Path:
    """The folder of the wanted stage, or of the last one, that has a record of exactly this plan and data."""
    stages = [recipe.stage(wanted)] if wanted else list(reversed(recipe.stages))
    for stage in stages:
        folder = store.folder(recipe.name, stage.name, fingerprint(recipe, stage, contents))
        if store.read(folder):
            return folder
    raise PlanError(
        f"no record of {' or '.join(stage.name for stage in stages)} for this plan and data in {store.root}; "
        "train it first with the same --preset, --set and --data, or see `runs`"
    )


def _newest(root: Path) -> Path:
    from orchestrator.store import Store

    recorded = [folder for folder, record in Store(root.resolve()).stages() if record]
    if not recorded:
        raise PlanError(f"{root} holds no finished stage; train one, or name a checkpoint with --from")
    return max(recorded, key=lambda folder: (folder / "record.json").stat().st_mtime)


def _print_scores(stage: str, source: str, split: str, metrics: Mapping[str, float], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"stage": stage, "source": source, "split": split, **metrics}))
        return
    print(f"{stage} on {source}/{split}, N = {metrics['n']:.0f}")
    for name, value in metrics.items():
        words = metrics.get(f"{name}_n", metrics.get(f"{name.removesuffix('_accuracy_36')}_n", metrics["n"]))
        if not name.endswith(("_n", "_skipped")) and name != "n":
            print(f"  {name:24s} {value:8.4f}   over {words:.0f} words")


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
        raise PlanError(f"{path}: {error}") from error
    if not isinstance(data, dict):
        raise PlanError(f"{path}: expected settings by name, got {type(data).__name__}")
    return data


def _known_failure(error: BaseException) -> BaseException | None:
    """The error a person can act on, also where Ray wrapped it; None for a fault of the program itself."""
    from orchestrator.checkpoint import CheckpointError
    from orchestrator.loop import NonFinite
    from orchestrator.manifest import ShardError
    from orchestrator.pipeline import GateNotMet
    from orchestrator.preflight import PreflightError
    from orchestrator.prepare import IngestError
    from orchestrator.store import StoreError

    known = (GateNotMet, PreflightError, StoreError, CheckpointError, ShardError, IngestError, NonFinite, PlanError)
    if isinstance(error, known):
        return error
    for inner in getattr(error, "worker_failures", {}).values():
        cause = getattr(inner, "cause", inner)
        if isinstance(cause, known):
            return cause
    return None


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code) if code >= 128 else sys.exit(code)
