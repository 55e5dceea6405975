"""A network as ONNX: any width, any number of images, and kept only if it says what the network says."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import onnxruntime
import pytest
import torch
from small import small_recipe

from orchestrator.export import onnx as export_onnx
from orchestrator.export.onnx import ByTensors, NotExported, write_onnx

RECIPE = small_recipe()


@pytest.fixture(scope="module")
def task():
    torch.manual_seed(0)
    return RECIPE.task.build().eval()


@pytest.fixture(scope="module")
def model(task, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    found = write_onnx(task, path, image=RECIPE.image)
    assert found["compared"]["largest_difference"] <= 1e-4
    assert found["compared"]["widths"] == [8, 24, 40, 60, 76, 96, 192]
    return path


def test_onnx_reads_any_width_and_any_number_of_images(task, model):
    network = ByTensors(task)
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    draw = torch.Generator().manual_seed(3)
    for width in (8, 12, 100, 128, 252, 256, 640):
        for batch in (1, 2, 5):
            pixels = torch.rand(batch, 1, 32, width, generator=draw) * 2 - 1
            widths = torch.randint(4, width + 1, (batch,), generator=draw)
            with torch.inference_mode():
                logits, frames = network(pixels, widths)
            found = session.run(["logits", "frames"], {"image": pixels.numpy(), "widths": widths.numpy()})
            np.testing.assert_allclose(found[0], logits.numpy(), atol=1e-4, rtol=0)
            assert found[1].tolist() == frames.tolist()


def test_what_no_exporter_can_write_is_told_with_their_reasons(task, tmp_path, monkeypatch):
    def cannot(*arguments, dynamo, **options):
        raise RuntimeError(f"no such operator (dynamo={dynamo})\nmore")

    monkeypatch.setattr(torch.onnx, "export", cannot)
    with pytest.raises(NotExported, match=r"TorchScript: .*dynamo=False\); torch.export: .*dynamo=True\)$"):
        write_onnx(task, tmp_path / "model.onnx", image=RECIPE.image)


def test_onnx_that_says_something_else_is_not_kept(task, model):
    other = deepcopy(task)
    with torch.no_grad():
        other.rnn.head.bias[3] += 2e-4
    with pytest.raises(NotExported, match=r"from the network's; at most 0\.0001"):
        export_onnx.compare(ByTensors(other), model, image=RECIPE.image)


def test_the_second_exporter_is_taken_where_the_first_one_fails(task, model, tmp_path, monkeypatch):
    other = deepcopy(task)
    with torch.no_grad():
        other.rnn.head.bias[3] += 2e-4

    def write(network, path, *, image, dynamo):
        path.write_bytes(model.read_bytes())

    monkeypatch.setattr(export_onnx, "_write", write)
    with pytest.raises(NotExported, match=r"TorchScript: .*from the network's.*; torch\.export: .*from the network's"):
        write_onnx(other, tmp_path / "model.onnx", image=RECIPE.image)
    assert not (tmp_path / "model.onnx").exists()

    def write_second(network, path, *, image, dynamo):
        if not dynamo:
            raise TypeError("export() got an unexpected keyword argument 'dynamo'")
        write(network, path, image=image, dynamo=dynamo)

    monkeypatch.setattr(export_onnx, "_write", write_second)
    found = write_onnx(task, tmp_path / "model.onnx", image=RECIPE.image)
    assert found["exporter"] == "torch.export" and (tmp_path / "model.onnx").exists()
