"""Both sides of the SSIM figure compute the same."""

import sys

import pytest
import torch
from torch.testing import assert_close

from models.ssim import similarity
from tests.models.pairs import images

pytest.importorskip("psutil", reason="the figures need psutil: pip install -e '.[dev]'")

from benchmarks import ssim


@pytest.fixture(autouse=True)
def as_many_threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_convolution_is_the_same_similarity():
    image, target = (
        images(2, 3, 14, 20, dtype=torch.float64).requires_grad_(),
        images(2, 3, 14, 20, seed=1, dtype=torch.float64),
    )
    found = [how(image, target) for how in (ssim.convolved, similarity)]
    gradients = [torch.autograd.grad(each.sum(), image)[0] for each in found]
    assert_close(found[0], found[1], rtol=0, atol=1e-12)
    assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)


def test_a_smoke_run_ends_in_a_table_and_calls_itself_one(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ssim", "--quick", "--threads", "1"])
    ssim.main()
    said = capsys.readouterr().out
    assert "a smoke run" in said and "| | baseline | ours | ratio | goal |" in said
