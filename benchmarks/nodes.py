"""A Ray cluster of several nodes on this machine, whose processes can be killed: for the figures about failures.

Everything here must run in a process namespace of its own, where it sees and ends its own processes only:
``unshare --pid --fork --mount-proc python -m benchmarks.chaos``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from datasets.rendered import RenderedWords
from orchestrator.identity import plain
from orchestrator.override import override
from orchestrator.recipes.words import three_stages

SOON = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 4}


@dataclass
class Nodes:
    """A head that trains nothing, and nodes of one CPU each.

    Attributes:
        detected: Ray's settings of how soon a silent node counts as lost.
    """

    count: int
    dashboard: bool = False
    detected: dict[str, int] = field(default_factory=lambda: dict(SOON))

    def __post_init__(self) -> None:
        if psutil.Process().ppid() > 1 or os.getpid() > 2:
            raise SystemExit("start this in a process namespace: unshare --pid --fork --mount-proc python -m ...")
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": self.dashboard, "_system_config": self.detected}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.alive: list[Any] = []
        for _ in range(self.count):
            self.add()
        self._cluster.wait_for_nodes()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self) -> None:
        self.alive.append(self._cluster.add_node(num_cpus=1))

    def raylet(self, node: Any) -> psutil.Process:
        return psutil.Process(node.all_processes["raylet"][0].process.pid)

    def drain(self, node: Any, seconds: int) -> None:
        """Tell Ray that the node will be taken away in so many seconds."""
        words = ["drain-node", "--address", self.address, "--node-id", node.node_id, "--reason"]
        words += ["DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "taken away", "--deadline-remaining-seconds"]
        command = [str(Path(sys.executable).with_name("ray")), *words, str(seconds)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def bury(self, node: Any) -> None:
        """Clear away what is left of a node whose raylet was killed."""
        self.alive.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def end(self) -> None:
        self._cluster.shutdown()


@contextmanager
def nodes(count: int, **settings: Any) -> Iterator[Nodes]:
    cluster = Nodes(count, **settings)
    try:
        yield cluster
    finally:
        cluster.end()


def short_plan(place: Path, *, name: str = "demo", epochs: int = 3, **changes: Any) -> Path:
    """A plan of two short stages on drawn words, written to ``place`` for ``train NAME --plan``."""
    recipe = three_stages(
        name=name, rendered=RenderedWords(count=240, valid=24, style="plain", numbers=0, random=0), real_name="worn",
        real=RenderedWords(count=60, valid=24, test=24, seed=1, style="scene"), floor=0.0,
    )  # fmt: skip
    recipe = replace(recipe, stages=recipe.stages[:2])
    settings = {
        "task.recognizer.width": 0.0625, "task.recognizer.hidden": 8, "image.max_width": 96,
        "stages.pretrain.epochs": epochs, "stages.pretrain.batch_size": 16, "stages.pretrain.optim.lr": 1e-3,
        "stages.pretrain.gate": {"rendered/word_accuracy_36": 0.0},
        "stages.finetune_frozen.epochs": epochs, "stages.finetune_frozen.batch_size": 16,
    }  # fmt: skip
    place.write_text(json.dumps(plain(override(recipe, settings | changes))))
    return place


def train_command(plan: Path, store: Path, *, workers: str, address: str = "", every_s: float = 0.0) -> list[str]:
    return [
        sys.executable, "-m", "orchestrator.run", "train", "demo", "--plan", str(plan), "--store", str(store),
        "--workers", workers, "--threads", "1", "--checkpoint-every", str(every_s), "--device", "cpu",
        "--trackers", "none", "--no-report", *(("--address", address) if address else ()),
    ]  # fmt: skip


def started(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
