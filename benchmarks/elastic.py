"""Four workers, two of whose nodes go and come back: against four workers that are left in peace.

Run: ``unshare --pid --fork --mount-proc python -m benchmarks.elastic``

After 60 updates one of four nodes is drained, as a spot machine that got its notice, and ended; 60 later SIGKILL
ends the raylet of another; 60 later two nodes join. Says what the run told, when, what it had to do again, and how far
its losses are from those of the undisturbed run. With ``--workers 2:4``.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.nodes import Nodes, nodes, short_plan, started, train_command
from orchestrator.journal import lines

LIMIT_S = 400.0
TOLD = r"about to go|waiting for places|training with \d of|there is room|\d workers?:|lost rank|Going on"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="elastic-") as name, nodes(4) as cluster:
        folder = Path(name)
        plan = short_plan(folder / "plan.json", epochs=20, **{"stages.pretrain.epochs": 70})
        peace = launched(cluster, plan, folder / "peace")
        wait(peace, lambda: peace.poll() is not None)
        store = folder / "elastic"
        shutil.copytree(folder / "peace" / "shards", store / "shards")
        began = time.monotonic()
        run = launched(cluster, plan, store)
        wait(run, lambda: step(store) >= 60)
        going = cluster.alive[0]
        say(began, f"a node drained after {step(store)} updates")
        cluster.drain(going, 60)
        wait(run, lambda: "training with 3 of 4" in log(store))
        say(began, "three workers train")
        cluster.raylet(going).kill()
        cluster.bury(going)
        first = step(store)
        wait(run, lambda: step(store) >= first + 60)
        dead = cluster.alive[0]
        say(began, f"another one killed after {step(store)} updates")
        cluster.raylet(dead).kill()
        wait(run, lambda: "training with 2 of 4" in log(store))
        say(began, "two workers train")
        cluster.bury(dead)
        first = step(store)
        wait(run, lambda: step(store) >= first + 60)
        cluster.add()
        cluster.add()
        say(began, f"two nodes joined after {step(store)} updates")
        wait(run, lambda: "there is room" in log(store))
        say(began, f"asked to make way after {step(store)} updates")
        wait(run, lambda: run.poll() is not None)
        say(began, "done")
        print("\n".join(line[:110] for line in log(store).splitlines() if re.search(TOLD, line)))
        [speed] = store.glob("runs/demo/pretrain-*/speed.jsonl")
        print("went on from updates", [row["step"] for row in lines(speed, "resumed")])
        compare(folder / "peace", store)


def launched(cluster: Nodes, plan: Path, store: Path) -> subprocess.Popen[bytes]:
    store.mkdir(parents=True, exist_ok=True)
    command = train_command(plan, store, workers="2:4", address=cluster.address, every_s=2.0)
    return started(command, store / "launch.log")


def log(store: Path) -> str:
    return (store / "launch.log").read_text()


def step(store: Path) -> int:
    """Updates of the first stage, as the run told them last."""
    told = [json.loads(path.read_text()) for path in store.glob("live/*/status.json")]
    return max((each["step"] for each in told if each.get("stage") == "pretrain" and "step" in each), default=0)


def wait(run: subprocess.Popen[bytes], condition) -> None:
    until = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < until and (run.poll() in (None, 0)), "it went wrong"
        time.sleep(0.1)


def compare(peace: Path, elastic: Path) -> None:
    """Lines and losses of both runs, stage by stage."""
    for folder in sorted(peace.glob("runs/demo/*"), reverse=True):
        one, other = (lines(root / folder.relative_to(peace) / "metrics.jsonl") for root in (peace, elastic))
        once = [(row["kind"], row["step"]) for row in one] == [(row["kind"], row["step"]) for row in other]
        losses = [(a["loss/ctc"], b["loss/ctc"]) for a, b in zip(one, other, strict=True) if a["kind"] == "step"]
        apart = max(abs(a - b) / a for a, b in losses)
        rates = all(a["lr"] == b["lr"] for a, b in zip(one, other, strict=True) if a["kind"] == "step")
        name = folder.name.rpartition("-")[0]
        print(f"{name}: {len(losses)} updates, every line once: {once}, the plan's rates: {rates}")
        print(f"  losses at most {apart:.1e} apart (relative)")


def say(began: float, text: str) -> None:
    print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
