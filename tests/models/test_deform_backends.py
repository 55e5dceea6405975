"""Every backend that is present gives the numbers of the reference."""

import importlib.util
import os
import subprocess
import sys
import types

import pytest
import torch
from torch.testing import assert_close

from models.layers import deform_backends, deform_native, deform_reference
from models.layers.deform import Deformable
from models.layers.deform_backends import chosen_backend, imported, sampler, why_not
from models.layers.deform_points import column_major, row_major

POINTS = (row_major(3), column_major(3, 2.0), column_major(3, without_centre=True), column_major(5))
HAS_TRITON = importlib.util.find_spec("triton") is not None


def backends():
    """The backends of our own, each with the device it is tried on and why it is skipped."""
    yield pytest.param("torch", "cpu", id="torch")
    native, gpu = deform_native.why_not(), None if torch.cuda.is_available() and HAS_TRITON else "needs CUDA and Triton"
    yield pytest.param("native", "cpu", id="native", marks=pytest.mark.skipif(native is not None, reason=str(native)))
    for name in ("torch", "triton"):
        skip = pytest.mark.skipif(gpu is not None, reason=str(gpu))
        yield pytest.param(name, "cuda", id=f"{name}-cuda", marks=skip)


def operands(groups, channels, points, size, *, reach=3.0):
    """Float64 operands; some offsets point far outside the image."""
    torch.manual_seed(0)
    offset = reach * torch.randn(2, groups, len(points), 2, *size, dtype=torch.float64)
    offset.view(-1)[::7] *= 1e6
    value = torch.randn(2, channels, *size, dtype=torch.float64)
    mask = torch.randn(2, groups, len(points), *size, dtype=torch.float64)
    return [value.requires_grad_(), offset.requires_grad_(), mask.requires_grad_()]


def expected(given, points, slope):
    out = deform_reference.gather(*given, points)
    return out, torch.autograd.grad(out, [each for each in given if each is not None], slope)


@pytest.mark.parametrize(("backend", "device"), backends())
@pytest.mark.parametrize("points", POINTS, ids=["row-major", "scaled", "hollow", "five"])
@pytest.mark.parametrize(("groups", "channels", "size"), [
    (1, 64, (5, 9)), (4, 64, (4, 8)), (8, 64, (7, 11)), (4, 20, (1, 5)), (2, 64, (6, 3)),
])  # fmt: skip
def test_numbers_and_gradients_are_the_references(backend, device, points, groups, channels, size):
    by, given = sampler(backend), operands(groups, channels, points, size)
    slope = torch.randn(2, channels, *size, dtype=torch.float64)
    out, gradients = expected(given, points, slope)
    for layout in (torch.contiguous_format, torch.channels_last):
        value, offset, mask, grad = (each.detach().float().to(device) for each in (*given, slope))
        value, grad = value.contiguous(memory_format=layout), grad.contiguous(memory_format=layout)
        packed = torch.cat([offset.flatten(2, 3), mask], dim=2).contiguous(memory_format=torch.contiguous_format)
        offset, mask = packed.split([2 * len(points), len(points)], dim=2)  # as DCNv4 has them: views with gaps
        offset = offset.unflatten(2, (len(points), 2))
        near = {"rtol": 1e-4, "atol": 2e-4, "check_dtype": False, "check_device": False}
        assert_close(by.gather(value, offset, mask, points), out, **near)
        assert_close(list(by.scatter(grad, value, offset, mask, points)), list(gradients), **near)


@pytest.mark.parametrize(("backend", "device"), backends())
def test_points_without_weights_count_once(backend, device):
    by, points = sampler(backend), row_major(3).only(0)
    value, offset, _ = operands(2, 32, points, (5, 9))
    slope = torch.randn_like(value)
    out, gradients = expected((value, offset, None), points, slope)
    flat = [each.detach().float().to(device) for each in (slope, value, offset)]
    near = {"rtol": 1e-4, "atol": 1e-4, "check_dtype": False, "check_device": False}
    assert_close(by.gather(*flat[1:], None, points), out, **near)
    to_value, to_offset, to_mask = by.scatter(*flat, None, points)
    assert to_mask is None
    assert_close([to_value, to_offset], list(gradients), **near)


@pytest.mark.parametrize(("backend", "device"), backends())
@pytest.mark.parametrize("width", [1, 3, 40])
def test_an_offset_that_is_no_number_is_not_hidden(backend, device, width):
    by, points = sampler(backend), row_major(3)
    offset = torch.zeros(1, 1, 9, 2, 4, width, device=device)
    offset[0, 0, 3, 1, 1, 0] = float("nan")
    out = by.gather(torch.ones(1, 16, 4, width, device=device), offset, None, points)
    assert out[0, :, 1, 0].isnan().all() and out.isnan().sum() == 16


@pytest.mark.parametrize(("backend", "device"), backends())
def test_bfloat16_values_are_summed_in_float32(backend, device):
    by, points = sampler(backend), column_major(3)
    given = operands(4, 64, points, (5, 9))
    slope = torch.randn_like(given[0])
    with torch.no_grad():
        given[1].copy_((torch.randn_like(given[1]) * 3).floor() + 0.25 + torch.rand_like(given[1]) / 2)  # no whole ones
    value, offset, mask, grad = (each.detach().bfloat16().to(device) for each in (*given, slope))
    rounded = [each.double().cpu().requires_grad_() for each in (value, offset, mask)]
    out, gradients = expected(rounded, points, grad.double().cpu())
    found = [by.gather(value, offset, mask, points), *by.scatter(grad, value, offset, mask, points)]
    assert all(each.dtype == torch.bfloat16 for each in found)
    near = {"rtol": 0.01, "atol": 0.05, "check_dtype": False, "check_device": False}
    assert_close(found, [out, *gradients], **near)  # one rounding, at the end


@pytest.mark.skipif(deform_native.why_not() is not None, reason=str(deform_native.why_not()))
@pytest.mark.parametrize("kind", ["dcnv1", "dcnv2", "dcnv3", "dcnv4"])
def test_modules_agree_on_the_native_and_the_plain_backend_whatever_the_threads(kind):
    results, threads = [], torch.get_num_threads()
    for backend, number in (("torch", 1), ("native", 1), ("native", 3)):
        torch.manual_seed(0)
        made = Deformable(kind=kind, channels=64, groups=4).build(backend)
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        x = torch.randn(2, 64, 9, 13, requires_grad=True)
        torch.set_num_threads(number)
        try:
            made(x).sin().sum().backward()
        finally:
            torch.set_num_threads(threads)
        results.append([x.grad, *(parameter.grad for parameter in made.parameters())])
    assert_close(results[1], results[0], rtol=1e-3, atol=2e-3)
    assert_close(results[2], results[1], rtol=1e-4, atol=1e-4)


def test_little_is_kept_for_the_backward():
    from benchmarks.deform import kept, operands, ours, stacked

    for kind in ("dcnv1", "dcnv4"):
        given = operands(kind, (2, 8, 12), "cpu")
        assert_close(stacked(kind, given), ours(kind, "torch", given), rtol=1e-4, atol=1e-4)
        assert kept(lambda given, kind=kind: ours(kind, "torch", given), given) < 0.34 * kept(
            lambda given, kind=kind: stacked(kind, given), given
        )


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels themselves are tested on the GPU")
def test_the_arithmetic_of_the_triton_kernels_is_the_references():
    ask = (
        "import torch\nfrom tests.models import test_deform_backends as t\n"
        "for points in t.POINTS[:3]:\n"
        "    for groups, channels, size in ((1, 64, (5, 9)), (4, 20, (1, 5))):\n"
        "        t.test_numbers_and_gradients_are_the_references('triton', 'cpu', points, groups, channels, size)\n"
        "t.test_points_without_weights_count_once('triton', 'cpu')\n"
        "t.test_an_offset_that_is_no_number_is_not_hidden('triton', 'cpu', 3)\n"
        "t.test_bfloat16_values_are_summed_in_float32('triton', 'cpu')\n"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", ask], check=True, env=environment, timeout=300)


def test_the_fastest_present_is_chosen(monkeypatch):
    monkeypatch.setattr(deform_native, "why_not", lambda: None)
    monkeypatch.setattr(deform_backends, "_absent", lambda module: None)
    chosen_backend.cache_clear()
    assert chosen_backend("cpu", torch.float32, "dcnv4") == "native"
    assert chosen_backend("cpu", torch.float64, "dcnv2") == "torchvision"
    assert chosen_backend("cuda", torch.bfloat16, "dcnv4") == "triton"
    assert chosen_backend("cuda", torch.float32, "dcnv1") == "torchvision"
    assert chosen_backend("mps", torch.float32, "dcnv1") == "torch"
    monkeypatch.setattr(deform_backends, "_absent", lambda module: f"no {module}")
    monkeypatch.setattr(deform_native, "why_not", lambda: "no compiler")
    chosen_backend.cache_clear()
    assert chosen_backend("cpu", torch.float32, "dcnv2") == chosen_backend("cuda", torch.float32, "dcnv4") == "torch"
    chosen_backend.cache_clear()
    assert why_not("gpu", "cpu", torch.float32, "dcnv1").startswith("no backend has that name; there are fastest")


def test_without_a_compiler_plain_torch_runs_and_says_why(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(deform_native.NativeError, match=r"no C\+\+ compiler \(no-such-compiler\) on the PATH; install"):
        deform_native.built(tmp_path)
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho it is broken >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(deform_native.NativeError, match="it is broken"):
        deform_native.built(tmp_path)


@pytest.mark.skipif(deform_native.why_not() is not None, reason=str(deform_native.why_not()))
def test_the_operator_is_built_once_and_leaves_no_draft(tmp_path):
    first = deform_native.built(tmp_path / "cache")
    made = first.stat().st_mtime_ns
    assert deform_native.built(tmp_path / "cache") == first and first.stat().st_mtime_ns == made
    assert list(first.parent.iterdir()) == [first]
    assert deform_native.SOURCE.parent not in deform_native.built().parents


def fake(monkeypatch, name, **functions):
    """A package that is not there, made of ``functions``."""
    for depth in range(1, name.count(".") + 2):
        monkeypatch.setitem(sys.modules, ".".join(name.split(".")[:depth]), types.ModuleType(name))
    for each, function in functions.items():
        setattr(sys.modules[name], each, function)


@pytest.mark.parametrize("kind", ["dcnv1", "dcnv2"])
def test_an_installed_torchvision_is_called_as_it_wants(kind, monkeypatch):
    calls = []

    def deform_conv2d(x, offset, weight, bias, *, padding, mask):
        calls.append((offset.shape, None if mask is None else mask.shape, padding))
        return torch.nn.functional.conv2d(x, weight, bias, padding=padding)

    fake(monkeypatch, "torchvision.ops", deform_conv2d=deform_conv2d)
    made = Deformable(kind=kind, channels=8, groups=2).build("torchvision")
    x = torch.randn(1, 8, 4, 8)
    assert_close(made(x), torch.nn.functional.conv2d(x, made.weight, made.bias, padding=1))
    assert calls == [((1, 36, 4, 8), None if kind == "dcnv1" else (1, 18, 4, 8), 1)] and made.used == "torchvision"


def test_the_authors_operator_is_called_as_it_wants(monkeypatch):
    calls = []

    class DCNv4Function:
        @staticmethod
        def apply(value, packed, *settings):
            calls.append((value.shape, packed.shape, settings))
            return value

    fake(monkeypatch, "DCNv4.functions", DCNv4Function=DCNv4Function)
    monkeypatch.setattr("models.layers.deform.why_not", lambda *given: None)  # no GPU is needed for the call
    made = Deformable(kind="dcnv4", channels=64, groups=4, scale=2.0, remove_centre=True).build("official")
    x = torch.randn(3, 64, 4, 8)
    assert_close(made(x), made.output(made.value(x)))
    assert calls == [((3, 4, 8, 64), (3, 4, 8, 96), (3, 3, 1, 1, 1, 1, 1, 1, 4, 16, 2.0, 3, 1))]


def test_a_package_that_breaks_on_import_is_no_backend(monkeypatch, tmp_path):
    (tmp_path / "dcn_for_another_torch.py").write_text("raise OSError('undefined symbol')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert imported("dcn_for_another_torch") is None
