"""Options that several commands share, and what they mean."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.execution import Execution
from orchestrator.plan import PlanError, Recipe
from orchestrator.store import Store

STORE = "plumbline-store"


def execution_of(options: argparse.Namespace) -> Execution:
    said = vars(options).items()
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in said}
    return Execution(**{name: given[name] for name in Execution.__dataclass_fields__ if name in given})


def store_of(options: argparse.Namespace) -> Store:
    """The store that is asked for; of one at a URL, with this node's working copy."""
    from orchestrator.remote import is_url
    from orchestrator.working_copy import store_at

    return store_at(options.store) if is_url(options.store) else Store(Path(options.store).expanduser().resolve())


def place_of(options: argparse.Namespace) -> Path:
    """The stage, checkpoint or export that is asked for, on this machine; else the stage that ended last."""
    from orchestrator import commands
    from orchestrator.places import bring, path_of_place

    if options.place:
        return path_of_place(options.place)
    store = store_of(options)
    return bring(store, commands.newest(store))


def plan_options(command: argparse.ArgumentParser) -> None:
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
    command.add_argument(
        "--workers", type=int, default=1, help="Ray Train workers; 0 trains in this process (default: 1)"
    )
    command.add_argument("--compile", action="store_true", help="torch.compile the network; pays on a GPU")
    command.add_argument("--checkpoint-every", dest="checkpoint_every_s", type=float, default=60.0, metavar="SECONDS")


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
