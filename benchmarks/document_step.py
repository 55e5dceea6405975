"""A training step of the documents' adversarial stage, ours against the seed's recipe: samples per second by part.

Run: ``python -m benchmarks.document_step [--sizes 64x512 128x1024] [--generator enhanced] [--parts] [--memory]``

The seed's is :mod:`benchmarks.plain_documents`, in fp32. Ours is :func:`orchestrator.update.update` as the loop calls
it, with the plan's own ``adversarial`` stage. Both start from the same weights, and that their first losses are the
same is made sure of first. Both see one batch over and over, so that ours finds what the recogniser reads in clean
images kept, as in every epoch after the first. Networks are narrower than the plan's, so that two cores do it in
minutes: all three at ``--width`` of theirs. ``--parts`` tells where both steps spend their time, ``--memory`` the most
memory each needs.
"""

from __future__ import annotations

import copy
import multiprocessing
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

import orchestrator.update
from benchmarks.lines import SYMBOLS, clean_line
from benchmarks.measure import Sample, flag, interleaved, middle, options, ratio, report, verdict
from benchmarks.plain_documents import PlainRecipe, with_weights_of
from datasets.paper_ops import Around, worn
from datasets.worn_paper import PaperChain
from models.batch import Pair
from models.discriminators.patch import PatchConfig
from models.recognizers.transformer import TransformerReaderConfig
from models.restorers.documents import EnhancedConfig, UNetConfig
from models.tasks.document import DocumentRestoration, DocumentTask
from models.text import Alphabet
from orchestrator.ranks import Ranks
from orchestrator.recipes.documents import recipe
from orchestrator.update import Trainee, trainee_of, update

SIZES = {"64x512": (64, 512, 4), "128x1024": (128, 1024, 1)}  # height, width, batch size
GOALS = {"fp32": 1.15, "bf16": 2.0}
LR, CLIP = 2e-4, 500.0
STEPS = 4  # of a sample: the first after another way also pays for memory that the other one shaped
APART = 1e-4  # relative, at most, of the same loss computed both ways
ALPHABET = Alphabet(symbols=SYMBOLS)
STAGE = replace(recipe().stage("adversarial"), augment=type(recipe().stage("adversarial").augment)())


def task_of(generator: str, share: float, height: int) -> DocumentTask:
    """The plan's networks, ``share`` as wide."""

    def of(full: int) -> int:
        return max(round(full * share / 8), 1) * 8

    made = UNetConfig(width=of(64)) if generator == "unet" else EnhancedConfig(width=of(64), growth=of(32))
    reader = TransformerReaderConfig(
        classes=ALPHABET.classes, width=share, rows=height // 8, features=of(512), inner=of(2048)
    )
    return DocumentTask(generator=made, discriminator=PatchConfig(width=of(64)), recognizer=reader)


def restoration(task: DocumentTask) -> DocumentRestoration:
    """With a generator that already changes the image: a fresh one returns it as it is."""
    torch.manual_seed(0)
    made = task.build()
    nn.init.normal_(made.generator.last.weight, std=0.02)
    return made


def batch_of(height: int, width: int, batch_size: int) -> Pair:
    """Drawn lines and their worn twins, as wide as the batch, laid out as Torch makes them."""
    chain, drawn = PaperChain(), [clean_line(number, height, width) for number in range(batch_size)]
    old = [worn(chain.ops(0, str(n)), image, Around()) for n, (image, _) in enumerate(drawn)]
    image, target = (
        torch.from_numpy(np.stack(side))[:, None].float().div(127.5).sub(1)
        for side in (old, [image for image, _ in drawn])
    )
    classes = [torch.tensor(ALPHABET.encode(ALPHABET.normalize(text))) for _, text in drawn]
    return Pair(
        image=image, target=target, widths=torch.full((batch_size,), width),
        tokens=nn.utils.rnn.pad_sequence(classes, batch_first=True), lengths=torch.tensor(list(map(len, classes))),
        counted=torch.ones(batch_size, dtype=torch.bool), ids=tuple(range(batch_size)), again=batch_size,
    )  # fmt: skip


@dataclass(frozen=True)
class Ours:
    """Our step: :func:`update` on a trainee laid out channels last."""

    trainee: Trainee
    autocast: Callable[[], Any]

    @classmethod
    def of(cls, task: DocumentRestoration, *, bf16: bool) -> Ours:
        autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16) if bf16 else nullcontext
        return cls(trainee_of(STAGE, task.to(memory_format=torch.channels_last)), autocast)  # type: ignore[call-overload]

    def update(self, batch: Pair) -> torch.Tensor:
        """One update as the loop makes it: nothing is looked at."""
        return update(
            self.trainee, STAGE, [batch], lr=LR, forward=self.trainee.task, autocast=self.autocast, ranks=Ranks()
        )

    def step(self, batch: Pair) -> dict[str, float]:
        """One update; the losses."""
        names = list(STAGE.all_terms)
        measured = self.update(batch).tolist()
        return {n: measured[i] / max(measured[len(names) + i], 1) for i, n in enumerate(names)}


def contenders(task: DocumentTask) -> dict[str, PlainRecipe | Ours]:
    """The seed's step, the same without useless gradients, and ours in fp32 and bf16; all have the same weights."""
    ours = restoration(task)
    plain = with_weights_of(ours, task)
    return {
        "plain fp32": PlainRecipe(copy.deepcopy(plain), lr=LR, clip_norm=CLIP),
        "plain frozen fp32": PlainRecipe(plain, lr=LR, clip_norm=CLIP, freeze=True),
        "ours fp32": Ours.of(copy.deepcopy(ours), bf16=False),
        "ours bf16": Ours.of(ours, bf16=True),
    }


def equal_losses(runners: dict[str, PlainRecipe | Ours], batch: Pair) -> None:
    """First losses of all ways, printed. Ends the run where fp32 is not the plain one's within rounding."""
    found = {name: runner.step(batch) for name, runner in runners.items()}
    for name, losses in found.items():
        print(f"  {name}: " + ", ".join(f"{term} {loss:.5f}" for term, loss in losses.items()))
    plain = found["plain fp32"]
    for term, loss in found["ours fp32"].items():
        if abs(loss - plain[term]) > APART * abs(plain[term]):
            raise SystemExit(f"{term} is {loss} in our first step and {plain[term]} in the plain one")


def several(runner: PlainRecipe | Ours, batch: Pair, steps: int) -> int:
    """``steps`` updates; how many samples they saw."""
    for _ in range(steps):
        runner.step(batch)
    return steps * len(batch.ids)


def per_second(sample: Sample) -> float:
    return float(sample.result) / sample.seconds


def per_cpu_second(sample: Sample) -> float:
    return float(sample.result) / sample.cpu


def rows_of(size: str, asked: Any) -> tuple[list[list[str]], list[Sample]]:
    height, width, batch_size = SIZES[size]
    batch, runners = batch_of(height, width, batch_size), contenders(task_of(asked.generator, asked.width, height))
    print(f"{size}, {asked.generator}: losses of the first step")
    equal_losses(runners, batch)
    steps = 1 if asked.quick else STEPS
    found = interleaved({name: partial(several, runner, batch, steps) for name, runner in runners.items()},
                        asked.rounds or (1 if asked.quick else 5))  # fmt: skip
    base, rows = found["plain fp32"], []
    value, unit = (per_cpu_second, "samples/CPU-s") if asked.cpu else (per_second, "samples/s")
    for name, samples in list(found.items())[1:]:
        times = ratio(samples, base, value)
        rates = [f"{middle(each, value):.2f} {unit}" for each in (base, samples)]
        goal = verdict(times, GOALS[name.split()[1]]) if name.startswith("ours") else ""
        what = f"{asked.generator}, {size}, batch {batch_size}, {name}"
        rows.append([what, *rates, f"{times:.2f}x{flag(base, samples)}", goal])
    return rows, [sample for each in found.values() for sample in each]


@contextmanager
def clocked(times: dict[str, float], *calls: tuple[Any, str, Callable[[int], str]]) -> Iterator[None]:
    """Add to ``times`` what attributes of objects take when called, under a name that the number of the call gives."""
    old = []
    for owner, name, part in calls:
        original, count = getattr(owner, name), iter(range(10**9))
        old.append((owner, name, vars(owner).get(name, None), original))

        def timed(*args: Any, _of: Any = original, _count: Any = count, _part: Any = part, **kwargs: Any) -> Any:
            part, start = _part(next(_count)), time.process_time()
            try:
                return _of(*args, **kwargs)
            finally:
                times[part] += time.process_time() - start

        setattr(owner, name, timed)
    try:
        yield
    finally:
        for owner, name, own, original in old:
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, original)


def parts_of(runner: PlainRecipe | Ours, batch: Pair, steps: int) -> dict[str, float]:
    """CPU-seconds of a step by its parts; ``"everything else"`` is losses, clipping, watching and copies."""
    times: dict[str, float] = defaultdict(float)
    if isinstance(runner, Ours):
        task: Any = runner.trainee.task
        calls: list[tuple[Any, str, Callable[[int], str]]] = [
            (task.generator, "forward", lambda _: "generator"),
            (task, "read", lambda _: "recogniser, restored"),
            (task, "_read_clean", lambda _: "recogniser, clean"),
            (task.discriminator, "forward", lambda _: "discriminator"),
            (orchestrator.update, "backward", lambda _: "backward"),
            (runner.trainee.optimizer, "step", lambda _: "optimiser"),
        ]
    else:
        calls = [
            (runner, "generate", lambda _: "generator"),
            (runner, "read", lambda _: "recogniser, restored"),
            (runner, "read_clean", lambda _: "recogniser, clean"),
            (runner, "judge", lambda _: "discriminator"),
            (runner, "backward", lambda _: "backward"),
            *((optimizer, "step", lambda _: "optimiser") for optimizer in runner.optimizers.values()),
        ]
    runner.step(batch)
    start = time.process_time()
    with clocked(times, *calls):
        for _ in range(steps):
            runner.step(batch)
    times["everything else"] = time.process_time() - start - sum(times.values())
    return {part: spent / steps for part, spent in times.items()}


def print_parts(size: str, asked: Any) -> None:
    height, width, batch_size = SIZES[size]
    batch, runners = batch_of(height, width, batch_size), contenders(task_of(asked.generator, asked.width, height))
    found = {name: parts_of(runner, batch, 1 if asked.quick else 3) for name, runner in runners.items()}
    print(f"\n| CPU-ms of a step, {asked.generator}, {size}, batch {batch_size} | {' | '.join(found)} |")
    print("|---" * (len(found) + 1) + "|")
    for part in [*next(iter(found.values()))]:
        print(f"| {part} | " + " | ".join(f"{1000 * each.get(part, 0):.0f}" for each in found.values()) + " |")
    print("| all | " + " | ".join(f"{1000 * sum(each.values()):.0f}" for each in found.values()) + " |")


def peak(name: str, size: str, generator: str, share: float, threads: int) -> float:
    """MB that two steps of one way add to a process that has built its networks, at most."""
    torch.set_num_threads(threads)
    height, width, batch_size = SIZES[size]
    batch, runner = batch_of(height, width, batch_size), contenders(task_of(generator, share, height))[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        runner.step(batch)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def print_memory(size: str, asked: Any) -> None:
    """Each way in a process of its own."""
    height, _, batch_size = SIZES[size]
    print(f"\n| most memory of a step, {asked.generator}, {size}, batch {batch_size} | |\n|---|---|")
    for name in contenders(task_of(asked.generator, asked.width, height)):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            most = pool.apply(peak, (name, size, asked.generator, asked.width, asked.threads))
        print(f"| {name} | {most:,.0f} MB |")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--generator", choices=["enhanced", "unet"], default="enhanced")
    parser.add_argument("--width", type=float, default=0.5, help="share of the plan's features (default: 0.5)")
    parser.add_argument("--parts", action="store_true", help="only where both steps spend their time")
    parser.add_argument("--memory", action="store_true", help="only the most memory that a step needs")
    parser.add_argument("--cpu", action="store_true", help="by CPU-seconds, where others use the machine too")
    asked = parser.parse_args()
    asked.width = 0.125 if asked.quick else asked.width
    torch.set_num_threads(asked.threads)
    if asked.parts or asked.memory:
        for size in asked.sizes:
            (print_parts if asked.parts else print_memory)(size, asked)
        return
    table, samples = [], []
    for size in asked.sizes:
        rows, more = rows_of(size, asked)
        table += rows
        samples += more
    report(table, samples, quick=asked.quick)


if __name__ == "__main__":
    main()
