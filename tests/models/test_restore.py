"""The restoring task: what is computed for which parts that learn, and where gradient goes."""

from __future__ import annotations

import pytest
import torch
from pairs import PLATES36, images, pair_of
from torch.testing import assert_close

from models.layers.upscale import bicubic
from models.losses.clean import ctc_on_target
from models.losses.text import ctc
from models.recognizers.crnn import CRNNConfig
from models.recognizers.simple import SimpleCRNNConfig
from models.restorers.plates import PlateRestorerConfig
from models.tasks.restore import RestoreTask
from orchestrator.players import freeze_all_but

TASK = RestoreTask(
    generator=PlateRestorerConfig(features=8, blocks=1, growth=4, groups=1, deformable="none"),
    ocr=SimpleCRNNConfig(classes=PLATES36.classes, width=0.25, hidden=8),
)


def built(*learn):
    torch.manual_seed(0)
    task = TASK.build()
    freeze_all_but(task, learn)
    return task


def batch(texts=("ABC1234", "XYZ9876")):
    return pair_of(list(texts), images(len(texts), 3, 32, 96))


def touched(task, loss):
    loss.backward()
    return {name.split(".")[0] for name, p in task.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


def test_what_is_read_is_the_high_resolution():
    task, pair = built(), batch()
    with torch.no_grad():
        out = task(pair)
    assert out.image.shape == pair.target.shape
    assert out.read.logits.shape == (2, TASK.frames.of(96), 37) and out.read.frames.tolist() == [24, 24]
    assert_close(out.image, bicubic(pair.image, 2), atol=1e-6, rtol=0)


def test_a_generator_that_learns_gets_its_gradient_through_a_frozen_recogniser():
    task, pair = built("generator"), batch()
    before = {name: value.clone() for name, value in task.ocr.state_dict().items()}
    out = task(pair)
    assert not out.clean.logits.requires_grad
    assert touched(task, ctc(pair, out.read).value) == {"generator"}
    assert all(torch.equal(value, before[name]) for name, value in task.ocr.state_dict().items())


def test_a_recogniser_that_learns_alone_sees_clean_images_only():
    task, pair = built("ocr"), batch()
    out = task(pair)
    assert out.image is pair.target and out.read is out.clean
    assert touched(task, ctc_on_target(pair, out).value) == {"ocr"}


def test_where_both_learn_the_anchor_trains_the_recogniser_and_nothing_else():
    task, pair = built("generator", "ocr"), batch()
    assert touched(task, ctc_on_target(pair, task(pair)).value) == {"ocr"}
    task.zero_grad(set_to_none=True)
    assert touched(task, ctc(pair, task(pair).read).value) == {"generator", "ocr"}


def test_where_both_learn_each_image_is_read_as_if_alone():
    task, pair = built("generator", "ocr"), batch()
    for module in task.ocr.modules():
        if "Norm" in type(module).__name__:
            module.eval()
    with torch.no_grad():
        out = task(pair)
        assert_close(out.clean.logits, task.ocr(pair.target, 2 * pair.widths).logits)
        assert_close(out.read.logits, task.ocr(out.image, 2 * pair.widths).logits)


@pytest.mark.parametrize("ocr", [TASK.ocr, CRNNConfig(classes=37, channels=3, width=0.1, hidden=8)])
def test_a_frozen_recogniser_keeps_only_its_lstms_in_training_mode(ocr):
    task = RestoreTask(generator=TASK.generator, ocr=ocr).build()
    freeze_all_but(task, ("generator",))
    modes = {type(module).__name__ for module in task.ocr.modules() if module.training}
    assert modes == {"LSTM"}


def test_channels_must_agree():
    with pytest.raises(ValueError, match="make them equal"):
        RestoreTask(generator=PlateRestorerConfig(channels=1), ocr=TASK.ocr)
