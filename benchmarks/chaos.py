"""Runs of a short two-stage recipe on a cluster whose processes are killed, against the same run left in peace.

Run: ``unshare --pid --fork --mount-proc python -m benchmarks.chaos --runs 50`` (``--log FILE`` gathers several calls)

Two workers on two nodes of one CPU, a head that trains nothing. In each run SIGKILL ends one process: in turn a
worker, the raylet of a node, the driver, and any other actor of Ray Train's (a controller, a cleaner, ...); at a
moment drawn from the time that an undisturbed run trains or, every third round, from all that it takes. A node that
died is replaced after three seconds; a driver that died is started again by the same command; nothing else is done.
Every run must end with the metric lines and the weights of the undisturbed one, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.nodes import Nodes, nodes, short_plan, started, train_command
from orchestrator.journal import lines

KINDS = ("worker", "raylet", "driver", "actor")
NODE_BACK_S = 3.0
LIMIT_S = 900.0
WORKERS = 2
EVERY_S = 0.5  # between checkpoints
DYING_S = 1.0  # a rank may tell of the update it was in when another one died


@dataclass(frozen=True)
class Kill:
    """One run and its kill.

    Attributes:
        kind: what was killed; ``process`` is its name.
        at_s: when, after the start.
        phase: ``starting`` before the first update was told, ``training`` from then on, ``ending`` after all stages.
        regrouped: another group of workers had to take over; where none had, nothing is lost and nothing recovers.
        lost_steps: updates that were made and had to be made again.
        recovered_s: from the kill until the next group's first update.
        seconds: the whole run.
        same: metric lines and weights are those of the undisturbed run.
    """

    kind: str
    process: str
    at_s: float
    phase: str
    regrouped: bool
    lost_steps: int
    recovered_s: float
    seconds: float
    same: bool


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=50)
    options.add_argument("--seed", type=int, default=0, help="of processes and moments")
    options.add_argument("--kinds", default=",".join(KINDS), help="what is killed in turn (default: %(default)s)")
    options.add_argument("--log", type=Path, help="append each run's line here, and print the table of all lines")
    asked = options.parse_args()
    kills: list[Kill] = []
    if asked.log and asked.log.exists():
        kills = [Kill(**json.loads(line)) for line in asked.log.read_text().splitlines()]
    if asked.runs:
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder, nodes(WORKERS) as cluster:
            for kill in some_kills(
                cluster, Path(folder), random.Random(f"{asked.seed}-{len(kills)}"), asked.runs, asked.kinds.split(",")
            ):
                kills.append(kill)
                print(json.dumps(asdict(kill)), flush=True)
                if asked.log:
                    with asked.log.open("a") as file:
                        file.write(json.dumps(asdict(kill)) + "\n")
    print("\n".join(table(kills)))
    if not all(kill.same for kill in kills):
        raise SystemExit("a run did not end as the undisturbed one")


def some_kills(
    cluster: Nodes, folder: Path, draw: random.Random, runs: int, kinds: Sequence[str]
) -> Iterator[Kill]:  # fmt: skip
    """Each run as it ends; two undisturbed ones come first and must agree."""
    plan = short_plan(folder / "plan.json", epochs=14)
    undisturbed(cluster, plan, folder / "first")  # makes the shards, too
    wanted, seconds, trained_s = undisturbed(cluster, plan, folder / "second", shards=folder / "first" / "shards")
    assert wanted == outcome(folder / "first"), "two undisturbed runs differ"
    print(f"undisturbed: {seconds:.1f} s, {trained_s:.1f} of them from the first update to the last", flush=True)
    for number in range(runs):
        kind, in_training = kinds[number % len(kinds)], number // len(kinds) % 3 != 2
        run = Disturbed(cluster, plan, folder / f"run-{number}")
        shutil.copytree(folder / "first" / "shards", run.store / "shards")
        yield run.through(kind, draw.uniform(0, trained_s if in_training else seconds), in_training, draw, wanted)
        shutil.rmtree(run.store)


def undisturbed(
    cluster: Nodes, plan: Path, store: Path, shards: Path | None = None
) -> tuple[dict[str, str], float, float]:
    """What a run comes to that nobody kills, its seconds, and those from its first update to its last."""
    if shards:
        shutil.copytree(shards, store / "shards")
    began, log = time.monotonic(), store.with_suffix(".log")
    process = started(train_command(plan, store, workers=str(WORKERS), address=cluster.address), log)
    if process.wait(timeout=LIMIT_S):
        raise AssertionError(log.read_text())
    seconds = time.monotonic() - began
    epochs = [row for path in store.glob("runs/demo/*/speed.jsonl") for row in lines(path, "epoch")]
    first, last = min(row["time"] - row["seconds"] for row in epochs), max(row["time"] for row in epochs)
    return outcome(store), seconds, last - first


def outcome(store: Path) -> dict[str, str]:
    """Hashes of each stage's metric lines and last weights."""
    found = {}
    for folder in sorted(store.glob("runs/demo/*")):
        last = json.loads((folder / "record.json").read_text())["last"]
        for path in [folder / "metrics.jsonl", *sorted((folder / last).glob("*.safetensors"))]:
            found[f"{folder.name}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@dataclass(frozen=True)
class Look:
    """What a run tells at a moment.

    Attributes:
        group: process of its rank 0, which is another one in each group; 0 before there is one.
        told_at: when its last update was told; ``step`` is the stage and its updates.
    """

    at: float
    group: int = 0
    told_at: float = 0.0
    step: tuple[str, int] | None = None


@dataclass
class Disturbed:
    """One run of ``plan`` into ``store``, and who disturbs it."""

    cluster: Nodes
    plan: Path
    store: Path

    def through(self, kind: str, at_s: float, in_training: bool, draw: random.Random, wanted: dict[str, str]) -> Kill:
        """Start, kill after ``at_s`` seconds, of training or in all, mend, and wait for the end."""
        began, started_at = time.monotonic(), time.time()
        process = self._start()
        while in_training and self.step() is None and process.poll() is None:
            time.sleep(0.02)
        time.sleep(at_s)
        killed_at, seen, phase = time.time(), [self._look()], self._phase()
        kind, name, node = self._kill(kind, process, draw)
        if node is not None:
            time.sleep(NODE_BACK_S)
            self.cluster.bury(node)
            self.cluster.add()
        tries = 0
        while (code := process.poll()) != 0:
            if code is not None:
                tries += 1
                assert kind == "driver" and tries == 1, f"ended with {code}: {self.log.read_text()}"
                process = self._start()
            assert time.monotonic() - began < LIMIT_S, f"no end: {self.log.read_text()}"
            seen.append(self._look())
            time.sleep(0.05)
        own = [look for look in seen if look.group == seen[0].group]
        regrouped = [look for look in seen if look.group not in (0, seen[0].group)]
        recovered = [look.told_at for look in regrouped if look.told_at > regrouped[0].at]
        return Kill(
            kind=kind, process=name, at_s=round(killed_at - started_at, 2),
            phase=phase, regrouped=bool(regrouped),
            lost_steps=self._lost(own[-1], killed_at) if regrouped else 0,
            recovered_s=round(recovered[0] - killed_at, 2) if recovered else 0.0,
            seconds=round(time.monotonic() - began, 1), same=outcome(self.store) == wanted,
        )  # fmt: skip

    @property
    def log(self) -> Path:
        return self.store / "launch.log"

    def _start(self) -> subprocess.Popen[bytes]:
        command = train_command(
            self.plan, self.store, workers=str(WORKERS), address=self.cluster.address, every_s=EVERY_S
        )
        return started(command, self.log)

    def _kill(self, kind: str, driver: subprocess.Popen[bytes], draw: random.Random) -> tuple[str, str, Any]:
        """SIGKILL; what was killed, its name, and the node that went with it. The driver stands in for no workers."""
        if kind == "raylet":
            node = draw.choice(self.cluster.alive)
            self.cluster.raylet(node).kill()
            return "raylet", "raylet", node
        actors = [(each, title) for each in psutil.process_iter() if (title := _title(each)).startswith("ray::")]
        busy = [(each, title) for each, title in actors if "IDLE" not in title and "Agent" not in title]
        chosen = [each for each in busy if (kind == "worker") == each[1].startswith("ray::RayTrainWorker")]
        if kind in ("worker", "actor") and chosen:
            process, title = draw.choice(chosen)
            process.kill()
            name = title.removeprefix("ray::").split(".")[0].strip()
            return kind, name, None
        driver.kill()  # nothing is left to kill where the run has just ended
        driver.wait()
        return "driver", "driver", None

    def step(self) -> tuple[str, int] | None:
        """The stage and its updates that the run told last."""
        return self._look().step

    def _phase(self) -> str:
        if len(list(self.store.glob("runs/demo/*/record.json"))) == 2:
            return "ending"
        return "training" if self.step() else "starting"

    def _look(self) -> Look:
        """What the newest launch tells now."""
        launches = sorted(self.store.glob("live/2*"))
        if not launches:
            return Look(time.time())
        first, told = launches[-1] / "rank-0.json", launches[-1] / "status.json"
        group = json.loads(first.read_text())["pid"] if first.exists() else 0
        if not told.exists():
            return Look(time.time(), group)
        status = json.loads(told.read_text())
        step = (status["stage"], status["step"]) if "step" in status else None
        return Look(time.time(), group, told.stat().st_mtime, step)

    def _lost(self, last: Look, killed_at: float) -> int:
        """Updates that the lost group had told ``last`` and the next one made again."""
        if last.step is None:
            return 0
        stage, step = last.step
        [folder] = self.store.glob(f"runs/demo/{stage}-*")
        speed = folder / "speed.jsonl"
        resumed = [row["step"] for row in lines(speed, "resumed") if row["time"] > killed_at]
        anew = any(row["epoch"] == 1 and row["time"] > killed_at for row in lines(speed, "epoch"))
        if not resumed and not anew:  # the dying group had come to the end of the stage
            return 0
        return max(step - (resumed[0] if resumed else 0), 0)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def table(kills: Sequence[Kill]) -> list[str]:
    """Markdown: kills by what was killed and when, the work they cost, and whether the outcome was the same."""
    rows = ["| killed | while | runs | same outcome | lost updates, median (most) | recovered after, median (most) s |",
            "|---|---|---|---|---|---|"]  # fmt: skip
    for kind, phase in sorted({(kill.kind, kill.phase) for kill in kills}):
        these = [kill for kill in kills if (kill.kind, kill.phase) == (kind, phase)]
        lost, back = [kill.lost_steps for kill in these], [kill.recovered_s for kill in these]
        rows.append(
            f"| {kind} | {phase} | {len(these)} | {sum(kill.same for kill in these)} | "
            f"{median(lost):.0f} ({max(lost)}) | {median(back):.1f} ({max(back):.1f}) |"
        )
    return [*rows, f"{len(kills)} runs, {sum(kill.same for kill in kills)} as the undisturbed one"]


if __name__ == "__main__":
    main()
