import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from models.collective import seconds_waited, sum_over_ranks

LATE_S = 0.3


def work(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    sum_over_ranks(torch.zeros(1))  # the first one connects
    before, there = seconds_waited(), Path(folder) / "there"
    if rank == 0:
        there.touch()
    else:
        while not there.exists():
            time.sleep(0.005)
        time.sleep(LATE_S)
    total = sum_over_ranks(torch.tensor([1.0 + rank]))
    torch.save({"total": total, "waited": seconds_waited() - before}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_the_seconds_in_a_sum_are_those_spent_on_the_rank_that_comes_late(tmp_path):
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
    early, late = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert early["total"] == late["total"] == 3
    assert early["waited"] >= LATE_S / 2 and early["waited"] > late["waited"]
