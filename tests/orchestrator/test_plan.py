"""What a plan refuses, and what its schedules say."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.loop import learning_rate
from orchestrator.plan import (
    Augment,
    Best,
    Constant,
    Cosine,
    EarlyStop,
    Mix,
    OneCycle,
    Optim,
    PlanError,
    StartFrom,
    StepDown,
    Term,
)
from orchestrator.recipes.words import recipe

WORDS = recipe()
PRETRAIN, FROZEN, FINETUNE = WORDS.stages
quick = settings(deadline=None, max_examples=100)


def with_stages(*stages):
    return replace(WORDS, stages=stages)


def refuses(build, message):
    with pytest.raises(PlanError) as error:
        build()
    assert message in str(error.value), str(error.value)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), "recipe 'words' has no stages"),
        ((FROZEN,), "'finetune_frozen' starts from 'pretrain', which does not run before it; earlier stages: none"),
        ((PRETRAIN, FINETUNE), "starts from 'finetune_frozen', which does not run before it; earlier stages: pretrain"),
        ((PRETRAIN, PRETRAIN), "stage 'pretrain' appears twice"),
        (
            (replace(PRETRAIN, learn=("cnn", "rnn", "head")),),
            "names parts ['head']; the task's parts are ['cnn', 'rnn']",
        ),
        ((replace(PRETRAIN, learn=("cnn",)),), "starts from nothing but does not train ['rnn']"),
        (
            (PRETRAIN, replace(FROZEN, start_from=StartFrom(stage="pretrain", parts=("rnn",)))),
            "neither loads nor trains ['cnn']: random weights would stay in it",
        ),
        (
            (PRETRAIN, replace(FROZEN, start_from=StartFrom(stage="pretrain", parts=("cnn", "lstm")))),
            "names parts ['lstm']",
        ),
        (
            (replace(PRETRAIN, data=Mix(shares={"synth90k": 1.0})),),
            "reads sources ['synth90k']; the recipe has ['iiit5k', 'rendered']",
        ),
        ((replace(PRETRAIN, validate={"rendered": "valid", "ic15": "valid"}),), "reads sources ['ic15']"),
    ],
)
def test_stages_that_do_not_follow_from_each_other_are_refused(stages, message):
    refuses(lambda: with_stages(*stages), message)


@pytest.mark.parametrize(
    "change",
    [
        {"best": (Best(metric="iiit5k/ned"),)},
        {"early_stop": EarlyStop(metric="iiit5k/ned", patience=3)},
        {"red_lines": {"iiit5k/ned": 0.1}},
        {"gate": {"iiit5k/ned": 0.1}},
    ],
)
def test_a_stage_decides_only_by_what_it_validates(change):
    refuses(
        lambda: with_stages(replace(PRETRAIN, **change)),
        "decides by 'iiit5k/ned', but validates on ['rendered']; a metric is called SOURCE/NAME",
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validate": {"rendered": "test"}}, "validates on rendered/test; allowed: valid or train, never test"),
        ({"epochs": 0}, "epochs: 0 is below 1"),
        ({"batch_size": 0}, "batch_size: 0 is below 1"),
        ({"validate_every": 0}, "validate_every: 0 is below 1"),
        ({"nonfinite_limit": -1}, "nonfinite_limit: -1 is below 0"),
        ({"ema": 1.0}, "ema: 1.0 is outside 0 .. 0.99999"),
        ({"epochs": 3, "validate_every": 4}, "validate_every 4 is more than its 3 epochs"),
        ({"learn": ()}, "must each name at least one"),
        ({"terms": {}}, "must each name at least one"),
        ({"best": ()}, "must each name at least one"),
        ({"validate": {}}, "must each name at least one"),
        (
            {"optim": Optim(lr=1e-3, accumulate=3), "batch_size": 64},
            "batch_size 64 does not divide into 3 micro-batches",
        ),
        ({"best": (Best(metric="rendered/ned"), Best(metric="rendered/ned"))}, "best names a metric twice"),
        ({"gate": {"rendered/cer": 0.1}}, "gate of 'rendered/cer': it is the least that must be reached, but less"),
        ({"gate": {"rendered/ned": math.nan}}, "gate of 'rendered/ned': must be a finite number, got nan"),
        ({"red_lines": {"rendered/ned": math.inf}}, "red line of 'rendered/ned': must be a finite number, got inf"),
    ],
)
def test_a_stage_that_cannot_be_run_as_written_is_refused(change, message):
    refuses(lambda: replace(PRETRAIN, **change), message)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Mix(shares={"a": 0.5, "b": 0.4}), "must sum to 1, got {'a': 0.5, 'b': 0.4} (sum 0.9)"),
        (lambda: Mix(shares={"a": 1.5, "b": -0.5}), "every share must be above 0"),
        (lambda: Mix(shares={"a": math.nan}), "every share must be above 0"),
        (lambda: Mix(shares={}), "every share must be above 0"),
        (lambda: Mix(shares={"a": 1.0}, epoch_samples=-1), "epoch_samples: -1 is below 0"),
        (lambda: Optim(lr=0.0), "Optim.lr: must be a finite number above 0"),
        (lambda: Optim(lr=math.nan), "Optim.lr: must be a finite number above 0"),
        (lambda: Optim(lr=1.0, clip_norm=0.0), "Optim.clip_norm: must be a finite number above 0"),
        (lambda: Optim(lr=1.0, weight_decay=-0.1), "Optim.weight_decay: -0.1 is outside 0 .. 1"),
        (lambda: Optim(lr=1.0, accumulate=0), "Optim.accumulate: 0 is below 1"),
        (lambda: Optim(lr=1.0, betas=(0.9, 1.0)), "Optim.betas: two numbers in [0, 1)"),
        (lambda: Optim(lr=1.0, betas=(0.9,)), "Optim.betas: two numbers in [0, 1)"),
        (lambda: Term(loss=len, weight=math.nan), "Term.weight: must be a finite number"),
        (lambda: Cosine(warmup=1.0), "Cosine.warmup: 1.0 is outside 0 .. 0.999"),
        (lambda: Cosine(floor=1.1), "Cosine.floor: 1.1 is outside 0 .. 1"),
        (lambda: StepDown(at=(0.5, 1.5)), "StepDown.at: 1.5 is outside 0 .. 1"),
        (lambda: StepDown(by=2.0), "StepDown.by: 2.0 is outside 0 .. 1"),
        (lambda: OneCycle(warmup=-0.1), "OneCycle.warmup: -0.1 is outside"),
        (lambda: OneCycle(start_div=0.5), "OneCycle.start_div: 0.5 is outside 1 .. inf"),
        (lambda: OneCycle(end_div=math.inf), "OneCycle.end_div: must be a finite number"),
        (lambda: Augment(rotate=46), "Augment.rotate: 46 is outside 0 .. 45"),
        (lambda: Augment(invert=-0.1), "Augment.invert: -0.1 is outside 0 .. 1"),
        (lambda: Augment(noise=math.nan), "Augment.noise: must be a finite number"),
        (lambda: EarlyStop(metric="a/ned", patience=0), "EarlyStop.patience: 0 is below 1"),
        (lambda: EarlyStop(metric="a/ned", patience=1, min_delta=math.inf), "EarlyStop.min_delta: must be a finite"),
        (lambda: EarlyStop(metric="a/loss", patience=1), "EarlyStop.mode of 'a/loss': 'max'; allowed: 'min'"),
        (lambda: Best(metric="a/cer"), "Best.mode of 'a/cer': 'max'; allowed: 'min'"),
        (lambda: Best(metric="a/ned", mode="most"), "Best.mode of 'a/ned': 'most'; allowed: 'max' or 'min'"),
        (lambda: StartFrom(stage="a", parts=()), "StartFrom.parts: how many: 0 is below 1"),
        (
            lambda: StartFrom(stage="a", parts=("cnn",), which="newest"),
            "StartFrom.which: 'newest'; allowed: 'best' or 'last'",
        ),
    ],
)
def test_a_setting_outside_its_range_is_refused(build, message):
    refuses(build, message)


def test_a_task_reads_as_many_classes_as_the_alphabet_has():
    task = replace(WORDS.task, recognizer=replace(WORDS.task.recognizer, classes=37))
    refuses(
        lambda: replace(WORDS, task=task), "the task reads 37 classes, but the alphabet needs 63 (its symbols and the"
    )


@pytest.mark.parametrize("name", ["", "..", "a/b", "../words", "a.b", "a b", "0"])
def test_names_that_become_folders_and_paths_are_plain(name):
    message = f"{name!r}: recipes, sources and stages are called by"
    refuses(lambda: replace(WORDS, name=name), message)
    refuses(lambda: with_stages(replace(PRETRAIN, name=name)), message)
    refuses(lambda: replace(WORDS, sources={**WORDS.sources, name: WORDS.sources["iiit5k"]}), message)


def test_a_stage_is_found_by_name_and_by_number():
    assert WORDS.stage("finetune") == WORDS.stage("2") == FINETUNE
    refuses(lambda: WORDS.stage("3"), "has no stage '3'; it has: 0 pretrain, 1 finetune_frozen, 2 finetune")


def test_a_stage_knows_its_sources_its_metrics_and_its_parent():
    assert FINETUNE.sources == ("iiit5k", "rendered")
    assert FROZEN.sources == ("iiit5k", "rendered")  # it trains on the first, and watches the second
    assert FINETUNE.metrics_named == (
        "iiit5k/word_accuracy_36", "iiit5k/cer", "iiit5k/ned", "rendered/word_accuracy_36",
    )  # fmt: skip
    assert WORDS.parent(FINETUNE) == FROZEN
    assert WORDS.parent(PRETRAIN) is None


def factors(schedule, steps):
    return [schedule.factor(step, steps) for step in range(steps)]


def test_a_constant_schedule_is_one_everywhere():
    assert factors(Constant(), 5) == [1.0] * 5


def test_cosine_warms_up_in_a_line_and_ends_at_its_floor():
    # A quarter of 12 steps rises: 1/3, 2/3, 3/3. Then steps 3 .. 11 are half a cosine from 1 to 0.1, half way at 7.
    found = factors(Cosine(warmup=0.25, floor=0.1), 12)
    assert found[:4] == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])
    assert found[7] == pytest.approx((1 + 0.1) / 2)
    assert found[11] == pytest.approx(0.1)


def test_cosine_without_warm_up_starts_at_the_plans_rate():
    # cos(60 degrees) is a half, so a third of the way down the factor is 3/4.
    assert factors(Cosine(warmup=0.0, floor=0.0), 4) == pytest.approx([1.0, 0.75, 0.25, 0.0])


def test_step_down_multiplies_at_each_share_of_the_steps():
    found = factors(StepDown(at=(0.5, 0.75), by=0.1), 8)
    assert found == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_one_cycle_rises_to_one_and_falls_below_its_start():
    # Nine steps, the top at step 4; half way up and half way down a half cosine is in the middle.
    found = factors(OneCycle(warmup=0.5, start_div=4.0, end_div=100.0), 9)
    assert found[::2] == pytest.approx([0.25, (0.25 + 1) / 2, 1.0, (1 + 0.01) / 2, 0.01])


def test_the_learning_rate_of_the_first_step_is_the_plans():
    # One of the replaced systems warmed up from 0 whatever its plan said, and nobody saw it.
    for stage in WORDS.stages:
        assert isinstance(stage.schedule, Constant)
        assert learning_rate(stage, 0, 1_000) == stage.optim.lr


shares = st.floats(0, 0.999)
divisors = st.floats(1, 1e9)
schedules = st.one_of(
    st.just(Constant()),
    st.builds(Cosine, warmup=shares, floor=st.floats(0, 1)),
    st.builds(StepDown, at=st.lists(st.floats(0, 1), max_size=4).map(tuple), by=st.floats(0, 1)),
    st.builds(OneCycle, warmup=shares, start_div=divisors, end_div=divisors),
)


@quick
@given(schedules, st.integers(1, 10_000), st.data())
def test_every_schedule_stays_between_nothing_and_the_plans_rate(schedule, steps, data):
    step = data.draw(st.integers(0, steps - 1))
    factor = schedule.factor(step, steps)
    assert 0 <= factor <= 1
    [schedule.factor(other, steps) for other in (steps - 1, 0)]
    assert schedule.factor(step, steps) == factor  # of the step alone, whatever was asked before


@quick
@given(schedules, st.integers(1, 200))
def test_no_schedule_falls_and_then_rises(schedule, steps):
    found = factors(schedule, steps)
    top = found.index(max(found))
    assert found[: top + 1] == sorted(found[: top + 1])
    assert all(later <= earlier + 1e-12 for earlier, later in zip(found[top:], found[top + 1 :], strict=False))
