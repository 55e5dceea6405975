"""Readings of clean images that come again: looked at once, alike in any batch, and never those of other weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_document_task import DUAL, PATCH, built, lines
from torch.testing import assert_close

import models.tasks.document
from models.kept import MOST, fits


def counted(task) -> list[int]:
    """Samples in each look that the recogniser takes from now on, in a list that grows."""
    looks, features = [], task.recognizer.features

    def noted(image, widths):
        looks.append(len(image))
        return features(image, widths)

    task.recognizer.features = noted
    return looks


@pytest.mark.parametrize("discriminator", [PATCH, DUAL], ids=["patch", "dual"])
def test_a_frozen_recogniser_looks_at_a_clean_image_once_and_what_it_says_is_the_same(discriminator):
    batch = lines()
    fresh = built("generator", "discriminator", discriminator=discriminator)(batch)
    task = built("generator", "discriminator", discriminator=discriminator)
    looks = counted(task)
    outs = [task(replace(batch, again=2)) for _ in range(3)]
    assert looks == [2, 1, 1, 2, 2]  # the restored images each time, each clean one once
    valid = torch.arange(16) < fresh.clean.frames[:, None]
    for out in outs:
        assert torch.equal(out.clean.frames, fresh.clean.frames)
        assert_close(out.clean_features[valid], fresh.clean_features[valid], rtol=1e-5, atol=1e-6)
        assert_close(out.clean.logits[valid], fresh.clean.logits[valid], rtol=1e-5, atol=1e-6)
        assert not out.clean_features.requires_grad and not out.clean_features[~valid].any()


def test_what_is_kept_does_not_depend_on_the_batch_it_came_in():
    batch, task, other = replace(lines(), again=2), built("generator"), built("generator")
    together = task(batch).clean_features
    turned = replace(batch, **{name: getattr(batch, name).flip(0) for name in ("image", "target", "widths", "tokens")})
    for ids in ((1,), (0,)):  # one after the other, each in a batch of its own
        row = slice(ids[0], ids[0] + 1)
        alone = {
            name: getattr(batch, name)[row] for name in ("image", "target", "widths", "tokens", "lengths", "counted")
        }
        other(replace(batch, ids=ids, **alone))
    assert torch.equal(other(replace(turned, ids=(1, 0))).clean_features.flip(0), together)


def test_changed_weights_are_asked_again():
    batch, task = replace(lines(), again=2), built("generator")
    before = task(batch).clean_features
    with torch.no_grad():
        next(task.recognizer.parameters()).mul_(2)
    after = task(batch).clean_features
    assert not torch.equal(after, before)
    task.kept._rows.clear()
    assert torch.equal(task(batch).clean_features, after)


@pytest.mark.parametrize("learn", [("generator", "recognizer"), (), ("recognizer",)])
def test_nothing_is_kept_of_one_that_learns_nor_outside_of_training(learn):
    task = built(*learn)
    task(replace(lines(), again=2))
    assert not task.kept._rows


def test_nothing_is_kept_of_images_that_change_or_do_not_fit(monkeypatch):
    task = built("generator")
    task(lines())
    monkeypatch.setattr(models.tasks.document, "fits", lambda *sizes: False)
    task(replace(lines(), again=2))
    assert not task.kept._rows
    assert fits(2, 128, 512) and not fits(0, 128, 512) and not fits(MOST // 4 + 1, 1, 1) and not fits(5, 0, 512)
