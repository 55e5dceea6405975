import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from models.batch import Batch, Read
from models.losses.text import ctc, frames_needed, infeasible, not_finite, not_spelled, spelled
from models.text import frames_needed as frames_needed_in_python


def batch_of(labels, counted=None):
    longest = max(map(len, labels))
    return Batch(
        image=torch.zeros(len(labels), 1, 32, 8),
        widths=torch.full((len(labels),), 8),
        tokens=torch.tensor([label + [0] * (longest - len(label)) for label in labels], dtype=torch.int64),
        lengths=torch.tensor([len(label) for label in labels]),
        counted=torch.tensor(counted or [True] * len(labels)),
        ids=tuple(range(len(labels))),
    )


def read_of(logits, frames=None):
    frames = [logits.shape[1]] * len(logits) if frames is None else frames
    return Read(logits=logits, frames=torch.tensor(frames))


def logits_of(size, frames, classes, seed=0, dtype=torch.float32):
    return torch.randn(size, frames, classes, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_ctc_of_uniform_logits_counts_paths():
    # Two frames, three classes, label "a": the paths aa, a_, _a out of 9 are right.
    assert_close(ctc(batch_of([[1]]), read_of(torch.zeros(1, 2, 3))).value, torch.tensor(-math.log(3 / 9)))


def test_ctc_is_in_nats_per_character_macro_over_words():
    # Three frames, two classes: of 8 paths only a_a reads "aa"; aaa, aa_, _aa, a__, _a_ and __a read "a".
    mean = ctc(batch_of([[1, 1], [1]]), read_of(torch.zeros(2, 3, 2)))
    assert_close(mean.total, torch.tensor(-math.log(1 / 8) / 2 - math.log(6 / 8)))
    assert mean.count == 2


def test_an_empty_label_costs_its_all_blank_path():
    assert_close(
        ctc(batch_of([[], [1]], [True, False]), read_of(torch.zeros(2, 2, 3))).value, torch.tensor(math.log(9))
    )
    assert_close(ctc(batch_of([[]]), read_of(torch.zeros(1, 2, 3))).value, torch.tensor(math.log(9)))


def test_class_zero_is_the_blank():
    perfect = 30 * nn.functional.one_hot(torch.tensor([[1, 0, 2]]), 3).float()
    assert ctc(batch_of([[1, 2]]), read_of(perfect)).value < 1e-6
    assert ctc(batch_of([[1, 2]]), read_of(perfect.roll(-1, dims=2))).value > 10  # a model whose blank comes last


def test_ctc_is_what_torch_calls_mean():
    labels, logits = [[1, 2, 3], [4, 4], [1]], logits_of(3, 7, 5)
    batch = batch_of(labels)
    theirs = nn.CTCLoss()(logits.log_softmax(2).transpose(0, 1), batch.tokens, torch.tensor([7, 6, 5]), batch.lengths)
    assert_close(ctc(batch, read_of(logits, [7, 6, 5])).value, theirs)


def test_masked_is_filtered_in_value_and_gradient():
    labels, keep = [[1, 2], [3], [2, 2], [1]], [True, False, True, False]
    masked, filtered = logits_of(4, 6, 4).requires_grad_(), logits_of(4, 6, 4)[keep].requires_grad_()
    one = ctc(batch_of(labels, keep), read_of(masked)).value
    other = ctc(batch_of([labels[0], labels[2]]), read_of(filtered)).value
    one.backward()
    other.backward()
    assert_close(one, other)
    assert_close(masked.grad[keep], filtered.grad)
    assert not masked.grad[[False, True, False, True]].any()


def test_words_that_cannot_be_spelled_are_in_neither_half_and_have_no_gradient():
    logits = logits_of(3, 6, 4).requires_grad_()
    batch, out = batch_of([[1, 2], [3, 3], [1, 2, 3]]), read_of(logits, [6, 2, 2])
    mean = ctc(batch, out)
    mean.value.backward()
    assert_close(mean.value, ctc(batch_of([[1, 2]]), read_of(logits[:1])).value)
    assert mean.count == 1 and infeasible(batch, out).value == 2 / 3
    assert not_spelled(batch, out).tolist() == [False, True, True]
    assert logits.grad.isfinite().all() and not logits.grad[1:].any()


def test_images_with_a_score_that_is_not_finite_are_told_apart():
    logits = logits_of(4, 3, 4)
    logits[1, 2, 0], logits[3, 0, 3] = math.nan, -math.inf
    assert not_finite(batch_of([[1]] * 4), read_of(logits)).tolist() == [False, True, False, True]


def test_nothing_to_count_is_zero_with_a_zero_gradient():
    logits = logits_of(1, 2, 3).requires_grad_()
    mean = ctc(batch_of([[1, 1]]), read_of(logits))
    mean.value.backward()
    assert mean.value == 0 and mean.count == 0 and not logits.grad.any()


def test_frames_past_the_valid_ones_change_nothing():
    logits = logits_of(2, 6, 4)
    other = logits.clone()
    other[:, 4:] = 99
    labels = batch_of([[1, 2], [3]])
    assert_close(ctc(labels, read_of(logits, [4, 4])).value, ctc(labels, read_of(other, [4, 4])).value)


def test_the_gradient_is_the_numerical_one():
    def total(logits):
        return ctc(batch_of([[1, 2], [2, 2]]), read_of(logits, [4, 3])).total

    assert torch.autograd.gradcheck(total, logits_of(2, 4, 3, dtype=torch.float64).requires_grad_())


def test_uneven_micro_batches_add_up_to_the_whole():
    labels, logits = [[1, 2], [3], [2, 2]], logits_of(3, 6, 4)
    parts = ctc(batch_of(labels[:1]), read_of(logits[:1])) + ctc(batch_of(labels[1:]), read_of(logits[1:]))
    assert_close(parts.value, ctc(batch_of(labels), read_of(logits)).value)


def test_ctc_stays_in_float32_under_autocast():
    logits = logits_of(2, 6, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        mean = ctc(batch_of([[1, 2], [3]]), read_of(logits))
    assert mean.total.dtype == torch.float32
    assert mean.total == ctc(batch_of([[1, 2], [3]]), read_of(logits.float())).total


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 2), min_size=1, max_size=6), st.integers(1, 12))
def test_frames_needed_is_where_torch_stops_saying_infinity(label, frames):
    batch, logits = batch_of([label]), torch.zeros(1, frames, 3)
    loss = nn.functional.ctc_loss(
        logits.log_softmax(2).transpose(0, 1), batch.tokens, torch.tensor([frames]), batch.lengths, reduction="none"
    )
    assert frames_needed(batch.tokens, batch.lengths).tolist() == [frames_needed_in_python(label)]
    assert spelled(batch, read_of(logits)).item() == loss.isfinite().item()


def test_padding_of_labels_is_never_read():
    tokens = torch.tensor([[1, 2, 2, 2]])
    assert frames_needed(tokens, torch.tensor([2])).tolist() == [2]
