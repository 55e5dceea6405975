"""Options that several commands share, and what they mean."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.cluster import described, refuse_unpacked, use_address
from orchestrator.execution import Execution
from orchestrator.plan import PlanError, Recipe
from orchestrator.store import Store

STORE = "plumbline-store"


def execution_of(options: argparse.Namespace) -> Execution:
    said = vars(options).items()
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in said}
    if "workers" in given:
        given["workers_min"], given["workers"] = given["workers"]
    return Execution(**{name: given[name] for name in Execution.__dataclass_fields__ if name in given})


def store_of(options: argparse.Namespace) -> Store:
    place = options.store.expanduser().resolve()
    refuse_unpacked(place, "--store")
    return Store(place)


def plan_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", help="name of a recipe, such as words")
    command.add_argument("--preset", action="append", default=[], help="a named set of overrides, such as tiny")
    command.add_argument("--set", action="append", default=[], metavar="A.B=V",
                         help="change one setting, such as stages.finetune.optim.lr=3e-5; may be repeated")  # fmt: skip
    command.add_argument("--overrides", type=Path, metavar="FILE", help="YAML of settings to change, nested or dotted")
    command.add_argument("--plan", type=Path, metavar="FILE", help="a resolved plan, as `show --json` prints it")


def data_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", action="append", default=[], metavar="NAME=DIR", help="where a source lies")
    command.add_argument("--store", type=Path, default=Path(STORE), help=f"where results go (default: {STORE})")


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


def preflight_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--accept", action="append", default=[], metavar="CHECK",
                         help="record what this preflight check refuses and go on; may be repeated")  # fmt: skip


def roots_of(options: argparse.Namespace, recipe: Recipe) -> dict[str, Path]:
    roots = {name: Path(path).expanduser() for name, path in (pair(each, "--data") for each in options.data)}
    for name, path in roots.items():
        known(name, recipe)
        if not path.is_dir():
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
