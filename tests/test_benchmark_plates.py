"""The seed's generator and ours do the same work; without a GPU the figures of the GPU are refused."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

pytest.importorskip("psutil", reason="the figures need psutil: pip install -e '.[dev]'")

from benchmarks import generator_step, gpu_plates
from benchmarks.plain_plates import WINDOW, StackedDeform, uniform_ssim, with_weights_of
from models.layers.deform import Deformable
from tests.models.pairs import images


@pytest.fixture(autouse=True)
def as_many_threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def batch():
    return next(generator_step.batches(16, 48, 2))


def test_nine_stacked_samples_are_dcnv1_with_its_gradients():
    ours = Deformable(kind="dcnv1", channels=8, groups=1).build("reference")
    made = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in ours.parameters():
            weight.copy_(0.5 * torch.randn(weight.shape, generator=made))
    theirs = StackedDeform(8)
    theirs.load_state_dict(dict(ours.named_parameters()))
    x = torch.randn(2, 8, 5, 7, generator=made)
    found = []
    for way in (theirs, ours):
        leaf = x.clone().requires_grad_()
        out = way(leaf)
        out.sin().sum().backward()
        found.append([out, leaf.grad, *(weight.grad for _, weight in sorted(way.named_parameters()))])
    for one, other in zip(*found, strict=True):
        assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_the_same_weights_make_the_same_image(batch):
    assert generator_step.difference(batch, features=16, blocks=2) < 1e-5


def test_other_weights_are_refused(batch, monkeypatch):
    def with_another(ours, **shape):
        plain = with_weights_of(ours, **shape)
        torch.nn.init.ones_(plain.last.bias)
        return plain

    monkeypatch.setattr(generator_step, "with_weights_of", with_another)
    with pytest.raises(SystemExit, match="the same weights make images"):
        generator_step.difference(batch, features=16, blocks=1)


def test_the_first_l1_step_is_the_seeds(batch):
    runners = generator_step.contenders("warmup", features=16, blocks=1)
    losses = [[runners[name].step(batch) for _ in range(3)] for name in ("plain fp32", "dcnv1 fp32")]
    assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    assert len(set(losses[0])) == 3  # both learn


def test_through_the_ocr_only_the_similarity_differs(batch):
    runners = generator_step.contenders("lcofl", features=16, blocks=1)
    theirs, ours = (runners[name].step(batch) for name in ("plain fp32", "dcnv1 fp32"))
    assert 0 < abs(theirs - ours) < generator_step.stage_of("lcofl").terms["ssim"].weight


def test_the_uniform_window_is_a_mean_of_its_pixels():
    image, target = images(1, 3, 12, 14).clamp(-1, 1), images(1, 3, 12, 14, seed=1).clamp(-1, 1)
    x, y = (image + 1) / 2, (target + 1) / 2
    mean = [F.avg_pool2d(each, WINDOW, 1, WINDOW // 2) for each in (x, y, x * x, y * y, x * y)]
    mx, my, xx, yy, xy = mean
    contrast = (2 * (xy - mx * my) + 9e-4) / (xx - mx**2 + yy - my**2 + 9e-4)
    expected = ((2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4) * contrast).mean()
    assert_close(uniform_ssim(image, target), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("more", [[], ["--parts"]], ids=["figures", "parts"])
def test_a_smoke_run_ends_in_a_table(more, monkeypatch, capsys):
    few = ["--sizes", "16x48", "--stages", "lcofl", "--quick", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["generator_step", *few, *more])
    generator_step.main()
    said = capsys.readouterr().out
    assert ("| convolutions |" in said) if more else ("a smoke run" in said and "| | baseline | ours |" in said)


def test_the_gpus_ways_learn_on_any_device():
    ways = gpu_plates.ways("16x48", 2, torch.device("cpu"), features=16, blocks=1, compiled=False)
    assert list(ways) == ["plain fp32", "bf16, eager"]
    assert all(way.train(1) == 2 for way in ways.values())


def test_every_byte_is_counted_once():
    given = gpu_plates.operands(torch.bfloat16, "cpu", images=1)
    pixels = gpu_plates.ROWS * gpu_plates.COLUMNS
    assert gpu_plates.moved(given.x, given.offset, given.mask) == 2 * pixels * (64 + 4 * 9 * 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_nothing_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_plates"])
    assert gpu_plates.main() == 2
    assert "nothing was measured" in capsys.readouterr().err
