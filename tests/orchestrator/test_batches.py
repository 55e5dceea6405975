"""What a stage learns from."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from small import CLASSES, a_stage
from small_pairs import FRAMES, PLATES, Noisy, pair_row, pairs_of, plates_like, rendered

from datasets.pair_image import PairSpec
from models.batch import Pair
from models.text import Alphabet, Frames
from orchestrator.batches import Samples, TrainingData, chosen_buckets, in_order, samples_of
from orchestrator.order import Step
from orchestrator.plan import Augment
from orchestrator.ranks import Ranks


def test_samples_are_named_as_their_sources_name_them():
    one = SimpleNamespace(widths=np.full(3, 8), scale=0, ids=["a/0", "a/1", "a/2"])
    other = SimpleNamespace(widths=np.full(2, 8), scale=0, ids=["b/0", "b/1"])
    alphabet = Alphabet(symbols="abcd"[: CLASSES - 1])
    samples = Samples([(one, np.array([0, 2])), (other, np.array([1]))], alphabet, Frames(stride=4, offset=1))
    data = TrainingData(
        stage=a_stage(), samples=samples, buckets=(8,), seed=0, ranks=Ranks(), device=torch.device("cpu")
    )
    assert data.source_ids([2, 0, 1]) == ["b/1", "a/0", "a/2"]


def whole(samples: Samples) -> Step:
    return Step(np.arange(len(samples)), int(samples.widths.max()))


def test_pairs_come_with_their_targets_and_labels_judged_by_what_the_recogniser_sees():
    recipe, cpu = plates_like(), torch.device("cpu")
    samples = samples_of({"plates": rendered()}, {"plates": "valid"}, recipe.alphabet, recipe.task.frames)
    batch = samples.batch(whole(samples), device=cpu)
    assert isinstance(batch, Pair)
    assert batch.image.shape == (12, 3, 16, 48) and batch.target.shape == (12, 3, 32, 96)
    for pictures in (batch.image, batch.target):
        assert pictures.is_contiguous(memory_format=torch.channels_last)
    row = samples.located(7)[1]
    wanted = torch.from_numpy(rendered().target(row).copy()).permute(2, 0, 1).float() / 127.5 - 1
    assert torch.equal(batch.target[7], wanted)
    assert batch.widths.tolist() == [48] * 12 and batch.counted.all()
    assert not samples_of({"plates": rendered()}, {"plates": "valid"}, recipe.alphabet,
                          Frames(stride=16, offset=0)).counted.any()  # fmt: skip
    at_12 = samples_of({"plates": rendered()}, {"plates": "valid"}, recipe.alphabet, Frames(stride=12, offset=0))
    assert at_12.counted.any()  # 96 columns are 8 frames; the 48 of the low resolution would be 4


def test_what_is_known_of_a_sample_can_be_asked_for():
    recipe = plates_like()
    samples = samples_of({"plates": rendered()}, {"plates": "valid"}, recipe.alphabet, recipe.task.frames)
    known = [samples.extras(sample) for sample in range(len(samples))]
    assert [(each["track"], each["frame"]) for each in known[:3]] == [
        ("valid-000000", 1), ("valid-000000", 2), ("valid-000001", 1),
    ]  # fmt: skip
    assert {each["layout"] for each in known} == {"Brazilian", "Mercosur", "US"}
    assert {each["scenario"] for each in known} == {"drawn"}


def test_a_width_that_is_no_multiple_of_four_is_not_padded(tmp_path):
    rows = [pair_row(i, image=Noisy(i, 34, 62), target=Noisy(100 + i, 68, 124)) for i in range(5)]
    shards = pairs_of(rows, tmp_path, image=PairSpec(height=34, width=62))
    samples = samples_of(shards, {"made": "train"}, PLATES, FRAMES)
    assert chosen_buckets(samples) == (62,)
    steps = list(in_order(samples, batch_size=4, ranks=Ranks()))
    batch = samples.batch(steps[0], device=torch.device("cpu"))
    assert batch.image.shape == (4, 3, 34, 62) and batch.target.shape == (4, 3, 68, 124)


def test_pairs_without_high_resolution_come_in_batches_of_their_own(tmp_path):
    rows = [pair_row(i, split="test" if i else "train") for i in range(9)]
    rows = [replace(row, target=None) if i in (2, 5, 6) else row for i, row in enumerate(rows)]
    samples = samples_of(pairs_of(rows, tmp_path), {"made": "test"}, PLATES, FRAMES)
    assert samples.blind.tolist() == [i in (2, 5, 6) for i in range(1, 9)]
    for ranks in (1, 2):
        kinds, seen = [], []
        for rank in range(ranks):
            for step in in_order(samples, batch_size=4, ranks=Ranks(rank, ranks)):
                batch = samples.batch(step, device=torch.device("cpu"))
                kinds.append((isinstance(batch, Pair), samples.blind[list(batch.ids)].any()))
                seen += batch.ids
        assert sorted(seen) == list(range(8)) and set(kinds) == {(True, False), (False, True)}


def test_training_batches_of_pairs_are_augmented_and_the_same_again():
    recipe = plates_like()
    samples = samples_of({"plates": rendered()}, {"plates": "train"}, recipe.alphabet, recipe.task.frames)
    stage = replace(recipe.stages[0], augment=Augment(rotate=5, contrast=0.3))
    data = TrainingData(
        stage=stage, samples=samples, buckets=chosen_buckets(samples), seed=1, ranks=Ranks(),
        device=torch.device("cpu"),
    )  # fmt: skip

    def first(epoch: int) -> Pair:
        with data.batches(epoch, 0) as steps:
            return next(steps)[0]

    plain = samples.batch(data.steps(0)[0], device=torch.device("cpu"))
    one, again, later = first(0), first(0), first(1)
    assert one.ids == plain.ids and later.ids != one.ids
    assert torch.equal(one.image, again.image) and torch.equal(one.target, again.target)
    assert not torch.allclose(one.image, plain.image) and not torch.allclose(one.target, plain.target)
    assert one.target.is_contiguous(memory_format=torch.channels_last)
