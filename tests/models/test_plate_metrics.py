"""Rates by hand, a vote of five frames, and what intervals over tracks must be."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.metrics.plates import (
    Frame,
    breakdown,
    character_accuracy,
    gain,
    interval,
    mean_character_accuracy,
    recognition_rate,
    track_recognition_rate,
    vote,
    voted,
)


def frame(track, number, text, sure=0.9, label="ABC1234", **where):
    return Frame(track=track, number=number, label=label, text=text, confidences=(sure,) * len(text), **where)


# Five frames of one track: two right ones, and three that go wrong in different places.
FIVE = [
    frame("t1", 1, "ABC1234", 0.9), frame("t1", 2, "A8C1234", 0.6), frame("t1", 3, "ABC1234", 0.8),
    frame("t1", 4, "ABC1284", 0.7), frame("t1", 5, "ABO1234", 0.5),
]  # fmt: skip


def test_rates_per_image_and_per_track():
    frames = [*FIVE, frame("t2", 1, "XYZ9999"), frame("t2", 2, "XYZ9999")]
    rate, by_track = recognition_rate(frames), track_recognition_rate(frames)
    assert (rate.total, rate.count) == (2, 7) and (by_track.total, by_track.count) == (1, 2)


def test_a_track_can_be_read_right_though_no_frame_is():
    wrong = ["8BC1234", "A8C1234", "AB01234", "ABCI234", "ABC1284"]
    frames = [frame("t1", number, text) for number, text in enumerate(wrong)]
    assert recognition_rate(frames).value == 0 and track_recognition_rate(frames).value == 1


def test_confidence_decides_and_not_the_number_of_frames():
    assert vote([("B", (0.9,)), ("8", (0.4,)), ("8", (0.4,))])[0] == "B"
    assert vote([("B", (0.7,)), ("8", (0.4,)), ("8", (0.4,))])[0] == "8"


def test_the_length_is_voted_on_first():
    # Two sure readings of three characters against two unsure ones that lost one; an empty one has no vote.
    readings = [("ABC", (0.9, 0.9, 0.2)), ("ABD", (0.9, 0.9, 0.3)), ("AB", (0.5, 0.5)), ("XY", (0.4, 0.4)), ("", ())]
    assert vote(readings)[0] == "ABD"


def test_confidences_of_a_vote_by_hand():
    text, sure = vote([("AB", (0.9, 0.6)), ("AC", (0.7, 0.2))])
    assert text == "AB" and sure == pytest.approx((0.8, 0.75 * 0.6))
    assert vote([("A", (0.0,))]) == ("A", (0.0,))
    assert vote([]) == vote([("", ())]) == ("", ())


@given(st.lists(st.tuples(st.text("AB", max_size=3), st.floats(0, 1)), max_size=6), st.randoms())
def test_a_vote_does_not_depend_on_the_order(readings, shuffler):
    readings = [(text, (sure,) * len(text)) for text, sure in readings]
    other = shuffler.sample(readings, len(readings))
    assert vote(readings) == vote(other)


def test_a_track_keeps_where_it_is_from_and_shows_one_plate():
    (one,) = voted([frame("t1", 1, "ABC1234", layout="Mercosur", scenario="B")])
    assert (one.layout, one.scenario, one.label) == ("Mercosur", "B", "ABC1234")
    with pytest.raises(ValueError, match=r"track 't1' has the labels \['A', 'B'\]"):
        voted([frame("t1", 1, "A", label="A"), frame("t1", 2, "B", label="B")])


@pytest.mark.parametrize(
    ("prediction", "accuracy"),
    [("", 0), ("ABC1234", 1), ("A8C1234", 6 / 7), ("BC1234", 6 / 7), ("ABC1234" * 3, 0), ("ABC12345", 6 / 7)],
)
def test_character_accuracy_counts_edits(prediction, accuracy):
    assert character_accuracy(prediction, "ABC1234") == pytest.approx(accuracy)


def test_character_accuracy_of_a_set_is_the_average_and_skips_what_has_no_label():
    found = mean_character_accuracy([frame("t1", 1, "A8C1234"), frame("t1", 2, ""), frame("t2", 1, "A", label="")])
    assert found.value == pytest.approx(3 / 7) and (found.count, found.skipped) == (2, 1)
    with pytest.raises(ValueError, match="label is empty"):
        character_accuracy("A", "")


def test_every_layout_and_scenario_has_its_own_rate():
    frames = [
        frame("t1", 1, "ABC1234", layout="Brazilian", scenario="A"),
        frame("t2", 1, "ABC1299", layout="Brazilian", scenario="B"),
        frame("t3", 1, "ABC1D23", layout="Mercosur", scenario="B", label="ABC1D23"),
        frame("t4", 1, "ABC1234"),
    ]
    assert {name: ratio.value for name, ratio in breakdown(frames).items()} == {
        "layout/Brazilian": 0.5, "layout/Mercosur": 1.0, "scenario/A": 1.0, "scenario/B": 0.5,
    }  # fmt: skip


def tracks_of(rates, frames=5):
    return [
        frame(f"t{number:03}", each, "ABC1234" if each < right else "")
        for number, right in enumerate(rates)
        for each in range(frames)
    ]


def test_an_interval_is_that_of_the_binomial_where_each_track_is_one_image():
    # 400 tracks, half of them right: standard error 0.025, so 1.96 of it on either side.
    found = interval(tracks_of([1, 0] * 200, frames=1), draws=4000)
    assert found.value == 0.5
    assert found.low == pytest.approx(0.451, abs=0.006) and found.high == pytest.approx(0.549, abs=0.006)


def test_five_equal_frames_say_no_more_than_one():
    one, five = interval(tracks_of([1, 0] * 200, frames=1)), interval(tracks_of([5, 0] * 200, frames=5))
    assert one == five


def test_an_interval_depends_on_the_seed_and_not_on_the_order():
    frames = tracks_of([5, 3, 0, 1, 4, 5, 2])
    shuffled = random.Random(0).sample(frames, len(frames))
    assert interval(frames, seed=3) == interval(shuffled, seed=3) != interval(frames, seed=4)


def test_certain_results_have_no_width_and_no_data_no_value():
    assert interval(tracks_of([5, 5, 5])) == interval(tracks_of([5])) and interval(tracks_of([5])).low == 1
    assert math.isnan(interval([]).value) and math.isnan(interval([frame("t1", 1, "A", label="")]).low)


def test_a_narrower_level_is_narrower():
    frames = tracks_of([5, 3, 0, 1, 4, 5, 2] * 5)
    wide, narrow = interval(frames, level=0.95), interval(frames, level=0.5)
    assert wide.low < narrow.low < wide.value < narrow.high < wide.high
    with pytest.raises(ValueError, match="level"):
        interval(frames, level=95)


def test_confidences_must_fit_the_text():
    with pytest.raises(ValueError, match="2 confidences for the 3 characters"):
        Frame(track="t", number=1, label="ABC", text="ABC", confidences=(0.5, 0.5))


def test_a_gain_is_paired_so_that_what_both_get_right_does_not_widen_it():
    tracks = range(40)
    better = [frame(f"t{n}", 1, "ABC1234" if n < 30 else "") for n in tracks]
    worse = [frame(f"t{n}", 1, "ABC1234" if n < 20 else "") for n in tracks]
    found = gain(better, worse)
    assert found.value == 10 / 40 and 0 < found.low < 10 / 40 < found.high
    # Unpaired, each rate alone is less certain than their difference.
    assert found.high - found.low < sum(
        each.high - each.low for each in (interval(better), interval(worse))
    ) / math.sqrt(2)  # fmt: skip
    same = gain(better, list(reversed(better)))
    assert (same.value, same.low, same.high) == (0, 0, 0)
    back = gain(worse, better)
    assert back.value == -found.value and (back.low, back.high) == pytest.approx((-found.high, -found.low), abs=0.03)


def test_a_gain_wants_readings_of_the_same_images():
    with pytest.raises(ValueError, match="2 readings and 1 of other images"):
        gain(FIVE[:2], FIVE[:1])
    with pytest.raises(ValueError, match="of the same ones"):
        gain(FIVE[:1], FIVE[1:2])
    with pytest.raises(ValueError, match="level"):
        gain(FIVE, FIVE, level=1.0)
    assert math.isnan(gain([], []).value)
