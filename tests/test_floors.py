"""The building has floors; imports only go down. And no file outgrows what can be read in one sitting."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("orchestrator", "models", "datasets", "tune_spaces")
OWN = {*PACKAGES, "tests", "benchmarks"}

MAY_IMPORT = {  # package -> what it may import besides the standard library and itself
    "models": {"torch", "numpy", "rapidfuzz", "triton", "safetensors"},  # triton: kernels, where the machine has it
    "datasets": {"numpy", "pyarrow", "cv2", "PIL", "scipy", "lmdb"},
    "tune_spaces": {"optuna"},
}
ONLY_STANDARD_LIBRARY = ("models/text.py", "orchestrator/journal.py")  # ingest workers and readers stay light
FLOORS = (  # of the orchestrator's files and packages; each may import those of its own floor and below
    "plan kinds curriculum objective start limits schedule override identity store order mining progress files"
    " execution journal live events events_adversary events_validation events_clock balance expressions"
    " lease redact environment"
    " search adoption"
    " wear"
    " pulse repeated",
    "labels manifest mapped shards prepare pictures worn_anew"  # shards, without Torch
    " remote claims cache sound working_copy fetched bring",
    "ranks turn gate content"
    " checkpoint weights heard players gradients update measured moving ledger pace augment augment_pairs"
    " prefetch collated batches loop"
    " evaluate_restored evaluate_lines evaluate_pages evaluate constrained evaluate_plates evaluate_documents"
    " machine preflight imported pipeline trained reader score pages predict export report failures"
    " trying trials",
    "cluster places groups ingest worker relay sources sweep tracking console",
    "run options commands commands_train commands_sweep recipes",
)
FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names.split()}
ONLY_THERE = {  # library -> the only files of the orchestrator that may import it
    "ray": {"ingest", "worker", "cluster", "places", "groups", "sweep", "tracking"},
    "mlflow": {"tracking"},
    "tensorboardX": {"tracking"},
    "optuna": {"sweep"},
}
MOST_LINES = 320
TOO_LONG = {  # may only shrink; each is to be cut in two
    "tests/orchestrator/test_ingest.py": 460,
}


def files(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it, as ``package.module`` or ``package.module.name``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import; write the whole path"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports_of(path)}


def named(path: Path) -> str:
    """The orchestrator's file, or ``recipes`` for all that lie there."""
    return path.relative_to(ROOT / "orchestrator").parts[0].removesuffix(".py")


def orchestrated(path: Path) -> set[str]:
    """The orchestrator's files that a file imports."""
    return {name.split(".")[1] for name in imports_of(path) if name.startswith("orchestrator.")}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_only_downwards(package):
    allowed = MAY_IMPORT[package] | {package} | sys.stdlib_module_names
    strangers = {str(path.relative_to(ROOT)): tops(path) - allowed for path in files(package)}
    assert {path: names for path, names in strangers.items() if names} == {}


@pytest.mark.parametrize("path", ONLY_STANDARD_LIBRARY)
def test_some_files_need_nothing_but_python(path):
    assert tops(ROOT / path) <= sys.stdlib_module_names


def test_every_file_of_the_orchestrator_has_a_floor():
    unknown = {named(path) for path in files("orchestrator")} - set(FLOOR_OF) - {"__init__"}
    assert not unknown, f"give {sorted(unknown)} a floor in {Path(__file__).name}"


@pytest.mark.parametrize("path", files("orchestrator"), ids=lambda path: path.stem)
def test_the_orchestrator_imports_only_downwards(path):
    own = FLOOR_OF.get(named(path), 0)
    upwards = {name for name in orchestrated(path) if FLOOR_OF.get(name, 0) > own}
    assert not upwards, f"{named(path)} is on floor {own}"


def test_the_ground_floor_knows_neither_torch_nor_ray_nor_models_nor_datasets():
    for name in FLOORS[0].split():
        path = ROOT / "orchestrator" / f"{name}.py"
        others = tops(path) - sys.stdlib_module_names - {"orchestrator"}
        assert others <= ({"numpy"} if name in ("order", "mining") else set()), path


def test_what_touches_shards_needs_no_torch():
    for name in (*FLOORS[0].split(), *FLOORS[1].split()):
        assert not tops(ROOT / "orchestrator" / f"{name}.py") & {"torch", "safetensors"}, name


@pytest.mark.parametrize("library", ONLY_THERE)
def test_each_heavy_library_is_known_in_few_places(library):
    users = {named(path) for path in files("orchestrator") if library in tops(path)}
    assert users <= ONLY_THERE[library]


def test_only_the_command_line_imports_recipes():
    importers = {path for path in files(*PACKAGES) if "recipes" in orchestrated(path)}
    assert {named(path) for path in importers} <= {"run", "recipes"}


def test_neither_models_nor_datasets_know_who_uses_them():
    # Said once more on its own: a model or a source can be lifted out and used elsewhere.
    for path in files("models", "datasets"):
        assert not tops(path) & (OWN - {path.relative_to(ROOT).parts[0]}), path


def test_there_are_no_relative_imports_anywhere():
    for path in files(*OWN):
        list(imports_of(path))


def test_no_file_is_longer_than_can_be_read_in_one_sitting():
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files(*OWN)}
    long = {path: size for path, size in lines.items() if size > TOO_LONG.get(path, MOST_LINES)}
    told = [f"{path}: {size} lines, at most {TOO_LONG.get(path, MOST_LINES)}" for path, size in long.items()]
    assert not long, "\n".join(told)
    grown_up = [path for path in TOO_LONG if lines.get(path, 0) <= MOST_LINES]
    assert not grown_up, f"{grown_up} are short enough now: take them out of TOO_LONG"
