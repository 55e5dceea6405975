"""What went wrong unseen when documents were restored before: each fault is refused, named or impossible here.

The eighteen that must be impossible, and where that is shown if not in this file:

    1 unknown or unused settings ....... here; test_override: an_unknown_key_is_named_with_its_nearest_match;
                                         test_preflight: a_setting_that_the_network_does_not_read_is_named
    2 metrics without reference, scores
      of several definitions ........... here; test_evaluate_lines: consistency_has_its_own_name_and_reference
    3 a clamp that takes all gradient .. here; models/test_line_ctc: hard_takes_the_gradient_of_the_hard_line_alone...
    4 a balancer that does nothing ..... here; test_events_adversary: a_balance_that_never_moved_is_named...;
                                         test_documents_steps: factors_follow_the_norms_at_the_restored_image
    5 a best one evicted ............... here; test_checkpoint: rotation_keeps_the_newest_and_never_removes_a_best_one
    6 resuming on another path ......... test_documents_steps: stopped_after_any_update_and_started_again...
    7 starting from and resuming mixed . test_plates_stages: best_patience_and_optimiser_begin_anew_with_each_stage
    8 partial loads of weights ......... here; test_trained: a_tensor_that_does_not_fit_is_refused; test_imported
    9 range and orientation ............ here; test_orientation_of_documents (swapped, reshaped, inverted, transposed,
                                         another blank, each through the whole pipeline); datasets/test_pair_image;
                                         models/test_documents_generator
    10 validation on a subset .......... test_evaluate_lines: any_number_of_ranks_finds_the_same_on_every_one;
                                         everything_that_was_measured_of_lines_has_its_count (test_evaluate_documents)
    11 leakage between splits .......... test_preflight_data; test_line_pairs_ingest: one_clean_line_in_two_splits...;
                                         datasets/test_document_lines: paper_of_one_split_is_never_that_of_another
    12 frozen parts that move .......... here; test_adversary: frozen_normalisation_keeps_its_statistics...
    13 a frozen reader on cuDNN ........ models/test_simple_crnn: a_frozen_reader_sends_gradient_through_cudnn
    14 steps that are not finite ....... test_adversary: what_is_not_finite_for_one_player_is_skipped_for_both
    15 weights that reach no step ...... test_adversary: a_loss_is_the_slope_of_the_objective_by_its_weight
    16, 17 trials of sweeps ............ there are no sweeps yet
    18 a discriminator at chance ....... here; test_events_adversary: a_discriminator_at_chance_is_named_after_some...
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from small_documents import (
    AGAINST,
    STEPS,
    SYMBOLS,
    TERMS,
    a_task,
    adversarial,
    some_lines,
    some_of,
    trained,
)
from torch import Tensor

from models.batch import Read
from models.losses.adversarial import DiscriminatorTerm
from models.losses.line_ctc import Ceiling, LineCTC, uniform_nats, worse_than_guessing
from models.metrics.text import cer
from orchestrator import checkpoint
from orchestrator.balance import Balance
from orchestrator.checkpoint import CheckpointError
from orchestrator.expressions import Expression, NotComparable, Score
from orchestrator.journal import lines
from orchestrator.loop import FrozenChanged
from orchestrator.override import override
from orchestrator.plan import Optim, PlanError, Term
from orchestrator.preflight import PreflightError
from orchestrator.preflight.model import Trial, check_gradients
from orchestrator.preflight.plan import check_headroom
from orchestrator.ranks import Ranks
from orchestrator.recipes.words import recipe as words
from orchestrator.weights import load_parts


def events_in(folder) -> dict[str, dict]:
    return {line["event"]: line for line in lines(folder / "metrics.jsonl", "event")}


def test_01_and_07_a_flat_switch_for_early_stopping_is_no_early_stopping_and_is_refused():
    settings = {"early_stop": True, "early_stopping": True, "early_stop.enabled": True, "warmup_epochs": 0}
    for name, value in settings.items():
        with pytest.raises(PlanError, match=rf"stages\.pretrain.*{name.split('.')[0]}|{name}"):
            override(words(), {f"stages.pretrain.{name}": value})


def test_01_no_warm_up_comes_in_unasked(tmp_path):
    """A default of ten epochs of warm-up and ten of annealing once ran in spite of a plan that said none."""
    assert TERMS["ctc"].weight_at(0) == TERMS["ctc"].weight
    trained(tmp_path, adversarial())
    assert "weight/ctc" not in lines(tmp_path / "metrics.jsonl", "epoch")[0]
    assert lines(tmp_path / "metrics.jsonl", "epoch")[0]["gradient_share/ctc"] > 0


def test_02_scores_of_two_definitions_are_never_compared():
    metrics = {"psnr": 29.898, "cer": 0.063105}
    found = [Expression(name="score", text=text).of(metrics) for text in ("psnr - 50 * cer", "psnr - 10 * cer")]
    assert found[0].value == pytest.approx(26.743, abs=1e-3)
    with pytest.raises(NotComparable, match="compute both from their metrics by one expression"):
        found[0].beats(found[1])
    assert Score.read(found[0].plain()).beats(None)


def hard(value: float) -> LineCTC:
    return LineCTC(normalize="none", ceiling=Ceiling(mode="hard", value=value, accept_dead_gradient=True))


def half_the_floor() -> float:
    """Half of what the cheapest line costs when its clean image is read."""
    task, batch = a_task().eval(), some_lines(8)
    with torch.no_grad():
        return float(LineCTC(normalize="none").values(batch, task(batch).clean).min()) / 2


def with_ctc(loss: LineCTC, **changes):
    return adversarial(terms={**TERMS, "ctc": Term(loss=loss)}, **changes)


def a_trial(stage) -> Trial:
    return Trial(stage=stage, task=a_task(), batch=some_lines(), autocast=nullcontext, ranks=Ranks(), steps=6)


def test_03_a_hard_clip_at_half_the_floor_is_refused_unless_it_is_accepted_by_name_and_then_told(tmp_path):
    value = half_the_floor()
    with pytest.raises(ValueError, match="takes all gradient from every line above the ceiling; take 'log_tail'"):
        Ceiling(mode="hard", value=value)
    with pytest.raises(PreflightError, match="gradient of term 'ctc' into part 'generator' is 0"):
        check_gradients(a_trial(with_ctc(hard(value))))
    trained(tmp_path, with_ctc(hard(value), epochs=4))
    found = events_in(tmp_path)
    assert found["always_clipped"]["evidence"] == {
        "term": "ctc", "share": 1.0, "mode": "hard", "ceiling": value, "loss": pytest.approx(value)
    }  # fmt: skip
    assert "no gradient at all" in found["always_clipped"]["says"] and "dead_term" in found
    assert [line["watch/clipped_ctc"] for line in lines(tmp_path / "metrics.jsonl", "epoch")] == 4 * [1.0]


@pytest.mark.parametrize("mode", ["log_tail", "root_tail"])
def test_03_the_other_ceilings_leave_gradient_where_hard_leaves_none(mode):
    soft = LineCTC(normalize="none", ceiling=Ceiling(mode=mode, value=half_the_floor()))
    assert "ctc into generator" in check_gradients(a_trial(with_ctc(soft))).says


def test_03_a_clip_acts_on_each_line_and_never_on_the_mean_of_a_batch():
    """Losses of 703 and 4.5 nats: the mean, 354, is above 300, and still the second line teaches."""
    logits = torch.zeros(2, 64, 5)
    logits[0, :, 0] = 40.0
    logits.requires_grad_()
    batch = replace(some_of(some_lines(), slice(0, 2)), lengths=torch.tensor([3, 1]))
    read = Read(logits=logits, frames=torch.tensor([64, 1]))
    values = LineCTC(normalize="none").values(batch, read)
    assert values[0] > 100 > 10 > values[1] and values.mean() > 30
    hard(30.0)(batch, read).value.backward()
    assert logits.grad is not None and logits.grad[0].abs().max() == 0 < logits.grad[1].abs().max()


def test_04_a_balance_that_is_configured_but_cannot_act_is_refused_or_told(tmp_path):
    shares = {"ctc": 0.65, "pixel": 0.35}
    with pytest.raises(PlanError, match="2 epochs of a stage of 2; it would never act"):
        adversarial(balance=Balance(shares=shares, warmup=2))
    rarely = adversarial(balance=Balance(shares=shares, warmup=1, every=1000))
    trained(tmp_path, rarely)
    assert events_in(tmp_path)["balancer_never_moved"]["evidence"]["updates"] == 0


def test_05_a_best_one_outlives_any_rotation(tmp_path):
    """Two bests, both of the first epoch, five more epochs, and two checkpoints besides."""
    values = iter([30.0, 20.0, 21.0, 22.0, 23.0, 24.0])

    def worse(judged) -> dict[str, float]:
        found = next(values)
        return {"lines/psnr": found, "lines/cer": 1 / found}

    _, progress = trained(tmp_path, adversarial(epochs=6), evaluate=worse)
    assert {best["step"] for best in progress.best.values()} == {STEPS}
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert len(kept) == 3 and kept[0] == checkpoint.folder_of(tmp_path, STEPS).name
    checkpoint.read(tmp_path / "checkpoints" / kept[0])
    with pytest.raises(CheckpointError):  # a missing one is an error, never the latest in its place
        checkpoint.read(checkpoint.folder_of(tmp_path / "checkpoints", 2 * STEPS))


def test_08_weights_load_wholly_or_not_at_all(tmp_path):
    stage = adversarial(epochs=1)
    _, progress = trained(tmp_path, stage)
    contents = checkpoint.read(checkpoint.folder_of(tmp_path / "checkpoints", progress.step))
    part = dict(contents.tensors["weights.recognizer"])
    name = next(name for name, value in part.items() if value.ndim > 1)
    for wrong in ({key: value for key, value in part.items() if key != name}, {**part, "head_of_another": part[name]},
                  {**part, name: part[name][:1]}):  # fmt: skip
        damaged = replace(contents, tensors={**contents.tensors, "weights.recognizer": wrong})
        with pytest.raises(CheckpointError, match="part 'recognizer' does not fit the checkpoint"):
            load_parts(a_task(), damaged, "weights")


def stripes(texts: list[str], noise: float) -> Tensor:
    """``(B, 16, 16)`` squares of four columns of one grey for each character."""
    draw = torch.Generator().manual_seed(0)
    greys = torch.tensor([[0.25 * "abcd".index(char) for char in text] for text in texts])
    image = greys.repeat_interleave(4, 1)[:, None].expand(-1, 16, -1)
    return image + noise * torch.randn(image.shape, generator=draw)


def read_columns(image: Tensor) -> list[str]:
    """A sound recogniser for them: the grey of each four columns."""
    greys = image.mean(1).view(len(image), 4, 4).mean(2)
    return ["".join("abcd"[k] for k in row) for row in (greys / 0.25).round().clamp(0, 3).long().tolist()]


@pytest.mark.parametrize("fault", ["swapped", "reshaped", "inverted"])
def test_09_a_recogniser_that_is_shown_another_orientation_or_range_is_refused(fault):
    texts = ["abcd", "dcba", "abdc", "cadb", "bdca", "dabc"] * 4
    seen = {
        "swapped": lambda image: image.transpose(1, 2),
        "inverted": lambda image: 0.75 - image,
        "reshaped": lambda image: image.reshape(-1, 8, 32).reshape(-1, 32, 8)[:, ::2].repeat(1, 1, 2),
    }[fault]

    def rates(look) -> dict[str, float]:
        kinds = {"cer_target": stripes(texts, 0.0), "cer_degraded": stripes(texts, 0.6)}
        return {f"lines/{kind}": cer(read_columns(look(image)), texts).value for kind, image in kinds.items()}

    assert check_headroom(adversarial(), rates(lambda image: image)).says
    with pytest.raises(PreflightError, match="look at what it reads in clean images, and at their range, polarity and"):
        check_headroom(adversarial(), rates(seen))


def test_09_another_blank_costs_more_than_a_guess():
    """A perfect reader whose blank is its last class instead of its first."""
    batch, frames = some_lines(), 60
    batch = replace(batch, tokens=batch.tokens.clamp(max=SYMBOLS - 1))
    logits = torch.zeros(4, frames, SYMBOLS + 1)
    for row, (text, length) in enumerate(zip(batch.tokens.tolist(), batch.lengths.tolist(), strict=True)):
        path = torch.zeros(frames, dtype=torch.long)
        for place, symbol in enumerate(text[:length]):
            path[20 * place + 5] = symbol
        logits[row, torch.arange(frames), path] = 20.0
    read = Read(logits=logits, frames=torch.full((4,), frames))
    moved = Read(logits=logits.roll(-1, 2), frames=read.frames)
    assert not worse_than_guessing(batch, read).any() and worse_than_guessing(batch, moved).all()
    assert (LineCTC(normalize="none").values(batch, moved) > 2 * uniform_nats(batch, moved)).all()
    costs = [float(LineCTC().values(batch, each).mean()) for each in (read, moved)]
    guess = float((uniform_nats(batch, read) / batch.lengths).mean())
    known = {"lines/cer_target": 0.1, "lines/cer_degraded": 0.9, "lines/ctc_uniform": guess}
    assert check_headroom(adversarial(), known | {"lines/ctc_target": costs[0]}).says
    with pytest.raises(
        PreflightError, match="Look for another alphabet, blank or orientation than it was trained with"
    ):
        check_headroom(adversarial(), known | {"lines/ctc_target": costs[1]})


class Leaking(torch.nn.Module):
    """A frozen part whose forward pass moves a buffer although it is in eval mode."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("calls", torch.zeros(()))

    def features(self, image: Tensor, widths: Tensor):
        self.calls += 1
        return self.inner.features(image, widths)

    def read(self, features: Tensor, frames: Tensor) -> Read:
        return self.inner.read(features, frames)


def test_12_a_frozen_part_that_moves_ends_the_stage(tmp_path):
    task = a_task()
    task.recognizer = Leaking(task.recognizer)
    with pytest.raises(FrozenChanged, match="changed a parameter or buffer of a frozen part"):
        trained(tmp_path, adversarial(epochs=1), task=task)


def test_18_a_discriminator_that_learns_too_slowly_is_named(tmp_path):
    judge = DiscriminatorTerm(kind="bce", real=0.9)
    slow = replace(AGAINST, terms={"judge": Term(loss=judge)}, optim=Optim(lr=1e-9))
    trained(tmp_path, adversarial(epochs=4, adversary=slow))
    found = events_in(tmp_path)["discriminator_at_chance"]
    assert found["epoch"] == 3 and found["evidence"]["loss"] >= 0.98 * judge.chance
    assert found["change"].startswith("raise stages.adversarial.adversary.optim.lr")
