"""Preflight of the data: each fault is refused with its counts and a cure, and what is sound passes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from small import made_of, numbered_row, shards_of, small_recipe
from small_pairs import pair_row, pairs_of, plates_like, rendered

from orchestrator.override import override
from orchestrator.preflight import PreflightError
from orchestrator.preflight.data import check_labels, check_shards_fit, check_splits_disjoint, same_pictures
from orchestrator.shards import Shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> dict[str, Path]:
    return shards_of(small_recipe(), tmp_path_factory.mktemp("shards"))


@pytest.fixture
def opened(shards) -> dict[str, Shards]:
    return {name: Shards.open(folder, verify=False) for name, folder in shards.items()}


def test_labels_that_fit_are_counted(opened):
    found = check_labels({"rendered": opened["rendered"]}, small_recipe().alphabet)
    assert found.says == "rendered: 120 training labels encode, decode back and fit; 0 rows rejected"
    assert found.warnings == ()


def test_a_label_without_enough_frames_at_its_true_width_is_refused_with_both_numbers(opened):
    shards = opened["rendered"]
    row = int(shards.rows_of("train")[5])
    shards.widths = shards.widths.copy()
    shards.widths[row] = 4
    needed = len(shards.texts[row])
    with pytest.raises(
        PreflightError, match=rf"1 of 120 training labels of 'rendered'.*needs {needed}\d? frames, its 4"
    ):
        check_labels({"rendered": shards}, small_recipe().alphabet)


def test_a_label_outside_the_alphabet_is_refused_and_counted_by_reason(opened):
    shards = opened["rendered"]
    texts = list(shards.texts)
    for row, text in zip(shards.rows_of("train")[:3].tolist(), ("na\u00efve", "caf\u00e9", ""), strict=True):
        texts[row] = text
    shards.__dict__["texts"] = texts
    with pytest.raises(PreflightError, match=r"3 of 120 .* \(symbols the alphabet lacks 2, empty 1\)"):
        check_labels({"rendered": shards}, small_recipe().alphabet)


def test_many_rejected_rows_are_a_warning_by_reason(tmp_path):
    shards = made_of([*(numbered_row(i) for i in range(9)), numbered_row(9, seed=1000)], tmp_path)
    [warning] = check_labels(shards, small_recipe().alphabet).warnings
    assert "made: 1 of 10 rows were rejected at ingest (unreadable 1)" in warning and "rejects.jsonl" in warning


def test_shards_that_fit_are_said_with_their_hashes(opened):
    found = check_shards_fit(small_recipe(), opened)
    assert small_recipe().alphabet.sha256[:12] in found.says


@pytest.mark.parametrize(
    ("change", "what"),
    [({"alphabet.symbols": small_recipe().alphabet.symbols[::-1]}, "alphabet"), ({"image.max_width": 88}, "ImageSpec"),
     ({"alphabet.case": "keep", "alphabet.whitespace": "keep"}, "alphabet")],
)  # fmt: skip
def test_shards_made_for_another_recipe_are_refused(opened, change, what):
    with pytest.raises(PreflightError, match=f"made with {what} .*, the recipe has .*; ingest the source again"):
        check_shards_fit(override(small_recipe(), change), opened)


def split_source(store: Path, *, twin: int | None = None) -> dict[str, Shards]:
    """Forty pictures, two of them for validation; perhaps the last is also row 3's, drawn from ``twin``."""
    seeds = list(range(40))
    if twin is not None:
        seeds[3] = seeds[39] = twin
    rows = [numbered_row(i, seed=seed, split="valid" if i >= 38 else "train") for i, seed in enumerate(seeds)]
    return made_of(rows, store)


def test_splits_apart_are_let_pass(tmp_path, opened):
    found = check_splits_disjoint(split_source(tmp_path))
    assert found.says == "40 groups, each in one split; no picture for training is also held out"
    check_splits_disjoint(opened)


def test_the_same_pixels_under_another_name_are_refused_with_both_names(tmp_path):
    with pytest.raises(PreflightError, match=r"1 pictures for training are.*made/p3 = made/p39"):
        check_splits_disjoint(split_source(tmp_path, twin=3))


def test_the_same_pixels_in_the_test_split_are_refused_too(tmp_path):
    rows = [*(numbered_row(i) for i in range(9)), numbered_row(9, seed=3, split="test")]
    with pytest.raises(PreflightError, match="made/p3 = made/p9"):
        check_splits_disjoint(made_of(rows, tmp_path))


def test_a_picture_of_one_colour_is_no_twin(tmp_path):
    assert same_pictures(split_source(tmp_path, twin=-1)) == []


def test_pictures_that_differ_in_one_pixel_are_no_twins(tmp_path):
    shards = split_source(tmp_path, twin=3)["made"]
    [((_, row), _)] = same_pictures({"made": shards})
    probe = shards.probe(np.array([row]), 64)
    for at in range(160):  # a change that the probe overlooks is seen by the whole comparison
        before = shards._low.values
        change(shards, row, at)
        if np.array_equal(shards.probe(np.array([row]), 64), probe):
            break
        shards._low.values = before
    assert same_pictures({"made": shards}) == []


def change(shards: Shards, row: int, at: int) -> None:
    """Turn over one bit of byte ``at`` of a row's pixels, in memory."""
    batch = int(shards._low.batches_of(np.array(row)))
    values = [each.copy() for each in shards._low.values]
    values[batch][int(shards._low.starts[row]) + at] ^= 1
    shards._low.values = values


def test_a_group_in_two_splits_is_refused(tmp_path):
    shards = split_source(tmp_path)
    shards["made"].groups[39] = "g3"
    with pytest.raises(PreflightError, match=r"1 groups lie in more than one split, such as \['g3'\]"):
        check_splits_disjoint(shards)


def test_pairs_that_fit_are_let_pass():
    shards = {"plates": rendered()}
    check_splits_disjoint(shards)
    assert check_labels(shards, plates_like().alphabet).says.startswith("plates: 80 training labels")
    assert "PairSpec" in check_shards_fit(plates_like(), shards).says


def test_the_same_high_resolution_in_two_splits_is_refused_though_the_low_ones_differ(tmp_path):
    rows = [*(pair_row(i) for i in range(10)), pair_row(10, split="valid", seed=1003)]
    with pytest.raises(PreflightError, match=r"1 pictures for training are.*made/p3 = made/p10"):
        check_splits_disjoint(pairs_of(rows, tmp_path))


def test_the_same_low_resolution_is_seen_where_no_high_one_is_to_be_had(tmp_path):
    twin = replace(pair_row(3, split="test"), id="p10", group="g10", target=None)
    assert same_pictures(pairs_of([*map(pair_row, range(10)), twin], tmp_path)) == [(("made", 3), ("made", 10))]


def test_padding_around_one_colour_makes_no_twins(tmp_path):
    flat = [replace(pair_row(i, split="valid" if i else "train"), image=Flat(), target=Flat()) for i in range(2)]
    assert same_pictures(pairs_of(flat, tmp_path)) == []


@dataclass(frozen=True)
class Flat:
    """A square of one grey: as a pair it stands between padding."""

    def load(self) -> np.ndarray:
        return np.full((16, 16, 3), 40, np.uint8)

    def stamp(self) -> str:
        return ""
