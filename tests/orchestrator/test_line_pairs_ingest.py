"""Pairs of lines of any width, and rows without text, from their source to a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import Listed, a_stage

from datasets.line_image import LineSpec
from datasets.row import Row
from models.batch import Pair
from models.text import Alphabet, Frames
from orchestrator.batches import Samples, chosen_buckets, in_order, samples_of
from orchestrator.collated import on_device
from orchestrator.ingest import ingest, make_here
from orchestrator.manifest import summary
from orchestrator.order import Step
from orchestrator.plan import Augment
from orchestrator.preflight import PreflightError
from orchestrator.preflight.data import check_labels, check_splits_disjoint, check_validation
from orchestrator.ranks import Ranks
from orchestrator.shards import Shards

SPEC = LineSpec(height=16, min_width=8, max_width=64)
ALPHABET = Alphabet(symbols=" abc", case="keep")
FRAMES = Frames(stride=4, offset=0)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Grain:
    """Grey noise drawn from a seed."""

    seed: int
    width: int

    def load(self) -> np.ndarray:
        return np.random.default_rng(self.seed).integers(0, 256, (16, self.width), np.uint8)

    def stamp(self) -> str:
        return f"{self.seed} {self.width}"


def line_row(number: int, width: int = 40, *, split: str = "train", **changes: object) -> Row:
    """Row ``lNUMBER``: noise beside other noise, in a group of its own."""
    row = Row(
        id=f"l{number}", image=Grain(number, width), target=Grain(100 + number, width), text="ab c",
        group=f"g{number}", split=split,
    )  # fmt: skip
    return replace(row, **changes)  # type: ignore[arg-type]


def page_row(number: int, *, split: str = "train", **changes: object) -> Row:
    return line_row(number, 48, split=split, text="", textless=True, **changes)


def shards_with(rows: Sequence[Row], store: Path, name: str = "made") -> dict[str, Shards]:
    folder = ingest(
        Listed(items=tuple(rows)), None, name=name, image=SPEC, alphabet=ALPHABET, frames=FRAMES, store=store,
        rows_per_shard=8, make=make_here,
    )  # fmt: skip
    return {name: Shards.open(folder, verify=True)}


def samples_with(shards: dict[str, Shards], split: str = "train") -> Samples:
    return samples_of(shards, dict.fromkeys(shards, split), ALPHABET, FRAMES)


WIDTHS = (40, 17, 33, 64, 40, 21)


def test_both_halves_are_stored_as_wide_as_they_are_and_padded_black_in_a_batch(tmp_path):
    shards = shards_with([line_row(n, width) for n, width in enumerate(WIDTHS)], tmp_path)
    made = shards["made"]
    assert made.widths.tolist() == list(WIDTHS) == made.read_widths.tolist() and made.scale == 1
    assert np.array_equal(made.pixels(2), Grain(2, 33).load()) and np.array_equal(made.target(2), Grain(102, 33).load())
    samples = samples_with(shards)
    batch = samples.batch(Step(np.array([1, 3, 2]), 64), device=CPU)
    assert isinstance(batch, Pair) and batch.image.shape == batch.target.shape == (3, 1, 16, 64)
    assert batch.widths.tolist() == [17, 64, 33] and batch.counted.all()
    for row, (number, width) in enumerate(((1, 17), (3, 64), (2, 33))):
        for half, seed in ((batch.image, number), (batch.target, 100 + number)):
            pixels = ((half[row, 0] + 1) * 127.5).round().byte().numpy()
            assert np.array_equal(pixels[:, :width], Grain(seed, width).load()) and not pixels[:, width:].any()


def test_buckets_are_of_several_widths_and_every_sample_comes_once(tmp_path):
    samples = samples_with(shards_with([line_row(n, width) for n, width in enumerate(WIDTHS)], tmp_path))
    assert chosen_buckets(samples) == (20, 24, 36, 40, 64)
    steps = list(in_order(samples, batch_size=2, ranks=Ranks()))
    assert sorted(sample for step in steps for sample in step.samples) == list(range(6))
    assert [step.width for step in steps] == [24, 40, 64]


def test_wider_lines_are_squeezed_counted_and_told(tmp_path):
    made = shards_with([line_row(0), line_row(1, 65), line_row(2, 64)], tmp_path)["made"]
    assert made.manifest.squeezed == 1 and made.widths.max() == 64
    assert "squeezed" in summary(made.manifest)


def test_a_line_without_a_clean_twin_is_kept_in_test_alone(tmp_path):
    rows = [line_row(0), line_row(1, target=None), line_row(2, split="test", target=None)]
    made = shards_with(rows, tmp_path)["made"]
    assert made.manifest.rejects == {"no_target": 1} and made.has_target.tolist() == [True, False]


def test_rows_without_text_are_kept_where_the_source_says_so_alone(tmp_path):
    rows = [page_row(0), line_row(1, text=""), page_row(2, target=None, split="test"), line_row(3)]
    made = shards_with(rows, tmp_path)["made"]
    assert made.ids == ["l0", "l3"] and made.textless.tolist() == [True, False]
    assert made.manifest.rejects == {"unlabelled": 1, "nothing_to_learn": 1} and made.manifest.flaws == {}
    with pytest.raises(ValueError, match="row 'l4' is textless, but its text is 'ab c'"):
        line_row(4, textless=True)


def test_a_batch_of_rows_without_text_has_tokens_of_no_column(tmp_path):
    samples = samples_with(shards_with([page_row(0), page_row(1), line_row(2, 48)], tmp_path))
    pages = samples.batch(Step(np.array([0, 1]), 48), device=CPU)
    assert pages.tokens.shape == (2, 0) and pages.lengths.tolist() == [0, 0] and not pages.counted.any()
    mixed = samples.batch(Step(np.array([0, 2]), 48), device=CPU)
    assert mixed.tokens.shape == (2, 4) and mixed.counted.tolist() == [False, True]
    steps = list(in_order(samples, batch_size=8, ranks=Ranks()))
    assert [step.samples.tolist() for step in steps] == [[2], [0, 1]]  # what is read and what is not, apart


def test_checks_of_labels_tell_of_rows_without_text_and_refuse_none(tmp_path):
    pages = shards_with([*map(page_row, range(3)), page_row(3, split="valid")], tmp_path, "pages")
    assert check_labels(pages, ALPHABET).says == "pages: 3 training rows have no text; 0 rows rejected"
    both = shards_with([page_row(0), line_row(1)], tmp_path)
    assert (
        "1 training labels encode, decode back and fit, 1 training rows have no text"
        in check_labels(both, ALPHABET).says
    )
    found = check_validation(a_stage(), {"pages": samples_with(pages, "valid")})
    assert found.warnings == () and "pages 1" in found.says
    narrow = shards_with([line_row(0), line_row(1, 12, split="valid"), page_row(2, split="valid")], tmp_path)
    assert "1 of 2 validation words cannot be spelled" in check_validation(
        a_stage(), {"made": samples_with(narrow, "valid")}
    ).warnings[0]  # fmt: skip


def test_one_clean_line_in_two_splits_is_refused_however_each_is_worn(tmp_path):
    rows = [line_row(0), line_row(1, split="valid", target=Grain(100, 40))]
    with pytest.raises(PreflightError, match="made/l0 = made/l1"):
        check_splits_disjoint(shards_with(rows, tmp_path))


def test_training_changes_both_halves_and_leaves_padding_black(tmp_path):
    samples = samples_with(shards_with([line_row(0, 40), line_row(1, 20)], tmp_path))
    collated = samples.collated(Step(np.array([0, 1]), 64))
    plain = on_device(collated, CPU)
    batch = on_device(collated, CPU, augment=Augment(shift=0.1, brightness=0.3), seed=1)
    assert isinstance(batch, Pair) and isinstance(plain, Pair)
    assert batch.widths.tolist() == [40, 20] and (batch.target - plain.target).abs().max() > 0.1
    for half in (batch.image, batch.target):
        assert (half[0, :, :, 40:] == -1).all() and (half[1, :, :, 20:] == -1).all()
