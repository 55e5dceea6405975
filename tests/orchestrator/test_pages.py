"""Whole pages: tiles put together without seams, a vote upside down, and `predict` on lines and pages together."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_reader_pairs import Nearest, plates_like
from torch import nn

from models.batch import Batch, Read, Restored
from models.restorers.documents import UNetConfig
from orchestrator import commands
from orchestrator.execution import Execution
from orchestrator.override import override
from orchestrator.pages import Tiling, is_page, restore_page
from orchestrator.pictures import pictures_in
from orchestrator.pipeline import Machine
from orchestrator.plan import PlanError
from orchestrator.predict import restore_pictures
from orchestrator.ranks import Ranks
from orchestrator.reader import Reader
from orchestrator.recipes.documents import PRESETS, recipe

CPU = Execution(device="cpu")
SMALL = {**PRESETS["tiny"], "task.generator": UNetConfig(width=4, halvings=2),
         "sources.pages.height": 40, "sources.pages.width": 64,
         "sources.pages.stride_down": 40, "sources.pages.stride_across": 64}  # fmt: skip
RECIPE = override(recipe(), SMALL)
PAGE = np.random.default_rng(0).integers(0, 256, (131, 203), np.uint8)


def reader_with(task: nn.Module, plan=RECIPE) -> Reader:
    return Reader(recipe=plan, task=task.eval(), checkpoint=Path("step-1"), machine=Machine.of(CPU, Ranks()))


class Made(nn.Module):
    """What a test makes of each tile, by a function of the tiles ``(B, H, W)`` in [-1, 1]."""

    scale = 1

    def __init__(self, of) -> None:
        super().__init__()
        self.of, self.sizes = of, []

    def forward(self, batch: Batch) -> Restored:
        self.sizes.append(tuple(batch.image.shape[2:]))
        none = torch.zeros(len(batch.image), 0, RECIPE.alphabet.classes)
        return Restored(image=self.of(batch.image[:, 0])[:, None], read=Read(logits=none, frames=batch.lengths))


@pytest.mark.parametrize("size", [(131, 203), (40, 64), (17, 23), (41, 1)])
def test_an_untrained_generator_gives_every_pixel_of_a_page_back(size):
    page = PAGE[: size[0], : size[1]]
    found, tiles = restore_page(reader_with(RECIPE.task.build()), page, flip_vote=True)
    assert np.array_equal(found, page)
    assert tiles == (5 * 4 if size == (131, 203) else 2 if size == (41, 1) else 1)


def test_where_tiles_overlap_one_becomes_the_other_by_and_by():
    """A tile that begins dark is restored black, one that begins light white: between them lies a ramp, not a seam."""
    page = np.zeros((40, 112), np.uint8)
    page[:, 48:] = 255  # tiles begin in columns 0 and 48, and share columns 48 to 63
    task = Made(lambda tiles: torch.sign(tiles[:, :, :1]).expand_as(tiles))
    row = restore_page(reader_with(task), page)[0][20].astype(int)
    assert (row[:48] == 0).all() and (row[64:] == 255).all()
    assert (np.diff(row) >= 0).all() and np.diff(row).max() <= 2 * 255 / 16


def test_a_vote_upside_down_keeps_only_what_both_call_black():
    def top_half_black(tiles):
        out = torch.ones_like(tiles)
        out[:, :20] = -1.0
        out[:, 15:25] = -1.0  # the middle is black either way up
        return out

    task, page = Made(top_half_black), np.full((40, 64), 255, np.uint8)
    once, voted = (restore_page(reader_with(task), page, flip_vote=vote)[0] for vote in (False, True))
    assert (once[:25] == 0).all() and (once[25:] == 255).all()
    assert (voted[15:25] == 0).all() and (voted[:15] == 255).all() and (voted[25:] == 255).all()


def test_tiles_come_to_the_network_as_large_as_it_learned_them():
    """This recipe takes tiles of 80 x 320 and learns them at a height of 40."""
    half = {"sources.pages.height": 80, "sources.pages.width": 320}
    plan = override(recipe(), {**PRESETS["tiny"], **half})
    task = Made(lambda tiles: tiles)
    found, _ = restore_page(reader_with(task, plan), np.full((200, 500), 200, np.uint8))
    assert set(task.sizes) == {(40, 160)}
    assert found.shape == (200, 500) and np.unique(found).tolist() == [200]


def test_tiles_overlap_by_a_quarter_and_reach_every_edge():
    tiling = Tiling.of(RECIPE)
    assert (tiling.height, tiling.width, tiling.down, tiling.across) == (40, 64, 30, 48)
    assert tiling.places(100, 64) == [(0, 0), (30, 0), (60, 0)]
    assert tiling.weights.min() > 0 and tiling.weights.max() == 1


def test_a_page_is_known_by_its_shape():
    reader = reader_with(RECIPE.task.build())
    assert is_page(reader, 900, 600) and not is_page(reader, 60, 50) and not is_page(reader, 100, 900)
    assert not is_page(reader_with(Nearest(), plates_like()), 900, 600)


def test_lines_are_read_and_pages_written_as_large_as_they_came(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    cv2.imwrite(str(folder / "a_line.png"), PAGE[:40, :200])
    cv2.imwrite(str(folder / "b_page.png"), PAGE)
    cv2.imwrite(str(folder / "c_line.png"), PAGE[:20, :100])
    (folder / "d.png").write_text("none")
    reader = reader_with(RECIPE.task.build())
    done = restore_pictures(reader, pictures_in([folder]), tmp_path / "to", as_json=False)
    told = json.loads((tmp_path / "to" / "predictions.json").read_text())
    assert (done.read, done.failed) == (3, 1) and told["unreadable"][0]["source"].endswith("d.png")
    line, page, small = told["images"]
    assert [each["picture"] for each in told["images"]] == ["a_line.png", "b_page.png", "c_line.png"]
    assert "text" in line and "text" in small and "text" not in page
    assert (page["tiles"], page["restored"], small["restored"]) == (20, [131, 203], [40, 200])
    for name, rows, columns in (("a_line", 40, 200), ("b_page", 131, 203)):
        assert np.array_equal(cv2.imread(str(tmp_path / "to" / f"{name}.png"), 0), PAGE[:rows, :columns])
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["size", "200x40", "203x131", "100x20"]


def test_every_image_is_a_page_where_one_says_so(tmp_path):
    cv2.imwrite(str(tmp_path / "strip.png"), PAGE[:40, :200])
    restore_pictures(
        reader_with(RECIPE.task.build()), pictures_in([tmp_path]), tmp_path / "to", as_json=True, pages=True
    )
    [told] = json.loads((tmp_path / "to" / "predictions.json").read_text())["images"]
    assert told["tiles"] == 4


def test_a_recipe_of_plates_restores_no_pages(tmp_path, monkeypatch):
    reader = reader_with(Nearest(), plates_like())
    monkeypatch.setattr("orchestrator.reader.open_reader", lambda place, machine: reader)
    with pytest.raises(PlanError, match="restores no pages"):
        commands.predict([tmp_path], tmp_path, CPU, as_json=False, flip_vote=True)
