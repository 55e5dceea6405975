import torch
from torch.testing import assert_close

from models.batch import Batch, Read
from models.decoding import greedy
from models.discriminators.spelled import collapsed, text_of_clean, transcribed

CLASSES = 5


def saying(*paths, sure=6.0):
    """A reader's scores for frame-wise paths of classes; -1 is padding, which says class 4 loudly."""
    frames = torch.tensor([sum(symbol >= 0 for symbol in path) for path in paths])
    best = torch.tensor([[4 if symbol < 0 else symbol for symbol in path] for path in paths])
    return Read(logits=sure * torch.nn.functional.one_hot(best, CLASSES).float(), frames=frames)


def noisy(batch, frames, seed=0):
    logits = torch.randn(batch, frames, CLASSES, generator=torch.Generator().manual_seed(seed))
    return Read(logits=logits, frames=torch.arange(frames, frames - batch, -1))


def labelled(labels):
    longest = max(map(len, labels))
    return Batch(
        image=torch.zeros(len(labels), 1, 8, 16),
        widths=torch.full((len(labels),), 16),
        tokens=torch.tensor([label + [0] * (longest - len(label)) for label in labels]),
        lengths=torch.tensor([len(label) for label in labels]),
        counted=torch.ones(len(labels), dtype=torch.bool),
        ids=tuple(range(len(labels))),
    )


def test_a_label_becomes_packed_one_hot_rows():
    text = transcribed(torch.tensor([[2, 2, 1], [3, 0, 0]]), torch.tensor([3, 1]), CLASSES)
    assert text.rows.argmax(2)[0].tolist() == [2, 2, 1] and text.rows.sum(2).tolist() == [[1, 1, 1], [1, 0, 0]]
    assert text.lengths.tolist() == [3, 1]


def test_a_reading_becomes_the_same_rows_as_its_label():
    read = saying([0, 2, 2, 0, 2, 1, 1], [3, 3, 3, 0, 0, -1, -1], [0, 0, 0, 0, 0, 0, -1])
    text, label = (
        collapsed(read),
        transcribed(torch.tensor([[2, 2, 1], [3, 0, 0], [0] * 3]), torch.tensor([3, 1, 0]), 5),
    )
    assert torch.equal(text.lengths, label.lengths)
    assert torch.equal(text.rows[:, :3], label.rows) and not text.rows[:, 3:].any()


def test_what_is_collapsed_is_the_greedy_reading():
    for seed in range(5):
        read = noisy(4, 30, seed)
        text = collapsed(read)
        rows = [row[:n].argmax(1).tolist() for row, n in zip(text.rows, text.lengths.tolist(), strict=True)]
        assert rows == greedy(read.logits, read.frames)


def test_both_kinds_of_text_have_one_format():
    batch, read = labelled([[2, 1], [3]]), noisy(2, 9)
    for source in ("predicted", "ground_truth"):
        text = text_of_clean(source, batch, read)
        inside = torch.arange(text.rows.shape[1]) < text.lengths[:, None]
        assert text.rows.dtype == torch.float32 and not text.rows.requires_grad
        assert torch.equal(text.rows.sum(2), inside.float()) and set(text.rows.unique().tolist()) == {0.0, 1.0}
        assert not text.rows[:, :, 0].any()  # no row is a blank
    assert torch.equal(collapsed(noisy(2, 9)).rows, text_of_clean("predicted", batch, read).rows)


def test_the_gradient_is_that_of_the_mean_posteriors_of_a_run():
    read = noisy(1, 1)
    logits = torch.cat([read.logits] * 3, dim=1) + torch.tensor([0.0, 0.1, 0.2])[None, :, None] * torch.eye(5)[3]
    logits[..., 3] += 5  # all three frames say class 3
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    weights = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0])
    (collapsed(Read(logits=ours, frames=torch.tensor([3]))).rows[0, 0] * weights).sum().backward()
    (theirs.softmax(2)[0].mean(dim=0) * weights).sum().backward()
    assert_close(ours.grad, theirs.grad) and ours.grad.abs().max() > 0.01


def test_frames_past_the_valid_ones_get_no_gradient():
    read = noisy(3, 8)
    logits = read.logits.clone().requires_grad_()
    (collapsed(Read(logits=logits, frames=read.frames)).rows * torch.rand(CLASSES)).sum().backward()
    assert logits.grad[2, :6].any() and not logits.grad[2, 6:].any()


def test_bfloat16_scores_are_spelled_exactly():
    with torch.autocast("cpu", torch.bfloat16):
        read = noisy(2, 30)
        rows = collapsed(Read(logits=read.logits.bfloat16(), frames=read.frames)).rows
    assert rows.dtype == torch.float32 and set(rows.unique().tolist()) == {0.0, 1.0}
