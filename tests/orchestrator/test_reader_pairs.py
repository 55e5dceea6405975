"""Restoring and reading single pictures: of any size in, without padding and ``scale`` times as large as laid out."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_pairs import PLATES, SPEC, plates_like
from torch import nn

from datasets.row import BadImage
from models.batch import Batch, Read, Restored
from orchestrator.execution import Execution
from orchestrator.pipeline import Machine
from orchestrator.ranks import Ranks
from orchestrator.reader import Reader, look_at, restore_images


class Nearest(nn.Module):
    """Repeats every pixel, and reads ``B`` where the picture is bright, else ``A``."""

    def forward(self, batch: Batch) -> Restored:
        frames = SPEC.target_width // 4
        logits = torch.zeros(len(batch.image), frames, PLATES.classes)
        bright = batch.image.mean((1, 2, 3)) > 0
        logits[:, 0, 11] = 9.0
        logits[bright, 0, 12] = 18.0
        logits[:, 1:, 0] = 9.0
        image = F.interpolate(batch.image, scale_factor=SPEC.scale)
        return Restored(image=image, read=Read(logits=logits, frames=torch.full((len(image),), frames)))


@pytest.fixture
def reader() -> Reader:
    machine = Machine.of(Execution(device="cpu"), Ranks())
    return Reader(recipe=plates_like(), task=Nearest(), checkpoint=Path("nowhere"), machine=machine)


def drawn(path: Path, array: np.ndarray) -> Path:
    cv2.imwrite(str(path), array[..., ::-1])
    return path


def test_a_picture_comes_back_without_padding_and_in_its_own_colours(reader, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (16, 30, 3), np.uint8)
    [(_, found)] = restore_images(reader, [drawn(tmp_path / "a.png", array)])
    assert np.array_equal(found.picture, array.repeat(2, 0).repeat(2, 1))


def test_pictures_are_read_one_by_one_and_what_is_none_is_named(reader, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    paths = [
        drawn(tmp_path / "dark.png", np.zeros((20, 70, 3), np.uint8)), bad,
        drawn(tmp_path / "bright.png", np.full((20, 70, 3), 255, np.uint8)),
    ]  # fmt: skip
    (_, dark), (_, none), (_, bright) = restore_images(reader, paths)
    assert (dark.reading.text, bright.reading.text) == ("A", "B")
    assert isinstance(none, BadImage) and none.reason == "unreadable"
    batch, out = look_at(reader, paths[0])
    assert batch.image.shape == (1, 3, 16, 48) and out.logits.shape == (1, 24, PLATES.classes)
