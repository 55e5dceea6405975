"""Plates degraded per second of one core's time: the chain alone, with its similarity, to a target, and made a pair.

Run: ``python -m benchmarks.degrade [--plates 1000] [--height 64]``
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.measure import Sample, flag, interleaved, middle, options, ratio, report
from datasets.degrade_ops import applied
from datasets.pair_image import PairSpec
from datasets.rendered_plates import RenderedPlates
from datasets.ssim import ssim


@dataclass(frozen=True)
class Plates:
    """Good pictures of plates and how often to go through them, so that every way has enough to do."""

    images: Sequence[np.ndarray]
    times: int = 1

    def each(self, work: Callable[[np.ndarray, str], object]) -> Callable[[], int]:
        """``work`` on every picture and its id; how many there were."""

        def run() -> int:
            for time in range(self.times):
                for number, image in enumerate(self.images):
                    work(image, f"{time}/{number}")
            return self.times * len(self.images)

        return run


def per_cpu_second(sample: Sample) -> float:
    return float(sample.result) / sample.cpu


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--plates", type=int, default=1000)
    parser.add_argument("--height", type=int, default=64, help="rows of the good pictures (default: 64)")
    asked = parser.parse_args()
    source = RenderedPlates(tracks=30 if asked.quick else asked.plates, frames=1, height=asked.height)
    targets = [row.target for row in source.rows(None)]
    drawn = [target.load() for target in targets if target is not None]
    few, many = Plates(drawn), Plates(drawn, 1 if asked.quick else 5)
    chain, spec = source.chain, PairSpec()
    aimed = replace(chain, ssim=0.25)
    ways: dict[str, Callable[[], int]] = {
        "chain": many.each(lambda image, id: applied(chain.ops(0, id), image)),
        "chain and its SSIM": many.each(lambda image, id: chain.degrade(image, 0, id)),
        "chain until SSIM <= 0.25": few.each(lambda image, id: aimed.degrade(image, 0, id)),
        "SSIM alone": many.each(lambda image, id: ssim(image, image)),
        "pair of chain, SSIM, 16x48 and 32x96": many.each(
            lambda image, id: spec.prepare(chain.degrade(image, 0, id).image, image)
        ),
    }
    found = interleaved(ways, asked.rounds or (1 if asked.quick else 5))
    first = found["chain"]
    table = [
        [f"{name}, plates per second of a core", f"{middle(first, per_cpu_second):,.0f}",
         f"{middle(each, per_cpu_second):,.0f}", f"{ratio(each, first, per_cpu_second):.2f}x{flag(each)}", ""]
        for name, each in found.items()
    ]  # fmt: skip
    report(table, [sample for each in found.values() for sample in each], quick=asked.quick)


if __name__ == "__main__":
    main()
