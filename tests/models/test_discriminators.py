import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from models.batch import Judged, Read
from models.discriminators.dual import DualConfig
from models.discriminators.patch import PatchConfig
from models.discriminators.spelled import Spelled, collapsed, transcribed
from models.layers.transformer import positions
from models.losses.adversarial import DiscriminatorTerm, GeneratorTerm
from tests.models.pairs import pair_of, reader

PATCH = PatchConfig(width=4)
DUAL = DualConfig(classes=5, width=4, letters=16)
ALL = pytest.mark.parametrize("config", [PATCH, DUAL], ids=["patch", "dual"])
NORMS = pytest.mark.parametrize("norm", [True, False], ids=["norm", "plain"])


def lines(*size, seed=0):
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def texts(*labels, room=4):
    tokens = torch.tensor([[*label, *[0] * (room - len(label))] for label in labels])
    return transcribed(tokens, torch.tensor([len(label) for label in labels]), 5)


def network(config, seed=0):
    torch.manual_seed(seed)
    return config.build()


def trained(config):
    """A network with loud features, biases everywhere and batch norms that are no identity."""
    net = network(config)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.3)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
    return net.eval()


def judged(net, degraded, candidate, widths=None, text=None):
    if hasattr(net, "look"):
        text = text or texts(*[[1, 2, 2], [3], [], [4, 1]][: len(degraded)])
        return net(degraded, candidate, text, widths)
    return net(degraded, candidate, widths)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (PatchConfig(), 1_709_633),
        (PatchConfig(norm=False), 1_708_993),
        (DualConfig(classes=109), 3_167_809),
    ],
)
def test_sizes(config, size):
    assert sum(p.numel() for p in config.build().parameters()) == size


@ALL
@pytest.mark.parametrize(("size", "patches"), [((128, 1024), (8, 64)), ((16, 16), (1, 1)), ((20, 33), (2, 3))])
def test_a_logit_for_every_sixteen_pixels(config, size, patches):
    net = trained(config)
    out = judged(net, lines(1, 1, *size), lines(1, 1, *size, seed=1))
    assert out.shape == (1, 1, *patches) and out.isfinite().all()


@ALL
@NORMS
@pytest.mark.parametrize("width", [1, 16, 23, 47])
def test_padding_changes_no_patch_of_an_image(config, norm, width):
    net = trained(replace(config, norm=norm))
    degraded, candidate, widths = lines(2, 1, 32, width), lines(2, 1, 32, width, seed=1), torch.tensor([width, width])
    alone = judged(net, degraded, candidate)
    for bucket in (width + 1, 64, 100):
        for filling in (-1.0, 1.0):
            far = (F.pad(image, (0, bucket - width), value=filling) for image in (degraded, candidate))
            out = judged(net, *far, widths)
            assert_close(out[..., : alone.shape[3]], alone, rtol=1e-5, atol=1e-5)
            assert not out[..., alone.shape[3] :].any()


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_parameter_has_a_gradient_from_the_first_step_on(config, dtype):
    for norm in (True, False):
        net = network(replace(config, norm=norm))
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = judged(net, lines(3, 1, 32, 64), lines(3, 1, 32, 64, seed=1), torch.tensor([64, 40, 20]))
        out.float().square().mean().backward()
        dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
        assert not dead and all(p.grad.isfinite().all() for p in net.parameters())


@ALL
def test_frozen_it_tells_the_candidate_how_to_change_and_keeps_its_weights(config):
    net = trained(config).requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    candidate = lines(2, 1, 32, 48, seed=1).requires_grad_()
    judged(net, lines(2, 1, 32, 48), candidate, torch.tensor([48, 20])).sum().backward()
    assert candidate.grad[0].any() and candidate.grad[1, ..., :20].any() and not candidate.grad[1, ..., 20:].any()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@ALL
def test_it_sees_what_was_degraded_too(config):
    net, candidate = trained(config), lines(1, 1, 32, 48, seed=1)
    change = judged(net, lines(1, 1, 32, 48), candidate) - judged(net, lines(1, 1, 32, 48, seed=2), candidate)
    assert change.abs().max() > 1e-3


@ALL
def test_it_soon_tells_clean_from_degraded(config):
    net, degraded = network(config), lines(2, 1, 32, 48)
    clean = degraded.sign()
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(30):
        optimizer.zero_grad()
        real, fake = judged(net, degraded, clean), judged(net, degraded, degraded)
        (F.softplus(-real).mean() + F.softplus(fake).mean()).backward()
        optimizer.step()
    assert real.min() > 0 > fake.max()


@ALL
def test_the_terms_count_the_patches_of_each_image_and_no_others(config):
    net, target, widths = trained(config), lines(2, 1, 32, 64), [64, 20]
    values = []
    for bucket in (64, 112):
        batch = pair_of(["AB", "C"], F.pad(target, (0, bucket - 64), value=-1), widths=widths, scale=1)
        fake = judged(net, batch.image, batch.target, batch.widths)
        out = Judged(image=batch.target, read=reader(batch.target), fake=fake, real=fake)
        values.append([GeneratorTerm()(batch, out).value, DiscriminatorTerm()(batch, out).value])
    assert_close(values[0], values[1], rtol=1e-5, atol=1e-5)
    ours = (-fake[0, 0, :, :4].mean() - fake[1, 0, :, :2].mean()) / 2
    assert_close(GeneratorTerm(kind="hinge")(batch, out).value, ours)


@ALL
def test_images_of_two_sizes_are_refused(config):
    with pytest.raises(ValueError, match="of one size"):
        judged(network(config), lines(1, 1, 32, 48), lines(1, 1, 32, 32))


def test_batch_norm_is_after_all_strided_convolutions_but_the_first():
    trunk = PATCH.build().trunk
    assert [isinstance(norm, nn.BatchNorm2d) for norm in trunk.norms] == [False, True, True, True]
    assert [conv.bias is None for conv in trunk.convs] == [False, True, True, True]
    assert [conv.out_channels for conv in PatchConfig().build().trunk.convs] == [64, 128, 256, 256]


def test_a_patch_sees_some_seventy_pixels_and_no_more():
    net, candidate = trained(PATCH), lines(1, 1, 16, 512).requires_grad_()
    net(lines(1, 1, 16, 512), candidate)[..., 16].sum().backward()
    reached = candidate.grad.abs().sum(dim=(0, 1, 2)).nonzero()
    # Four convolutions of kernel 4 and stride 2 see 46 pixels; one of kernel 3 on patches sees 32 more.
    assert reached.max() - reached.min() + 1 == 78


def test_queries_and_keys_learn_as_the_values_do():
    net, image = network(DUAL), lines(2, 1, 32, 64)
    out = judged(net, image, lines(2, 1, 32, 64, seed=1), text=texts([1, 2, 2], [3, 1]))
    (out * lines(*out.shape, seed=2)).sum().backward()
    values = net.look.value.weight.grad.norm()
    assert net.look.query.weight.grad.norm() > 1e-2 * values and net.look.key.weight.grad.norm() > 1e-2 * values


def test_columns_look_at_different_symbols():
    net, image = trained(DUAL), lines(1, 1, 32, 160)
    seen = []
    net.look.register_forward_hook(lambda _module, _inputs, found: seen.append(found))
    judged(net, image, image, text=texts([1, 2, 3, 4]))
    assert (seen[0][0, 0] - seen[0][0, -1]).abs().max() > 1e-2


def test_symbols_stand_above_the_columns_where_they_are_when_all_are_equally_wide():
    net, image, given = trained(DUAL), lines(2, 1, 32, 128), {}
    for layer in (net.letters, net.columns):  # leave the positions alone
        nn.init.zeros_(layer.weight)
    nn.init.zeros_(net.columns.bias)
    net.reader.register_forward_pre_hook(lambda _module, inputs: given.update(text=inputs[0]))
    net.before_look.register_forward_pre_hook(lambda _module, inputs: given.update(columns=inputs[0]))
    judged(net, image, image, torch.tensor([128, 60]), text=texts([1, 2, 3, 4], [1, 2]))
    assert_close(given["text"][0, 1:], positions(torch.tensor([1.0, 3.0, 5.0, 7.0]), 16))  # of 8 columns of patches
    assert_close(given["text"][1, 1:3], positions(torch.tensor([1.0, 3.0]), 16))  # of 4
    assert_close(given["columns"][0], positions(torch.arange(8) + 0.5, 16))


def test_it_reads_the_symbols_and_their_order():
    net, image = trained(DUAL), lines(1, 1, 32, 64)
    first = judged(net, image, image, text=texts([1, 2, 3]))
    for other in ([1, 2, 4], [3, 2, 1], [1, 2], []):
        assert (judged(net, image, image, text=texts(other)) - first).abs().max() > 1e-3


def test_room_for_more_symbols_changes_nothing():
    net, image = trained(DUAL), lines(2, 1, 32, 64)
    tight, wide = (judged(net, image, image, text=texts([1, 2, 3], [], room=room)) for room in (3, 30))
    assert_close(tight, wide, rtol=1e-5, atol=1e-5)
    text = texts([1, 2, 3], [4], room=6)
    rubbish = Spelled(rows=text.rows + (text.rows.sum(2, keepdim=True) == 0), lengths=text.lengths)
    assert_close(judged(net, image, image, text=rubbish), judged(net, image, image, text=text))


def test_a_text_read_and_the_same_text_transcribed_are_judged_alike():
    net, image = trained(DUAL), lines(1, 1, 32, 64)
    read = Read(logits=5 * F.one_hot(torch.tensor([[1, 1, 0, 2, 0, 2]]), 5).float(), frames=torch.tensor([6]))
    assert_close(
        judged(net, image, image, text=collapsed(read)),
        judged(net, image, image, text=texts([1, 2, 2])),
        rtol=1e-5,
        atol=1e-5,
    )


def test_it_tells_the_reader_which_symbol_it_would_rather_see():
    net, image = trained(DUAL).requires_grad_(False), lines(1, 1, 32, 64)
    logits = lines(1, 8, 5).requires_grad_()
    text = collapsed(Read(logits=logits, frames=torch.tensor([6])))
    assert text.lengths.item() > 0
    judged(net, image, image, text=text).sum().backward()
    assert logits.grad[0, :6].any() and not logits.grad[0, 6:].any()


def test_another_alphabet_is_refused():
    net, image, text = network(DUAL), lines(1, 1, 32, 64), transcribed(torch.tensor([[1]]), torch.tensor([1]), 7)
    with pytest.raises(ValueError, match="text has 7 classes, it was built for 5"):
        net(image, image, text)


@pytest.mark.parametrize(
    ("config", "change", "says"),
    [
        (PATCH, {"width": 0}, "a channel and a feature"),
        (DUAL, {"classes": 1}, "a symbol beside the blank"),
        (DUAL, {"letters": 18}, "divisible by the 4 heads"),
        (DUAL, {"source": "truth"}, "allowed: predicted, ground_truth"),
    ],
)
def test_what_cannot_be_built_is_refused(config, change, says):
    with pytest.raises(ValueError, match=says):
        replace(config, **change)
