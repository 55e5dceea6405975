"""Which samples make up a step: once each, whatever the ranks, and of the epoch's number alone."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.order import bucket_widths, draws_per_epoch, epoch_samples, of_rank, steps_of, stream

quick = settings(deadline=None, max_examples=100)
widths_of = st.lists(st.integers(1, 60), min_size=1, max_size=150).map(np.array)
batch_sizes = st.integers(1, 40)


def an_epoch(widths, batch_size, *, buckets=4, epoch=0, seed=0):
    """The steps of one epoch over one source whose images have ``widths``."""
    drawn = epoch_samples([len(widths)], [len(widths)], epoch=epoch, seed=(seed,))
    return steps_of(drawn, widths[drawn], bucket_widths(np.bincount(widths), buckets), batch_size)


@quick
@given(widths_of, batch_sizes, st.integers(1, 5), st.integers(0, 3))
def test_every_sample_once_per_epoch_however_it_is_split(widths, batch_size, ranks, epoch):
    steps = an_epoch(widths, batch_size, epoch=epoch)
    seen = [of_rank(step, rank=rank, ranks=ranks).samples for step in steps for rank in range(ranks)]
    assert np.bincount(np.concatenate(seen), minlength=len(widths)).tolist() == [1] * len(widths)


@quick
@given(widths_of, batch_sizes, st.integers(1, 6))
def test_the_number_of_ranks_does_not_change_which_samples_meet(widths, batch_size, ranks):
    for step in an_epoch(widths, batch_size):
        shares = [of_rank(step, rank=rank, ranks=ranks) for rank in range(ranks)]
        assert sorted(np.concatenate([share.samples for share in shares])) == sorted(step.samples)
        assert {share.width for share in shares} == {step.width}
        sizes = [len(share.samples) for share in shares]
        assert max(sizes) - min(sizes) <= 1


@quick
@given(widths_of, batch_sizes, st.integers(1, 8))
def test_an_epoch_has_as_many_steps_as_batches_fit_whatever_the_buckets(widths, batch_size, buckets):
    steps = an_epoch(widths, batch_size, buckets=buckets)
    assert len(steps) == -(
        -len(widths) // batch_size
    )  # TrainingData.steps_per_epoch, and so the schedule, relies on it


@quick
@given(widths_of, batch_sizes, st.integers(1, 8))
def test_no_step_is_larger_than_the_batch_or_smaller_than_half_of_it(widths, batch_size, buckets):
    sizes = [len(step.samples) for step in an_epoch(widths, batch_size, buckets=buckets)]
    assert max(sizes) <= batch_size
    assert min(sizes) >= min(batch_size / 2, len(widths))


@quick
@given(widths_of, batch_sizes, st.integers(1, 8))
def test_buckets_hold_every_image_of_their_step(widths, batch_size, buckets):
    edges = bucket_widths(np.bincount(widths), buckets)
    for step in an_epoch(widths, batch_size, buckets=buckets):
        assert widths[step.samples].max() <= step.width
        assert step.width in edges


def test_full_steps_hold_one_bucket_each_and_the_rest_is_merged_by_width():
    widths = np.array([8] * 5 + [16] * 5)  # four to a step: one full step of each, then 8 and 16 together
    steps = an_epoch(widths, 4, buckets=2)
    assert sorted((len(step.samples), step.width) for step in steps) == [(2, 16), (4, 8), (4, 16)]
    assert sorted(widths[steps[-1].samples]) == [8, 16]


def test_what_is_left_over_meets_its_like():
    widths = np.array([8, 16] * 3)  # no four of one width: two steps of three, and the narrow ones are not padded
    assert [(step.width, set(widths[step.samples])) for step in an_epoch(widths, 4, buckets=2)] == [
        (8, {8}),
        (16, {16}),
    ]


def test_a_lonely_rest_takes_a_full_step_back_and_shares_with_it():
    steps = an_epoch(np.full(9, 8), 8)
    assert sorted(len(step.samples) for step in steps) == [4, 5]
    steps = an_epoch(np.array([8, 8, 8, 8, 16]), 4, buckets=2)
    assert [(len(step.samples), step.width) for step in steps] == [
        (3, 8),
        (2, 16),
    ]  # by width, so that three stay narrow


def test_an_image_that_fits_no_bucket_is_not_left_out_in_silence():
    with pytest.raises(ValueError, match=r"an image of 20 columns is wider than every bucket \(8, 16\)"):
        steps_of(np.arange(3), np.array([8, 20, 16]), (8, 16), 2)


def test_an_epoch_is_a_function_of_its_number_and_the_seed():
    widths = np.random.default_rng(0).integers(1, 60, 100)
    listed = [[step.samples.tolist() for step in an_epoch(widths, 8, epoch=epoch)] for epoch in (0, 1, 2)]
    again = [[step.samples.tolist() for step in an_epoch(widths, 8, epoch=epoch)] for epoch in (2, 0, 1)]
    assert again == [listed[2], listed[0], listed[1]]  # what ran before leaves no trace
    assert listed[0] != listed[1] != listed[2]
    assert [step.samples.tolist() for step in an_epoch(widths, 8, seed=1)] != listed[0]


@quick
@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 5))
def test_a_walk_covers_every_sample_before_it_repeats_one(size, count, seed):
    epochs = 3 * size // count + 1
    walked = np.concatenate([stream(size=size, start=e * count, count=count, seed=(seed,)) for e in range(epochs)])
    for start in range(0, len(walked) - size + 1, size):
        assert sorted(walked[start : start + size]) == list(range(size))


@quick
@given(st.integers(1, 40), st.integers(0, 100), st.integers(0, 60))
def test_a_walk_is_the_same_wherever_one_joins_it(size, start, count):
    whole = stream(size=size, start=0, count=start + count, seed=(3,))
    assert stream(size=size, start=start, count=count, seed=(3,)).tolist() == whole[start:].tolist()


def test_consecutive_passes_have_other_orders():
    first, second = (stream(size=50, start=start, count=50, seed=(0,)).tolist() for start in (0, 50))
    assert first != second


@pytest.mark.parametrize(
    ("sizes", "shares", "epoch_samples", "draws"),
    [
        (
            [1800, 90_000],
            [0.8, 0.2],
            0,
            [1800, 450],
        ),  # one pass over the first, and a fifth of the whole from the second
        ([900], [1.0], 0, [900]),
        ([1_000_000], [1.0], 100_000, [100_000]),
        ([50, 50], [0.5, 0.5], 300, [150, 150]),  # more than there are: the walk goes round
        ([1000, 1000], [0.9999, 0.0001], 100, [100, 1]),  # a source that is named is seen
    ],
)
def test_sources_are_mixed_by_their_shares(sizes, shares, epoch_samples, draws):
    assert draws_per_epoch(sizes, shares, epoch_samples) == draws


@quick
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 50)), min_size=1, max_size=4), st.integers(0, 4))
def test_each_source_gives_an_epoch_as_many_samples_as_it_is_asked_for(sources, epoch):
    sizes, counts = map(list, zip(*sources, strict=True))
    drawn = epoch_samples(sizes, counts, epoch=epoch, seed=(1,))
    source = np.searchsorted(np.cumsum(sizes), drawn, side="right")
    assert np.bincount(source, minlength=len(sizes)).tolist() == counts


def test_small_epochs_walk_on_where_the_last_one_stopped():
    drawn = [epoch_samples([10], [4], epoch=epoch, seed=(1,)) for epoch in range(5)]
    assert len(set(np.concatenate(drawn[:2]))) == 8
    assert np.bincount(np.concatenate(drawn)).tolist() == [2] * 10


def test_what_one_source_gives_does_not_depend_on_the_others():
    alone = epoch_samples([40], [10], epoch=2, seed=(1,))
    mixed = epoch_samples([40, 99], [10, 30], epoch=2, seed=(1,))
    assert sorted(alone) == sorted(mixed[mixed < 40])


def test_the_sources_of_an_epoch_are_shuffled_together():
    drawn = epoch_samples([1000, 1000], [1000, 1000], epoch=0, seed=(0,))
    assert 400 < (drawn[:1000] < 1000).sum() < 600


def padded_columns(histogram, edges):
    """Columns that all images take when each is padded to the narrowest edge that holds it."""
    return sum(n * min(edge for edge in edges if edge >= width) for width, n in enumerate(histogram) if n)


@quick
@given(st.lists(st.integers(0, 5), min_size=2, max_size=26), st.integers(1, 5), st.sampled_from([1, 3, 4]))
def test_bucket_widths_pad_least_of_all_choices(histogram, buckets, multiple):
    histogram = np.array([0, *histogram[1:-1], 1])
    top = -(-(len(histogram) - 1) // multiple) * multiple
    found = bucket_widths(histogram, buckets, multiple=multiple)
    rest = range(multiple, top, multiple)
    least = min(
        padded_columns(histogram, (*chosen, top))
        for taken in range(min(buckets, len(rest) + 1))
        for chosen in itertools.combinations(rest, taken)
    )
    assert padded_columns(histogram, found) == least
    assert found[-1] == top and list(found) == sorted(set(found)) and len(found) <= buckets
    assert all(edge % multiple == 0 for edge in found)


def test_images_of_one_width_need_one_bucket():
    assert bucket_widths(np.bincount([30, 30, 30]), 8) == (32,)
