"""Pairs from their source to their shards: both halves in register, facts of the damage kept, nothing made twice."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from small import made_of, numbered_row
from small_pairs import FRAMES, PLATES, SPEC, Noisy, pair_row, pairs_of, plates_like, rendered

from datasets.degrade import Chain, Shrink
from datasets.plate_folder import PlateFolder
from datasets.plate_text import PlateLabels
from datasets.plates_tracks import PlateTracks
from datasets.register import Register
from orchestrator.ingest import REJECTS, ingest, make_here
from orchestrator.manifest import summary
from orchestrator.prepare import Preparation, ShardSpec, make_row
from orchestrator.shards import Shards

REAL = Path(os.environ.get("PLUMBLINE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "plates"
HOW = Preparation(name="made", image=SPEC, alphabet=PLATES, frames=FRAMES)


def source_rows():
    return {row.id: row for row in plates_like().sources["plates"].rows(None)}


def test_both_halves_are_stored_as_they_are_prepared_directly():
    shards, rows = rendered(), source_rows()
    assert shards.size == 104 and shards.manifest.counts == {"train": 80, "valid": 12, "test": 12}
    assert shards.scale == 2 and shards.has_target.all() and set(shards.widths.tolist()) == {48}
    chosen = [3, 50, 103, 3]
    low, high = shards.gather(chosen, 48), shards.gather_targets(chosen)
    assert low.shape == (4, 16, 48, 3) and high.shape == (4, 32, 96, 3)
    for place, i in enumerate(chosen):
        row = rows[shards.ids[i]]
        wanted_low, wanted_high = SPEC.prepare(row.image.load(), row.target.load())
        assert np.array_equal(low[place], wanted_low) and np.array_equal(high[place], wanted_high)
        assert np.array_equal(shards.target(i), wanted_high) and np.array_equal(shards.pixels(i), wanted_low)
        assert shards.boxes[i].tolist() == list(SPEC.box(*row.image.load().shape[:2]))


def test_targets_are_read_only_views_of_the_file():
    target = rendered().target(5)
    assert not target.flags.writeable and not target.flags.owndata


def test_the_facts_of_track_and_damage_come_with_a_row():
    extras = rendered().extras(1)
    assert (extras["track"], extras["frame"], extras["layout"]) == ("train-000000", 2, "Brazilian")
    assert extras["degraded"]["id"] == "train-000000/002" and 0 < extras["degraded"]["ssim"] < 1
    assert extras["degraded"]["ops"]


def test_high_lies_where_low_does():
    """Shrunk to the low resolution, the high one fits best where it is, and worse a pixel away on any side."""
    shards = rendered()
    low = shards.gather(range(shards.size), 48).mean(-1)
    high = shards.gather_targets(range(shards.size)).mean(-1)
    shrunk = high.reshape(len(high), 16, 2, 48, 2).mean((2, 4))
    inner = low[:, 2:-2, 2:-2]
    apart = {
        (y, x): np.abs(np.roll(shrunk, (y, x), (1, 2))[:, 2:-2, 2:-2] - inner).mean()
        for y in (-1, 0, 1) for x in (-1, 0, 1)
    }  # fmt: skip
    assert min(apart, key=apart.get) == (0, 0)


def test_a_pair_without_high_resolution_is_kept_in_test_alone(tmp_path):
    alone = [replace(pair_row(i, split=split), target=None) for i, split in ((6, "test"), (7, "valid"), (8, "train"))]
    rows = [*map(pair_row, range(6)), *alone, pair_row(9, split="test")]
    shards = pairs_of(rows, tmp_path)["made"]
    assert shards.manifest.rejects == {"no_target": 2}
    assert shards.has_target.tolist() == [True] * 6 + [False, True]
    assert shards.target(6) is None and shards.gather([6], 48).shape == (1, 16, 48, 3)
    with pytest.raises(ValueError, match=r"row 6 \('p6'\) of made-\w+ has no target"):
        shards.gather_targets([0, 6])


def test_a_label_is_judged_by_the_frames_of_the_high_resolution():
    narrow = replace(HOW, image=replace(SPEC, height=8, width=16))  # 16 columns are 4 frames, 32 are 8
    row = pair_row(0, text="ABCDEFGH", image=Noisy(0, 8, 16), target=Noisy(1, 16, 32))
    assert make_row(row, narrow)["flaw"] == ""
    assert make_row(replace(row, text="ABCDEFGG", split="valid"), narrow)["flaw"] == "infeasible"


def test_pictures_that_cannot_be_pairs_are_rejected_with_the_reason(tmp_path):
    rows = [pair_row(i) for i in range(4)]
    rows += [pair_row(4, image=Noisy(4, 2, 48)), pair_row(5, seed=0, image=Noisy(5, 4, 100))]
    folder = pairs_of(rows, tmp_path)["made"].folder
    found = {line["id"]: line["reason"] for line in map(json.loads, (folder / REJECTS).read_text().splitlines())}
    assert found == {"p4": "too_small", "p5": "bad_aspect"}


def test_ingesting_again_makes_nothing_and_an_interrupted_ingest_goes_on(tmp_path):
    rows = [pair_row(i) for i in range(40)]

    def stops_after_two(specs, folder) -> Iterator[object]:
        yield from make_here(specs[:2], folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pairs_of(rows, tmp_path, make=stops_after_two)
    made: list[int] = []

    def counting(specs, folder) -> Iterator[object]:
        made.append(len(specs))
        return make_here(specs, folder)

    shards = pairs_of(rows, tmp_path, make=counting)["made"]
    assert made == [len(shards.manifest.shards) - 2]
    pairs_of(rows, tmp_path, make=counting)
    assert len(made) == 1
    assert pairs_of(rows, tmp_path / "other")["made"].manifest.content == shards.manifest.content


@pytest.mark.parametrize(
    "change", [{"image": replace(SPEC, pad=(0, 0, 0))}, {"image": replace(SPEC, scale=4)}, {"name": "other"}]
)
def test_every_setting_changes_the_key_of_a_shard_of_pairs(change):
    assert ShardSpec.of([pair_row(1)], HOW).key != ShardSpec.of([pair_row(1)], replace(HOW, **change)).key


def test_the_target_is_part_of_key_and_content(tmp_path):
    rows = [pair_row(i) for i in range(3)]
    other = [*rows[:2], pair_row(2, seed=77)]
    assert ShardSpec.of(rows, HOW).key == ShardSpec.of([pair_row(i) for i in range(3)], HOW).key
    assert ShardSpec.of(rows, HOW).key != ShardSpec.of(other, HOW).key
    contents = [pairs_of(each, tmp_path / str(i))["made"].manifest.content for i, each in enumerate((rows, other))]
    assert contents[0] != contents[1]


def test_what_words_hold_is_called_as_before_there_were_pairs(tmp_path):
    rows = [numbered_row(i, split="valid" if i > 6 else "train") for i in range(9)]
    shards = made_of(rows, tmp_path)["made"]
    assert shards.manifest.content == "e32bec67b5f1001b8d8a8b3cfa0a6cf7f1e8a54c6aaf11081745f68008619004"
    assert shards.scale == 0 and not shards.has_target.any() and shards.target(0) is None
    assert shards.boxes[4].tolist() == [0, 0, 8, int(shards.widths[4])]
    assert np.array_equal(shards.read_widths, shards.widths)


def test_pairs_travel_to_another_process_and_are_summed_up():
    there = pickle.loads(pickle.dumps(rendered()))
    assert np.array_equal(there.gather_targets([9]), rendered().gather_targets([9]))
    assert "squeezed" not in summary(rendered().manifest) and "valid" in summary(rendered().manifest)


@pytest.mark.data
@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real plates are not at {REAL}")
def test_real_plates_become_pairs(tmp_path):
    source = PlateFolder(
        plates=PlateLabels(layouts={"us": (), "eu": ()}), layout_pattern=r"^(?:e2e_)?(us|eu)_", alike={"us": ("0O",)},
        chain=Chain(steps=(Shrink(),)),
    )  # fmt: skip
    folder = ingest(
        source, REAL, name="real", image=SPEC, alphabet=PLATES, frames=FRAMES, store=tmp_path, make=make_here
    )
    shards = Shards.open(folder, verify=True)
    assert shards.size + sum(shards.manifest.rejects.values()) == 1081 and shards.size > 1060
    assert shards.has_target.all()
    low, high = shards.gather(range(shards.size), 48), shards.gather_targets(range(shards.size))
    shrunk = high.reshape(len(high), 16, 2, 48, 2, 3).mean((2, 4))
    assert np.abs(shrunk - low).mean() < 12  # a picture that was shrunk and enlarged, and nothing else
    assert {shards.extras(i)["layout"] for i in range(0, shards.size, 50)} == {"us", "eu"}


def lettered(text: str, *, moved: int = 0) -> np.ndarray:
    """``(64, 192, 3)`` a text, so many pixels to the right and half as many down."""
    picture = np.full((64, 192, 3), 210, np.uint8)
    return cv2.putText(picture, text, (14 + moved, 46 + moved // 2), cv2.FONT_HERSHEY_SIMPLEX, 1.25, (25, 25, 30), 4)


def test_how_well_a_pair_lies_in_register_is_stored_and_one_that_does_not_is_counted(tmp_path):
    for number, (low, high) in enumerate([("ABC1234", "ABC1234"), ("ABC1235", "ABC1235"), ("ABC1236", "XX")]):
        track = tmp_path / "Scenario-B" / "Brazilian" / f"track_{number}"
        track.mkdir(parents=True)
        cv2.imwrite(str(track / "lr-1.png"), cv2.resize(lettered(low), (64, 21), interpolation=cv2.INTER_AREA))
        cv2.imwrite(str(track / "hr-1.png"), lettered(high, moved=8))
        (track / "annotations.json").write_text(json.dumps({"plate_text": low}))
    source = PlateTracks(valid_share=0, test_share=0, register=Register())
    folder = ingest(
        source, tmp_path, name="tracks", image=SPEC, alphabet=PLATES, frames=FRAMES, store=tmp_path / "store",
        make=make_here,
    )  # fmt: skip
    shards = Shards.open(folder, verify=True)
    assert shards.manifest.counts["train"] == 2 and shards.manifest.rejects == {"unregistered": 1}
    for row in range(2):
        told = shards.extras(row)["registered"]
        assert told["motion"] == "homography" and told["correlation"] > 0.95 > 0.7 > told["before"]
