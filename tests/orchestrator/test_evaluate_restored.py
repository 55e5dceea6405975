"""Validation of restoring: every number by hand, and the same ones in any order and at any number of ranks."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from plates_made_up import Brightens, Plates, Told
from small_pairs import plates_like

from models.losses.embedding import EmbeddingTerm
from models.losses.image import l1
from orchestrator import evaluate_restored
from orchestrator.evaluate import evaluate
from orchestrator.events import Seen
from orchestrator.events_validation import collapse
from orchestrator.plan import Term
from orchestrator.ranks import Ranks
from orchestrator.recipes.plates import PLATES36

# Three frames of one plate, two of another, one of a third.
LABELS = ["ABC1234"] * 3 + ["XYZ9876"] * 2 + ["KLM5555"]
KNOWN: list[dict[str, object]] = [
    *({"track": "one", "frame": number, "layout": "Brazilian"} for number in (1, 2, 3)),
    *({"track": "two", "frame": number} for number in (1, 2)),
    {"track": "three", "frame": 1},
]
READ = {
    "": ["ABC1234", "A8C1234", "ABC1284", "XYZ9876", "XYZ987", "KLM5555"],  # 3 of 6; 3 of 42 characters
    "_bicubic": ["A8C1234", "A8C1234", "", "XYZ9876", "XYZ9876", "KIM5555"],  # 2 of 6; 10 of 42
    "_target": ["ABC1234"] * 3 + ["XYZ9876"] * 2 + ["KLM5S55"],  # 5 of 6; 1 of 42
}
SECOND = {"": ["ABC1234", *["ABO1234"] * 2, *LABELS[3:]], "_bicubic": [""] * 6, "_target": LABELS}
TERMS = {"l1": Term(loss=l1, weight=3.0)}
COMPARING = {**TERMS, "embedding": Term(loss=EmbeddingTerm())}


def metrics_of(
    task: Brightens, samples: Plates, *, ranks: Ranks | None = None, terms: Any = TERMS
) -> dict[str, float]:  # fmt: skip
    found = evaluate(
        task, {"made": samples}, PLATES36, device=torch.device("cpu"), autocast=nullcontext, ranks=ranks or Ranks(),  # type: ignore[dict-item]
        terms=terms,
    )  # fmt: skip
    return {name.removeprefix("made/"): value for name, value in found.items()}


def test_what_is_read_in_restored_images_in_bicubic_and_in_the_target():
    found = metrics_of(Brightens(Told(READ)), Plates(LABELS, KNOWN))
    assert found["n"] == 6 and "n_compared" not in found
    rates = {"": 3 / 6, "_bicubic": 2 / 6, "_target": 5 / 6}
    errors = {"": 3 / 42, "_bicubic": 10 / 42, "_target": 1 / 42}
    for name, rate in rates.items():
        assert found[f"recognition_rate{name}"] == rate
        assert found[f"cer{name}"] == pytest.approx(errors[name])
        assert found[f"character_accuracy{name}"] == pytest.approx(1 - errors[name])  # all labels are equally long


def test_tracks_vote_and_an_empty_reading_reads_nothing_right():
    found = metrics_of(Brightens(Told(READ)), Plates(LABELS, KNOWN))
    assert found["recognition_rate_track"] == pytest.approx(2 / 3)  # two frames of three are right at every place
    assert found["recognition_rate_track_bicubic"] == pytest.approx(1 / 3)
    assert found["recognition_rate_track_target"] == pytest.approx(2 / 3)
    nothing = {kind: [""] * 6 for kind in READ}
    assert metrics_of(Brightens(Told(nothing)), Plates(LABELS, KNOWN))["character_accuracy"] == 0


def test_the_surer_frames_decide_about_a_track():
    texts = {**READ, "": ["ABC1234", "A8C1234", "A8C1234", "XYZ9876", "XYZ9876", "KLM5555"]}
    unsure = metrics_of(Brightens(Told(texts)), Plates(LABELS, KNOWN))
    sure = metrics_of(Brightens(Told(texts, sure=[50.0, 2.0, 2.0, 50.0, 50.0, 50.0])), Plates(LABELS, KNOWN))
    assert unsure["recognition_rate_track"] == pytest.approx(2 / 3) and sure["recognition_rate_track"] == 1


def test_without_several_frames_there_is_no_rate_of_tracks():
    for known in (None, [{"track": str(number)} for number in range(6)]):
        found = metrics_of(Brightens(Told(READ)), Plates(LABELS, known))
        assert "recognition_rate" in found and not [name for name in found if "track" in name]


def test_decibels_of_a_tenth_of_the_range():
    found = metrics_of(Brightens(Told(READ)), Plates(LABELS, KNOWN))
    assert found["psnr"] == pytest.approx(26.02, abs=0.005) and found["psnr_bicubic"] == pytest.approx(20, abs=0.005)
    assert 1 > found["ssim"] > found["ssim_bicubic"] > 0
    assert found["loss_l1"] == pytest.approx(0.1, rel=1e-5) and found["loss"] == pytest.approx(0.3, rel=1e-5)


def test_the_second_recogniser_is_asked_where_there_is_one():
    alone = metrics_of(Brightens(Told(READ)), Plates(LABELS, KNOWN))
    found = metrics_of(Brightens(Told(READ), Told(SECOND)), Plates(LABELS, KNOWN))
    assert not [name for name in alone if "monitor" in name]
    rates = [found[f"recognition_rate{name}_monitor"] for name in ("", "_bicubic", "_target")]
    assert rates == [4 / 6, 0, 1] and found["recognition_rate_track_target_monitor"] == 1
    assert {name: found[name] for name in alone} == alone  # the first one's numbers are still its own


def test_symbols_that_labels_do_not_tell_apart_count_as_equal_there_and_nowhere_else():
    labels, texts = ["4O0B", "4O0B"], {kind: ["400B", "400B"] for kind in READ}
    found = metrics_of(Brightens(Told(texts)), Plates(labels, [{"alike": ["0O"]}, {}]))
    assert (found["recognition_rate"], found["cer"], found["character_accuracy"]) == (1 / 2, 1 / 8, 7 / 8)


def test_pairs_without_a_target_are_read_and_not_compared():
    found = metrics_of(Brightens(Told(READ), Told(SECOND)), Plates(LABELS, KNOWN, blind=[3, 4]))
    assert found["n"] == 6 and found["n_compared"] == 4
    assert found["recognition_rate"] == 3 / 6 and found["recognition_rate_bicubic"] == 2 / 6
    assert found["recognition_rate_target"] == 3 / 4 and found["recognition_rate_target_monitor"] == 1
    assert found["psnr"] == pytest.approx(26.02, abs=0.005)


def test_where_nothing_can_be_compared_nothing_is_claimed():
    found = metrics_of(Brightens(Told(READ)), Plates(LABELS, KNOWN, blind=range(6)))
    assert found["n_compared"] == 0 and found["recognition_rate"] == 3 / 6
    assert not [name for name in found if name.startswith(("loss", "psnr", "ssim")) or name.endswith("_target")]


def test_collapse_shows_as_it_does_with_words():
    healthy = metrics_of(Brightens(Told(dict.fromkeys(READ, LABELS))), Plates(LABELS, KNOWN))
    assert healthy["distinct"] == 1 and healthy["blank_share"] == pytest.approx(1 - 7 / 24)
    assert healthy["entropy"] == pytest.approx(0, abs=1e-6)
    silent = metrics_of(Brightens(Told({kind: [""] * 6 for kind in READ})), Plates(LABELS, KNOWN))
    assert silent["blank_share"] == 1 and silent["distinct"] == pytest.approx(1 / 3)  # one reading, three plates
    unsure = metrics_of(Brightens(Told(READ, sure=0.0)), Plates(LABELS, KNOWN))
    assert unsure["entropy"] == pytest.approx(1)
    stage = plates_like().stages[0]
    for metrics, events in ((healthy, []), (silent, ["collapse"])):
        named = {f"made/{name}": value for name, value in metrics.items()}
        found = collapse(stage, Seen(), epoch=1, step=1, metrics=named)
        assert [event.event for event in found] == events


@dataclass(frozen=True)
class Beside(Ranks):
    """One of several ranks that run in threads side by side."""

    box: list[Any] = field(default_factory=list)
    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))

    def gather(self, own: Any) -> list[Any]:
        self.box[self.rank] = own
        self.barrier.wait(timeout=60)
        everyone = list(self.box)
        self.barrier.wait(timeout=60)
        return everyone

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.gather(values.clone())).sum(dim=0)


@pytest.mark.parametrize("count", [2, 4, 7])  # seven: one of them has no plate at all
def test_any_number_of_ranks_finds_the_same_on_every_one(count):
    samples = Plates(LABELS, KNOWN, blind=[5])
    alone = metrics_of(Brightens(Told(READ), Told(SECOND)), samples, terms=COMPARING)
    assert alone["loss_embedding"] > 0
    assert alone["loss"] == pytest.approx(3 * alone["loss_l1"] + alone["loss_embedding"])
    box, barrier = [None] * count, threading.Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(
            lambda rank: metrics_of(
                Brightens(Told(READ), Told(SECOND)), samples,
                ranks=Beside(rank, count, box=box, barrier=barrier), terms=COMPARING,
            ),
            range(count),
        ))  # fmt: skip
    for metrics in found:
        assert metrics == found[0]
        assert metrics == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_loss_that_compares_plates_does_not_depend_on_how_they_fall_into_batches(monkeypatch, size):
    samples = Plates([*LABELS[:5], "A1"], KNOWN)  # a shorter label in a batch of its own
    whole = metrics_of(Brightens(Told(READ)), samples, terms=COMPARING)
    monkeypatch.setattr(evaluate_restored, "BATCH_SIZE", size)
    assert metrics_of(Brightens(Told(READ)), samples, terms=COMPARING) == pytest.approx(whole, rel=1e-6)


def test_the_order_of_samples_does_not_matter():
    one, other = (
        metrics_of(Brightens(Told(READ), Told(SECOND)), Plates(LABELS, KNOWN, order=order))
        for order in (None, [4, 2, 5, 0, 3, 1])
    )
    assert one == pytest.approx(other, rel=1e-6)
