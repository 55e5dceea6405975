import json
import os
import pickle
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.image import ImageSpec
from datasets.row import Row
from models.text import ALNUM36, Frames
from orchestrator.ingest import ingest, make_here
from orchestrator.manifest import MANIFEST, Manifest, ShardError, summary
from orchestrator.shards import Shards

SPLITS = ("train", "train", "valid", "test")


@dataclass(frozen=True)
class Noise:
    seed: int

    def load(self):
        rng = np.random.default_rng(self.seed)
        return rng.integers(0, 256, (8, int(rng.integers(8, 40)), 3), np.uint8)

    def stamp(self):
        return str(self.seed)


@dataclass(frozen=True, kw_only=True)
class Noises:
    count: int

    def rows(self, root):
        for i in range(self.count):
            extras = {"lexicon": [f"w{i}", "é"]}
            yield Row(id=f"n{i}", image=Noise(i), text=f"Nr{i}", group=f"g{i}", split=SPLITS[i % 4], extras=extras)

    def describe(self, root):
        return {"licence": "none"}


def made_in(store, *, count=100, channels=1):
    spec = ImageSpec(height=8, min_width=8, max_width=32, channels=channels)
    settings = {"name": "noise", "image": spec, "alphabet": ALNUM36, "frames": Frames(stride=1, offset=0)}
    return ingest(Noises(count=count), None, store=Path(store), rows_per_shard=16, make=make_here, **settings)


@cache
def noise(channels):
    return Shards.open(made_in(tempfile.mkdtemp(), channels=channels), verify=True)


def test_a_row_comes_back_as_it_was_prepared():
    shards = noise(1)
    wanted = ImageSpec(height=8, min_width=8, max_width=32).prepare(Noise(57).load())
    assert np.array_equal(shards.pixels(57), wanted)
    assert shards.widths[57] == wanted.shape[1]
    assert (shards.texts[57], shards.texts_raw[57], shards.ids[57], shards.groups[57]) == ("nr57", "Nr57", "n57", "g57")
    assert shards.extras(57) == {"lexicon": ["w57", "é"]}
    assert set(shards.flaws) == {""}


def test_rows_of_a_split_are_found_in_order():
    assert noise(1).rows_of("valid").tolist() == list(range(2, 100, 4))
    assert noise(1).splits[[0, 2, 3]].tolist() == ["train", "valid", "test"]
    assert noise(1).rows_of("nothing").tolist() == []


def test_pixels_are_read_only_views_of_the_file():
    pixels = noise(3).pixels(0)
    assert pixels.shape == (8, noise(3).widths[0], 3)
    assert not pixels.flags.writeable
    assert not pixels.flags.owndata


@given(st.lists(st.integers(0, 99), max_size=40), st.integers(32, 48), st.sampled_from([1, 3]))
def test_gather_is_what_padding_one_by_one_gives(indices, width, channels):
    shards = noise(channels)
    wanted = np.zeros((len(indices), 8, width, channels), np.uint8)
    for image, i in zip(wanted, indices, strict=True):
        image[:, : shards.widths[i]] = shards.pixels(i).reshape(8, -1, channels)
    assert np.array_equal(shards.gather(indices, width), wanted)


def test_gather_refuses_what_does_not_fit():
    shards = noise(1)
    widest = int(shards.widths.argmax())
    with pytest.raises(
        ValueError, match=f"row {widest} of noise-.* is {shards.widths[widest]} columns wide; .* holds 9"
    ):
        shards.gather([widest], 9)
    for wrong in (-1, 100):
        with pytest.raises(IndexError, match=r"there are 100"):
            shards.gather([wrong], 40)
        with pytest.raises(IndexError, match=r"there are 100"):
            shards.pixels(wrong)


def test_shards_travel_to_another_process_as_their_folder():
    there = pickle.loads(pickle.dumps(noise(1)))
    assert len(pickle.dumps(noise(1))) < 1000
    assert np.array_equal(there.gather([3, 99], 32), noise(1).gather([3, 99], 32))


def test_a_damaged_shard_is_named_with_both_sums_and_the_cure(tmp_path):
    folder = made_in(tmp_path)
    shard = Manifest.read(folder).shards[2]
    data = bytearray((folder / shard.file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / shard.file).write_bytes(data)
    Shards.open(folder, verify=False)
    with pytest.raises(ShardError, match=rf"{shard.file} is damaged: SHA-256 \w+, expected {shard.sha256}.*again"):
        Shards.open(folder, verify=True)


def test_a_shortened_or_missing_shard_is_named_even_without_verifying(tmp_path):
    folder = made_in(tmp_path)
    shard = Manifest.read(folder).shards[0]
    os.truncate(folder / shard.file, shard.bytes - 1)
    with pytest.raises(ShardError, match=rf"{shard.file} is damaged: {shard.bytes - 1} bytes, expected {shard.bytes}"):
        Shards.open(folder, verify=False)
    (folder / shard.file).unlink()
    with pytest.raises(ShardError, match=rf"{shard.file} is missing; ingest noise-\w+ again"):
        Shards.open(folder, verify=False)


def test_a_shard_of_other_settings_is_refused(tmp_path):
    folder = made_in(tmp_path)
    replace(Manifest.read(folder), alphabet_sha256="0" * 64).write(folder)
    with pytest.raises(ShardError, match=r"was made as .*the manifest says .*0000"):
        Shards.open(folder, verify=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data | {"schema": 99}, "schema version 99; this program reads 2"),
        (lambda data: data | {"colour": 1}, "lacks or adds colour"),
        (lambda data: [], "schema version None"),
    ],
)
def test_a_manifest_of_another_version_is_refused(tmp_path, change, message):
    folder = made_in(tmp_path, count=4)
    path = folder / MANIFEST
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ShardError, match=message):
        Manifest.read(folder)


def test_a_folder_without_manifest_or_with_half_of_one_says_so(tmp_path):
    with pytest.raises(ShardError, match=r"manifest\.json is missing"):
        Manifest.read(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(ShardError, match="is not JSON"):
        Manifest.read(tmp_path)


def test_a_manifest_reads_back_as_written(tmp_path):
    folder = made_in(tmp_path)
    manifest = Manifest.read(folder)
    assert manifest.counts == {"train": 50, "valid": 25, "test": 25}
    assert sum(manifest.widths["train"].values()) == 50
    assert manifest.characters["train"]["n"] == 50
    assert manifest.rows == 100
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    assert (tmp_path / MANIFEST).read_bytes() == (folder / MANIFEST).read_bytes()


def test_the_summary_names_rows_and_reasons(tmp_path):
    manifest = replace(
        Manifest.read(made_in(tmp_path)),
        rejects={"unreadable": 2, "infeasible": 5},
        flaws={"test": {"unencodable": 3}},
        missing_symbols={"é": 3},
    )
    text = summary(manifest)
    assert "test           25  (unencodable 3: kept, count as errors)" in text
    assert "rejected        7  infeasible 5, unreadable 2" in text
    assert "symbols the alphabet lacks: é 3" in text
