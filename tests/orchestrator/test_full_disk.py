"""A disk that takes no more stops a run with the cure and spoils nothing: run again, it ends in the same bits."""

from __future__ import annotations

import resource
from contextlib import contextmanager
from dataclasses import replace

import pytest
from small import Quiet, shards_of, small_recipe

from orchestrator.checkpoint import CheckpointError, verify
from orchestrator.execution import Execution
from orchestrator.pipeline import Machine, train_recipe
from orchestrator.ranks import Ranks
from orchestrator.run import main
from orchestrator.store import Store, StoreError

EXECUTION = Execution(workers=0, threads=1, device="cpu", checkpoint_every_s=0.0)


@contextmanager
def files_of_at_most(size: int):
    """The system refuses to make any file of this process larger: what a full disk says, too (EFBIG for ENOSPC)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def one_stage():
    recipe = small_recipe(name="demo")
    return replace(recipe, stages=recipe.stages[:1])


def trained(store, shards) -> bool:
    machine = Machine.of(EXECUTION, Ranks())
    return train_recipe(one_stage(), store, shards, EXECUTION, machine=machine, watch=Quiet())


def outcome(store) -> tuple[str, list[bytes]]:
    [(folder, record)] = store.stages()
    weights = sorted((folder / record.last).glob("weights.*"))
    return (folder / "metrics.jsonl").read_text(), [path.read_bytes() for path in weights]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    assert trained(store, shards_of(one_stage(), store.root))
    return outcome(store)


@pytest.mark.parametrize(
    ("size", "error", "says"),
    [
        (1000, StoreError, r"pretrain-\w+: cannot be written \(File too large\); make room there, then run the same"),
        (60_000, CheckpointError, "a checkpoint could not be written: .*File too large"),
    ],
)
def test_a_run_stops_and_goes_on_to_the_same_bits(tmp_path, undisturbed, size, error, says):
    store = Store(tmp_path)
    shards = shards_of(one_stage(), tmp_path)
    with files_of_at_most(size), pytest.raises(error, match=says):
        trained(store, shards)
    assert not list(tmp_path.rglob("record.json"))
    assert not list(tmp_path.rglob(".*.draft"))
    for checkpoint in tmp_path.rglob("step-*"):
        verify(checkpoint)
    assert trained(store, shards)
    assert outcome(store) == undisturbed


def test_ingest_leaves_no_half_shard(tmp_path):
    recipe = one_stage()
    with files_of_at_most(20_000), pytest.raises((OSError, StoreError), match="File too large"):
        shards_of(recipe, tmp_path)
    assert all(path.stat().st_size <= 20_000 for path in tmp_path.rglob("*.arrow"))
    assert not [*tmp_path.rglob("manifest.json"), *tmp_path.rglob("*.tmp")]
    shards_of(recipe, tmp_path)


def test_a_store_that_cannot_be_written_is_told_before_anything_else(tmp_path, capsys):
    with files_of_at_most(100):
        assert main(["train", "demo", "--store", str(tmp_path / "store"), "--workers", "0"]) == 1
    assert "cannot be written (File too large); give another place with --store" in capsys.readouterr().err
