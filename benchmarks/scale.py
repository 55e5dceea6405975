"""What many GPUs, rows, shards and trials cost: measured where one machine can, else derived from the plans.

Run: ``python -m benchmarks.scale derived|rows|places|trials [--shards N]``

``derived``  all-reduce per update, and most workers that a stage's batch can feed, for each stage of each recipe
``rows``     opening shards of a thousand rows each, and the order of an epoch (10,000 shards: ten million rows)
``places``   how long Ray takes to find places for so many workers, on one machine that claims to have the CPUs
``trials``   what the study takes to propose and record the next trial, as it grows to a thousand
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

RECIPES = ("words", "plates", "documents")
GPUS = (8, 64, 512)
INSIDE, BETWEEN = 300e9, 12.5e9  # bytes a second of a GPU: NVLink in a node of 8; 100 Gbit/s of network between nodes
ROWS_A_SHARD = 1000


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", choices=("derived", "rows", "places", "trials"))
    options.add_argument("--shards", type=int, default=1000, help="of `rows`")
    asked = options.parse_args()
    parts: dict[str, Callable[[], Sequence[str]]] = {
        "derived": derived, "rows": lambda: rows(asked.shards), "places": places, "trials": trials
    }  # fmt: skip
    print("\n".join(parts[asked.what]()))


def derived() -> list[str]:
    """Markdown: gradient bytes of each stage, and the time of a ring all-reduce of them over 8, 64 and 512 GPUs."""
    found = ["| stage | learns | gradient | batch | most workers | " + " | ".join(f"{n} GPUs" for n in GPUS) + " |",
             "|---|---|---|---|---|" + "---|" * len(GPUS)]  # fmt: skip
    for name in RECIPES:
        recipe = import_module(f"orchestrator.recipes.{name}").recipe()
        task = recipe.task.build()
        for stage in recipe.stages:
            count = sum(p.numel() for part in stage.moves for p in task.get_submodule(part).parameters())
            most = stage.batch_size // 2 // stage.optim.accumulate
            times = " | ".join(f"{1e3 * ring_s(4 * count, gpus):.1f} ms" for gpus in GPUS)
            size = f"{count / 1e6:.2f} M | {4 * count / 1e6:.1f} MB"
            found.append(f"| {name} {stage.name} | {size} | {stage.batch_size} | {most} | {times} |")
    return found


def ring_s(size: int, gpus: int) -> float:
    """Seconds that each GPU moves ``2 (n - 1) / n`` of ``size`` bytes over its slowest link, latency left out."""
    return 2 * (gpus - 1) / gpus * size / (INSIDE if gpus <= 8 else BETWEEN)


def rows(count: int) -> list[str]:
    """Shards of a thousand small images each, one file by many names; what a rank does before its first step."""
    import torch

    from orchestrator.batches import TrainingData, chosen_buckets, samples_of
    from orchestrator.ranks import Ranks
    from orchestrator.shards import Shards

    with tempfile.TemporaryDirectory(prefix="scale-", dir=".") as name:
        recipe, folder = many_shards(Path(name), count)
        before = resident()
        size = (folder / "manifest.json").stat().st_size / 1e6
        said = [f"{count} shards, {count * ROWS_A_SHARD:.0e} rows; manifest {size:.1f} MB"]
        took, shards = timed(lambda: Shards.open(folder, verify=False))
        said.append(f"opened, not verified: {took:.1f} s, {1e3 * took / count:.2f} ms a shard")
        stage = recipe.stages[0]
        samples = samples_of({"made": shards}, {"made": "train"}, recipe.alphabet, recipe.task.frames)
        data = TrainingData(
            stage=stage,
            samples=samples,
            buckets=chosen_buckets(samples),
            seed=1,
            ranks=Ranks(),
            device=torch.device("cpu"),
        )
        took, steps = timed(lambda: data.steps(0))
        said.append(f"order of an epoch: {took:.1f} s for {len(samples):.0e} samples in {len(steps):.0e} updates")
        took, _ = timed(lambda: samples.labels)
        said.append(f"labels encoded: {took:.1f} s, {1e9 * took / max(len(samples), 1):.0f} ns a row")
        said.append(
            f"memory of all that: {(resident() - before) / 1e6:.0f} MB beyond the {before / 1e6:.0f} MB of imports"
        )
    return said


def many_shards(store: Path, count: int) -> tuple[Any, Path]:
    """A source of a thousand words ingested once, its shard linked ``count`` times and named so in its manifest."""
    from datasets.rendered import RenderedWords
    from orchestrator.ingest import ingest, make_here
    from orchestrator.manifest import Manifest
    from orchestrator.recipes.words import recipe as words

    recipe = words()
    source = RenderedWords(count=ROWS_A_SHARD, valid=0, style="plain", numbers=0, random=0)
    folder = ingest(
        source, None, name="made", image=replace(recipe.image, height=8, max_width=32), alphabet=recipe.alphabet,
        frames=recipe.task.frames, store=store, rows_per_shard=10**6, make=make_here,
    )  # fmt: skip
    manifest = Manifest.read(folder)
    [shard] = manifest.shards
    names = [f"shard-{number:06d}.arrow" for number in range(count)]
    for name in names:
        os.link(folder / shard.file, folder / name)
    replace(manifest, shards=tuple(replace(shard, file=name) for name in names)).write(folder)
    return recipe, folder


def places() -> list[str]:
    """Seconds until Ray has a place for each of 8, 64 and 512 workers, and those of the looks at them."""
    import ray

    from orchestrator.cluster import start_ray
    from orchestrator.places import Places

    start_ray(max(GPUS))
    said = []
    for count in GPUS:
        began = time.monotonic()
        held = Places({"CPU": 1}, count)
        while held.ready() < count:
            time.sleep(0.01)
        took = time.monotonic() - began
        look, _ = timed(held.ready)
        back, _ = timed(held.give_back)
        said.append(
            f"{count} workers: places found in {took:.2f} s, a look {1e3 * look:.0f} ms, given back in {back:.2f} s"
        )
    ray.shutdown()
    return said


def trials() -> list[str]:
    """Seconds of the study alone: TPE over six settings in a journal file, from the first trial to the thousandth."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        storage = JournalStorage(JournalFileBackend(f"{name}/study.log"))
        study = optuna.create_study(storage=storage, sampler=optuna.samplers.TPESampler(seed=1))
        took = []
        for _ in range(1000):
            seconds, _ = timed(lambda: one_trial(study))
            took.append(seconds)
        size = Path(name, "study.log").stat().st_size
        reopened, _ = timed(lambda: optuna.load_study(study_name=study.study_name, storage=JournalStorage(
            JournalFileBackend(f"{name}/study.log"))).trials)  # fmt: skip
    return [
        f"a trial proposed and recorded: {1e3 * median(took[:50]):.0f} ms (trials 1 to 50), "
        f"{1e3 * median(took[-50:]):.0f} ms (951 to 1,000); {sum(took):.0f} s for all",
        f"the journal: {size / 1e6:.1f} MB, read again in {reopened:.1f} s",
    ]


def one_trial(study: Any) -> None:
    trial = study.ask()
    values = [trial.suggest_float(f"a{number}", 1e-5, 1.0, log=True) for number in range(6)]
    for step in range(5):
        trial.report(sum(values), step)
    study.tell(trial, sum(values))


def resident() -> int:
    """Bytes that this process alone holds in memory now; mapped pages of shards are all processes' and not counted."""
    status = Path("/proc/self/status").read_text().splitlines()
    [anonymous] = [line.split()[1] for line in status if line.startswith("RssAnon:")]
    return 1024 * int(anonymous)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.monotonic()
    result = work()
    return time.monotonic() - began, result


if __name__ == "__main__":
    sys.exit(main())
