"""One way to start Ray: join the cluster that RAY_ADDRESS names, else a quiet private one on this machine."""

from __future__ import annotations

import logging
import os
import sys


def start_ray(cpus: int | None = None) -> None:
    """Connect to Ray once; nothing happens when this process is connected already.

    Args:
        cpus: CPUs of the private Ray; all when omitted. A cluster named by ``RAY_ADDRESS`` knows its own.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would let anything else on the machine starve training
    joins = bool(os.environ.get("RAY_ADDRESS"))
    if not joins and "ray" not in sys.modules:
        # Read once, when ray is imported: without it the private Ray listens on every network interface.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    if ray.is_initialized():
        return
    if joins:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(
            address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
