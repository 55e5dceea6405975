"""An export of a restorer gives the pictures and readings of what it was made of, and so does its read.py alone."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_plates import folder_of, small_plates, trained

from models.layers.character_attention import CharacterAttentionConfig
from models.restorers.plates import PlateRestorerConfig
from orchestrator.export import ExportError, export
from orchestrator.export.card import card
from orchestrator.export.onnx import NotExported, by_tensors, compare, write_onnx
from orchestrator.export.proof import answers_afresh, answers_of, compared, cpu
from orchestrator.reader import open_reader

PLAN = small_plates()


@pytest.fixture(scope="module")
def exported(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    return export(folder_of(trained(), "finetune"), folder / "plates", images=pictures)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    """Plates larger and smaller than what is restored, high and wide, grey, and two that are refused."""
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    sizes = {"large": (47, 131, 3), "small": (7, 19, 3), "same": (16, 48, 3), "high": (40, 30, 3), "grey": (20, 90),
             "too_small": (2, 9, 3), "bad_aspect": (10, 200, 3)}  # fmt: skip
    for name, size in sizes.items():
        noise = draw.integers(0, 256, size, np.uint8)
        cv2.imwrite(str(folder / f"{name}.png"), cv2.blur(noise, (3, 3)))
    return [folder / f"{name}.png" for name in sizes]


def test_an_export_was_proved_with_the_project_and_by_read_py_alone(exported):
    proof = exported.config["verified"]
    assert exported.config["onnx"]["made"] and (proof["images"], proof["of"]) == (7, "images given")
    for who in ("project", "alone"):
        assert proof[who]["equal"] == 7 and proof[who]["grey_levels"] <= 1 and proof[who]["largest_difference"] < 1e-4
    told = (exported.folder / "README.md").read_text()
    assert "read.py --to restored plate.png" in told and "float32 (batch, 3, 32, 96)" in told


def test_read_py_alone_restores_pictures_of_any_size_as_the_project_does(exported, pictures, tmp_path):
    wanted = answers_of(open_reader(folder_of(trained(), "finetune"), cpu()), pictures)
    alone = answers_afresh(exported.folder, pictures, tmp_path, alone=True)
    assert compared(pictures, wanted, alone, "read.py")["grey_levels"] <= 1
    assert [each.reason for each in alone] == ["", "", "", "", "", "too_small", "bad_aspect"]
    # 47x131 fills the width of 16x48 with 17 rows, so its height: 45 columns; all twice as large
    assert [each.picture.shape for each in alone[:4]] == [(32, 90, 3), (32, 86, 3), (32, 96, 3), (32, 24, 3)]
    other = replace(alone[0], picture=alone[0].picture ^ 2)
    with pytest.raises(ExportError, match=r"large\.png: the picture of x is 2 levels from"):
        compared(pictures[:1], wanted[:1], [other], "x")


def test_read_py_writes_pictures_where_nothing_lies(exported, pictures, tmp_path):
    command = [sys.executable, "-I", "-B", str(exported.folder / "read.py"), "--json", "--to", str(tmp_path / "to")]
    first, second = (subprocess.run([*command, str(pictures[0])], capture_output=True, text=True) for _ in range(2))
    assert first.returncode == 0 and set(json.loads(first.stdout)) == {"image", "text", "confidence"}
    assert cv2.imread(str(tmp_path / "to" / "large.png")).shape == (32, 90, 3)
    assert second.returncode == 1 and "exists" in second.stderr


def test_a_card_shows_scores_that_are_made_of_several_metrics(exported):
    config = json.loads(json.dumps(exported.config))
    config["metrics"]["validation"] = {"read": -0.5, "plates/cer": 0.25, "plates/n": 8}
    assert "| read | -0.5000 |  |" in card(config)


def test_other_networks_are_written_too_and_one_that_says_something_else_is_not_kept(tmp_path):
    torch.manual_seed(0)
    generator = PlateRestorerConfig(
        features=16, blocks=1, growth=4, layers=1, groups=1, characters=CharacterAttentionConfig(prototypes=4)
    )
    task = replace(PLAN.task, generator=generator).build().eval()
    with torch.no_grad():
        for parameter in task.generator.parameters():  # points that do not move yet prove little
            parameter.add_(0.05 * torch.randn_like(parameter))
    found = write_onnx(task, tmp_path / "model.onnx", image=PLAN.image)
    assert found["compared"]["widths"] == [48] and found["compared"]["largest_difference"] < 1e-4
    with torch.no_grad():
        task.generator.last.bias.add_(1e-3)
    with pytest.raises(NotExported, match=r"its restored are .* from the network's"):
        compare(by_tensors(task, PLAN.image), tmp_path / "model.onnx", image=PLAN.image)
