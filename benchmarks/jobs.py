"""Jobs submitted to a head on this machine: two at once; stopped, submitted again, finished; a sweep.

Run: ``unshare --pid --net --fork --mount-proc sh -c "python -m benchmarks.jobs; true"``, whose shell buries the dead

Says of each step how long it took and what a person at the submitting side saw. The network namespace keeps Ray's fixed
ports apart from whatever else runs here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray.job_submission import JobSubmissionClient

from benchmarks.chaos import outcome
from benchmarks.nodes import short_plan

ADDRESS = "http://127.0.0.1:8265"
RAY = str(Path(sys.executable).with_name("ray"))
ROOT = Path(__file__).parents[1]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="jobs-") as name, a_head():
        folder = Path(name)
        plan = short_plan(folder / "plan.json", epochs=12)
        took, (first, second) = timed(lambda: two_at_once(plan, folder / "a", folder / "b"))
        same = outcome(folder / "a") == outcome(folder / "b")
        say(f"two jobs at once, a store each: {took:.0f} s; same outcome: {same}")
        say(f"  what the submitting side sees: {shown(first)}")
        for store, id in (("a", first), ("b", second)):
            say(f"  job id in the records of {store}: {jobs_of(folder / store) == {id}}")
        store = folder / "stopped"
        shutil.copytree(folder / "a" / "shards", store / "shards")
        stopped = submit(plan, store, wait=False)
        while steps_of(store) < 40:
            time.sleep(0.1)
        made = steps_of(store)
        took, _ = timed(lambda: ray("job", "stop", stopped))
        say(f"stopped after {made} updates in {took:.1f} s: {status(stopped)}; {said(stopped, 'Stopped;')}")
        took, again = timed(lambda: submit(plan, store, wait=True))
        say(f"submitted again: {took:.0f} s to the end; same outcome: {outcome(store) == outcome(folder / 'a')}; "
            f"{status(again)}")  # fmt: skip
        plan = short_plan(folder / "words.json", name="words")
        took, sweep = timed(lambda: submit(plan, folder / "swept", wait=True, of="sweep"))
        say(f"a sweep of four trials: {took:.0f} s; {status(sweep)}; {said(sweep, 'Winner')}")


@contextmanager
def a_head() -> Iterator[None]:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    start = [RAY, "start", "--head", "--num-cpus=2", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    for left in (2, 1, 0):  # a machine that is busy may be too slow for Ray's 30 s
        started = subprocess.run(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if started.returncode == 0 or not left:
            started.check_returncode()
            break
        subprocess.run([RAY, "stop", "--force"], check=True, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        subprocess.run([RAY, "stop", "--force"], check=True, stdout=subprocess.DEVNULL)


def ray(job: str, verb: str, *words: str) -> str:
    """A command of Ray's own, as a person types it; what it says."""
    command = [RAY, job, verb, "--address", ADDRESS, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def submit(plan: Path, store: Path, *, wait: bool, of: str = "train") -> str:
    """Submit a training run of one worker into ``store``, or a sweep; its id. With ``wait`` it must succeed."""
    own = ["train", "demo", "--workers", "1", "--checkpoint-every", "1"]
    if of == "sweep":
        own = ["sweep", "words_pretrain", "--trials", "4", "--prune", "none"]
    answer = ray(
        "job", "submit", "--working-dir", ".", "--runtime-env", "deploy/job.yaml", *([] if wait else ["--no-wait"]),
        "--", "python", "-m", "orchestrator.run", *own, "--plan", str(plan), "--store", str(store), "--threads", "1",
        "--device", "cpu", "--trackers", "none", "--no-report",
    )  # fmt: skip
    return re.findall(r"raysubmit_\w+", answer)[0]


def two_at_once(plan: Path, one: Path, other: Path) -> tuple[str, str]:
    ids = submit(plan, one, wait=False), submit(plan, other, wait=False)
    for id in ids:
        while (now := status(id)) not in ("SUCCEEDED", "FAILED", "STOPPED"):
            time.sleep(0.5)
        assert now == "SUCCEEDED", client().get_job_logs(id)
    return ids


def client() -> JobSubmissionClient:
    return JobSubmissionClient(ADDRESS)


def status(id: str) -> str:
    return str(client().get_job_status(id).value)


def shown(id: str) -> str:
    """The lines of a job that say where it runs and how far it is, shortened."""
    found = [
        line for line in client().get_job_logs(id).splitlines() if line.startswith(("Ray at", "1 worker", "Epoch 1/"))
    ]
    return " | ".join(line[:90] for line in found[:3])


def said(id: str, begins: str) -> str:
    """The line of a job that begins so."""
    return next(line for line in client().get_job_logs(id).splitlines() if line.startswith(begins))


def steps_of(store: Path) -> int:
    """Updates of all stages, as the run told them last."""
    told = [json.loads(path.read_text()) for path in store.glob("live/*/status.json")]
    done = [json.loads(path.read_text())["steps"] for path in store.glob("runs/demo/*/record.json")]
    return sum(done) + max((each.get("step", 0) for each in told), default=0)


def jobs_of(store: Path) -> set[str]:
    records = store.glob("runs/demo/*/record.json")
    return {json.loads(path.read_text())["execution"]["job"] for path in records}


def timed(work):
    began = time.monotonic()
    result = work()
    return time.monotonic() - began, result


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
