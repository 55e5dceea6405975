"""The 59 ways in which trainings of plate restorers went wrong unseen: each is refused, named or impossible here.

Those without a test in this file have one elsewhere:

    1 a file ending left out ........... datasets/test_plates_tracks: png_and_jpg_both_count
    4 annotations passed over .......... datasets/test_plates_tracks: a_bad_annotation_costs_its_track_and_says_why
    5 target with other colours ........ test_augment_pairs: light_changes_in_the_low_resolution_alone
    8 halves out of register ........... datasets/test_rectify: two_pictures_of_one_plate_are_in_register;
                                         datasets/test_pair_image: high_lies_exactly_where_low_does...
    14 too few frames for CTC .......... models/test_simple_crnn: seven_frames_are_too_few...; test_faults_of_words: 04
    15 weights inside log-probabilities  models/test_plate_losses: a_plate_weighs_as_much_as_its_characters_on_average
    16 unbounded weights ............... models/test_symbol_weights: three_hundred_confusions_stay_within_the_bound
    17 sign of the embedding loss ...... models/test_embedding: it_increases_with_the_distance_of_a_pair
    19 a clip without gradient ......... models/test_clip: a_loss_of_629_clipped_at_300
    20 NaN on one rank ................. test_plates_workers: a_nan_of_one_rank_makes_both_skip_and_neither_hang
    21 one reading for all ............. test_evaluate_restored: collapse_shows_as_it_does_with_words; test_events
    22 deformable convolutions ......... models/test_deform: without_offsets_it_is_a_convolution_that_shifts_nothing;
                                         a_checkpoint_of_another_parameterisation_is_refused
    23 a random layer, dead weights .... models/test_plates_generator: two_calls_say_the_same...;
                                         every_parameter_has_a_gradient_from_the_first_step_on
    24 a jump in the output ............ models/test_plates_generator: the_output_stays_in_range...
    25 a frozen OCR in training mode ... models/test_restore: a_frozen_recogniser_keeps_only_its_lstms...;
                                         test_plates_stages: what_is_frozen_keeps_its_hash
    27 one stage alone is another ...... test_plates_stages: one_stage_alone_is_that_part_of_all
    28 last in place of best ........... test_plates_stages: each_stage_starts_from_the_best_of_the_one_before
    29, 30 best and patience carried on  test_plates_stages: best_patience_and_optimiser_begin_anew_with_each_stage
    31 OCR not saved, best overwritten . test_plates_stages: the_recogniser_of_the_third_stage_is_in_the_artefact...;
                                         each_record_names_its_parent_its_data_and_its_plan
    32, 38, 39, 43 ranks that differ ... test_plates_workers, all of it
    33 state missing from a checkpoint . test_plates_resume, all of it
    35 half-written files .............. test_checkpoint: a_draft_is_not_a_checkpoint
    36 a finished stage goes on ........ test_plates_stages: a_finished_stage_is_not_trained_again...
    40, 47, 48 barriers, ports, places . test_workers: the tests with Ray
    41 time-outs in place of causes .... test_events: waiting_for_data_names_the_rank; a_slow_rank_is_a_straggler
    44 wrappers that outlive a stage ... test_workers: two_workers_give_the_optimiser_the_gradient_of_one
    45 mining that loses the shards .... test_mining: any_number_of_ranks_trains_on_the_same_list...
    46 one device is another program ... test_plates_workers: two_workers_end_with_the_weights_of_one
    49 servers nobody asked for ........ nothing starts one: test_tracking writes files alone
    51 hidden multipliers .............. test_preflight_model: a_rate_that_is_not_the_plans_is_refused;
                                         test_plates_stages: the_terms_are_exactly_those_of_the_plan...
    52 metrics that differ ............. test_plates_stages: measured_again_a_record_says_the_same
    53 modules that do not import ...... test_floors: every module is parsed and imported by the tests
    56 mirrored text ................... test_augment_pairs: nothing_is_ever_mirrored
    57 corrected readings in training .. models/test_layout_decoding: raw_and_constrained_readings_are_kept_apart
    59 cuDNN and a frozen LSTM ......... models/test_simple_crnn: a_frozen_reader_sends_gradient_through_cudnn

Acceptance tests with expected numbers: 1 models/test_plates_generator, 2 models/test_deform, 3 models/test_simple_crnn,
4 models/test_clip, 5 models/test_plate_losses, 6 models/test_embedding, 7 models/test_symbol_weights, 8 and 9
test_mining, 10 test_plates_stages, 11 test_plates_workers, 12 test_plates_resume, 13 datasets/test_plates_tracks, 14
models/test_image_metrics, models/test_plate_metrics and models/test_ssim, 15 test_override and test_plates_stages.
"""

from __future__ import annotations

import json
import socket
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from small import a_stage
from small_plates import STAGES, folder_of, plate_shards, record_of, small_plates, trained
from torch import Tensor

from datasets.pair_image import PairSpec
from models.batch import Pair, Restored
from models.mean import Mean, mean_of
from orchestrator import checkpoint
from orchestrator.batches import TrainingData, chosen_buckets, samples_of
from orchestrator.override import override
from orchestrator.pipeline import stage_seed
from orchestrator.plan import Augment, EarlyStop, PlanError, Term
from orchestrator.preflight import PreflightError
from orchestrator.preflight.data import check_splits_disjoint
from orchestrator.preflight.model import Trial, check_gradients
from orchestrator.progress import Progress, stops_early
from orchestrator.ranks import Ranks
from orchestrator.recipes.plates import PLATES36, recipe
from orchestrator.shards import Shards


@pytest.fixture
def opened() -> dict[str, Shards]:
    return {name: Shards.open(folder, verify=False) for name, folder in plate_shards().items()}


def pairs_of(opened: dict[str, Shards], split: str, *, epoch: int = 0, stage: str = "lcofl") -> list[Pair]:
    """What a stage learns from in an epoch, or validates on."""
    plan = small_plates()
    samples = samples_of({"plates": opened["plates"]}, {"plates": split}, plan.alphabet, plan.task.frames)
    data = TrainingData(
        stage=plan.stage(stage), samples=samples, buckets=chosen_buckets(samples), ranks=Ranks(),
        seed=stage_seed(plan, plan.stage(stage)), device=torch.device("cpu"),
    )  # fmt: skip
    with data.batches(epoch, 0) as steps:
        return [batch for step in steps for batch in step]


def test_02_no_plate_and_no_track_is_in_two_splits(opened):
    found = [(shards, split, row) for shards in opened.values() for split in ("train", "valid", "test")
             for row in shards.rows_of(split)]  # fmt: skip
    splits: dict[str, set[str]] = {}
    for shards, split, row in found:
        splits.setdefault(str(shards.groups[row]), set()).add(split)
    assert len(splits) > 30 and all(len(each) == 1 for each in splits.values())
    opened["plates"].groups[opened["plates"].rows_of("train")[0]] = opened["plates"].groups[
        opened["plates"].rows_of("valid")[0]
    ]
    with pytest.raises(PreflightError, match="lie in more than one split"):
        check_splits_disjoint(opened)


def test_03_each_epoch_looks_different_and_validation_never_does(opened):
    by_epoch = [{sample: image for batch in pairs_of(opened, "train", epoch=epoch)
                 for sample, image in zip(batch.ids, batch.image, strict=True)} for epoch in (0, 1)]  # fmt: skip
    assert by_epoch[0].keys() == by_epoch[1].keys() and len(by_epoch[0]) == 24
    assert all(not torch.equal(image, by_epoch[1][sample]) for sample, image in by_epoch[0].items())
    validated = [lines["metrics"] for lines in record_of(trained(), "lcofl")["best"].values()]
    assert validated[0]["plates/psnr_bicubic"] == record_of(trained(), "finetune")["before"]["plates/psnr_bicubic"]


def test_06_no_range_is_guessed_from_the_pixels():
    """A picture without a dark pixel is taken as it is, whatever else is in the batch."""
    draw = torch.Generator().manual_seed(0)
    bright, dark = torch.rand(1, 3, 16, 48, generator=draw), torch.rand(1, 3, 16, 48, generator=draw) - 1
    task = small_plates().task.build().eval()
    with torch.no_grad():
        alone, together = (task(a_pair(image)).image[0] for image in (bright, torch.cat([bright, dark])))
    torch.testing.assert_close(alone, together)


def up(image: Tensor) -> Tensor:
    return image.repeat_interleave(2, 2).repeat_interleave(2, 3)


def a_pair(image: Tensor) -> Pair:
    count = len(image)
    return Pair(
        image=image, widths=torch.full((count,), 48), tokens=torch.ones(count, 7, dtype=torch.long),
        lengths=torch.full((count,), 7), counted=torch.ones(count, dtype=torch.bool), ids=tuple(range(count)),
        target=up(image),
    )  # fmt: skip


def test_07_red_stays_red_and_what_pads_is_the_same_in_both_halves():
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    spec = PairSpec(height=16, width=48, scale=2)
    low, high = spec.prepare(red, red.repeat(2, 0).repeat(2, 1))
    assert low[8, 24].tolist() == [255, 0, 0] == high[16, 48].tolist()
    assert low[0, 0].tolist() == high[0, 0].tolist() == list(spec.pad)


def without_graph(batch: Pair, out: Restored) -> Mean:
    with torch.no_grad():
        return mean_of(out.read.logits.square().mean((1, 2)))


def detached(batch: Pair, out: Restored) -> Mean:
    return mean_of((out.image.detach() - batch.target).abs().mean((1, 2, 3)))


def of_strings(batch: Pair, out: Restored) -> Mean:
    one_hot = torch.nn.functional.one_hot(out.read.logits.argmax(2), out.read.logits.shape[2]).float()
    return mean_of(one_hot.mean((1, 2)))


def skipped(batch: Pair, out: Restored) -> Mean:
    """Nothing where the number of classes is not the one expected."""
    return mean_of(out.image.mean((1, 2, 3)) * (0.0 if out.read.logits.shape[2] != 36 else 1.0))


@pytest.mark.parametrize("loss", [without_graph, detached, of_strings, skipped])
def test_09_to_12_and_54_a_term_that_cannot_teach_the_generator_is_refused(opened, loss):
    stage = replace(small_plates().stage("lcofl"), terms={"lcofl": Term(loss=loss)}, weigh=None)
    trial = Trial(
        stage=stage, task=small_plates().task.build(), batch=pairs_of(opened, "train")[0], autocast=nullcontext,
        ranks=Ranks(), steps=12,
    )  # fmt: skip
    with pytest.raises(PreflightError, match=r"term 'lcofl' is a constant|into part 'generator' is 0"):
        check_gradients(trial)


@pytest.mark.parametrize("stage", STAGES)
def test_09_to_12_every_term_of_the_recipe_teaches_what_it_says(opened, stage):
    task = small_plates().task.build()
    trial = Trial(
        stage=small_plates().stage(stage), task=task, batch=pairs_of(opened, "train")[0], autocast=nullcontext,
        ranks=Ranks(), steps=12,
    )  # fmt: skip
    says = check_gradients(trial).says
    assert all(f"{name} into" in says for name in small_plates().stage(stage).terms)


def test_13_all_36_characters_come_back_and_the_blank_is_none_of_them():
    assert PLATES36.decode(PLATES36.encode(PLATES36.symbols)) == PLATES36.symbols
    assert sorted(PLATES36.encode(PLATES36.symbols)) == list(range(1, 37)) and PLATES36.classes == 37


def test_18_a_term_is_computed_where_it_is_named_and_nowhere_else():
    for stage in STAGES:
        first = json.loads((folder_of(trained(), stage) / "metrics.jsonl").read_text().splitlines()[1])
        named = set(small_plates().stage(stage).terms)
        assert {key.removeprefix("loss/") for key in first if key.startswith("loss/")} <= named
    with pytest.raises(PlanError, match="perceptual"):
        override(recipe(), {"stages.warmup.terms.perceptual.weight": 0.1})


def test_26_building_a_network_asks_the_internet_for_nothing(monkeypatch):
    def no_socket(*given: object, **rest: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", no_socket)
    assert sum(parameter.numel() for parameter in recipe().task.build().parameters()) > 1_000_000


def test_34_and_37_names_have_no_prefix_and_nothing_is_pickled():
    for stage in STAGES:
        folder = folder_of(trained(), stage) / record_of(trained(), stage)["last"]
        assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
        names = [name for tensors in checkpoint.read(folder).tensors.values() for name in tensors]
        assert names and not [name for name in names if "module." in name or "_orig_mod" in name]


def test_42_every_stage_has_another_order_in_every_epoch(opened):
    orders = [[sample for batch in pairs_of(opened, "train", epoch=epoch, stage=stage) for sample in batch.ids]
              for stage in STAGES[1:] for epoch in (0, 1)]  # fmt: skip
    assert all(sorted(order) == list(range(24)) for order in orders)
    assert len({tuple(order) for order in orders}) == len(orders)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("stages.lcofl.optim.lr", 0, "Optim.lr"),  # a nought is said, not passed over
        ("stages.lcofl.epochs", 0, "epochs"),
        ("stages.lcofl.lambda_embed", 0.3, "has no 'lambda_embed'"),
        ("task.generator.num_filters", 64, "has no 'num_filters'"),
        ("stages.lcofl.learn", ["generator", "ocrs"], "ocrs"),
        ("stages.lcofl.terms.characters.trains", ["discriminator"], "discriminator"),
    ],
)
def test_50_a_setting_that_nothing_reads_or_that_cannot_be_is_refused(path, value, reason):
    with pytest.raises(PlanError, match=reason):
        override(recipe(), {path: value})


def test_50_a_nought_that_may_be_is_honoured():
    assert override(recipe(), {"stages.pretrain.optim.weight_decay": 0.0}).stage("pretrain").optim.weight_decay == 0


def test_55_a_gain_of_just_what_is_asked_is_none_and_a_larger_one_is():
    stage = a_stage(early_stop=EarlyStop(metric="made/loss", mode="min", patience=2, min_delta=0.25))
    progress, ended = Progress(), []
    for value in (2.0, 1.75, 1.5, 1.25, 1.0):
        progress.latest = {"made/loss": value}
        ended.append((stops_early(stage, progress), progress.stale))
    assert ended[:4] == [(False, 0), (False, 1), (False, 0), (False, 1)]
    stood = Progress()
    for value in (2.0, 2.0, 2.0):
        stood.latest = {"made/loss": value}
        stopped = stops_early(stage, stood)
    assert stopped and stood.stale == 2


def test_56_no_plan_can_ask_for_a_mirror():
    assert not [name for name in Augment.__dataclass_fields__ if "flip" in name or "mirror" in name]


def test_58_a_recogniser_that_no_generator_learns_from_judges_every_stage():
    for stage in recipe().stages[1:]:
        assert "monitor" not in stage.learn
        assert all("monitor" not in term.trains for term in stage.terms.values())
        assert "plates/recognition_rate_monitor" in record_of(trained(), stage.name)["metrics"]
