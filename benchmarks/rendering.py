"""Words drawn and prepared per second of one core's time, in each style.

Run: ``python -m benchmarks.rendering [--fonts system] [--words 10000]``
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from itertools import islice

from datasets.image import ImageSpec
from datasets.rendered import RenderedWords


def words_per_second(source: RenderedWords, spec: ImageSpec, *, words: int) -> float:
    """Rate of ``load`` and ``prepare``, once each face is open."""
    rows = list(islice(source.rows(None), words))
    for row in rows:
        row.image.load()
    start = time.process_time()
    for row in rows:
        spec.prepare(row.image.load())
    return len(rows) / (time.process_time() - start)


def rows_per_second(source: RenderedWords) -> float:
    """Rate at which rows are listed, before any is drawn."""
    start = time.process_time()
    listed = sum(1 for _ in source.rows(None))
    return listed / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=int, default=10_000)
    parser.add_argument("--fonts", choices=("shipped", "system"), default="shipped")
    asked = parser.parse_args()
    clean = RenderedWords(count=asked.words, style="plain", fonts=asked.fonts)
    scene = replace(clean, style="scene")
    for source in (clean, scene, replace(scene, colour=True)):
        rate = words_per_second(source, ImageSpec(channels=3 if source.colour else 1), words=asked.words)
        print(f"{source.style:5} {'RGB' if source.colour else 'grey':4} {rate:9,.0f} words/s on one core")
    listing = RenderedWords(count=1_000_000, fonts=asked.fonts)
    next(listing.rows(None))
    print(f"listed     {rows_per_second(listing):9,.0f} rows/s")


if __name__ == "__main__":
    main()
