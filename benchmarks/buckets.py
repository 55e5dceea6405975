"""Padding with 8 width buckets, and words per second of training with them against all squeezed into 128 columns.

Run: ``python -m benchmarks.buckets [--data /path/to/IIIT5K]``

Both sides train the same network on the same words in the same batches, photographs where ``--data`` says where they
lie. Ours keeps every word's aspect and pads it to its bucket, the baseline pads all of them to 128 columns and squeezes
what is wider. The batches timed are those at the middles of equal parts of an epoch, ordered by width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.crnn_step import Ours
from benchmarks.measure import Sample, flag, interleaved, middle, options, ratio, report, verdict
from benchmarks.words import Photographs, train_samples, training_data, word_shards
from datasets.image import ImageSpec
from datasets.rendered import RenderedWords
from models.recognizers.crnn import CRNNConfig
from models.tasks.read import ReadTask
from models.text import ALNUM62
from orchestrator.batches import Samples
from orchestrator.order import Step

FIXED = 128
WORDS = RenderedWords(count=20_000, style="scene")


def padding(steps: Sequence[Step], samples: Samples) -> float:
    """Share of all columns in ``steps`` that holds no image."""
    columns = sum(len(step.samples) * step.width for step in steps)
    return 1 - sum(int(samples.widths[step.samples].sum()) for step in steps) / columns


def typical(steps: Sequence[Step], count: int) -> list[Step]:
    """``count`` full steps that stand for an epoch: those at the middles of equal parts of it, ordered by width."""
    full = max(len(step.samples) for step in steps)
    by_width = sorted((step for step in steps if len(step.samples) == full), key=lambda step: step.width)
    return [by_width[int((part + 0.5) / count * len(by_width))] for part in range(count)]


def trained(runner: Ours, samples: Samples, steps: Sequence[Step]) -> int:
    """``steps`` trained on; how many words that were."""
    for step in steps:
        runner.step(samples.collated(step))
    return sum(len(step.samples) for step in steps)


def a_runner(batch_size: int, *, width: float, hidden: int, bf16: bool) -> Ours:
    torch.manual_seed(0)
    config = CRNNConfig(classes=ALNUM62.classes, width=width, hidden=hidden)
    return Ours.of(ReadTask(recognizer=config).build(), batch_size, bf16=bf16)


def refuse_other_words(wide: Samples, narrow: Samples) -> None:
    """Raise unless both hold the same labels in the same order."""
    if [wide.text(row) for row in range(len(wide))] != [narrow.text(row) for row in range(len(narrow))]:
        raise AssertionError(f"the two sides hold different words: {len(wide)} and {len(narrow)}")


def padding_row(what: str, samples: Samples, batch_size: int) -> list[str]:
    """How much of what is computed is padding, with buckets and at a fixed width."""
    data = training_data(samples, batch_size)
    share = padding(data.steps(0), samples)
    clipped = samples.widths.clip(max=FIXED)
    fixed = 1 - clipped.mean() / FIXED
    return [f"padding, {what} (buckets {', '.join(map(str, data.buckets))})", f"{fixed:.1%}", f"{share:.1%}",
            "", verdict(100 * share, 15.0, least=False, unit=" %")]  # fmt: skip


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--data", type=Path, metavar="DIR", help="where IIIT-5K lies: training is timed on it then")
    parser.add_argument("--batch", type=int, default=64)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    rounds, count = asked.rounds or (1 if asked.quick else 5), 2 if asked.quick else 8
    batch_size = 8 if asked.quick else asked.batch
    words = replace(WORDS, count=300 if asked.quick else WORDS.count)
    size = {"width": 0.0625, "hidden": 8} if asked.quick else {"width": 1.0, "hidden": 256}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        rows = [padding_row("rendered words", train_samples(word_shards(folder, words)), batch_size)]
        source = Photographs() if asked.data else words
        wide = train_samples(word_shards(folder, source, asked.data))
        narrow = train_samples(word_shards(folder, source, asked.data, image=ImageSpec(max_width=FIXED)))
        refuse_other_words(wide, narrow)
        if asked.data:
            rows.append(padding_row("IIIT-5K", wide, batch_size))
        steps = typical(training_data(wide, batch_size).steps(0), count)
        fixed = [Step(step.samples, FIXED) for step in steps]
        ways: dict[str, Callable[[], int]] = {}
        for precision in ("fp32", "bf16"):
            for name, samples, mine in ((f"fixed {precision}", narrow, fixed), (f"buckets {precision}", wide, steps)):
                runner = a_runner(batch_size, bf16=precision == "bf16", **size)  # type: ignore[arg-type]
                trained(runner, samples, mine[:1])
                ways[name] = partial(trained, runner, samples, mine)
        found = interleaved(ways, rounds)
    for precision in ("fp32", "bf16"):
        rows.append(speed_row(precision, found[f"fixed {precision}"], found[f"buckets {precision}"]))
    report(rows, [sample for each in found.values() for sample in each], quick=asked.quick)


def speed_row(precision: str, fixed: list[Sample], buckets: list[Sample]) -> list[str]:
    def words_per_s(sample: Sample) -> float:
        return float(sample.result) / sample.seconds

    times = ratio(buckets, fixed, words_per_s)
    rates = [f"{middle(each, words_per_s):.1f} words/s" for each in (fixed, buckets)]
    what = f"training, buckets against all at {FIXED} columns, {precision}"
    return [what, *rates, f"{times:.2f}x{flag(buckets, fixed)}", verdict(times, 1.3)]


if __name__ == "__main__":
    main()
