"""What more than one test needs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)  # bits depend on it, and the networks of tests are too small for more


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start Ray come first: they take longest, and two processes share the files out in this order."""
    slow = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def ray_of_two_cpus() -> Iterator[None]:
    """One private Ray for all tests that need one: starting it takes seconds."""
    from orchestrator.cluster import start_ray

    start_ray(2)
    import ray

    yield
    ray.shutdown()
