"""A training step of the CRNN, ours against a plain recipe's: images per second, and that both learn the same.

Run: ``python -m benchmarks.crnn_step [--steps 200]``

The plain recipe is :mod:`benchmarks.plain_crnn` in fp32: contiguous tensors, Adam, ReLU before pooling, ``.item()`` in
every step. Ours is :func:`orchestrator.update.update` as the loop calls it. Both start from the same weights and meet
the same batches of rendered words, squashed to 32 x 100 as the plain recipes do, so that no column is padding. The
step is timed at full width, batch 64; the loss curves are taken at half width, batch 16, to be done in a minute.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.measure import flag, interleaved, middle, options, ratio, report, verdict
from benchmarks.plain_crnn import PlainRecipe, with_weights_of
from benchmarks.words import PLAIN, a_stage, train_samples, word_shards
from models.recognizers.crnn import CRNN, CRNNConfig
from models.tasks.read import Reader, ReadTask
from models.text import ALNUM62
from orchestrator.batches import Samples
from orchestrator.collated import Collated, on_device
from orchestrator.order import Step
from orchestrator.plan import Optim, Stage
from orchestrator.ranks import Ranks
from orchestrator.update import Trainee, trainee_of, update

LR, CLIP = 1e-3, 5.0
WIDTH = 100
SMOOTH = 10  # steps that a point of a curve averages over


@dataclass(frozen=True)
class Ours:
    """Our step: :func:`update` on a trainee laid out channels last."""

    trainee: Trainee
    stage: Stage
    autocast: Callable[[], Any]

    @classmethod
    def of(cls, task: Reader, batch_size: int, *, bf16: bool) -> Ours:
        stage = a_stage(batch_size, optim=Optim(lr=LR, clip_norm=CLIP))
        autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16) if bf16 else nullcontext
        return cls(trainee_of(stage, task.to(memory_format=torch.channels_last)), stage, autocast)  # type: ignore[call-overload]

    def step(self, collated: Collated) -> float:
        """One update from a collated batch; the loss, in nats per character."""
        batch = on_device(collated, torch.device("cpu"))
        measured = update(
            self.trainee, self.stage, [batch], lr=LR, forward=self.trainee.task, autocast=self.autocast, ranks=Ranks()
        )
        return float(measured[0] / measured[1])


@dataclass(frozen=True)
class Theirs:
    """The plain recipe's step."""

    recipe: PlainRecipe

    def step(self, collated: Collated) -> float:
        image = torch.from_numpy(collated.pixels).permute(0, 3, 1, 2).contiguous().float().div(255).sub(0.5).div(0.5)
        return self.recipe.step(image, torch.from_numpy(collated.tokens), torch.from_numpy(collated.lengths))


def contenders(width: float, hidden: int, batch_size: int) -> dict[str, Theirs | Ours]:
    """The plain recipe and ours in both precisions, all with the same weights."""
    config = ReadTask(recognizer=CRNNConfig(classes=ALNUM62.classes, width=width, hidden=hidden))
    torch.manual_seed(0)
    first = config.build()
    second = config.build()
    second.load_state_dict(first.state_dict())
    plain = with_weights_of(_crnn(first, config.recognizer))
    return {
        "plain fp32": Theirs(PlainRecipe(plain, lr=LR, clip_norm=CLIP)),
        "ours fp32": Ours.of(first, batch_size, bf16=False),
        "ours bf16": Ours.of(second, batch_size, bf16=True),
    }


def _crnn(reader: Reader, config: CRNNConfig) -> CRNN:
    """A CRNN of the reader's own halves."""
    crnn = CRNN(config)
    crnn.cnn, crnn.rnn = reader.cnn, reader.rnn
    return crnn


def squashed(samples: Samples, batch_size: int) -> Iterator[Collated]:
    """Batch after batch of the words that can be spelled in :data:`WIDTH` columns, each squashed to them."""
    order = np.random.default_rng(0).permutation(len(samples))
    for start in range(0, len(order) - batch_size + 1, batch_size):
        made = samples.collated(Step(order[start : start + batch_size], int(samples.widths.max())))
        pixels = [
            cv2.resize(image[:, :width, 0], (WIDTH, image.shape[0]), interpolation=cv2.INTER_AREA)
            for image, width in zip(made.pixels, made.widths, strict=True)
        ]
        widths = np.full_like(made.widths, WIDTH)
        fits = made.counted & (made.least <= WIDTH)
        if fits.all():
            yield Collated(
                pixels=np.stack(pixels)[..., None], widths=widths, least=made.least, tokens=made.tokens,
                lengths=made.lengths, counted=fits, ids=made.ids,
            )  # fmt: skip


def curves(samples: Samples, *, steps: int, width: float, hidden: int, batch_size: int) -> dict[str, list[float]]:
    """Loss per step of each contender on the same batches."""
    runners = contenders(width, hidden, batch_size)
    losses: dict[str, list[float]] = {name: [] for name in runners}
    batches = [batch for batch, _ in zip(squashed(samples, batch_size), range(steps), strict=False)]
    for number in range(steps):
        for name, runner in runners.items():
            losses[name].append(runner.step(batches[number % len(batches)]))
    return losses


def smoothed(losses: Sequence[float]) -> np.ndarray:
    """Means over :data:`SMOOTH` steps each."""
    whole = len(losses) // SMOOTH * SMOOTH
    return np.asarray(losses[:whole]).reshape(-1, SMOOTH).mean(1) if whole else np.asarray(losses)


def furthest(losses: Sequence[float], baseline: Sequence[float]) -> float:
    """The largest relative difference of two smoothed curves."""
    ours, theirs = smoothed(losses), smoothed(baseline)
    return float((np.abs(ours - theirs) / theirs).max())


def print_curves(losses: dict[str, list[float]]) -> None:
    points = {name: smoothed(each) for name, each in losses.items()}
    shown = sorted({0, 1, *np.linspace(0, len(points["plain fp32"]) - 1, 8).astype(int).tolist()})
    print(f"loss, mean of {SMOOTH} steps{'':12}" + "".join(f"{(place + 1) * SMOOTH:>9}" for place in shown))
    for name, values in points.items():
        print(f"  {name:29}" + "".join(f"{values[min(place, len(values) - 1)]:9.4f}" for place in shown))
    first = abs(losses["ours fp32"][0] - losses["plain fp32"][0]) / losses["plain fp32"][0]
    print(f"  first step, fp32 against plain: {first:.1e} apart")
    for name in ("ours fp32", "ours bf16"):
        print(f"  {name}: at most {furthest(losses[name], losses['plain fp32']):.2%} from the plain recipe")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, default=200, help="steps of the loss curves (default: 200)")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    rounds = asked.rounds or (1 if asked.quick else 15)
    batch_size, width, hidden = (8, 0.0625, 8) if asked.quick else (64, 1.0, 256)
    with tempfile.TemporaryDirectory() as folder:
        words = 300 if asked.quick else 6_000
        samples = train_samples(word_shards(Path(folder), replace(PLAIN, count=words)))
        size = {"width": width, "hidden": hidden} if asked.quick else {"width": 0.5, "hidden": 128}
        losses = curves(samples, steps=20 if asked.quick else asked.steps, batch_size=8 if asked.quick else 16, **size)  # type: ignore[arg-type]
        print_curves(losses)
        batch = next(squashed(samples, batch_size))
        runners = contenders(width, hidden, batch_size)
        for runner in runners.values():
            runner.step(batch)
        samples_of = interleaved({name: partial(each.step, batch) for name, each in runners.items()}, rounds)
    rows = []
    plain = samples_of["plain fp32"]
    for name, goal in (("ours fp32", 1.1), ("ours bf16", 1.9)):
        ours = samples_of[name]
        times = ratio(plain, ours, lambda sample: sample.seconds)
        rates = [f"{batch_size / middle(each, lambda sample: sample.seconds):.1f} images/s" for each in (plain, ours)]
        what = f"training step 32 x 100, batch {batch_size}, {name}"
        rows.append([what, *rates, f"{times:.2f}x{flag(plain, ours)}", verdict(times, goal)])
    report(rows, [sample for each in samples_of.values() for sample in each], quick=asked.quick)


if __name__ == "__main__":
    main()
