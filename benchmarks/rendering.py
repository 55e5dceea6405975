"""Words drawn and prepared per second of one core's time, in each style, against the plain grey one.

Run: ``python -m benchmarks.rendering [--fonts system] [--words 10000]``
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

from benchmarks.measure import Sample, flag, interleaved, middle, options, ratio, report
from datasets.image import ImageSpec
from datasets.rendered import RenderedWords
from datasets.row import Row


def drawn(rows: Sequence[Row], spec: ImageSpec) -> int:
    """``rows`` drawn and prepared; how many."""
    return sum(1 for row in rows if spec.prepare(row.image.load()).shape[0] == spec.height)


def listed(source: RenderedWords) -> int:
    """The rows of ``source`` listed, none drawn; how many."""
    return sum(1 for _ in source.rows(None))


def per_cpu_second(sample: Sample) -> float:
    return float(sample.result) / sample.cpu


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--words", type=int, default=10_000)
    parser.add_argument("--fonts", choices=("shipped", "system"), default="shipped")
    asked = parser.parse_args()
    words = 200 if asked.quick else asked.words
    clean = RenderedWords(count=words, style="plain", fonts=asked.fonts)
    scene = replace(clean, style="scene")
    ways: dict[str, Callable[[], int]] = {}
    for source in (clean, scene, replace(scene, colour=True)):
        rows = list(islice(source.rows(None), words))
        spec = ImageSpec(channels=3 if source.colour else 1)
        drawn(rows[: len(rows) // 4], spec)  # opens most faces
        ways[f"{source.style}, {'RGB' if source.colour else 'grey'}"] = partial(drawn, rows, spec)
    ways["rows listed, not drawn"] = partial(listed, replace(scene, count=words * 10))
    found = interleaved(ways, asked.rounds or (1 if asked.quick else 3))
    first = found["plain, grey"]
    table = [
        [f"{name}, per second of a core", f"{middle(first, per_cpu_second):,.0f}",
         f"{middle(each, per_cpu_second):,.0f}", f"{ratio(each, first, per_cpu_second):.2f}x{flag(each)}", ""]
        for name, each in found.items()
    ]  # fmt: skip
    report(table, [sample for each in found.values() for sample in each], quick=asked.quick)


if __name__ == "__main__":
    main()
