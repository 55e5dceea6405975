"""A training step of the plate restorer, ours against the seed's formulation: plates per second, and what both learn.

Run: ``python -m benchmarks.generator_step [--sizes 16x48 34x62] [--parts]``

The seed's is :mod:`benchmarks.plain_plates`, in fp32. Ours is :func:`orchestrator.update.update` as the loop calls it,
with the plan's own stages: ``warmup`` (L1) and ``lcofl`` (L1, characters, layout and SSIM through a frozen OCR). 64
features, 12 blocks, twice the size. With ``dcnv1`` in one group both are the same function of the same weights, which
is made sure of first; the recipe itself has ``dcnv4`` in four groups. ``--parts`` tells instead which
operations take how much of our step.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, product
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from benchmarks.measure import Sample, flag, interleaved, middle, options, ratio, report, verdict
from benchmarks.plain_plates import PlainGenerator, PlainRecipe, with_weights_of
from datasets.pair_image import PairSpec
from datasets.rendered_plates import RenderedPlates
from models.batch import Pair
from models.losses.plates import LayoutTerm
from models.recognizers.simple import SimpleCRNNConfig
from models.restorers.plates import PlateRestorerConfig
from models.tasks.restore import Restorer, RestoreTask
from orchestrator.plan import Stage
from orchestrator.ranks import Ranks
from orchestrator.recipes.plates import PLATES36, recipe
from orchestrator.update import Trainee, trainee_of, update

LR, CLIP = 1e-4, 1.0
SIZES = {"16x48": (16, 48, 8), "34x62": (34, 62, 4)}  # height, width, batch size
GOALS = {"fp32": 1.8, "bf16": 2.6}
APART = 1e-4  # at most, of the same image made both ways
Deform = Literal["dcnv1", "dcnv4"]


@dataclass(frozen=True)
class Ours:
    """Our step: :func:`update` on a trainee laid out channels last."""

    trainee: Trainee
    stage: Stage
    autocast: Callable[[], Any]

    @classmethod
    def of(cls, restorer: Restorer, stage: Stage, *, bf16: bool) -> Ours:
        stage = replace(stage, optim=replace(stage.optim, lr=LR, clip_norm=CLIP))
        autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16) if bf16 else nullcontext
        return cls(trainee_of(stage, restorer.to(memory_format=torch.channels_last)), stage, autocast)  # type: ignore[call-overload]

    def step(self, batch: Pair) -> float:
        """One update; the loss, all terms together."""
        image, target = (each.contiguous(memory_format=torch.channels_last) for each in (batch.image, batch.target))
        measured = update(
            self.trainee, self.stage, [replace(batch, image=image, target=target)], lr=LR, forward=self.trainee.task,
            autocast=self.autocast, ranks=Ranks(),
        ).tolist()  # fmt: skip
        self.trainee.heard.clear()  # the loop takes it after every step
        terms = list(self.stage.terms.values())
        return sum(
            term.weight * total / max(count, 1)
            for term, total, count in zip(terms, measured, measured[len(terms) :], strict=False)
        )


def stage_of(name: str) -> Stage:
    """A stage of the recipe, ``warmup`` or ``lcofl``, that weighs no characters yet and hears nothing."""
    return replace(recipe().stage(name), weigh=None)


def restorer(kind: Deform, *, features: int, blocks: int) -> Restorer:
    torch.manual_seed(0)
    groups = 1 if kind == "dcnv1" else features // 16
    generator = PlateRestorerConfig(features=features, blocks=blocks, deformable=kind, groups=groups)
    return RestoreTask(generator=generator, ocr=SimpleCRNNConfig(classes=PLATES36.classes)).build()


def contenders(stage: str, *, features: int, blocks: int) -> dict[str, PlainRecipe | Ours]:
    """The seed's step and ours; those with ``dcnv1`` have the same weights."""
    same, recipes = (restorer(kind, features=features, blocks=blocks) for kind in ("dcnv1", "dcnv4"))  # type: ignore[arg-type]
    recipes.ocr.load_state_dict(same.ocr.state_dict())
    reads: dict[str, Any] = {}
    if stage == "lcofl":
        weights = {name: term.weight for name, term in stage_of(stage).terms.items()}
        reads = {"ocr": copy.deepcopy(same.ocr), "layout": LayoutTerm(symbols=PLATES36.symbols), "weights": weights}
    plain = with_weights_of(same.generator, features=features, blocks=blocks)
    ours = partial(Ours.of, stage=stage_of(stage))
    return {
        "plain fp32": PlainRecipe(plain, lr=LR, clip_norm=CLIP, **reads),
        "dcnv1 fp32": ours(copy.deepcopy(same), bf16=False),
        "dcnv1 bf16": ours(same, bf16=True),
        "dcnv4 fp32": ours(copy.deepcopy(recipes), bf16=False),
        "dcnv4 bf16": ours(recipes, bf16=True),
    }


def batches(height: int, width: int, batch_size: int) -> Iterator[Pair]:
    """Drawn plates, pair by pair, laid out as Torch makes them."""
    spec = PairSpec(height=height, width=width, scale=2)
    rows = RenderedPlates(tracks=1_000_000, frames=1).rows(None)
    while rows_now := list(islice(rows, batch_size)):
        pairs = [spec.prepare(row.image.load(), row.target.load()) for row in rows_now if row.target is not None]
        image, target = (
            torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2).contiguous().float().div(127.5).sub(1)
            for side in zip(*pairs, strict=True)
        )  # fmt: skip
        classes = [PLATES36.encode(PLATES36.normalize(row.text)) for row in rows_now]
        lengths = torch.tensor(list(map(len, classes)))
        tokens = nn.utils.rnn.pad_sequence([torch.tensor(each) for each in classes], batch_first=True)
        yield Pair(
            image=image, target=target, widths=torch.full((batch_size,), width), tokens=tokens, lengths=lengths,
            counted=torch.ones(batch_size, dtype=torch.bool), ids=tuple(range(batch_size)),
        )  # fmt: skip


@torch.no_grad()
def difference(batch: Pair, *, features: int, blocks: int) -> float:
    """How far two images of the same ``dcnv1`` weights, made both ways, are apart at most.

    Weights that begin with next to nothing are given larger ones first: fresh networks all make bicubic.
    """
    ours = restorer("dcnv1", features=features, blocks=blocks).generator
    made = torch.Generator().manual_seed(1)
    for name, weight in ours.named_parameters():
        if name.startswith("last.") or ".offset." in name:
            weight.copy_(0.1 * torch.randn(weight.shape, generator=made))
    plain: PlainGenerator = with_weights_of(ours, features=features, blocks=blocks)
    image = ours.to(memory_format=torch.channels_last)(batch.image)  # type: ignore[call-overload]
    apart = float((image - plain(batch.image)).abs().max())
    if apart > APART:
        raise SystemExit(f"the same weights make images {apart:.1e} apart; at most {APART:g} is allowed")
    return apart


def curves(stage: str, steps: int) -> dict[str, list[float]]:
    """Loss per step of a small network, 16x48, batch 8, each contender on the same plates."""
    runners = contenders(stage, features=32, blocks=2)
    losses: dict[str, list[float]] = {name: [] for name in runners}
    for batch in islice(batches(16, 48, 8), steps):
        for name, runner in runners.items():
            losses[name].append(runner.step(batch))
    return losses


def print_curves(losses: dict[str, list[float]]) -> None:
    """First and last losses of each, and how far each is from the plain one over the whole way."""
    plain = np.asarray(losses["plain fp32"])
    last = max(len(plain) // 5, 1)
    for name, each in losses.items():
        apart = np.abs(np.asarray(each) - plain) / plain
        print(f"  {name}: {each[0]:.4f} first, {np.mean(each[-last:]):.4f} mean of the last {last}; at most "
              f"{apart.max():.2%} from plain in any step")  # fmt: skip


def seconds(sample: Sample) -> float:
    return sample.seconds


def rows_of(size: str, stage: str, asked: Any) -> tuple[list[list[str]], list[Sample]]:
    height, width, batch_size = SIZES[size]
    shape = {"features": 16, "blocks": 1} if asked.quick else {"features": 64, "blocks": asked.blocks}
    batch = next(batches(height, width, batch_size))
    runners = contenders(stage, **shape)
    for runner in runners.values():
        runner.step(batch)
    found = interleaved({name: partial(runner.step, batch) for name, runner in runners.items()},
                        asked.rounds or (1 if asked.quick else 7))  # fmt: skip
    base, rows = found["plain fp32"], []
    for name, samples in found.items():
        if name == "plain fp32":
            continue
        times = ratio(base, samples, seconds)
        rates = [f"{batch_size / middle(each, seconds):.2f} plates/s" for each in (base, samples)]
        goal = verdict(times, GOALS[name.split()[1]]) if name.startswith("dcnv4") else ""
        what = f"{stage}, {size}, batch {batch_size}, {name}"
        rows.append([what, *rates, f"{times:.2f}x{flag(base, samples)}", goal])
    return rows, [sample for each in found.values() for sample in each]


OPERATIONS = {
    "_aggregate": "sampling of the deformable convolutions", "convolution": "convolutions", "conv2d": "convolutions",
    "cat": "concatenations",
    "adamw": "optimiser", "ctc_loss": "CTC", "rnn": "the OCR's LSTMs and batch norms",
    "batch_norm": "the OCR's LSTMs and batch norms", "bicubic": "bicubic", "copy_": "copies and casts",
    "sigmoid": "pointwise", "mul": "pointwise", "add": "pointwise", "relu": "pointwise", "clamp": "pointwise",
    "threshold": "pointwise", "sum": "pointwise", "div": "pointwise", "fill_": "pointwise",
}  # fmt: skip


def by_operation(runner: Ours, batch: Pair, steps: int) -> dict[str, float]:
    """The share of our step that each kind of operation takes, forward and backward, by the time in it alone."""
    runner.step(batch)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        for _ in range(steps):
            runner.step(batch)
    times: dict[str, float] = defaultdict(float)
    for event in seen.key_averages():
        kind = next((kind for name, kind in OPERATIONS.items() if name in event.key.lower()), "everything else")
        times[kind] += event.self_cpu_time_total
    whole = sum(times.values())
    return {kind: time / whole for kind, time in sorted(times.items(), key=lambda item: -item[1])}


def print_parts(size: str, stage: str, asked: Any) -> None:
    height, width, batch_size = SIZES[size]
    shape = {"features": 16, "blocks": 1} if asked.quick else {"features": 64, "blocks": asked.blocks}
    batch, runners = next(batches(height, width, batch_size)), contenders(stage, **shape)
    shares = [by_operation(runners[name], batch, 1 if asked.quick else 3) for name in ("dcnv4 fp32", "dcnv4 bf16")]  # type: ignore[arg-type]
    print(f"\n| {stage}, {size}, batch {batch_size} | fp32 | bf16 |\n|---|---|---|")
    for kind in sorted(set().union(*shares), key=lambda kind: -shares[0].get(kind, 0)):
        print(f"| {kind} | " + " | ".join(f"{share.get(kind, 0):.1%}" for share in shares) + " |")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--stages", nargs="+", choices=["warmup", "lcofl"], default=["warmup", "lcofl"])
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--parts", action="store_true", help="only where our step spends its time")
    parser.add_argument("--steps", type=int, default=100, help="of the loss curves (default: 100)")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.parts:
        for size, stage in product(asked.sizes, asked.stages):
            print_parts(size, stage, asked)
        return
    for size in asked.sizes:
        few = next(batches(*SIZES[size][:2], 2))
        apart = difference(few, features=16 if asked.quick else 64, blocks=1 if asked.quick else asked.blocks)
        print(f"{size}: the same weights make images {apart:.1e} apart, of [-1, 1]")
    if asked.steps:
        for stage in asked.stages:
            print(f"{stage}: loss of a small network")
            print_curves(curves(stage, 3 if asked.quick else asked.steps))
    table, samples = [], []
    for size in asked.sizes:
        for stage in asked.stages:
            rows, more = rows_of(size, stage, asked)
            table += rows
            samples += more
    report(table, samples, quick=asked.quick)


if __name__ == "__main__":
    main()
