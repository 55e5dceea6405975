"""cluster.yaml passes what `ray up` checks before it talks to any cloud, and what it does not check."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

PATH = Path(__file__).parents[1] / "cluster.yaml"


@pytest.fixture(scope="module")
def prepared():
    from ray.autoscaler._private.util import prepare_config, validate_config

    full = prepare_config(yaml.safe_load(PATH.read_text(encoding="utf-8")))
    validate_config(full)
    return full


def test_the_head_trains_nothing_and_workers_come_and_go(prepared):
    types = prepared["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["worker"]["min_workers"] == 0 < types["worker"]["max_workers"] <= prepared["max_workers"]


def test_every_node_installs_this_project_not_a_nightly_ray(prepared):
    commands = " ".join(prepared["setup_commands"])
    assert "pip install" in commands and "ray-3.0.0.dev0" not in commands


def test_nodes_join_the_head_and_its_dashboard_stays_on_loopback(prepared):
    assert "--dashboard-host=127.0.0.1" in " ".join(prepared["head_start_ray_commands"])
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in " ".join(prepared["head_start_ray_commands"])
    assert "$RAY_HEAD_IP:6379" in " ".join(prepared["worker_start_ray_commands"])
