"""Lines worn anew in every epoch: pure given (seed, epoch, line), on training paper alone, and never in validation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import Listed, Quiet
from small_documents import adversarial, trained

from datasets.line_image import LineSpec
from datasets.row import Row
from datasets.worn_paper import Background, Bleeding, PaperChain, Spots
from models.text import Alphabet, Frames
from orchestrator.batches import TrainingData, chosen_buckets, samples_of
from orchestrator.identity import fingerprint
from orchestrator.ingest import ingest, make_here
from orchestrator.order import Step
from orchestrator.override import override
from orchestrator.plan import Mix, PlanError, Wear
from orchestrator.ranks import Ranks
from orchestrator.recipes.documents import FRESH, PRESETS, recipe
from orchestrator.shards import Shards
from orchestrator.worn_anew import WornAnew

SPEC = LineSpec(height=32, min_width=16, max_width=96)
ALPHABET = Alphabet(symbols="abcd", case="keep")
FRAMES = Frames(stride=4, offset=0)
WIDTHS = (64, 48, 96, 56, 64, 40)


@dataclass(frozen=True)
class Bars:
    """Dark bars on white, drawn from a seed; ``grey`` paper in place of white."""

    seed: int
    width: int
    grey: int = 255
    ink: bool = True

    def load(self) -> np.ndarray:
        image = np.full((32, self.width), self.grey, np.uint8)
        for left in np.random.default_rng(self.seed).integers(4, self.width - 8, 3 if self.ink else 0):
            image[6:26, left : left + 3] = 0
        return image

    def stamp(self) -> str:
        return f"{self}"


def line(number: int, split: str = "train") -> Row:
    width = WIDTHS[number % len(WIDTHS)]
    return Row(
        id=f"line {number}", image=Bars(number, width, grey=200), target=Bars(number, width), text="ab",
        group=f"{number}", split=split,
    )  # fmt: skip


def tile(page: str, left: int, grey: int, split: str = "train") -> Row:
    """A tile of 40 columns; those of a page overlap by 10."""
    extras = {"page": page, "page_size": [32, 100], "tile": [0, left], "tile_size": [32, 40]}
    return Row(
        id=f"{page}@0,{left}", image=Bars(left, 40, grey=grey), target=Bars(left, 40), text="", group=page, split=split,
        textless=True, extras=extras,
    )  # fmt: skip


PAGES = (tile("p", 0, 120), tile("p", 30, 125), tile("p", 60, 130), tile("held out", 0, 10, split="test"))
LINES = (*(line(number) for number in range(6)), line(6, split="valid"))


def shards_of(folder: Path, **rows: tuple[Row, ...]) -> dict[str, Shards]:
    made = {}
    for name, items in rows.items():
        place = ingest(
            Listed(items=items), None, name=name, image=SPEC, alphabet=ALPHABET, frames=FRAMES, store=folder,
            rows_per_shard=8, make=make_here,
        )  # fmt: skip
        made[name] = Shards.open(place, verify=True)
    return made


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> dict[str, Shards]:
    return shards_of(tmp_path_factory.mktemp("lines"), lines=LINES, pages=PAGES)


WEAR = Wear(lines="lines", chain=PaperChain(), paper="pages", height=0)
STAGE = adversarial(data=Mix(shares={"lines": 1.0}), wear=WEAR)


def data_of(shards: dict[str, Shards], ranks: Ranks | None = None, *, seed: int = 3, **changes) -> TrainingData:
    stage = replace(STAGE, **changes)
    samples = samples_of(shards, dict.fromkeys(stage.data.shares, "train"), ALPHABET, FRAMES)
    return TrainingData(
        stage=stage, samples=samples, buckets=chosen_buckets(samples), seed=seed, ranks=ranks or Ranks(),
        device=torch.device("cpu"), worn=WornAnew.of(stage, shards, seed=seed),
    )  # fmt: skip


def seen_in(data: TrainingData, epoch: int, first_step: int = 0) -> dict[int, torch.Tensor]:
    """What each sample looks like in an epoch, without padding."""
    with data.batches(epoch, first_step) as steps:
        batches = [batch for step in steps for batch in step]
    return {
        id: batch.image[row, :, :, : batch.widths[row]] for batch in batches for row, id in enumerate(batch.ids)
    }  # fmt: skip


def test_a_line_is_worn_in_another_way_in_every_epoch_and_its_clean_image_stays(shards):
    data = data_of(shards)
    first, second = seen_in(data, 0), seen_in(data, 1)
    stored = data.samples.batch(Step(np.arange(6), 96), device=torch.device("cpu"))
    for sample in range(6):
        assert not torch.equal(first[sample], second[sample])
        assert not torch.equal(first[sample], stored.image[sample, :, :, : stored.widths[sample]])
    with data.batches(0, 0) as steps:
        batch = next(steps)[0]
    for row, sample in enumerate(batch.ids):
        width = int(batch.widths[row])
        assert torch.equal(batch.target[row, :, :, :width], stored.target[sample, :, :, :width])
        assert (batch.image[row, :, :, width:] == -1).all()


def test_what_a_line_looks_like_depends_on_seed_epoch_and_line_alone(shards, tmp_path):
    known = seen_in(data_of(shards), 5)
    assert all(torch.equal(image, known[id]) for id, image in seen_in(data_of(shards), 5).items())  # at any other time
    assert all(torch.equal(image, known[id]) for id, image in seen_in(data_of(shards), 5, first_step=1).items())
    assert all(torch.equal(image, known[id]) for id, image in seen_in(data_of(shards, batch_size=1), 5).items())
    for rank in range(2):
        of_rank = seen_in(data_of(shards, replace(Ranks(), rank=rank, count=2)), 5)
        assert of_rank and all(torch.equal(image, known[id]) for id, image in of_rank.items())
    assert not torch.equal(seen_in(data_of(shards, seed=4), 5)[0], known[0])
    unlike = WornAnew.of(STAGE, shards, seed=3)
    assert unlike is not None and not np.array_equal(unlike.line(0, 5), unlike.line(4, 5))  # both 64 columns wide


def test_where_a_line_stands_in_its_file_does_not_matter(shards, tmp_path):
    turned = shards_of(tmp_path, lines=LINES[::-1], pages=PAGES[::-1])
    here, there = (WornAnew.of(STAGE, each, seed=3) for each in (shards, turned))
    assert here is not None and there is not None
    for row, id in enumerate(here.lines.ids[:6]):
        assert np.array_equal(here.line(row, 2), there.line(there.lines.ids.index(id), 2))


def test_paper_is_whole_strips_of_training_pages_without_their_ink(shards):
    chain = PaperChain(steps=(Background(ink=(1.0, 1.0), zoom=(1.0, 1.0)),))  # ink that leaves no trace
    worn = WornAnew.of(replace(STAGE, wear=replace(WEAR, chain=chain)), shards, seed=0)
    assert worn is not None
    for epoch in range(8):
        paper = worn.line(2, epoch)
        assert paper.shape == (32, 96) and paper.min() >= 110 and paper.max() <= 140
        assert abs(int(paper[:, 0].mean()) - int(paper[:, -1].mean())) >= 4  # from one tile to the last, or mirrored


def test_without_pages_paper_is_made(shards):
    worn = WornAnew.of(replace(STAGE, wear=replace(WEAR, paper="")), shards, seed=0)
    assert worn is not None and worn.line(0, 0).shape == (32, 64)


def test_another_line_shows_through_where_the_chain_says_so(shards):
    chain = PaperChain(steps=(Bleeding(share=1.0, strength=(0.3, 0.3)),))
    worn = WornAnew.of(replace(STAGE, wear=replace(WEAR, chain=chain)), shards, seed=0)
    assert worn is not None
    assert sum(not np.array_equal(worn.line(0, epoch), Bars(0, 64).load()) for epoch in range(6)) >= 3


def test_a_line_is_worn_at_the_height_that_the_plan_says(shards):
    chain = PaperChain(steps=(Spots(share=1.0),))
    small, large = (
        WornAnew.of(replace(STAGE, wear=replace(WEAR, chain=chain, height=height)), shards, seed=0)
        for height in (0, 128)
    )
    assert small is not None and large is not None
    one, other = small.line(0, 0), large.line(0, 0)
    assert one.shape == other.shape == (32, 64) and not np.array_equal(one, other)
    assert abs(float(one.mean()) - float(other.mean())) < 12  # the same spots, drawn finer


def test_only_lines_are_worn(shards):
    data = data_of(shards, data=Mix(shares={"lines": 0.5, "pages": 0.5}))
    seen = seen_in(data, 0)
    pages = [sample for sample in seen if data.samples.located(sample)[0] is shards["pages"]]
    assert pages
    for sample in pages:
        stored = torch.from_numpy(data.samples.pixels(np.array([sample]), 40)[0, :, :, 0].copy()).float() / 127.5 - 1
        assert torch.equal(seen[sample][0], stored)


def test_validation_sees_what_is_stored(shards):
    held_out = samples_of(shards, {"lines": "valid"}, ALPHABET, FRAMES)
    batch = held_out.batch(Step(np.array([0]), 64), device=torch.device("cpu"))
    assert torch.equal(batch.image[0, 0], torch.from_numpy(Bars(6, 64, grey=200).load()).float() / 127.5 - 1)


def test_a_stage_that_is_stopped_goes_on_with_the_same_damage(shards, tmp_path):
    for stop_after in (1, 3):
        whole, again = tmp_path / f"whole {stop_after}", tmp_path / f"again {stop_after}"
        stage = {"batch_size": 2, "epochs": 2}
        task, progress = trained(whole, data_of(shards, **stage).stage, data=data_of(shards, **stage))
        trained(again, data_of(shards, **stage).stage, data=data_of(shards, **stage), watch=Quiet(stop_after))
        other, resumed = trained(again, data_of(shards, **stage).stage, data=data_of(shards, **stage))
        assert resumed == progress
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in task.state_dict().items())
    frozen, _ = trained(
        tmp_path / "frozen", replace(STAGE, wear=None, **stage), data=data_of(shards, wear=None, **stage)
    )
    assert any(not torch.equal(value, frozen.state_dict()[name]) for name, value in task.state_dict().items())


def test_what_cannot_be_worn_is_refused(shards):
    with pytest.raises(PlanError, match=r"wear\.lines names 'words', but it learns from lines"):
        replace(STAGE, wear=replace(WEAR, lines="words"))
    with pytest.raises(PlanError, match=r"Wear\.height: 4; 0 .* or at least 8"):
        replace(WEAR, height=4)
    with pytest.raises(PlanError, match=r"reads sources \['attic'\]"):
        override(recipe(), {"stages.warmup.wear": replace(FRESH, paper="attic")})
    only_test = shards | {"pages": replace_rows(shards["pages"])}
    with pytest.raises(PlanError, match="'pages' has no training tile with a clean twin"):
        WornAnew.of(STAGE, only_test, seed=0)


def replace_rows(pages: Shards) -> Shards:
    """The same shards, none of whose rows is of train."""
    other = Shards(pages.folder, pages.manifest, [pages._table])
    other.rows_of = lambda split: np.empty(0, np.int64)  # type: ignore[method-assign]
    return other


def test_the_plan_says_which_and_identity_follows():
    with_none, fresh = recipe(), override(recipe(), PRESETS["fresh"])
    for name in ("warmup", "adversarial", "joint"):
        assert with_none.stage(name).wear is None and fresh.stage(name).wear == FRESH
        assert "pages" in fresh.stage(name).sources and "pages" not in with_none.stage(name).sources
        hashes = {
            fingerprint(each, each.stage(name), {"lines": "a", "pages": "b"}) for each in (with_none, fresh)
        }  # fmt: skip
        assert len(hashes) == 2
    back = override(fresh, {f"stages.{name}.wear": "none" for name in ("warmup", "adversarial", "joint")})
    data = {"lines": "a", "pages": "b"}
    assert fingerprint(back, back.stage("joint"), data) == fingerprint(with_none, with_none.stage("joint"), data)
