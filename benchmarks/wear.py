"""Lines degraded per second of a core's time: our chain and each operation, against a plain port of the papers'.

Run: ``python -m benchmarks.wear [--sizes 64x512 128x1024] [--lines 40]``

The baseline is the published order of effects by the plain means of its scripts: a background that is the busiest of a
hundred random crops, gradient noise worked out anew at every pixel for every octave, and all in floating point with
OpenCV's filters. Its noise is vectorised, where the scripts call a function for every pixel. Both sides wear the same
drawn lines, on a page of made paper; ours also on made paper of its own. Both draw each effect by its own lots, so an
average line has about as many of them on both sides, but they are not the same pictures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np

from benchmarks.lines import clean_line
from benchmarks.measure import Sample, flag, interleaved, middle, options, ratio, report
from datasets.paper_ops import Around, OnMadePaper, PaperOp, worn
from datasets.worn_paper import PaperChain

SIZES = {"64x512": (64, 512), "128x1024": (128, 1024)}
CROPS = 100


def page(height: int, width: int) -> np.ndarray:
    """``(height, width)`` uint8 of made paper, to cut backgrounds from."""
    blank = np.full((height, width), 255, np.uint8)
    return OnMadePaper(tone=190, uneven=25, fibre=4, ink=0.5, seed=1).apply(blank)


def gradient_noise(shape: Sequence[int], scale: float, octaves: int, rng: np.random.Generator) -> np.ndarray:
    """``shape`` float64: Perlin's noise, every octave twice as fine and half as strong, at each pixel."""
    total = np.zeros(shape)
    for octave in range(octaves):
        at = [np.arange(size)[:, None] * 2**octave / scale + rng.random() for size in shape]
        y, x = np.broadcast_arrays(at[0], at[1].T)
        row, column = y.astype(int), x.astype(int)
        turn = rng.random((row.max() + 2, column.max() + 2)) * 2 * np.pi
        y, x = y - row, x - column

        def corner(down: int, across: int) -> np.ndarray:
            angle = turn[row + down, column + across]  # noqa: B023 - called before the next octave
            return np.cos(angle) * (x - across) + np.sin(angle) * (y - down)  # noqa: B023

        ease_x, ease_y = (t * t * t * (t * (6 * t - 15) + 10) for t in (x, y))
        above = corner(0, 0) + ease_x * (corner(0, 1) - corner(0, 0))
        below = corner(1, 0) + ease_x * (corner(1, 1) - corner(1, 0))
        total += 0.5**octave * (above + ease_y * (below - above))
    return total


def plain(image: np.ndarray, back: np.ndarray, paper: np.ndarray, number: int) -> np.ndarray:
    """``(h, w)`` uint8 worn in the order of the published chain, with its probabilities."""
    rng, (height, width) = np.random.default_rng(number), image.shape
    crops = []
    for _ in range(CROPS):
        top, left = (int(rng.integers(have - want + 1)) for have, want in zip(paper.shape, image.shape, strict=True))
        crops.append(paper[top : top + height, left : left + width])
    made = max(crops, key=lambda crop: float(crop.var())).astype(np.float64)
    ink = image < 128
    made = np.where(ink, made * rng.uniform(0.2, 0.6), made)
    if rng.random() < 0.5:
        shows = cv2.GaussianBlur(255.0 - back[:, ::-1], (11, 11), 0)
        made = made - shows * rng.uniform(0.1, 0.25)
    if rng.random() < 0.4:
        noise = gradient_noise(image.shape, rng.uniform(100, 250), int(rng.integers(4, 8)), rng)
        noise = (noise - noise.min()) / (noise.max() - noise.min())
        size = 2 * int(rng.integers(49, 150)) + 1
        stain = cv2.GaussianBlur((noise > rng.uniform(0.5, 0.7)).astype(np.float64), (size, size), 0)
        made = made * (1 - 0.3 * stain)
    made = np.clip(made, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        for _ in range(int(rng.integers(50, 201))):
            place = int(rng.integers(width)), int(rng.integers(height))
            cv2.circle(made, place, int(rng.integers(1, 5)), int(rng.integers(60, 150)), -1)
    if rng.random() < 0.6:
        for _ in range(int(rng.integers(4))):
            start, end = ((int(rng.integers(width)), int(rng.integers(height))) for _ in range(2))
            cv2.line(made, start, end, 80, int(rng.integers(1, 3)))
        for _ in range(int(rng.integers(3))):
            left, top, side = int(rng.integers(width)), int(rng.integers(height)), int(rng.integers(10, 51))
            box = made[top : top + side, left : left + side]
            box[:] = (box * 0.4).astype(np.uint8)
    if rng.random() < 0.7:
        size, kind = int(rng.choice([3, 5])), int(rng.integers(3))
        if kind == 2:
            return cv2.filter2D(made, -1, np.eye(size) / size)
        return cv2.GaussianBlur(made, (size, size), 0) if kind else cv2.medianBlur(made, size)
    return made


def ours(image: np.ndarray, back: np.ndarray, paper: np.ndarray | None, number: int) -> np.ndarray:
    """``(h, w)`` uint8 worn by our chain, on a piece of ``paper`` or on made one."""
    drawn = PaperChain().ops(0, str(number), () if paper is None else ("page",))
    return worn(drawn, image, Around(page=lambda _: paper, back=back) if paper is not None else Around(back=back))


def each(lines: Sequence[np.ndarray], work: Callable[[np.ndarray, np.ndarray, int], Any]) -> int:
    """``work`` on every line, the line before it on its back; how many there were."""
    for number, image in enumerate(lines):
        work(image, lines[number - 1], number)
    return len(lines)


def per_cpu_second(sample: Sample) -> float:
    return float(sample.result) / sample.cpu


def by_operation(lines: Sequence[np.ndarray], paper: np.ndarray, rounds: int) -> list[Sample]:
    """Print the times of each operation alone, as drawn for the lines, on the clean line."""
    drawn: dict[str, list[tuple[PaperOp, int]]] = defaultdict(list)
    for number in range(4 * len(lines)):
        for pages in ((), ("page",)):
            for op in PaperChain().ops(0, str(number), pages):
                if not pages or type(op).__name__ == "OnPaper":
                    drawn[type(op).__name__].append((op, number % len(lines)))

    def work(ops: list[tuple[PaperOp, int]]) -> int:
        for op, number in ops:
            worn([op], lines[number], Around(page=lambda _: paper, back=lines[number - 1]))
        return len(ops)

    found = interleaved({name: partial(work, ops) for name, ops in drawn.items()}, rounds, tell=False)
    times = {name: middle(samples, lambda sample: 1e6 * sample.cpu / sample.result) for name, samples in found.items()}
    shares = {name: len(ops) / (4 * len(lines)) for name, ops in drawn.items()}
    print("| operation | us of one core each time | times a line |\n|---|---|---|")
    for name, spent in sorted(times.items(), key=lambda item: -item[1]):
        print(f"| {name} | {spent:,.0f}{flag(found[name])} | {shares[name]:.2f} |")
    return [sample for samples in found.values() for sample in samples]


def rows_of(size: str, asked: Any) -> tuple[list[list[str]], list[Sample]]:
    height, width = SIZES[size]
    lines = [clean_line(number, height, width)[0] for number in range(8 if asked.quick else asked.lines)]
    rounds, paper = asked.rounds or (1 if asked.quick else 5), page(8 * height, 2 * width)
    ways: dict[str, Callable[[], int]] = {
        "plain": partial(each, lines, lambda image, back, n: plain(image, back, paper, n)),
        "ours, on a page": partial(each, lines, lambda image, back, n: ours(image, back, paper, n)),
        "ours, on made paper": partial(each, lines, lambda image, back, n: ours(image, back, None, n)),
    }
    found = interleaved(ways, rounds)
    base, rows = found["plain"], []
    for name, samples in list(found.items())[1:]:
        times = ratio(samples, base, per_cpu_second)
        rows.append([f"{size}, {name}, lines per second of a core", f"{middle(base, per_cpu_second):,.0f}",
                     f"{middle(samples, per_cpu_second):,.0f}", f"{times:.2f}x{flag(samples, base)}", ""])  # fmt: skip
    print(f"\n{size}:\n")
    more = by_operation(lines, paper, rounds)
    return rows, [sample for samples in found.values() for sample in samples] + more


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--lines", type=int, default=40)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    table, samples = [], []
    for size in asked.sizes:
        rows, more = rows_of(size, asked)
        table += rows
        samples += more
    report(table, samples, quick=asked.quick)


if __name__ == "__main__":
    main()
