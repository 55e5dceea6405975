"""The names that plate recipes are known by in TensorBoard, beside the project's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small_pairs import brightness, plates_like

from orchestrator.plan import Term
from orchestrator.tracking.points import Point, StageAt
from orchestrator.tracking.tensorboard import aliases

TERMS = {"l1": 1.0, "characters": 1.0, "layout": 0.5, "embedding": 0.3}


@pytest.fixture
def at() -> StageAt:
    terms = {name: Term(loss=brightness, weight=weight) for name, weight in TERMS.items()}
    return StageAt(2, replace(plates_like().stages[0], terms=terms), Path("lcofl-abc"))


def named(at: StageAt, end: int, **numbers: float) -> dict[str, float]:
    points = [Point("metrics.jsonl", end, name, value, 1, 10, 5.0) for name, value in numbers.items()]
    return {point.name: point.value for point in aliases(at, points)}


def test_an_epochs_losses_have_their_short_names_and_their_weighted_sums(at):
    losses = {"train/loss/l1": 2.0, "train/loss/characters": 4.0, "train/loss/layout": 6.0, "train/lr": 0.1}
    assert named(at, 1, **losses) == {
        "train_l1": 2.0, "train_characters": 4.0, "train_layout": 6.0, "learning_rate": 0.1,
        "train_loss": 2 + 4 + 0.5 * 6, "train_lcofl": 4 + 0.5 * 6,
    }  # fmt: skip


def test_a_term_that_ramps_weighs_what_it_did_in_that_epoch(at):
    found = named(at, 1, **{"train/loss/embedding": 10.0, "train/weight/embedding": 0.2})
    assert found == {"train_embedding": 10.0, "train_embed": 10.0, "embedding_loss": 10.0, "train_loss": 2.0}


def test_metrics_of_the_first_set_go_by_the_names_of_plate_recipes_too(at):
    found = named(at, 1, **{"val/plates/recognition_rate": 0.5, "val/plates/psnr": 20.0, "val/others/psnr": 1.0})
    assert found == {"val_recognition_rate": 0.5, "val_word_acc": 0.5, "val_psnr": 20.0}


def test_lines_are_summed_one_by_one(at):
    points = [Point("metrics.jsonl", end, "train/loss/l1", float(end), end, end, 1.0) for end in (3, 5)]
    sums = [(point.step, point.value) for point in aliases(at, points) if point.name == "train_loss"]
    assert sums == [(3, 3.0), (5, 5.0)]
