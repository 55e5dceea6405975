"""What every figure shares: interleaved rounds, medians, what other processes used meanwhile, and the machine's name.

A figure sets our way beside its baseline in one run: round after round each way once, every other round in reverse
order, so that what else the machine does strikes both. Times are compared round by round.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

QUIET = 0.2  # cores; where others used more than this, a sample is flagged
FEWEST_QUIET = 3


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One way, measured once.

    Attributes:
        seconds: wall clock.
        cpu: CPU-seconds of this process and of the children it has waited for.
        others: cores that other processes (and other virtual machines) used meanwhile, to about 0.02 / ``seconds``.
        result: what the work returned.
    """

    seconds: float
    cpu: float
    others: float
    result: Any

    @property
    def quiet(self) -> bool:
        return self.others <= QUIET


def measured(work: Callable[[], Any]) -> Sample:
    """``work`` done once, between two readings of all clocks."""
    busy, tree, cpu, start = _busy(), _of_tree(), _cpu(), time.perf_counter()
    result = work()
    seconds, cpu = time.perf_counter() - start, _cpu() - cpu
    others = max(_busy() - busy - (_of_tree() - tree), 0.0) / max(seconds, 1e-9)
    return Sample(seconds=seconds, cpu=cpu, others=others, result=result)


def interleaved(
    ways: Mapping[str, Callable[[], Any]], rounds: int, *, keep_order: bool = False, tell: bool = True
) -> dict[str, list[Sample]]:
    """``rounds`` samples of each way, taken in turn; a line on stderr says how each round went.

    Args:
        keep_order: the order given in every round, where one way needs what another left behind.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 or keep_order else reversed(list(ways)):
            samples[name].append(measured(ways[name]))
        if tell:
            now = ", ".join(f"{name} {each[-1].seconds:.2f} s{flag(each[-1:])}" for name, each in samples.items())
            others = max(each[-1].others for each in samples.values())
            print(f"round {number + 1} of {rounds}: {now}; others used {others:.2f} cores", file=sys.stderr)
    return samples


def trusted(*series: Sequence[Sample]) -> list[int]:
    """The rounds to believe: those quiet in every series, or the quietest third where fewer than three were."""
    loads = [max(sample.others for sample in round) for round in zip(*series, strict=True)]
    quiet = [number for number, load in enumerate(loads) if load <= QUIET]
    if len(quiet) >= min(FEWEST_QUIET, len(loads)):
        return quiet
    by_load = sorted(range(len(loads)), key=lambda number: loads[number])
    return sorted(by_load[: max(len(loads) // 3, 1)])


def middle(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    """The median of ``value`` over the rounds to believe."""
    return median(value(samples[number]) for number in trusted(samples))


def ratio(over: Sequence[Sample], under: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    """The median over the rounds to believe of ``value(over) / value(under)``, each within one round."""
    return median(value(over[number]) / value(under[number]) for number in trusted(over, under))


def flag(*series: Sequence[Sample]) -> str:
    """``"*"`` where the figures rest on rounds in which others used more than :data:`QUIET` cores."""
    rounds = trusted(*series)
    return "" if all(samples[number].quiet for samples in series for number in rounds) else "*"


def machine() -> str:
    """One line: processor, cores, libraries and threads."""
    import torch

    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{names[0] if names else platform.processor() or platform.machine()}, {cores} cores{gpu}, "
        f"torch {torch.__version__} on {torch.get_num_threads()} threads, Python {platform.python_version()}"
    )


def report(rows: Iterable[Sequence[str]], samples: Iterable[Sample], *, quick: bool = False) -> None:
    """The machine, what others used, and a Markdown table: what, baseline, ours, ratio, goal."""
    if quick:
        print("\na smoke run: the figures below say nothing")
    samples = list(samples)
    loud = sum(not sample.quiet for sample in samples)
    most = max((sample.others for sample in samples), default=0.0)
    print(f"\n{machine()}")
    print(f"others used up to {most:.2f} cores; {loud} of {len(samples)} samples were flagged (*: more than {QUIET})\n")
    print("| | baseline | ours | ratio | goal |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def options(text: str | None) -> argparse.ArgumentParser:
    """A parser with what all figures take."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run: as little work as shows that it runs")
    parser.add_argument("--rounds", type=int, default=0, help="interleaved rounds (default: the figure's own)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each way (default: 2)")
    return parser


def verdict(value: float, goal: float, *, least: bool = True, unit: str = "x") -> str:
    """The goal, and whether ``value`` meets it."""
    met = value >= goal if least else value <= goal
    return f"{'at least' if least else 'at most'} {goal:g}{unit}: {'met' if met else 'MISSED'}"


def private_bytes() -> int:
    """Memory of this process that is neither mapped files nor shared: what grows when something is kept."""
    memory = psutil.Process().memory_info()
    return memory.rss - memory.shared


def _busy() -> float:
    """CPU-seconds that all cores have worked, for anyone, since the machine started."""
    times = psutil.cpu_times()
    return sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))


def _of_tree() -> float:
    """CPU-seconds of this process, of its living descendants, and of those that they have waited for."""
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            total += sum(process.cpu_times()[:4])  # user, system, and both of the children waited for
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return total


def _cpu() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
