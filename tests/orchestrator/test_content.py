"""Shards that a launch opens: every one of them is read once, by one rank, and all ranks hear of a damaged one."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest
from small import shards_of, small_recipe

from orchestrator import manifest
from orchestrator.content import open_shards
from orchestrator.ranks import Ranks
from orchestrator.shards import ShardError
from orchestrator.store import Store

RANKS = 3


@dataclass
class Meeting:
    """What each rank of one process said last."""

    everybody: threading.Barrier = field(default_factory=lambda: threading.Barrier(RANKS, timeout=30))
    said: dict[int, object] = field(default_factory=dict)


class InThreads(Ranks):
    """Ranks that are threads of this process."""

    meeting: Meeting

    def gather(self, own):
        self.meeting.said[self.rank] = own
        self.meeting.everybody.wait()
        heard = [self.meeting.said[rank] for rank in range(RANKS)]
        self.meeting.everybody.wait()
        return heard

    def agree(self, answer):
        return self.gather(answer)[0]


def opened_by_all(store: Store, shards) -> list[object]:
    """What each rank came to: the contents of what it opened, or its error."""
    found: list[object] = [None] * RANKS
    meeting = Meeting()

    def open_as(rank: int) -> None:
        ranks = InThreads(rank, RANKS)
        object.__setattr__(ranks, "meeting", meeting)
        try:
            found[rank] = open_shards(store, shards, ranks)[1]
        except ShardError as error:
            found[rank] = str(error)

    threads = [threading.Thread(target=open_as, args=(rank,)) for rank in range(RANKS)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return found


@pytest.fixture
def made(tmp_path):
    return Store(tmp_path), shards_of(small_recipe(), tmp_path)


def test_each_shard_is_hashed_by_one_rank(made, monkeypatch):
    store, shards = made
    hashed = []
    true = manifest.sha256_of
    monkeypatch.setattr(manifest, "sha256_of", lambda path: (hashed.append(path), true(path))[1])
    found = opened_by_all(store, shards)
    assert found[0] == found[1] == found[2] and set(found[0]) == set(shards)
    assert sorted(hashed) == sorted(path for folder in shards.values() for path in folder.glob("*.arrow"))
    assert len(hashed) > 1


@pytest.mark.parametrize("place", [0, -1])
def test_all_ranks_hear_of_a_damaged_shard(made, place):
    store, shards = made
    files = [path for folder in shards.values() for path in sorted(folder.glob("*.arrow"))]
    data = bytearray(files[place].read_bytes())
    data[len(data) // 2] ^= 1
    files[place].write_bytes(data)
    found = opened_by_all(store, shards)
    assert found[0] == found[1] == found[2] and f"shard {files[place]} is damaged: SHA-256" in found[0]


def test_a_folder_without_a_manifest_is_heard_of_too(made, tmp_path):
    store, shards = made
    found = opened_by_all(store, shards | {"worn": tmp_path / "nothing"})
    assert found[0] == found[1] == found[2] and "nothing" in found[0]
