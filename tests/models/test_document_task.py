"""The task of documents: what is computed for which parts that learn, and where gradient goes."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from models.batch import Batch, Judged, Pair
from models.discriminators.dual import DualConfig
from models.discriminators.patch import PatchConfig
from models.losses.adversarial import DiscriminatorTerm, GeneratorTerm
from models.losses.clean import ctc_on_target
from models.losses.feature import feature_distance
from models.losses.text import ctc
from models.recognizers.simple import SimpleCRNNConfig
from models.restorers.documents import UNetConfig
from models.tasks.document import DocumentTask
from orchestrator.players import freeze_all_but

CLASSES = 5
GENERATOR, READER = UNetConfig(width=4, halvings=2), SimpleCRNNConfig(classes=CLASSES, channels=1, width=0.25, hidden=8)
PATCH = PatchConfig(width=4)
DUAL = DualConfig(classes=CLASSES, width=4, letters=8, heads=2)


def built(*learn, discriminator=PATCH):
    torch.manual_seed(0)
    task = DocumentTask(generator=GENERATOR, discriminator=discriminator, recognizer=READER).build()
    freeze_all_but(task, learn)
    return task


def lines(texts=((1, 2, 3), (4, 1)), target=True):
    """Two lines of 32 x 64 and 32 x 48 pixels."""
    torch.manual_seed(1)
    tokens = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = torch.tensor(text, dtype=torch.long)
    widths = torch.tensor([64, 48])
    image = torch.rand(2, 1, 32, 64) * 2 - 1
    lengths = torch.tensor([len(text) for text in texts])
    common = {"widths": widths, "tokens": tokens, "lengths": lengths, "counted": lengths > 0, "ids": (0, 1)}
    return (
        Pair(image=image, target=torch.rand_like(image) * 2 - 1, **common) if target else Batch(image=image, **common)
    )


def touched(task, loss):
    loss.backward()
    return {name.split(".")[0] for name, p in task.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


def test_untrained_nothing_is_changed_and_images_without_targets_are_restored_and_read():
    task, batch = built(), lines(target=False)
    with torch.no_grad():
        out = task(batch)
    assert_close(out.image, batch.image, atol=1e-2, rtol=0)
    assert out.clean is None and out.read.frames.tolist() == [16, 12]


@pytest.mark.parametrize("discriminator", [PATCH, DUAL], ids=["patch", "dual"])
def test_each_player_sends_gradient_where_it_learns(discriminator):
    task, batch = built("generator", "discriminator", discriminator=discriminator), lines()
    assert touched(task, ctc(batch, task(batch).read).value) == {"generator"}
    task.zero_grad()
    out = task(batch)
    assert isinstance(out, Judged)
    assert touched(task, feature_distance(batch, out).value) == {"generator"}
    task.zero_grad()
    judged = [p for name, p in task.named_parameters() if name.startswith("discriminator")]
    out = task(batch)
    DiscriminatorTerm()(batch, out).value.backward(inputs=judged, retain_graph=True)
    assert all(p.grad is None for p in task.generator.parameters())
    assert any(p.grad.abs().max() > 0 for p in judged)
    own = [p for name, p in task.named_parameters() if name.startswith("generator")]
    GeneratorTerm()(batch, out).value.backward(inputs=own)
    assert any(p.grad.abs().max() > 0 for p in own)


def test_the_discriminator_is_asked_only_while_it_learns():
    out = built("generator")(lines())
    assert out.real is None and out.fake is None


def test_a_recogniser_that_learns_alone_sees_clean_lines_only():
    task, batch = built("recognizer"), lines()
    out = task(batch)
    assert out.image is batch.target
    assert touched(task, ctc_on_target(batch, out).value) == {"recognizer"}


def test_one_that_learns_beside_the_generator_is_anchored_without_teaching_it():
    task, batch = built("generator", "recognizer"), lines()
    assert touched(task, ctc_on_target(batch, task(batch)).value) == {"recognizer"}


def test_a_batch_without_text_is_restored_and_not_read():
    task, batch = built("generator"), lines(texts=((), ()))
    out = task(batch)
    assert out.read.logits.shape == (2, 0, CLASSES) and out.read.frames.tolist() == [0, 0]
    assert not any(fact(batch, out).any() for fact in task.watched.values())
    assert out.image.shape == batch.image.shape


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"channels differ .generator 3, discriminator 1, recognizer 1."):
        DocumentTask(generator=UNetConfig(channels=3), discriminator=PATCH, recognizer=READER)
    with pytest.raises(ValueError, match="the discriminator reads 9 classes, the recognizer 5"):
        DocumentTask(generator=GENERATOR, discriminator=DualConfig(classes=9), recognizer=READER)
