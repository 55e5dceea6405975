"""The definitions of DCNv1 to DCNv4, whatever samples for them."""

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from models.layers.deform import Deformable, used_backends
from models.layers.deform_backends import BackendError, chosen_backend
from models.layers.deform_functions import aggregate, dense
from models.layers.deform_points import column_major, row_major

KINDS = ("dcnv1", "dcnv2", "dcnv3", "dcnv4")


def layer(kind, *, channels=32, groups=2, backend="torch", stirred=True, **settings):
    """A float64 module; stirred, its offsets are far from zero."""
    torch.manual_seed(0)
    made = Deformable(kind=kind, channels=channels, groups=groups, **settings).build(backend).double()
    for parameter in made.parameters() if stirred else ():
        nn.init.normal_(parameter, std=0.3)
    return made


def image(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def still(groups, points, height, width):
    offset = torch.zeros(1, groups, len(points), 2, height, width, dtype=torch.float64)
    return offset, torch.zeros(1, groups, len(points), height, width, dtype=torch.float64)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize(("kind", "share"), [("dcnv1", 1.0), ("dcnv2", 0.5)])
def test_without_offsets_it_is_a_convolution_that_shifts_nothing(kind, share, kernel, backend):
    made, x = layer(kind, stirred=False, kernel=kernel, backend=backend), image(2, 32, 5, 7)
    assert_close(made(x), F.conv2d(x, share * made.weight, made.bias, padding=kernel // 2))


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("kind", ["dcnv3", "dcnv4"])
def test_without_offsets_it_is_a_mean_of_nine_padded_with_zeros(kind, backend):
    made, x = layer(kind, stirred=False, backend=backend), image(2, 32, 5, 7)
    mean = F.avg_pool2d(made.value(x), 3, stride=1, padding=1)  # counts the padding
    assert_close(made(x), made.output(mean))


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_an_offset_of_one_column_shifts_left_by_one(backend):
    points, x = column_major(3), image(1, 4, 5, 7)
    offset, mask = still(1, points, 5, 7)
    mask[:, :, 4], offset[:, :, 4, 0] = 1, 1  # the centre; dx comes first
    shifted = aggregate(x, offset, mask, points, backend)
    assert_close(shifted[..., :-1], x[..., 1:])
    assert_close(shifted[..., -1], torch.zeros_like(shifted[..., -1]))


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_the_scale_multiplies_the_points_too(backend):
    points, x = column_major(3, 2.0), image(1, 4, 5, 7)
    offset, mask = still(1, points, 5, 7)
    mask[:, :, 0] = 1
    assert_close(aggregate(x, offset, mask, points, backend), F.pad(x, (2, 0, 2, 0))[..., :5, :7])


def test_points_and_offsets_lie_as_the_papers_have_them():
    assert column_major(3).at[:4] == ((-1, -1), (-1, 0), (-1, 1), (0, -1))  # column by column, dx first
    assert row_major(3).at[:4] == ((-1, -1), (0, -1), (1, -1), (-1, 0))  # row by row, dy first
    assert len(column_major(3, without_centre=True)) == 8 and (0, 0) not in column_major(3, without_centre=True).at
    points, x = row_major(3), image(1, 1, 5, 7)
    offset, weight = still(1, points, 5, 7)[0], torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    weight[0, 0, 1, 1], offset[:, :, 4, 0] = 1, 1  # dy of the centre
    assert_close(dense(x, offset, None, weight, points, "torch")[:, :, :-1], x[:, :, 1:])


def test_dcnv4_packs_offsets_and_weights_group_by_group():
    made = layer("dcnv4", stirred=False)
    bias = made.sampling.linear.bias
    assert bias.shape == (56,)  # 3 * 2 * 9 = 54, padded to a multiple of eight
    with torch.no_grad():
        bias.zero_()
        bias[27 + 2 * 4], bias[27 + 18 + 4] = 1, 1  # of the second group: dx and weight of the centre
    value = made.value(image(1, 32, 5, 7))
    expected = F.pad(value, (0, 1))[..., 1:] * (torch.arange(32) >= 16)[:, None, None]
    assert_close(made(image(1, 32, 5, 7)), made.output(expected))


def test_dcnv3_is_a_softmax_and_dcnv4_is_not():
    third, fourth = layer("dcnv3"), layer("dcnv4")
    _, mask, _ = third.sampling(image(2, 32, 4, 8))
    assert_close(mask.sum(dim=2), torch.ones(2, 2, 4, 8, dtype=torch.float64))
    assert fourth.sampling(image(2, 32, 4, 8))[1].min() < 0


def test_the_share_of_the_centre_starts_at_half_and_needs_no_offsets():
    plain, made = layer("dcnv3", stirred=False), layer("dcnv3", stirred=False, centre_scale=True)
    x = image(2, 32, 5, 7)
    made.value.load_state_dict(plain.value.state_dict())
    made.output.load_state_dict(plain.output.state_dict())
    assert_close(made(x), (plain(x) + plain.output(plain.value(x))) / 2)


@pytest.mark.parametrize(("kind", "groups", "count"), [
    ("dcnv1", 1, 47_314), ("dcnv2", 1, 52_507), ("dcnv3", 4, 16_108), ("dcnv4", 4, 15_600),
])  # fmt: skip
def test_sixty_four_channels_have_the_parameters_of_the_papers(kind, groups, count):
    made = Deformable(kind=kind, channels=64, groups=groups).build("torch")
    assert sum(parameter.numel() for parameter in made.parameters()) == count


@pytest.mark.parametrize("settings", [{}, {"remove_centre": True, "scale": 0.7}, {"centre_scale": True}])
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_the_gradient_of_the_definition(kind, settings, monkeypatch):
    monkeypatch.setattr("models.layers.deform_functions.AT_ONCE", 0)  # a few images at a time
    if settings and (kind in ("dcnv1", "dcnv2") or (kind == "dcnv4" and "centre_scale" in settings)):
        pytest.skip("not a setting of this kind")
    x, results = image(7, 32, 5, 7).requires_grad_(), []
    for backend in ("reference", "torch"):
        made = layer(kind, backend=backend, **settings)
        out = made(x)
        leaves = (x, *made.parameters())
        results.append([out, *torch.autograd.grad(out.sin().sum(), leaves)])
        assert all(each.abs().max() > 0 for each in results[-1])
    assert_close(results[1], results[0], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_small_differences(kind, backend):
    made = layer(kind, channels=16, groups=1, backend=backend)
    x = image(1, 16, 2, 3).requires_grad_()
    parameters = dict(made.named_parameters())
    small = [name for name, value in parameters.items() if value.numel() < 500]

    def out(x, *values):
        changed = {**parameters, **dict(zip(small, values, strict=True))}
        return torch.func.functional_call(made, changed, (x,))[:, ::5]

    assert torch.autograd.gradcheck(out, (x, *(parameters[name] for name in small)), fast_mode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_start_all_that_can_learn_gets_gradient(kind):
    made, x = layer(kind, stirred=False), image(2, 32, 4, 8)
    made(x).sin().sum().backward()
    still_dead = {name for name, parameter in made.named_parameters() if not parameter.grad.any()}
    # What precedes a layer of zeros waits for its first step.
    assert {name.rpartition(".")[0] for name in still_dead} <= {"sampling.depthwise", "sampling.norm"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(4, 8), (1, 5), (17, 31), (1, 1)])
def test_any_size_and_layout_comes_out_as_it_went_in(kind, size):
    made, x = layer(kind, channels=128, groups=8), image(2, 128, *size)
    out = made(x)
    assert out.shape == x.shape and out.isfinite().all()
    assert_close(made(x.contiguous(memory_format=torch.channels_last)), out)


def test_48_channels_in_4_groups_are_refused_with_a_way_out():
    with pytest.raises(ValueError, match="48 channels in 4 groups are 12 in each, which has to be a multiple of 16; "
                                         "use groups=1 or 3, or channels=64, or kind='dcnv3'"):  # fmt: skip
        Deformable(kind="dcnv4", channels=48, groups=4)
    Deformable(kind="dcnv3", channels=48, groups=4)


@pytest.mark.parametrize(("settings", "says"), [
    ({"kind": "dcnv5"}, "there are dcnv1"), ({"kernel": 4}, "odd kernel"), ({"groups": 3}, "do not divide"),
    ({"kind": "dcnv1", "scale": 2.0}, "has no scale"), ({"kind": "dcnv4", "centre_scale": True}, "has no centre_scale"),
    ({"kind": "dcnv3", "fallback": True}, "no fallback"), ({"kernel": 1, "remove_centre": True}, "no point is left"),
])  # fmt: skip
def test_settings_that_cannot_be_or_that_nothing_reads_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        Deformable(**{"kind": "dcnv4", "channels": 64, "groups": 4, **settings})


def test_a_checkpoint_of_another_parameterisation_is_refused():
    third = layer("dcnv3")
    layer("dcnv3").load_state_dict(third.state_dict())
    with pytest.raises(
        RuntimeError, match=r"is dcnv4 channels=32 .* a checkpoint of dcnv3 channels=32 .* does not fit"
    ):
        layer("dcnv4").load_state_dict(third.state_dict())
    wider = nn.Sequential(layer("dcnv3", scale=2.0))  # of the very same names and shapes
    with pytest.raises(RuntimeError, match=r"0 is dcnv3 .* scale=2 .* a checkpoint of dcnv3 .* scale=1 "):
        wider.load_state_dict({f"0.{name}": value for name, value in third.state_dict().items()})
    bare = {name: value for name, value in third.state_dict().items() if name != "parameterisation"}
    with pytest.raises(RuntimeError, match="does not say what it is of"):
        layer("dcnv3").load_state_dict(bare, strict=False)


def test_a_dcnv4_that_cannot_run_falls_back_where_that_is_asked_and_says_so():
    with pytest.warns(UserWarning, match=r"dcnv4 with the triton backend cannot run on cpu .*: this is dcnv3"):
        made = Deformable(kind="dcnv4", channels=64, groups=4, fallback=True).build("triton")
    assert made.kind == "dcnv3" and made(torch.randn(1, 64, 4, 8)).shape == (1, 64, 4, 8)
    with pytest.raises(BackendError, match="dcnv4 with the triton backend on cpu: it runs on cuda only; use backend="):
        Deformable(kind="dcnv4", channels=64, groups=4).build("triton")


def test_plain_torch_runs_dcnv4_anywhere_so_that_nothing_falls_back(recwarn):
    assert Deformable(kind="dcnv4", channels=64, groups=4, fallback=True).build("torch").kind == "dcnv4"
    assert not recwarn.list


def test_half_precision_is_summed_in_single():
    made = layer("dcnv4").float()
    x = image(2, 32, 5, 7).float()
    with torch.autocast("cpu", torch.bfloat16):
        low = made(x)
    assert low.dtype == torch.bfloat16
    assert_close(low.float(), made(x), rtol=0.1, atol=0.1 * made(x).std().item())


def test_the_module_tells_what_ran_and_the_choice_is_logged_once(caplog):
    made = layer("dcnv4", backend="fastest")
    assert made.used is None
    chosen_backend.cache_clear()
    with caplog.at_level(logging.INFO):
        made(image(1, 32, 4, 8))
        made(image(1, 32, 4, 8))
    assert used_backends(nn.ModuleDict({"eam": made})) == {"eam": "torch"}  # float64 is for plain Torch alone
    said = "dcnv4 on cpu in float64: the torch backend (not native: it has no float64; not torchvision: it has dcnv1, "
    assert [record.message.startswith(said) for record in caplog.records] == [True]
