"""Validation: metrics by hand, and the same ones at any number of ranks."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from models.batch import Batch, Read
from models.metrics.collapse import frame_counts
from models.text import Alphabet
from orchestrator.evaluate import evaluate
from orchestrator.ranks import Ranks

AB = Alphabet(symbols="ab", case="keep")
WORDS = ["a", "b", "ab", "a", "ba"]


class Words:
    """What :class:`orchestrator.batches.Samples` offers of five words."""

    widths = np.full(len(WORDS), 8, np.int32)
    blind, textless, multiple = np.zeros(len(WORDS), bool), np.zeros(len(WORDS), bool), 4

    def __len__(self):
        return len(WORDS)

    def text(self, sample):
        return WORDS[sample]

    def batch(self, step, *, device):
        ids = tuple(step.samples.tolist())
        labels = [AB.encode(WORDS[sample]) for sample in ids]
        tokens = torch.tensor([label + [0] * (2 - len(label)) for label in labels])
        return Batch(
            image=torch.zeros(len(ids), 1, 1, 8), widths=torch.full((len(ids),), 8), tokens=tokens,
            lengths=torch.tensor([len(label) for label in labels]), counted=torch.ones(len(ids), dtype=torch.bool),
            ids=ids,
        )  # fmt: skip


class Says(nn.Module):
    """Reads what it was told to, one frame a class, in frames of which the last is not valid."""

    def __init__(self, paths, sure):
        super().__init__()
        self.paths, self.sure = torch.tensor(paths), sure

    def forward(self, batch):
        paths = self.paths[list(batch.ids)]
        return Read(logits=self.sure * nn.functional.one_hot(paths, 3).float(), frames=torch.full((len(paths),), 2))


def measured(paths, sure=50.0, ranks=None):
    metrics = evaluate(
        Says(paths, sure), {"made": Words()}, AB, device=torch.device("cpu"), autocast=nullcontext,
        ranks=ranks or Ranks(),
    )  # fmt: skip
    return {name.removeprefix("made/"): value for name, value in metrics.items()}


def test_collapse_is_counted_over_valid_frames_alone():
    found = measured([[1, 0, 0], [0, 0, 1], [1, 2, 1], [1, 1, 1], [2, 0, 0]])  # a, nothing, ab, a, b
    assert found["blank_share"] == 4 / 10  # frames; the third of each is past the valid ones
    assert found["distinct"] == 4 / 5
    assert found["entropy"] == pytest.approx(0, abs=1e-6)
    assert found["n"] == 5


def test_a_network_that_says_nothing_shows_it():
    found = measured([[0, 0, 1]] * 5)
    assert (found["blank_share"], found["distinct"]) == (1, 1 / 5)


def test_entropy_is_one_where_all_classes_are_alike_and_less_by_hand():
    assert measured([[1, 0, 2]] * 5, sure=0.0)["entropy"] == pytest.approx(1)
    p = math.e / (math.e + 2), 1 / (math.e + 2), 1 / (math.e + 2)
    nats = -sum(each * math.log(each) for each in p)
    assert measured([[1, 0, 2]] * 5, sure=1.0)["entropy"] == pytest.approx(nats / math.log(3), rel=1e-6)


def test_certain_scores_have_no_entropy_rather_than_none_at_all():
    logits = torch.tensor([[[0.0, -torch.inf, -torch.inf]]])
    assert frame_counts(Read(logits=logits, frames=torch.tensor([1]))).tolist() == [1, 1, 0]


class Half(Ranks):
    """One of two ranks played one after the other: what the other one brings is known afterwards."""

    brought: ClassVar[list] = []

    def sum(self, values):
        Half.brought.append(values.clone())
        return values

    def gather(self, own):
        Half.brought.append(own)
        return [own]


def test_two_ranks_bring_the_halves_of_one():
    paths = [[1, 0, 2], [0, 0, 1], [1, 2, 1], [1, 1, 1], [2, 0, 1]]
    whole = measured(paths)
    Half.brought = []
    for rank in (0, 1):
        measured(paths, ranks=Half(rank, 2))
    sums = [each for each in Half.brought if isinstance(each, torch.Tensor) and len(each) == 5]
    readings = [each for each in Half.brought if isinstance(each, set)]
    _, _, frames, blank, _ = (sums[0] + sums[1]).tolist()
    assert blank / frames == whole["blank_share"] and frames == 10
    assert len(readings[0] | readings[1]) / 5 == whole["distinct"] and readings[0] != readings[1]
