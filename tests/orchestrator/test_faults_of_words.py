"""The eighteen ways in which CRNN trainings went wrong unseen: each ends in a refusal or a named warning here."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from small import (
    Columns,
    MadeData,
    Quiet,
    a_setting,
    a_stage,
    made_of,
    numbered_row,
    shards_of,
    small_recipe,
    some_batch,
    weights_of,
)
from torch import Tensor, nn

from datasets.matlab import entries_of
from datasets.row import SourceError
from models.batch import Batch, Read
from models.losses.text import ctc
from models.mean import Mean
from models.text import ALNUM36, ALNUM62, Alphabet
from orchestrator.batches import TrainingData, chosen_buckets, samples_of
from orchestrator.checkpoint import CheckpointError
from orchestrator.evaluate import evaluate
from orchestrator.execution import Execution
from orchestrator.loop import FrozenChanged, train_stage
from orchestrator.order import Step
from orchestrator.override import override
from orchestrator.pipeline import GateNotMet, Machine, train_recipe
from orchestrator.plan import Best, PlanError, Term
from orchestrator.preflight import PreflightError
from orchestrator.preflight import model as preflight_model
from orchestrator.preflight.data import check_labels, check_shards_fit, check_splits_disjoint
from orchestrator.preflight.frames import check_frames
from orchestrator.preflight.model import Trial, check_effective, check_gradients
from orchestrator.ranks import Ranks
from orchestrator.shards import Shards
from orchestrator.store import Record, Store, StoreError
from orchestrator.trained import fits_of
from orchestrator.weights import load_judged

CPU = Execution(device="cpu")
OTHER = Alphabet(symbols=ALNUM62.symbols[::-1])


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> dict[str, Path]:
    return shards_of(small_recipe(), tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def done(shards, tmp_path_factory) -> Path:
    """The folder of a finished first stage."""
    root = tmp_path_factory.mktemp("done")
    assert run(small_recipe(), root, shards, "pretrain")
    [folder] = root.glob("runs/small/pretrain-*")
    return folder


@pytest.fixture
def opened(shards) -> dict[str, Shards]:
    return {name: Shards.open(folder, verify=False) for name, folder in shards.items()}


def run(recipe, root: Path, shards, stage: str) -> bool:
    machine = Machine.of(CPU, Ranks())
    return train_recipe(recipe, Store(root), shards, CPU, machine=machine, watch=Quiet(), only=[stage])


def a_trial(task: nn.Module | None = None, **changes) -> Trial:
    return Trial(
        stage=a_stage(**changes), task=task or Columns(), batch=some_batch(6), autocast=nullcontext,
        ranks=Ranks(), steps=12,
    )  # fmt: skip


def test_01_weights_of_another_alphabet_do_not_load(done):
    recipe = small_recipe()
    [checkpoint, *_] = sorted(done.glob("checkpoints/step-*"))
    fits = fits_of(recipe) | {"alphabet": OTHER.sha256}
    with pytest.raises(CheckpointError, match=r"its alphabet is .*, this run's is .*carry the symbols over"):
        load_judged(recipe.task.build(), checkpoint, fits)


def test_02_an_alphabet_does_not_grow_by_what_data_hold(tmp_path):
    shards = made_of([*(numbered_row(i) for i in range(8)), numbered_row(8, text="ab\u20ac")], tmp_path)["made"]
    assert shards.manifest.rejects == {"unencodable": 1} and shards.manifest.missing_symbols == {"\u20ac": 1}
    assert shards.manifest.alphabet_sha256 == ALNUM36.sha256


def test_03_shards_of_another_case_policy_are_refused(opened):
    folded = override(
        small_recipe(), {"alphabet.symbols": ALNUM36.symbols, "alphabet.case": "lower", "task.recognizer.classes": 37}
    )
    with pytest.raises(PreflightError, match=r"were made with alphabet .*, the recipe has"):
        check_shards_fit(folded, opened)


def test_04_labels_that_ctc_cannot_spell_are_refused_and_counted(opened):
    shards = opened["rendered"]
    shards.widths = np.full_like(shards.widths, 3)
    with pytest.raises(
        PreflightError,
        match=r"117 of 120 training labels of 'rendered' cannot be learned \(too few frames 117\): .*frames, its 3 col",
    ):
        check_labels({"rendered": shards}, ALNUM62)


def test_05_frames_that_are_not_the_networks_are_refused():
    recipe = small_recipe()
    task = recipe.task.build()
    task.cnn.register_forward_hook(lambda module, given, out: (out[0], out[1] - 1))
    with pytest.raises(PreflightError, match="width 64: the network makes 17 frames and reports 16, the plan's rule"):
        check_frames(task, recipe, [64], torch.device("cpu"))


class Drifts(Columns):
    """A frozen half with a buffer that moves with every forward pass, as running statistics do."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn.register_buffer("seen", torch.zeros(1))

    def forward(self, batch: Batch) -> Read:
        self.cnn.seen += 1
        return super().forward(batch)


def test_06_a_frozen_part_whose_buffers_move_ends_the_stage(tmp_path):
    task = Drifts()
    with pytest.raises(FrozenChanged, match="changed a parameter or buffer of a frozen part"):
        train_stage(a_stage(learn=("rnn",), epochs=1), task, MadeData(), a_setting(tmp_path, task))


def test_07_a_first_learning_rate_that_is_not_the_plans_is_refused(monkeypatch):
    real = preflight_model.update
    monkeypatch.setattr(preflight_model, "update", lambda *a, lr, **k: real(*a, lr=lr * 1.5, **k))
    with pytest.raises(PreflightError, match=r"optimiser's learning rate is \[0.015\], planned \[0.01\]"):
        check_effective(a_trial())


def test_08_a_run_that_was_stopped_ends_in_the_same_bits(tmp_path):
    def trained(folder: Path, *, stop_after: int | None) -> dict[str, Tensor]:
        for steps in (stop_after, 1_000_000):
            if steps is not None:
                torch.manual_seed(0)
                task = Columns()
                train_stage(a_stage(), task, MadeData(), a_setting(folder, task, watch=Quiet(steps=steps)))
        return weights_of(task)

    whole, resumed = (trained(tmp_path / name, stop_after=stop) for name, stop in (("whole", None), ("stopped", 7)))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_09_a_photo_in_two_splits_and_a_test_split_for_selection_are_refused(opened):
    opened["rendered"].groups[0] = opened["rendered"].groups[-1]
    with pytest.raises(PreflightError, match="1 groups lie in more than one split"):
        check_splits_disjoint(opened)
    with pytest.raises(PlanError, match="validates on made/test; allowed: valid or train, never test"):
        a_stage(validate={"made": "test"})


def test_10_a_best_by_training_loss_and_no_validation_are_refused():
    recipe = small_recipe()
    for change in ({"best": (Best(metric="loss/ctc", mode="min"),)}, {"validate": {}}):
        with pytest.raises(PlanError, match=r"decides by 'loss/ctc', but validates on|must each name at least one"):
            replace(recipe, stages=(replace(recipe.stages[0], **change),))


def test_11_a_record_says_n_and_alphabet_with_its_accuracy_or_is_none(done):
    record = Store(done).read(done)
    assert record is not None and record.metrics["rendered/n"] == 24.0
    assert record.plan["alphabet"] == {"is": "models.text.Alphabet", "symbols": ALNUM62.symbols, "blank": 0,
                                       "case": "keep", "unicode": "NFC", "whitespace": "strip"}  # fmt: skip
    data = json.loads((done / "record.json").read_text())
    data["metrics"] = {"rendered/word_accuracy_36": 1.0}
    with pytest.raises(StoreError, match="metrics of rendered do not say their N"):
        Record(**data)


def test_12_another_blank_cannot_be_said(opened):
    with pytest.raises(ValueError, match="blank is 62; it is class 0"):
        Alphabet(symbols=ALNUM62.symbols, blank=62)  # type: ignore[arg-type]
    opened["rendered"].manifest.alphabet["blank"] = 62  # type: ignore[index]
    with pytest.raises(PreflightError, match="were made with blank 62, the recipe has 0"):
        check_shards_fit(small_recipe(), opened)


def test_13_rows_that_cannot_be_used_are_listed_by_reason_and_warned_of(tmp_path):
    rows = [*(numbered_row(i) for i in range(8)), numbered_row(8, seed=1000), numbered_row(9, text="ab" * 30)]
    shards = made_of(rows, tmp_path)
    rejects = [json.loads(line) for line in (shards["made"].folder / "rejects.jsonl").read_text().splitlines()]
    assert {each["id"]: each["reason"] for each in rejects} == {"p8": "unreadable", "p9": "infeasible"}
    [warning] = check_labels(shards, ALNUM36).warnings
    assert "2 of 10 rows were rejected at ingest" in warning


def test_14_weights_do_not_load_for_images_prepared_in_another_way(done):
    recipe = small_recipe()
    [checkpoint, *_] = sorted(done.glob("checkpoints/step-*"))
    other = fits_of(replace(recipe, image=replace(recipe.image, wider="reject")))
    with pytest.raises(CheckpointError, match=r"its ImageSpec is .*, this run's is"):
        load_judged(recipe.task.build(), checkpoint, other)


def test_15_a_mat_file_with_fields_in_another_order_is_refused(tmp_path):
    sample = np.array([("A", "a.png")], dtype=[("words", "O"), ("name", "O")])
    scipy.io.savemat(tmp_path / "x.mat", {"sample": sample})
    with pytest.raises(SourceError, match=r"must be a struct array with the fields \['name', 'words'\], found"):
        list(entries_of(tmp_path / "x.mat", "sample", fields=["name", "words"], entries=1))


def test_16_nothing_starts_from_a_stage_whose_gate_failed(done, shards):
    root = done.parents[2]
    gated = override(small_recipe(), {"stages.pretrain.gate": {"rendered/word_accuracy_36": 0.99}})
    with pytest.raises(GateNotMet, match=r"below its gate of 0\.9900"):
        run(gated, root, shards, "finetune_frozen")


def own_mean(batch: Batch, out: Read) -> Tensor:
    return out.logits.square().mean()


def test_17_a_loss_with_a_reduction_of_its_own_is_refused(opened):
    with pytest.raises(PreflightError, match="term 'own' returns Tensor; a term returns a Mean"):
        check_gradients(a_trial(terms={"own": Term(loss=own_mean)}))
    recipe, samples = small_recipe(), samples_of(opened, {"rendered": "valid"}, ALNUM62, small_recipe().task.frames)
    task = recipe.task.build()
    told = evaluate(
        task, {"r": samples}, ALNUM62, device=torch.device("cpu"), autocast=nullcontext, ranks=Ranks()
    )  # fmt: skip
    assert told["r/loss"] == pytest.approx(mean_over(task, samples), rel=1e-5)  # validation and training mean the same


def mean_over(task: nn.Module, samples) -> float:
    """The training loss over all samples, three at a time."""
    total = Mean(torch.zeros(()), torch.zeros(()))
    with torch.no_grad():
        for start in range(0, len(samples), 3):
            rows = np.arange(start, min(start + 3, len(samples)))
            width = -(-int(samples.widths[rows].max()) // 4) * 4
            batch = samples.batch(Step(rows, width), device=torch.device("cpu"))
            total = total + ctc(batch, task.eval()(batch))
    return float(total.value)


@pytest.mark.parametrize("ranks", [2, 3])
def test_18_the_samples_of_a_step_do_not_depend_on_the_number_of_workers(opened, ranks):
    stage = small_recipe().stages[0]
    samples = samples_of(opened, {"rendered": "train"}, ALNUM62, small_recipe().task.frames)

    def steps_of(rank: int, count: int) -> list[set[int]]:
        data = TrainingData(
            stage=stage, samples=samples, buckets=chosen_buckets(samples), seed=7, ranks=Ranks(rank, count),
            device=torch.device("cpu"),
        )  # fmt: skip
        with data.batches(1, 0) as steps:
            return [{sample for batch in step for sample in batch.ids} for step in steps]

    each = [steps_of(rank, ranks) for rank in range(ranks)]
    assert [set.union(*parts) for parts in zip(*each, strict=True)] == steps_of(0, 1)
