"""Images per second of a stage inside a Ray Train worker against the same stage in a plain process.

Run: ``python -m benchmarks.ray_stage``

Both train the same plan from the same shards on as many threads; the rate is the loop's own, of every epoch but the
first. Ray is shut down while the plain side trains. Both must have written the same metrics, byte for byte.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch

from benchmarks.input import a_recipe
from benchmarks.measure import Sample, flag, interleaved, middle, options, ratio, report, verdict
from benchmarks.words import NAME, PLAIN, word_shards
from orchestrator.execution import Execution
from orchestrator.journal import lines
from orchestrator.plan import Recipe
from orchestrator.store import Store
from orchestrator.worker import new_live_folder, train_here, train_on_ray


@dataclass(frozen=True)
class Launch:
    """A recipe of one stage, trained anew each time; its shards are shared by all."""

    recipe: Recipe
    shards: Path
    folder: Path
    execution: Execution

    def run(self) -> tuple[float, bytes]:
        """Images per second in the middle of the later epochs, and the stage's ``metrics.jsonl``."""
        shutil.rmtree(self.folder, ignore_errors=True)
        store = Store(self.folder)
        store.ready()
        launch = train_on_ray if self.execution.workers else train_here
        shards = {NAME: self.shards}
        assert launch(self.recipe, store, shards, self.execution, live=new_live_folder(store), only=[])
        if self.execution.workers:
            _stop_ray()
        [stage] = self.folder.glob(f"runs/{self.recipe.name}/*")
        rates = [float(line["samples_per_s"]) for line in lines(stage / "speed.jsonl", "epoch")]
        return median(rates[1:] or rates), (stage / "metrics.jsonl").read_bytes()


def refuse_other_metrics(samples: dict[str, list[Sample]]) -> None:
    """Raise unless every launch wrote the same losses and metrics."""
    written = {sample.result[1] for each in samples.values() for sample in each}
    if len(written) != 1:
        raise AssertionError(f"the launches wrote {len(written)} different metrics.jsonl; they must be one")


def _stop_ray() -> None:
    import ray

    ray.shutdown()


def main() -> None:
    asked = options(__doc__).parse_args()
    torch.set_num_threads(asked.threads)
    rounds = asked.rounds or (1 if asked.quick else 4)
    words = replace(PLAIN, count=320 if asked.quick else 4_000, valid=32)
    size = {"width": 0.0625, "hidden": 8} if asked.quick else {"width": 0.5, "hidden": 128}
    recipe = a_recipe(words, epochs=2 if asked.quick else 3, **size)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        shards = word_shards(folder, words).folder
        ways: dict[str, Callable[[], tuple[float, bytes]]] = {
            name: partial(Launch(recipe, shards, folder / name, Execution(workers=workers, threads=asked.threads)).run)
            for name, workers in (("plain", 0), ("ray", 1))
        }
        found = interleaved(ways, rounds)
    refuse_other_metrics(found)

    def rate(sample: Sample) -> float:
        return float(sample.result[0])

    plain, ray = found["plain"], found["ray"]
    share = ratio(ray, plain, rate)
    rates = [f"{middle(each, rate):.0f} images/s" for each in (plain, ray)]
    row = ["training in a Ray Train worker against a plain process", *rates, f"{share:.2f}x{flag(plain, ray)}",
           verdict(share, 0.93)]  # fmt: skip
    report([row], [sample for each in found.values() for sample in each], quick=asked.quick)


if __name__ == "__main__":
    main()
