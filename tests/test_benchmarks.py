"""The figures compare like with like: both sides of each do the same work. No test looks at a clock."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("psutil", reason="the figures need psutil: pip install -e '.[dev]'")
pytest.importorskip("lmdb", reason="the figures need lmdb: pip install -e '.[dev]'")

from benchmarks import buckets, checkpoint, crnn_step, gpu, ingest, input, measure, ray_stage, rendering, stage_start
from benchmarks.measure import Sample
from benchmarks.plain_crnn import with_weights_of
from benchmarks.words import PLAIN, train_samples, word_shards
from datasets.image import ImageSpec
from models.recognizers.crnn import CRNNConfig
from models.text import ALNUM62
from orchestrator.checkpoint import Staging
from orchestrator.loop import train_stage
from orchestrator.order import Step
from tests.orchestrator.small import Columns, MadeData, a_setting
from tests.orchestrator.small import a_stage as a_loop_stage

FEW = replace(PLAIN, count=80)


@pytest.fixture(autouse=True)
def one_thread_as_before():
    """The scripts set Torch's threads for themselves; the tests after them get theirs back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return word_shards(tmp_path_factory.mktemp("words"), FEW)


def sample(seconds: float, *, others: float = 0.0, result: object = None) -> Sample:
    return Sample(seconds=seconds, cpu=seconds, others=others, result=result)


def seconds(of: Sample) -> float:
    return of.seconds


def test_every_way_runs_once_a_round_and_every_other_round_backwards():
    called: list[str] = []
    ways = {name: lambda name=name: called.append(name) for name in "ab"}
    found = measure.interleaved(ways, 3, tell=False)
    assert called == ["a", "b", "b", "a", "a", "b"]
    assert {name: len(samples) for name, samples in found.items()} == {"a": 3, "b": 3}


def test_what_one_way_leaves_for_the_next_is_met_in_the_order_asked_for():
    called: list[str] = []
    ways = {name: lambda name=name: called.append(name) for name in "ab"}
    measure.interleaved(ways, 2, keep_order=True, tell=False)
    assert called == ["a", "b", "a", "b"]


def test_loud_rounds_are_left_out_while_three_quiet_ones_remain():
    ours = [sample(1.0), sample(1.0), sample(1.0), sample(9.0, others=1.0)]
    theirs = [sample(2.0), sample(3.0), sample(4.0), sample(9.0)]
    assert measure.trusted(ours, theirs) == [0, 1, 2]
    assert measure.ratio(theirs, ours, seconds) == 3.0
    assert measure.flag(ours, theirs) == ""


def test_without_quiet_rounds_the_quietest_third_counts_and_is_flagged():
    loud = [sample(float(load), others=load) for load in (3, 1, 2, 4, 5, 6)]
    assert measure.trusted(loud) == [1, 2]
    assert measure.middle(loud, seconds) == 1.5
    assert measure.flag(loud) == "*"


def test_a_sample_holds_what_the_work_gave_and_what_it_cost():
    done = measure.measured(lambda: sum(range(200_000)))
    assert done.result == 19_999_900_000
    assert done.cpu > 0 and done.others >= 0


@pytest.mark.parametrize(("value", "least", "met"), [(2.0, True, True), (0.9, True, False), (0.9, False, True)])
def test_a_verdict_says_whether_the_goal_is_met(value, least, met):
    assert measure.verdict(value, 1.0, least=least).endswith(": met") is met


def test_the_plain_network_computes_what_ours_does_where_nothing_is_padding():
    torch.manual_seed(0)
    ours = CRNNConfig(classes=5, width=0.125, hidden=8).build()
    plain = with_weights_of(ours)
    image = torch.rand(3, 1, 32, 40) * 2 - 1
    read = ours(image, torch.full((3,), 40))
    torch.testing.assert_close(plain(image), read.logits, rtol=1e-4, atol=1e-5)
    assert set(read.frames.tolist()) == {read.logits.shape[1]}  # the plain recipe asks for the same frames


def test_plain_recipe_and_ours_take_the_same_steps(shards):
    losses = crnn_step.curves(train_samples(shards), steps=6, width=0.0625, hidden=8, batch_size=8)
    assert len(set(losses["plain fp32"])) == 6  # they do learn, each from another batch
    assert losses["ours fp32"] == pytest.approx(losses["plain fp32"], rel=1e-4)
    assert losses["ours bf16"] == pytest.approx(losses["plain fp32"], rel=2e-2)


def test_the_furthest_point_of_two_curves_is_found():
    assert crnn_step.furthest([2.0] * 10 + [3.0] * 10, [2.0] * 10 + [2.0] * 10) == 0.5


def test_lmdb_and_shards_give_the_same_words(shards, tmp_path):
    input.write_lmdb(FEW, None, tmp_path / "lmdb")
    samples = train_samples(shards)
    input.refuse_other_words(tmp_path / "lmdb", samples)
    assert input.images_of_loader(tmp_path / "lmdb", workers=0) == input.images_of_shards(samples) == FEW.count


def test_an_lmdb_of_other_words_is_refused(shards, tmp_path):
    input.write_lmdb(replace(FEW, seed=1), None, tmp_path / "lmdb")
    with pytest.raises(AssertionError, match="different words"):
        input.refuse_other_words(tmp_path / "lmdb", train_samples(shards))


def test_a_set_ten_times_over_has_ten_times_the_rows(shards):
    samples = input.repeated(shards, 10)
    assert len(samples) == 10 * FEW.count
    assert samples.text(0) == samples.text(9 * FEW.count)


def test_padding_is_the_share_of_columns_without_image(shards):
    samples = train_samples(shards)
    rows = samples.widths.argsort()[:4]
    width = 2 * int(samples.widths[rows].sum())
    assert buckets.padding([Step(rows, width)], samples) == pytest.approx(1 - 1 / 8)


def test_typical_steps_are_the_middles_of_an_epoch_by_width():
    whole = [Step(torch.arange(4).numpy(), width) for width in (80, 10, 20, 70, 30, 60, 40, 50)]
    steps = [*whole, Step(torch.arange(3).numpy(), 1)]  # one that is not full
    assert [step.width for step in buckets.typical(steps, 4)] == [20, 40, 60, 80]


def test_both_sides_of_the_buckets_hold_the_same_words(shards, tmp_path):
    wide = train_samples(shards)
    narrow = train_samples(word_shards(tmp_path, FEW, image=ImageSpec(max_width=buckets.FIXED)))
    assert narrow.widths.max() <= buckets.FIXED < wide.widths.max()
    buckets.refuse_other_words(wide, narrow)


def test_a_checkpoint_comes_back_alike_both_ways(tmp_path):
    saved = checkpoint.a_trainee(0.0625, 8)
    saves = checkpoint.Saves(saved, tmp_path, times=1)
    saves.save_ours(), saves.save_theirs()
    for load in (saves.load_ours, saves.load_theirs):
        other = checkpoint.a_trainee(0.0625, 8, seed=1)
        with pytest.raises(AssertionError, match="not what was saved"):
            checkpoint.refuse_difference(saved, other)
        load(other)
        checkpoint.refuse_difference(saved, other)


def test_the_save_timed_is_the_one_the_loop_makes(tmp_path, monkeypatch):
    # Its blocking half is Staging.copy: if the loop stops calling it, the figure speaks of something else.
    staged = []
    before = Staging.copy
    monkeypatch.setattr(Staging, "copy", lambda self, contents: staged.append(1) or before(self, contents))
    task = Columns()
    train_stage(a_loop_stage(epochs=1), task, MadeData(), a_setting(tmp_path, task))
    assert staged


def test_launches_that_wrote_other_metrics_are_refused():
    same = {"plain": [sample(1.0, result=(1.0, b"x"))], "ray": [sample(1.0, result=(2.0, b"x"))]}
    ray_stage.refuse_other_metrics(same)
    with pytest.raises(AssertionError, match="2 different"):
        ray_stage.refuse_other_metrics(same | {"ray": [sample(1.0, result=(2.0, b"y"))]})


def test_a_launch_that_began_anew_is_no_resumption():
    seen = {"cold": [sample(1.0, result=stage_start.Seen(step=5))]}
    stage_start.refuse_no_resume(seen | {"resumed": [sample(1.0, result=stage_start.Seen(step=6))]})
    with pytest.raises(AssertionError, match="began anew"):
        stage_start.refuse_no_resume(seen | {"resumed": [sample(1.0, result=stage_start.Seen(step=1))]})


def test_a_change_of_stage_lies_between_its_last_and_first_step():
    clock = stage_start.Clock(steps=[("a", 1, 1.0), ("a", 2, 2.0), ("b", 1, 5.0), ("b", 2, 6.0), ("c", 1, 7.5)])
    assert clock.changes() == [3.0, 1.5]


def test_the_launch_timed_is_a_command_that_exists(tmp_path):
    from orchestrator.run import parser, resolved

    asked = parser().parse_args(stage_start.command(tmp_path, epochs=7)[3:])
    recipe = resolved(asked)
    assert recipe.stage("pretrain").epochs == 7 and asked.stage == "pretrain"


def test_ways_of_an_ingest_that_made_other_shards_are_refused():
    ingest.refuse_other_shards({"one": [sample(1.0, result=["a"])], "two": [sample(1.0, result=["a"])]})
    with pytest.raises(AssertionError, match="different shards"):
        ingest.refuse_other_shards({"one": [sample(1.0, result=["a"])], "two": [sample(1.0, result=["b"])]})


def test_words_are_counted_as_they_are_drawn():
    rows = list(FEW.rows(None))
    assert rendering.drawn(rows, ImageSpec()) == rendering.listed(FEW) == FEW.count


def test_resident_batches_are_those_of_the_shards(tmp_path):
    samples = train_samples(word_shards(tmp_path, FEW, image=ImageSpec(max_width=gpu.WIDTH)))
    device = torch.device("cpu")
    rows = torch.tensor([3, 0, 7])
    made = gpu.Resident.of(samples, device).batch(rows)
    plain = samples.batch(Step(rows.numpy(), gpu.WIDTH), device=device)
    assert torch.equal(made.image, plain.image) and torch.equal(made.widths, plain.widths)
    assert [made.tokens[row, : int(made.lengths[row])].tolist() for row in range(3)] == [
        plain.tokens[row, : int(plain.lengths[row])].tolist() for row in range(3)
    ]


def test_a_way_on_the_device_learns_and_repeats_itself(tmp_path):
    samples = train_samples(word_shards(tmp_path, FEW, image=ImageSpec(max_width=gpu.WIDTH)))
    device, config = torch.device("cpu"), CRNNConfig(classes=ALNUM62.classes, width=0.0625, hidden=8)
    data = gpu.Resident.of(samples, device)
    first, second = (gpu.a_way(data, 8, device, how="eager", config=config).train(3) for _ in range(2))
    assert first == second and len(set(first)) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_nothing_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu"])
    assert gpu.main() == 2
    assert "nothing was measured" in capsys.readouterr().err


@pytest.mark.parametrize("script", [checkpoint, crnn_step, buckets, rendering], ids=lambda script: script.__name__)
def test_a_smoke_run_ends_in_a_table_and_calls_itself_one(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script.__name__, "--quick", "--threads", "1"])
    script.main()
    said = capsys.readouterr().out
    assert "a smoke run" in said and "| | baseline | ours | ratio | goal |" in said


def test_every_script_tells_how_to_run_it():
    scripts = [path for path in Path(measure.__file__).parent.glob("*.py") if "__main__" in path.read_text()]
    assert len(scripts) >= 9
    for path in scripts:
        assert f"python -m benchmarks.{path.stem}" in path.read_text(), path
