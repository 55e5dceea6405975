"""A node's cache: filled once however many ask, never beyond its size, and of nothing but what was published."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from s3_server import BUCKET, CREDENTIALS, Faults, proxy, s3_server
from small import Listed, numbered_row

from datasets.image import ImageSpec
from models.text import ALNUM36, Frames
from orchestrator.cache import Cache
from orchestrator.ingest import ingest, make_here
from orchestrator.manifest import Manifest, ShardError
from orchestrator.remote import Remote, below
from orchestrator.shards import Shards
from orchestrator.store import StoreError
from orchestrator.working_copy import store_at

PLACE = f"s3://{BUCKET}/store"
FILL = """
import sys
from pathlib import Path
from orchestrator.shards import Shards
from orchestrator.working_copy import store_at
store = store_at(sys.argv[1])
folder = store.root / "shards" / sys.argv[2]
store.origin.fetch_shards(folder)
print(Shards.open(folder, verify=True).manifest.content)
"""


@pytest.fixture(scope="module")
def server():
    with s3_server() as address:
        yield address


@pytest.fixture
def faults():
    return Faults()


@pytest.fixture
def shards(server, faults, tmp_path, monkeypatch) -> Path:
    """A folder of eight shards, published; the cache that is named now is empty."""
    with proxy(server, faults) as address:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(name, value)
        remote = Remote(PLACE)
        remote.delete(list(remote.list()))
        folder = made(tmp_path, monkeypatch, "made")
        store_at(PLACE).origin.publish_shards(folder)
        monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path / "cache"))
        faults.seen.clear()
        yield store_at(PLACE).root / "shards" / folder.name


def made(tmp_path, monkeypatch, name: str, *, first: int = 0) -> Path:
    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path / name))
    rows = [numbered_row(number, seed=first + number) for number in range(64)]
    return ingest(
        Listed(items=tuple(rows)), None, name="made", image=ImageSpec(height=8, min_width=8, max_width=32),
        alphabet=ALNUM36, frames=Frames(stride=4, offset=0), store=store_at(PLACE).root, rows_per_shard=8,
        make=make_here,
    )  # fmt: skip


def gets(faults: Faults) -> list[str]:
    return [seen for seen in faults.seen if seen.startswith("GET") and ".arrow" in seen]


def test_eight_processes_at_once_fetch_each_shard_once(shards, faults):
    faults.fail, faults.slow, faults.slow_s = 0.1, 0.1, 0.2
    fillers = [
        subprocess.Popen([sys.executable, "-c", FILL, PLACE, shards.name], stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    contents = {filler.communicate(timeout=120)[0] for filler in fillers}
    assert all(filler.returncode == 0 for filler in fillers)
    manifest = Manifest.read(shards)
    assert contents == {f"{manifest.content}\n"}
    assert len(manifest.shards) >= 8
    assert faults.failed
    assert len(gets(faults)) - faults.failed <= len(manifest.shards)
    assert not list(shards.glob("*.tmp"))


def test_a_shard_that_rots_in_the_cache_is_fetched_again(shards, faults):
    store = store_at(PLACE)
    store.origin.fetch_shards(shards)
    rotten = shards / Manifest.read(shards).shards[1].file
    data = bytearray(rotten.read_bytes())
    data[len(data) // 2] ^= 1
    rotten.write_bytes(data)
    faults.seen.clear()
    store.origin.fetch_shards(shards)
    assert len(gets(faults)) == 1
    Shards.open(shards, verify=True)


def test_a_shard_that_rots_in_the_store_is_named_and_the_next_ingest_mends_it(shards, tmp_path, monkeypatch):
    remote, store = Remote(PLACE), store_at(PLACE)
    store.origin.fetch_shards(shards)
    file = Manifest.read(shards).shards[0].file
    sound = (shards / file).read_bytes()
    remote.put(f"shards/{shards.name}/{file}", sound[:-1] + b"\0")
    monkeypatch.setenv("PLUMBLINE_CACHE", str(tmp_path / "third"))
    fresh = store_at(PLACE)
    folder = fresh.root / "shards" / shards.name
    with pytest.raises(ShardError, match=rf"{PLACE}/shards/{shards.name}/{file} is damaged.*only damaged .* re-made"):
        fresh.origin.fetch_shards(folder)
    said: list[str] = []
    fresh.origin.fetch_shards(folder, mend=said.append)
    assert [file in what for what in said] == [True]
    assert made(tmp_path, monkeypatch, "third") == folder
    fresh.origin.publish_shards(folder)
    assert remote.read(f"shards/{shards.name}/{file}") == sound


def test_what_was_unused_for_longest_goes_first_and_what_is_held_never(tmp_path, monkeypatch):
    cache = Cache(tmp_path)
    monkeypatch.setenv("PLUMBLINE_CACHE_GB", "0.000004")  # 4,000 bytes
    entries = [tmp_path / "data" / name for name in ("held", "old", "young")]
    for age, entry in enumerate(entries):
        entry.mkdir(parents=True)
        (entry / "file").write_bytes(b"x" * 1000)
        if entry.name == "held":
            cache.hold(entry)
        else:
            with cache.alone(entry, "use"):
                pass
        os.utime(cache._lock_path(entry, "use"), (age, age))
    cache.make_room(1500, entry=tmp_path / "data" / "new")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["held", "young"]
    with pytest.raises(StoreError, match=r"0.000 GB more are needed for new.*PLUMBLINE_CACHE_GB"):
        cache.make_room(3500, entry=tmp_path / "data" / "new")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["held"]


def test_two_stores_share_one_bounded_cache(shards, monkeypatch, faults):
    store = store_at(PLACE)
    store.origin.fetch_shards(shards)
    size = sum(shard.bytes for shard in Manifest.read(shards).shards)
    other = store_at(f"{PLACE}/other")
    for path in shards.iterdir():
        other.origin.remote.upload(f"shards/{shards.name}/{path.name}", path)
    monkeypatch.setenv("PLUMBLINE_CACHE_GB", str(1.5 * size / 1e9))
    fill = [sys.executable, "-c", FILL, f"{PLACE}/other", shards.name]
    refused = subprocess.run(fill, capture_output=True, text=True)
    assert "PLUMBLINE_CACHE_GB" in refused.stderr
    monkeypatch.setenv("PLUMBLINE_CACHE_GB", str(3 * size / 1e9))
    subprocess.run(fill, check=True, capture_output=True)
    monkeypatch.setenv("PLUMBLINE_CACHE_GB", str(2.5 * size / 1e9))
    third = store_at(f"{PLACE}/third")
    for path in shards.iterdir():
        third.origin.remote.upload(f"shards/{shards.name}/{path.name}", path)
    third.origin.fetch_shards(third.root / "shards" / shards.name)
    assert not (other.root / "shards" / shards.name).exists()
    Shards.open(shards, verify=True)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b", "a\\..\\b", "", "a\0b"])
def test_names_there_cannot_lead_out_of_a_folder_here(name, tmp_path):
    with pytest.raises(StoreError, match="leads out of its folder"):
        below(tmp_path, name)
