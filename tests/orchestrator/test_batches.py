"""What a stage learns from."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from small import CLASSES, a_stage

from models.text import Alphabet, Frames
from orchestrator.batches import Samples, TrainingData
from orchestrator.ranks import Ranks


def test_samples_are_named_as_their_sources_name_them():
    one = SimpleNamespace(widths=np.full(3, 8), ids=["a/0", "a/1", "a/2"])
    other = SimpleNamespace(widths=np.full(2, 8), ids=["b/0", "b/1"])
    alphabet = Alphabet(symbols="abcd"[: CLASSES - 1])
    samples = Samples([(one, np.array([0, 2])), (other, np.array([1]))], alphabet, Frames(stride=4, offset=1))
    data = TrainingData(
        stage=a_stage(), samples=samples, buckets=(8,), seed=0, ranks=Ranks(), device=torch.device("cpu")
    )
    assert data.source_ids([2, 0, 1]) == ["b/1", "a/0", "a/2"]
