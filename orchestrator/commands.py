"""What each command does, given a resolved recipe. Imports of Torch and Ray wait until a command needs them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.adoption import with_adopted
from orchestrator.execution import Execution, available_cores, check_workers
from orchestrator.identity import fingerprint
from orchestrator.options import RESTORED
from orchestrator.plan import PlanError, Recipe
from orchestrator.store import Store

if TYPE_CHECKING:
    pass

DONE, FAILED, MISTAKE = 0, 1, 2
SWEEP = "sweep.json"  # what a sweep's folder is known by


def adopted_in(recipe: Recipe, store: Store, shards: Mapping[str, Path]) -> Recipe:
    """``recipe`` with the settings that its stages have adopted from sweeps; says whose they are."""
    from orchestrator.console import say
    from orchestrator.manifest import Manifest

    contents = {name: Manifest.read(folder).content for name, folder in shards.items()}
    recipe, found = with_adopted(recipe, store, contents)
    for name, adopted in found.items():
        changed = ", ".join(f"{path}={value}" for path, value in adopted.changes.items())
        say(f"Stage {name}: as trial {adopted.trial} of {adopted.sweep}: {changed}")
    return recipe


def check(
    recipe: Recipe, store: Store, execution: Execution, *,
    roots: Mapping[str, str], sources: Sequence[str], only: Sequence[str], as_json: bool,
) -> int:  # fmt: skip
    """Run every check of preflight for every stage, print what each found; 1 when any refuses."""
    from orchestrator.live import LiveFolder
    from orchestrator.pipeline import Machine, check_recipe
    from orchestrator.preflight import check_names
    from orchestrator.ranks import Ranks
    from orchestrator.sources import ingested
    from orchestrator.worker import new_live_folder

    check_names(execution.accept)
    if "RAY_ADDRESS" not in os.environ:
        check_workers(execution, cpus=available_cores(), gpus=_visible_gpus())
    shards = ingested(recipe, store, roots=roots, sources=sources)
    recipe = adopted_in(recipe, store, shards)
    machine = Machine.of(execution, Ranks())
    live = LiveFolder(new_live_folder(store))
    refused, told = False, 0
    try:
        for name, preflight in check_recipe(
            recipe, store, shards, execution, machine=machine, watch=live, only=only
        ):  # fmt: skip
            _print_checks(name, preflight.lines[told:], as_json=as_json)
            refused |= preflight.refused
            told = told or len(preflight.lines)  # those of the data come first, and with every stage again
    finally:
        shutil.rmtree(live.folder)
    return FAILED if refused else DONE


def _print_checks(name: str, lines: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    if not as_json:
        print(name)
    for line in lines:
        if as_json:
            print(json.dumps({"of": name, **line}))
        else:
            print(f"  {line['verdict']:8s} {line['check']:10s} {line['seconds']:6.2f} s  {line['found']}")


def _visible_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def report(place: Path, store: Store, execution: Execution, *, storage: str = "") -> int:
    """Write the report of a stage and its ancestors, or of a sweep, and say where it is.

    Args:
        storage: database of the sweep's study, where it does not lie in the sweep's folder.
    """
    from orchestrator.console import say
    from orchestrator.pipeline import Machine
    from orchestrator.ranks import Ranks
    from orchestrator.report import write_report

    folder = (place.parent if place.name == "record.json" else place).expanduser().resolve()
    if folder.parent.parent.name == "runs":  # its ancestors and its shards lie in the store that it lies in
        store = Store(folder.parents[2])
    if (folder / SWEEP).exists():
        from orchestrator.sweep.report import write_sweep_report

        page, text = write_sweep_report(folder, store, storage)
    else:
        page, text = write_report(folder, store, Machine.of(execution, Ranks()))
    if folder.is_relative_to(store.root):
        store.origin.publish_files(folder, [page.name, text.name])
    say(f"Report: {page}")
    say(f"        {text}")
    return DONE


def export(place: Path, to: Path, *, onnx: bool, replace: bool, images: Sequence[Path]) -> int:
    """Write a deployable folder, and say what it was compared on."""
    from orchestrator.export import export as exported

    print(exported(place, to, onnx=onnx, replace=replace, images=images).summary)
    return DONE


def evaluate(
    recipe: Recipe, store: Store, execution: Execution, *,
    shards: Mapping[str, Path], stage: str, sources: Sequence[str], split: str, lexicons: bool, beam: int,
    as_json: bool,
) -> int:  # fmt: skip
    """Measure a recorded stage on a split of each source; print it, and keep it in the stage's folder."""
    from orchestrator import evaluate_documents as documents
    from orchestrator.batches import samples_of
    from orchestrator.constrained import BEAM, layouts_of
    from orchestrator.evaluate_plates import score_plates, table
    from orchestrator.files import write_json
    from orchestrator.pipeline import Machine
    from orchestrator.ranks import Ranks
    from orchestrator.reader import open_reader
    from orchestrator.score import score
    from orchestrator.shards import Shards

    recipe = adopted_in(recipe, store, shards)
    opened = {name: Shards.open(folder, verify=False) for name, folder in shards.items()}
    folder = recorded(recipe, stage, store, {name: each.manifest.content for name, each in opened.items()})
    reader = open_reader(folder, Machine.of(execution, Ranks()))
    if reader.restores and lexicons:
        raise PlanError(f"recipe {recipe.name!r} restores images, which come without words; leave out --lexicons")
    for name in sources:
        samples = samples_of(opened, {name: split}, reader.alphabet, reader.frames)
        if reader.restores and not len(samples):
            print(f"{name}/{split} holds no images", file=sys.stderr)
            continue
        shown = table
        if getattr(reader.task, "measures", "") == "documents":
            metrics, shown = documents.score_documents(reader, samples), documents.table
        elif reader.restores:
            metrics = score_plates(reader, samples, layouts_of(recipe.sources[name]), beam=beam or BEAM)
        else:
            metrics = score(reader, samples, lexicons=lexicons, beam=beam)
        write_json(folder / f"evaluation-{name}-{split}.json", metrics)
        store.origin.publish_files(folder, [f"evaluation-{name}-{split}.json"])
        if reader.restores and not as_json:
            print("\n".join([f"{folder.name} on {name}/{split}", *shown(metrics)]))
        else:
            _print_scores(folder.name, name, split, metrics, as_json=as_json)
    return DONE


def predict(
    images: Sequence[Path], place: Path, execution: Execution, *,
    as_json: bool, to: Path | None = None, tracks: bool = False, pages: bool = False, flip_vote: bool = False,
) -> int:  # fmt: skip
    """Read image files and those in folders, each with how sure it is; a restoring recipe writes pictures, too."""
    from datasets.line_image import LineSpec
    from orchestrator.pictures import pictures_in
    from orchestrator.pipeline import Machine
    from orchestrator.predict import RESULTS, read_pictures, restore_pictures, say_passed
    from orchestrator.ranks import Ranks
    from orchestrator.reader import open_reader

    reader = open_reader(place, Machine.of(execution, Ranks()))
    if not reader.restores and (to is not None or tracks):
        raise PlanError(
            f"recipe {reader.recipe.name!r} only reads: it writes no pictures and lets no tracks vote; leave out --to "
            "and --tracks"
        )
    if (pages or flip_vote) and not isinstance(reader.recipe.image, LineSpec):
        raise PlanError(f"recipe {reader.recipe.name!r} restores no pages; leave out --pages and --flip-vote")
    to = to or Path(RESTORED)
    pictures = pictures_in(images, tracks=tracks, leave=to)
    say_passed(pictures.passed)
    if not pictures.found:
        places = ", ".join(map(str, images))
        raise PlanError(f"no image in {places}: none of {len(pictures.passed)} files is one to read")
    if not reader.restores:
        return FAILED if read_pictures(reader, pictures, as_json=as_json).failed else DONE
    done = restore_pictures(reader, pictures, to, as_json=as_json, pages=pages, flip_vote=flip_vote)
    print(f"{done.read} restored and read, {done.failed} unreadable: {to / RESULTS}", file=sys.stderr)
    return FAILED if done.failed else DONE


def runs(store: Store, recipe: str | None) -> int:
    """List the stages in the store: status, best metrics, and the fingerprint each came from; and the sweeps."""
    found = list(store.stages(recipe))
    for folder, record in found:
        if record is None:
            begun = "not finished, resumable" if store.origin.resumable(folder) else "begun"
            print(f"{folder.parent.name}/{folder.name}\t{begun}")
            continue
        lineage = f" from {record.parent}" if record.parent else ""
        if record.trial:
            changed = ", ".join(f"{path}={value}" for path, value in record.trial["changes"].items())
            lineage += f", trial {record.trial['number']} of {record.trial['sweep']}: {changed or 'nothing changed'}"
        best = ", ".join(f"{name} {each['value']:.4f} at step {each['step']}" for name, each in record.best.items())
        print(f"{record.recipe}/{folder.name}\tdone ({record.finished}){lineage}\t{best}")
    may_be = bool(store.origin.place) or any((store.root / "sweeps").glob(f"*/{SWEEP}"))
    sweeps = may_be and _print_sweeps(store, recipe)
    if not found and not sweeps:
        print(f"nothing in {store}")
    return DONE


def _print_sweeps(store: Store, recipe: str | None) -> bool:
    """A line for each sweep: how many trials ended how, and the best value. False where there is none."""
    from orchestrator.sweep.about import sweeps_in

    shown = False
    for about, counts, winner in sweeps_in(store):
        if recipe in (None, about.plan["name"]):
            told = ", ".join(f"{number} {outcome}" for outcome, number in counts.items() if number) or "no trial"
            best = ", ".join(f"{name} {value:.4f}" for name, value in winner.values.items()) if winner else ""
            lead = f"{best} in trial {winner.number}" if winner else "no trial has finished"
            print(f"sweeps/{about.sweep}\tsweep of {about.plan['name']}/{about.stage}: {told}\t{lead}")
            shown = True
    return shown


def recorded(recipe: Recipe, wanted: str, store: Store, contents: Mapping[str, str]) -> Path:
    """The folder of the wanted stage, or of the last one, that has a record of exactly this plan and data."""
    stages = [recipe.stage(wanted)] if wanted else list(reversed(recipe.stages))
    for stage in stages:
        folder = store.folder(recipe.name, stage.name, fingerprint(recipe, stage, contents))
        if record := store.find(folder):
            store.origin.fetch_stage(folder, checkpoints=[Path(record.checkpoint).name])
            return folder
    raise PlanError(
        f"no record of {' or '.join(stage.name for stage in stages)} for this plan and data in {store}; "
        "train it first with the same --preset, --set and --data, or see `runs`"
    )


def newest(store: Store) -> Path:
    """The stage that was finished last."""
    finished = [folder for folder, record in store.stages() if record]
    if not finished:
        raise PlanError(f"{store} holds no finished stage; train one, or name a checkpoint with --from")
    return max(finished, key=lambda folder: (folder / "record.json").stat().st_mtime)


def _print_scores(stage: str, source: str, split: str, metrics: Mapping[str, float], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"stage": stage, "source": source, "split": split, **metrics}))
        return
    print(f"{stage} on {source}/{split}, N = {metrics['n']:.0f}")
    for name, value in metrics.items():
        words = metrics.get(f"{name}_n", metrics.get(f"{name.removesuffix('_accuracy_36')}_n", metrics["n"]))
        if not name.endswith(("_n", "_skipped")) and name != "n":
            print(f"  {name:24s} {value:8.4f}   over {words:.0f} words")
