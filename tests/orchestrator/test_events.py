"""Every detector: quiet on healthy numbers, and one fault that it sees, with its evidence and the setting to change."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from small import a_stage

from models.losses.text import ctc
from orchestrator.events import Epoch, Seen, events_of_epoch, nonfinite, note_norm, suspect_labels
from orchestrator.events_clock import events_of_clock
from orchestrator.events_validation import events_of_validation, red_line
from orchestrator.plan import Best, Curriculum, EarlyStop, Mining, StartFrom, Term

HEALTHY = {"made/cer": 0.3, "made/loss": 0.5, "made/distinct": 0.9, "made/blank_share": 0.6, "made/n": 500.0}


def an_epoch(**changes) -> Epoch:
    numbers = {
        "epoch": 2, "step": 200, "updates": 100, "loss": 1.0, "clipped": 3, "samples": 6400, "flagged": {},
        "gradient_shares": {"ctc": 1.0},
    }  # fmt: skip
    return Epoch(**numbers | changes)


def names(events) -> list[str]:
    return [event.event for event in events]


def remembered(seen: Seen) -> Seen:
    """``seen`` as a checkpoint gives it back."""
    return Seen(**json.loads(json.dumps(asdict(seen))))


def after_norms(norms, stage=None) -> Seen:
    seen, stage = Seen(), stage or a_stage()
    for step, norm in enumerate(norms):
        parts = {"cnn": 0.6 * norm, "rnn": 0.8 * norm}
        by_parameter = {"cnn.weight": 0.6 * norm, "rnn.weight": 0.8 * norm}
        note_norm(stage, seen, step=step, norm=norm, by_parameter=by_parameter, by_part=parts)
        seen = remembered(seen)
    return seen


def test_a_healthy_epoch_says_nothing():
    seen = after_norms([1.0 + 0.1 * (step % 7) for step in range(100)])
    assert events_of_epoch(a_stage(), seen, an_epoch(), samples={}) == []


def test_a_huge_gradient_names_the_parameter_and_part_behind_it():
    seen = after_norms([1.0] * 20 + [150.0] + [1.0] * 10 + [40.0])
    [event] = events_of_epoch(a_stage(), seen, an_epoch(), samples={})
    assert (event.event, event.step, event.evidence["parameter"]) == ("gradient_spike", 20, "rnn.weight")
    assert event.evidence["times"] == 150 and event.evidence["others"] == 1
    assert event.evidence["share"] == pytest.approx(0.64)
    assert "64% of its square is rnn.weight's (part rnn); 1 other" in event.says
    assert "stages.only.optim.lr" in event.change
    assert events_of_epoch(a_stage(), remembered(seen), an_epoch(epoch=3), samples={}) == []


def test_a_few_moderate_spikes_are_an_event_and_one_is_not():
    one = after_norms([1.0] * 20 + [15.0] + [1.0] * 20)
    three = after_norms([1.0] * 20 + [15.0, 1.0, 15.0, 1.0, 20.0] + [1.0] * 20)
    assert events_of_epoch(a_stage(), one, an_epoch(updates=41), samples={}) == []
    [event] = events_of_epoch(a_stage(), three, an_epoch(updates=45), samples={})
    assert event.evidence["norm"] == 20 and event.evidence["others"] == 2


def test_a_spike_below_the_ceiling_or_before_there_is_a_usual_norm_is_none():
    assert after_norms([0.01] * 30 + [4.0]).spikes == 0  # clip_norm is 5
    assert after_norms([1.0] * 10 + [1000.0]).spikes == 0


def test_the_usual_norm_is_that_of_the_newest_64():
    seen = after_norms([1.0] * 100 + [100.0] * 40)
    assert len(seen.norms) == 64 and seen.norms.count(100.0) == 40
    assert seen.spikes == 32  # until half of the newest are as long


def test_clipping_most_updates_of_an_epoch_after_the_first_is_said_once():
    seen = Seen(norms=[9.0] * 64)
    assert events_of_epoch(a_stage(), seen, an_epoch(epoch=1, clipped=90), samples={}) == []
    assert events_of_epoch(a_stage(), seen, an_epoch(clipped=50), samples={}) == []
    [event] = events_of_epoch(a_stage(), seen, an_epoch(clipped=51), samples={})
    assert event.event == "clipping_always" and event.evidence["clipped"] == 51
    assert event.evidence["median_norm"] == 9.0 and "stages.only.optim.clip_norm" in event.change
    assert events_of_epoch(a_stage(), remembered(seen), an_epoch(epoch=3, clipped=100), samples={}) == []


def test_a_term_without_a_say_in_the_gradient_is_dead():
    stage = a_stage(terms={"ctc": Term(loss=ctc), "extra": Term(loss=ctc, weight=1e-6)})
    shares = {"ctc": 0.99995, "extra": 0.00005}
    [event] = events_of_epoch(stage, Seen(), an_epoch(gradient_shares=shares), samples={})
    assert event.event == "dead_term" and event.evidence["term"] == "extra" and event.evidence["share"] == 5e-5
    assert "stages.only.terms.extra.weight" in event.change
    assert events_of_epoch(stage, Seen(), an_epoch(gradient_shares={"ctc": 0.9, "extra": 0.1}), samples={}) == []


def test_flagged_samples_are_named_once_a_stage():
    seen, now = Seen(), an_epoch(flagged={"infeasible": 64, "nonfinite": 0, "blurred": 1})
    one, other = events_of_epoch(a_stage(), seen, now, samples={"infeasible": ["train/7.png"], "blurred": ["b"]})
    assert (one.event, one.evidence["share"], one.evidence["samples"]) == ("infeasible", 0.01, ["train/7.png"])
    assert "64 of the epoch's 6400 samples cannot be spelled" in one.says and "train/7.png" in one.says
    assert "image.max_width" in one.change
    assert other.event == "blurred" and "flagged as blurred: b" in other.says
    assert events_of_epoch(a_stage(), remembered(seen), now, samples={}) == []


def test_a_skipped_update_names_term_and_samples():
    evidence = {"skipped": 2, "terms": {"ctc": None, "other": 1.0}, "samples": ["a", "b", "c", "d", "e", "f"]}
    event = nonfinite(a_stage(), epoch=1, step=7, evidence=evidence)
    assert "update 7 was skipped: ctc was not finite on samples a, b, c, d, e and 1 more; 2 skipped" in event.says


def validated(stage, many, *, train=None, seen=None):
    """Events of one validation after the other, an epoch each."""
    found, seen = [], seen or Seen()
    for epoch, metrics in enumerate(many, start=1):
        loss = train[epoch - 1] if train else 1 / epoch
        events_of_epoch(stage, seen, an_epoch(epoch=epoch, loss=loss), samples={})
        found += events_of_validation(
            stage, seen, epoch=epoch, step=100 * epoch, metrics=HEALTHY | metrics, loss=loss
        )  # fmt: skip
        seen = remembered(seen)
    return found


def test_a_stage_that_learns_says_nothing():
    stage = a_stage(epochs=12)
    assert validated(stage, [{"made/loss": 3 / epoch, "made/cer": 1 / epoch} for epoch in range(1, 13)]) == []


@pytest.mark.parametrize("fault", [{"made/distinct": 0.002}, {"made/blank_share": 1.0}])
def test_the_same_reading_everywhere_is_a_collapse_once_it_should_have_begun(fault):
    falling = [fault | {"made/loss": 3 / epoch} for epoch in range(1, 13)]
    [event] = validated(a_stage(epochs=12), falling)
    assert (event.event, event.epoch) == ("collapse", 3)  # a quarter of twelve
    assert event.evidence["set"] == "made" and event.evidence[next(iter(fault)).split("/")[1]] in fault.values()
    assert validated(a_stage(epochs=2), falling[:2])[0].epoch == 2  # never by the first validation
    assert validated(a_stage(epochs=12), falling[:2]) == []


def test_reading_nothing_right_is_chance():
    falling = [{"made/loss": 3 / epoch, "made/cer": 0.97} for epoch in range(1, 5)]
    [event] = validated(a_stage(epochs=4), falling)
    assert (event.event, event.epoch, event.evidence["made/cer"]) == ("at_chance", 2, 0.97)


def test_a_loss_that_stays_where_it_began_is_chance_unless_the_stage_began_well():
    same = [{"made/loss": 3 / epoch} for epoch in range(1, 5)]
    [event] = validated(a_stage(epochs=4), same, train=[2.0, 1.99, 1.98, 1.97])
    assert event.event == "at_chance" and event.evidence["first_loss"] == 2.0
    assert "the training loss is 1.9900 after 2.0000" in event.says
    assert validated(a_stage(epochs=4), same, train=[2.0, 1.9, 1.8, 1.7]) == []
    begun = a_stage(epochs=4, start_from=StartFrom(stage="earlier", parts=("cnn", "rnn")))
    assert validated(begun, same, train=[2.0, 1.99, 1.98, 1.97]) == []


def test_a_rising_validation_loss_under_a_falling_training_loss_is_overfitting():
    stage = a_stage(epochs=20)
    losses = [1.0, 0.9, 0.95, 0.98, 1.0]
    [event] = validated(stage, [{"made/loss": loss} for loss in losses])
    assert (event.event, event.epoch) == ("overfitting", 5)
    assert event.evidence["losses"] == [0.9, 0.95, 0.98, 1.0] and event.evidence["best"] == 0.9
    assert "stages.only.augment" in event.change


@pytest.mark.parametrize(("losses", "train"), [
    ([1.0, 0.9, 0.92, 0.95, 0.98], [5, 4, 3, 2, 1]),  # not 10 % above the best
    ([1.0, 0.9, 0.95, 0.94, 1.1], [5, 4, 3, 2, 1]),  # not three times in a row
    ([1.0, 0.9, 0.95, 0.98, 1.0], [5, 4, 4, 4, 4.5]),  # training does not get better either
])  # fmt: skip
def test_what_is_not_overfitting(losses, train):
    assert validated(a_stage(epochs=20), [{"made/loss": loss} for loss in losses], train=train) == []


def test_gaining_nothing_in_the_last_half_is_a_plateau():
    stage = a_stage(epochs=30, best=(Best(metric="made/word_accuracy_36"),))

    def events(values):
        changes = [{"made/loss": 1 / (n + 1), "made/word_accuracy_36": value} for n, value in enumerate(values)]
        return validated(stage, changes)

    [event] = events([0.1, 0.2, 0.3, 0.5, 0.4, 0.4, 0.4, 0.5, 0.4])
    assert (event.event, event.epoch) == ("plateau", 8)
    assert event.evidence == {"metric": "made/word_accuracy_36", "best": 0.5, "at": 4, "validations": 8}
    assert "stages.only.early_stop" in event.change
    assert events([0.1, 0.2, 0.3, 0.4, 0.5, 0.4, 0.4, 0.4]) == []
    assert events([0.1, 0.2, 0.3, 1.0, 1.0, 1.0, 1.0, 1.0]) == []  # nothing left to gain
    stopping = EarlyStop(metric="made/word_accuracy_36", patience=5)
    stage = a_stage(epochs=30, best=stage.best, early_stop=stopping)
    assert events([0.5] * 12) == []


def test_a_crossed_red_line_names_the_source_that_is_forgotten():
    stage = a_stage(red_lines={"made/cer": 0.1})
    assert red_line(stage, epoch=1, step=4, crossed={}) == []
    [event] = red_line(stage, epoch=1, step=4, crossed={"made/cer": 0.25})
    assert "made/cer fell by 0.2500, allowed 0.1" in event.says
    assert "share of made in stages.only.data.shares" in event.change


def clocked(**changes):
    numbers = {"epoch": 1, "step": 9, "seconds": 10.0, "waited": [0.2, 0.9], "busy": [8.0, 9.0]}
    return events_of_clock(a_stage(), **numbers | changes)


def test_an_epoch_that_keeps_its_ranks_busy_says_nothing():
    assert clocked() == [] == clocked(waited=[0.1], busy=[9.0])


def test_waiting_for_data_names_the_rank():
    [event] = clocked(waited=[0.2, 1.5])
    assert event.event == "data_wait" and event.evidence["rank"] == 1
    assert event.evidence["share"] == pytest.approx(0.15)
    assert clocked(waited=[0.2, 1.5], seconds=4.9) == []  # too short to judge


@pytest.mark.parametrize(("busy", "slow"), [([5.0, 9.0], [1]), ([5.0, 9.0, 5.1, 5.2, 7.0], [1, 4])])
def test_a_slow_rank_is_a_straggler(busy, slow):
    [event] = clocked(busy=busy, waited=[0.0] * len(busy))
    assert event.event == "straggler" and event.evidence["ranks"] == slow and event.evidence["busy_s"] == busy
    assert clocked(busy=busy, seconds=4.9) == []


def test_ranks_are_named_with_their_nodes_where_these_are_known():
    found = clocked(busy=[5.0, 9.0], waited=[1.5, 0.0], nodes=("gpu-1:ab", "gpu-2:cd"))
    waits, straggles = found
    assert waits.says.startswith("rank 0 on gpu-1:ab waited 1.5") and waits.evidence["node"] == "gpu-1:ab"
    assert straggles.says.startswith("rank 1 on gpu-2:cd was busy for 9.0") and straggles.evidence["nodes"] == [
        "gpu-2:cd"
    ]


def test_suspected_labels_are_told_at_first_and_when_twice_as_many_are():
    stage, seen, told = a_stage(epochs=9, mining=Mining(suspect_after=4, curriculum=Curriculum(epochs=9))), Seen(), []
    for count in (0, 3, 5, 6, 11):
        ids = [f"made/{number}" for number in range(count)]
        found = suspect_labels(stage, seen, an_epoch(), count=count, of=20, ids=ids)
        told.append([event.evidence["count"] for event in found])
        seen = remembered(seen)
    assert told == [[], [3], [], [6], []]
    [event] = suspect_labels(stage, Seen(), an_epoch(), count=3, of=20, ids=["a", "b", "c"])
    assert event.says.startswith(
        "no character of 3 of 20 samples was read right in their last 4 visits or more: a, b, c"
    )
    assert event.evidence["samples"] == ["a", "b", "c"] and "stages.only.mining.suspect_after" in event.change
    assert "labels are wrong" in event.cause


def test_where_nearly_all_labels_are_suspected_the_reader_is():
    stage = a_stage(epochs=9, mining=Mining(suspect_after=4, curriculum=Curriculum(epochs=9)))
    [event] = suspect_labels(stage, Seen(), an_epoch(), count=11, of=20, ids=["a"])
    assert "the reader reads next to nothing" in event.cause and "train the reader" in event.change
    assert suspect_labels(a_stage(), Seen(), an_epoch(), count=11, of=20, ids=["a"]) == []


def test_a_stage_that_trains_readers_alone_is_judged_by_what_they_read_in_clean_images():
    bad = {"made/cer": 1.0, "made/distinct": 0.002, "made/blank_share": 1.0}
    sound = {"made/cer_target": 0.1, "made/distinct_target": 0.9, "made/blank_share_target": 0.5}
    falling = [{"made/loss": 3 / epoch} for epoch in range(1, 5)]
    readers = a_stage(epochs=4)
    assert validated(readers, [each | bad | sound for each in falling]) == []
    worse = {"made/cer_target": 0.98, "made/distinct_target": 0.001}
    found = validated(readers, [each | bad | sound | worse for each in falling])
    assert sorted(event.event for event in found) == ["at_chance", "collapse"]
    evidence = {event.event: event.evidence for event in found}
    assert evidence["at_chance"]["made/cer_target"] == 0.98 and evidence["collapse"]["distinct_target"] == 0.001
    both = replace(readers, learn=("generator", "rnn"))
    found = validated(both, [each | bad | sound for each in falling])
    assert sorted(event.event for event in found) == ["at_chance", "collapse"]
