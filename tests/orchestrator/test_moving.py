"""What moves while a stage trains: rates by part, ramps, weights of symbols, difficulty; the same after any stop."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from small import CLASSES, Columns, Quiet, a_setting, a_stage, some_batch, weights_of

from models.losses.plates import CharacterTerm
from models.losses.text import ctc
from orchestrator import checkpoint
from orchestrator.curriculum import Curriculum
from orchestrator.heard import Heard, spelled, symbols_of
from orchestrator.identity import fingerprint, plain
from orchestrator.journal import lines
from orchestrator.loop import train_stage
from orchestrator.mining import unknown
from orchestrator.moving import close_epoch, drawn_now, note_heard, shown_of, stage_now, told_of
from orchestrator.override import from_plain, override
from orchestrator.plan import Mining, Mix, Optim, PlanError, Term, WeighSymbols
from orchestrator.progress import Progress
from orchestrator.ranks import Ranks
from orchestrator.recipes.words import recipe as words
from orchestrator.update import trainee_of

MINING = Mining(reweigh_every=1, least_visits=1, curriculum=Curriculum(epochs=4))
WEIGHED = {"characters": Term(loss=CharacterTerm())}


def mined(**changes):
    stage = a_stage(
        epochs=4, batch_size=4, terms=WEIGHED, weigh=WeighSymbols(terms=("characters",)), mining=MINING
    )  # fmt: skip
    return replace(stage, **changes)


@dataclass
class Mined:
    """Twelve samples; an epoch is what it is told to be."""

    size: int = 12
    samples_per_epoch: int = 12
    steps_per_epoch: int = 3
    drawn: list[list[int]] = field(default_factory=list)

    def source_ids(self, samples):
        return [str(sample) for sample in samples]

    @contextmanager
    def batches(self, epoch, first_step, drawn=None):
        self.drawn.append(drawn.tolist())
        whole = some_batch(12, seed=5)
        rows = torch.from_numpy(drawn).split(4)[first_step:]
        cut = lambda ids: replace(  # noqa: E731
            whole, image=whole.image[ids], widths=whole.widths[ids], tokens=whole.tokens[ids],
            lengths=whole.lengths[ids], counted=whole.counted[ids], ids=tuple(ids.tolist()),
        )  # fmt: skip
        yield iter([[cut(ids)] for ids in rows])


def run(folder, stage, watch=None, data=None):
    torch.manual_seed(0)
    task = Columns()
    data = data or Mined()
    return task, train_stage(stage, task, data, a_setting(folder, task, watch=watch)), data


def test_a_term_with_settings_is_part_of_a_plan():
    plan = override(words(), {"stages.pretrain.terms.ctc.loss": {"is": "models.losses.plates.CharacterTerm"}})
    assert plan.stage("pretrain").terms["ctc"].loss == CharacterTerm()
    assert from_plain(json.loads(json.dumps(plain(plan)))) == plan
    softer = override(plan, {"stages.pretrain.terms.ctc.loss.most": "2.5"})
    assert softer.stage("pretrain").terms["ctc"].loss == CharacterTerm(most=2.5)
    prints = {fingerprint(each, each.stage("pretrain"), {}) for each in (words(), plan, softer)}
    assert len(prints) == 3
    again = override(plan, {"stages.pretrain.terms.ctc.loss": "models.losses.text.ctc"})
    assert again == words()


@pytest.mark.parametrize("value", ["models.losses.plates.CharacterTerm.nope", "models.mean.Mean", 3])
def test_what_is_no_term_is_refused(value):
    with pytest.raises((PlanError, TypeError)):
        override(words(), {"stages.pretrain.terms.ctc.loss": value})
    with pytest.raises(PlanError, match="instance of a frozen dataclass"):
        Term(loss=CharacterTerm)


def test_unused_later_settings_are_no_part_of_what_a_stage_is():
    stage = words().stage("pretrain")
    same = fingerprint(words(), stage, {})
    assert fingerprint(words(), replace(stage, optim=replace(stage.optim, factors={"cnn": 0.5})), {}) != same
    assert fingerprint(words(), replace(stage, mining=MINING), {}) != same


def test_each_part_learns_at_its_own_rate(tmp_path):
    stage = a_stage(optim=Optim(lr=1e-2, factors={"rnn": 0.1}))
    trainee = trainee_of(stage, Columns())
    rates = {trainee.names[p].split(".")[0]: g["factor"] for g in trainee.optimizer.param_groups for p in g["params"]}
    assert rates == {"cnn": 1.0, "rnn": 0.1}
    for factors, reason in (({"rnn": 0.0}, "factors of 'rnn'"), ({"rnn": float("nan")}, "factors of 'rnn'")):
        with pytest.raises(PlanError, match=reason):
            Optim(lr=1.0, factors=factors)
    with pytest.raises(PlanError, match="what learns is"):
        override(words(), {"stages.finetune_frozen.optim.factors": {"cnn": 0.5}})


def test_a_ramp_rises_from_nothing_to_the_weight():
    stage = a_stage(epochs=5, terms={"ctc": Term(loss=ctc, weight=2.0, ramp=4)})
    at = [stage_now(stage, Progress(epoch=epoch)).terms["ctc"].weight for epoch in range(6)]
    assert at == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]
    with pytest.raises(PlanError, match="ramp of 5"):
        a_stage(epochs=5, terms={"ctc": Term(loss=ctc, ramp=5)})


def test_a_path_is_spelled_as_ctc_does():
    one, two = symbols_of(3)
    assert spelled([0, 1, 1, 0, 1, 2, 2, 0]) == one + one + two
    assert spelled([1, 2]) == one + two and spelled([0, 0]) == ""


def heard(ids, best, tokens):
    return Heard(ids, torch.tensor(best), torch.tensor(tokens), torch.full((len(ids),), len(tokens[0])), CLASSES)


class Other(Ranks):
    """The first of two ranks; what the other one says is known."""

    def __init__(self, told):
        object.__setattr__(self, "rank", 0)
        object.__setattr__(self, "count", 2)
        object.__setattr__(self, "told", told)

    def gather(self, own):
        return [own, self.told]


def test_two_ranks_know_what_one_would():
    stage = mined()
    whole = heard([0, 1, 2], [[1, 2], [3, 0], [4, 4]], [[1, 2], [3, 2], [1, 1]])
    first, second = heard([0, 2], [[1, 2], [4, 4]], [[1, 2], [1, 1]]), heard([1], [[3, 0]], [[3, 2]])
    known = []
    for ranks, mine in ((Ranks(), whole), (Other([second.texts()]), first)):
        trainee = trainee_of(stage, Columns())
        trainee.difficulty = unknown(4)
        note_heard(stage, trainee, [[mine]], ranks)
        known.append((trainee.difficulty.accuracy.tolist(), trainee.progress.symbols_now))
    assert known[0] == known[1]
    assert known[0][0] == [1.0, 0.5, 0.0, 0.0]
    assert known[0][1]["wrong"] == [1.0, 0.0, 0.0, 0.0]


def test_confused_symbols_weigh_more_in_the_next_epoch_and_no_more_than_allowed():
    stage, progress = mined(), Progress(symbols_now={"seen": [100.0] * 4, "wrong": [50.0, 0.0, 0.0, 0.0]})
    assert stage_now(stage, progress).terms["characters"].loss.weights == ()
    close_epoch(stage, progress)
    weights = stage_now(stage, progress).terms["characters"].loss.weights
    assert weights[0] == max(weights) <= 3.0 and weights[0] > 1.5 * weights[1]
    progress.symbols_now = {"seen": [100.0] * 4, "wrong": [0.0] * 4}
    close_epoch(stage, progress)
    assert progress.symbols["wrong"][0] == pytest.approx(35.0)


def test_hard_samples_come_more_often():
    stage, trainee = mined(), trainee_of(mined(), Columns())
    known = unknown(12)
    trainee.difficulty = replace(known, accuracy=np.r_[0.0, np.ones(11)], visits=np.ones(12, np.int64))
    trainee.progress.epoch = 4
    drawn = drawn_now(stage, trainee, count=120, seed=1)
    assert np.bincount(drawn, minlength=12)[0] > 60
    assert told_of(stage, stage, trainee)["mining/share"] == pytest.approx(0.8)


@pytest.mark.parametrize("stops", [1, 4, 5, 8])
def test_a_run_that_was_stopped_takes_the_same_path(tmp_path, stops):
    task, progress, data = run(tmp_path / "whole", mined())
    run(tmp_path / "cut", mined(), watch=Quiet(steps=stops))
    again, resumed, rest = run(tmp_path / "cut", mined())
    assert all(torch.equal(value, weights_of(again)[name]) for name, value in weights_of(task).items())
    assert resumed == progress and progress.symbols["seen"]
    assert (tmp_path / "whole/metrics.jsonl").read_bytes() == (tmp_path / "cut/metrics.jsonl").read_bytes()
    assert data.drawn[-len(rest.drawn) :] == rest.drawn
    at = lambda name: checkpoint.folder_of(tmp_path / name / "checkpoints", progress.step)  # noqa: E731
    ends = [checkpoint.read(at(name)) for name in ("whole", "cut")]
    for name, tensor in ends[0].tensors["mining"].items():
        assert torch.equal(tensor, ends[1].tensors["mining"][name]), name
    assert "mining/suspects" in lines(tmp_path / "whole/metrics.jsonl", "epoch")[-1]


def test_mining_wants_one_source_and_time():
    with pytest.raises(PlanError, match="mining draws by difficulty"):
        mined(data=Mix(shares={"made": 0.5, "other": 0.5}))
    with pytest.raises(PlanError, match="least_visits"):
        mined(mining=Mining(least_visits=9))
    with pytest.raises(PlanError, match="no weights of symbols"):
        mined(terms={"characters": Term(loss=ctc)})


def test_an_epoch_names_the_heaviest_symbols_and_the_hardest_samples():
    stage = mined(mining=replace(MINING, suspect_after=2))
    trainee = trainee_of(stage, Columns())
    trainee.progress.symbols = {"seen": [100.0] * 4, "wrong": [0.0, 50.0, 0.0, 10.0]}
    trainee.difficulty = replace(
        unknown(12), accuracy=np.r_[0.5, 0.0, np.ones(10)], visits=np.full(12, 3), misses=np.r_[0, 3, np.zeros(10)]
    )
    now = stage_now(stage, trainee.progress)
    told = shown_of(stage, now, trainee, symbols="abcd", named=lambda ids: [f"made/{i}" for i in ids])
    [first, second, *_] = told["symbols"]["characters"]
    assert (first["symbol"], first["seen"], first["wrong"], second["symbol"]) == ("b", 100.0, 50.0, "d")
    assert first["weight"] == max(now.terms["characters"].loss.weights)
    assert told["hardest"][0] == {"id": "made/0", "accuracy": 0.5, "visits": 3, "drawn": pytest.approx(1.0)}
    assert told["suspects"] == ["made/1"] and len(told["hardest"]) == 10
    trainee.progress.epoch = 4
    drawn_now(stage, trainee, count=12, seed=1)
    line = told_of(stage, now, trainee)
    assert line["mining/most_drawn"] > 3 and line["mining/hard_part_drawn"] == pytest.approx(
        line["mining/most_drawn"] / 12
    )
    assert shown_of(a_stage(), a_stage(), trainee, symbols="", named=list) == {}
