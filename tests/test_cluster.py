"""The files for `ray up` pass what it checks before it talks to any cloud, and what it does not check."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
AWS, ON_PREMISE = ROOT / "cluster.yaml", ROOT / "deploy" / "on_premise.yaml"
ONE_GPU = {"CPU": 8, "GPU": 1}


def prepared_of(path: Path) -> dict:
    from ray.autoscaler._private.util import prepare_config, validate_config

    full = prepare_config(yaml.safe_load(path.read_text(encoding="utf-8")))
    validate_config(full)
    return full


@pytest.fixture(scope="module")
def prepared():
    return prepared_of(AWS)


@pytest.fixture(scope="module", params=[AWS, ON_PREMISE], ids=lambda path: path.name)
def any_prepared(request):
    return prepared_of(request.param)


def test_the_head_trains_nothing_and_workers_come_and_go(prepared):
    types = prepared["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    workers = {name: each for name, each in types.items() if name != "head"}
    assert set(workers) == {"worker_spot", "worker_on_demand"}
    for each in workers.values():
        assert each["min_workers"] == 0 < each["max_workers"] <= prepared["max_workers"]
        assert each["resources"] == ONE_GPU


def test_spot_and_on_demand_differ_in_the_market_alone(prepared):
    spot, full = (dict(prepared["available_node_types"][name]["node_config"])
                  for name in ("worker_spot", "worker_on_demand"))  # fmt: skip
    assert spot.pop("InstanceMarketOptions") == {"MarketType": "spot"}
    assert spot == full
    assert "InstanceMarketOptions" not in prepared["available_node_types"]["head"]["node_config"]


def types_chosen(prepared: dict, workers: int, availability: dict[str, float]) -> dict[str, int]:
    """Types that Ray's autoscaler (v2) would start for so many GPU workers: placement groups of one bundle each."""
    from collections import Counter

    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.autoscaler_pb2 import GangResourceRequest

    config = AutoscalingConfig(prepared, skip_content_hash=True)
    bundle = ResourceRequestUtil.make(ONE_GPU)
    request = SchedulingRequest(
        disable_launch_config_check=True, node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes(), recoverable_resource_availabilities=availability,
        gang_resource_requests=[GangResourceRequest(requests=[bundle]) for _ in range(workers)],
    )  # fmt: skip
    launched = ResourceDemandScheduler(event_logger=None).schedule(request).to_launch
    return dict(sum((Counter({each.instance_type: each.count}) for each in launched), Counter()))


def test_the_autoscaler_takes_spot_machines_and_others_where_there_are_none(prepared):
    assert "RAY_enable_autoscaler_v2=1" in " ".join(prepared["head_start_ray_commands"])
    assert types_chosen(prepared, 2, {}) == {"worker_spot": 2}
    assert types_chosen(prepared, 2, {"worker_spot": 0.3}) == {"worker_on_demand": 2}


def test_every_node_installs_this_project_not_a_nightly_ray(any_prepared):
    commands = " ".join(any_prepared["setup_commands"])
    assert "pip install" in commands and "ray-3.0.0.dev0" not in commands


def test_nodes_join_the_head_and_its_dashboard_stays_on_loopback(any_prepared):
    head, worker = (" ".join(any_prepared[f"{name}_start_ray_commands"]) for name in ("head", "worker"))
    assert "--dashboard-host=127.0.0.1" in head
    assert "$RAY_HEAD_IP:6379" in worker
    assert all("RAY_AUTH_MODE=disabled" in each for each in (head, worker))


def test_aws_scales_from_the_head_and_machines_that_are_always_there_keep_it_from_training(prepared):
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in " ".join(prepared["head_start_ray_commands"])
    fixed = prepared_of(ON_PREMISE)
    assert "--num-cpus=0 --num-gpus=0" in " ".join(fixed["head_start_ray_commands"])
    assert fixed["provider"]["type"] == "local" and fixed["max_workers"] == len(fixed["provider"]["worker_ips"])


def test_every_field_of_the_cluster_is_explained():
    """A line for each field at the top and of a node type, with a comment at it or above it."""
    lines = AWS.read_text(encoding="utf-8").splitlines()
    data = yaml.safe_load(AWS.read_text(encoding="utf-8"))
    names = [
        *data,
        *data["provider"],
        *data["available_node_types"],
        "priority",
        "labels",
        "min_workers",
        "node_config",
    ]
    for name in names:
        found = [number for number, line in enumerate(lines) if re.match(rf"\s*{name}:", line)]
        assert found, name
        near = [line for number in found for line in lines[max(number - 3, 0) : number + 4]]
        assert any("#" in line for line in near), f"{name} is not explained"


def test_scripts_that_nodes_run_are_where_the_cluster_says():
    text = AWS.read_text(encoding="utf-8")
    for name in re.findall(r"~/plumbline/(\S+\.sh)", text):
        assert (ROOT / name).is_file() and (ROOT / name).read_text().startswith("#!/usr/bin/env bash")
