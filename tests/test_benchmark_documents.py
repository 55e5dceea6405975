"""The seed's recipe on documents and ours compute the same losses; without a GPU its figure is refused."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("psutil", reason="the figures need psutil: pip install -e '.[dev]'")

from benchmarks import document_step, gpu_documents, wear, worn_anew
from benchmarks.lines import clean_line
from benchmarks.plain_documents import with_weights_of


@pytest.fixture(autouse=True)
def as_many_threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def batch():
    return document_step.batch_of(32, 128, 2)


def task(generator):
    return document_step.task_of(generator, 0.125, 32)


@pytest.mark.parametrize("generator", ["enhanced", "unet"])
def test_the_first_losses_are_the_seeds(generator, batch):
    runners = document_step.contenders(task(generator))
    plain, ours = (runners[name].step(batch) for name in ("plain fp32", "ours fp32"))
    assert set(plain) == set(ours) == set(document_step.STAGE.all_terms)
    for name in ours:
        assert_close(ours[name], plain[name], rtol=1e-5, atol=1e-6)


def test_gradients_nobody_uses_change_nothing_of_what_is_learnt(batch):
    runners = document_step.contenders(task("unet"))
    losses = [[runners[name].step(batch)["pixel"] for _ in range(3)] for name in ("plain fp32", "plain frozen fp32")]
    assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    assert len(set(losses[0])) == 3


def test_other_weights_are_refused(batch, monkeypatch):
    def with_another(ours, of):
        plain = with_weights_of(ours, of)
        torch.nn.init.ones_(plain.generator.last.bias)
        return plain

    monkeypatch.setattr(document_step, "with_weights_of", with_another)
    with pytest.raises(SystemExit, match="in our first step"):
        document_step.equal_losses(document_step.contenders(task("unet")), batch)


def test_parts_make_up_the_step_and_leave_it_as_it_was(batch):
    runners = document_step.contenders(task("unet"))
    for name in ("plain fp32", "ours fp32"):
        found = document_step.parts_of(runners[name], batch, 1)
        assert set(found) == {
            "generator", "recogniser, restored", "recogniser, clean", "discriminator", "backward", "optimiser",
            "everything else",
        }  # fmt: skip
        assert min(found.values()) > 0
    assert "read" not in vars(runners["ours fp32"].trainee.task)
    assert document_step.orchestrator.update.backward.__module__ == "orchestrator.players"


def test_a_worn_line_of_the_plain_chain_is_old():
    line, text = clean_line(3, 64, 512)
    again, _ = clean_line(3, 64, 512)
    assert np.array_equal(line, again) and len(text) > 5 and line.min() < 50
    made = wear.plain(line, clean_line(4, 64, 512)[0], wear.page(128, 1024), 0)
    assert made.shape == line.shape and made.dtype == np.uint8
    assert made[line == 255].mean() < 240 and made[line < 50].mean() < made[line == 255].mean()


def test_gradient_noise_is_smooth_and_about_nothing():
    noise = wear.gradient_noise((64, 256), 40.0, 3, np.random.default_rng(0))
    assert noise.std() > 0.1 and abs(noise.mean()) < 0.2
    assert np.abs(np.diff(noise, axis=1)).max() < noise.std()


def test_smoke_runs_end_in_tables(monkeypatch, capsys):
    monkeypatch.setitem(document_step.SIZES, "64x512", (32, 128, 1))
    monkeypatch.setitem(wear.SIZES, "64x512", (32, 128))
    for script, more in ((document_step, []), (document_step, ["--parts"]), (wear, []), (worn_anew, [])):
        monkeypatch.setattr(sys, "argv", ["script", "--quick", "--threads", "1", "--sizes", "64x512", *more])
        script.main()
        said = capsys.readouterr().out
        assert "| backward |" in said if more else "a smoke run" in said and "| | baseline | ours |" in said


def test_the_gpus_ways_learn_on_any_device(batch):
    ways = gpu_documents.ways(task("enhanced"), batch, torch.device("cpu"), compiled=False)
    assert list(ways) == ["plain fp32", "bf16, eager"]
    assert all(build().train(1) == 2 for build in ways.values())


def test_without_a_gpu_nothing_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_documents"])
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(is_available=lambda: False))
    assert gpu_documents.main() == 2
    assert "nothing was measured" in capsys.readouterr().err
