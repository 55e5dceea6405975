import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from models.layers.columns import Columns
from models.restorers.documents import EnhancedConfig, UNetConfig
from models.restorers.unet_dense import DenseBlock, DilatedPyramid

UNET = UNetConfig(width=4)
PLAIN = UNetConfig(width=4, norm=False)
ENHANCED = EnhancedConfig(width=4, growth=4)
WHOLE = Columns()
ALL = pytest.mark.parametrize("config", [UNET, PLAIN, ENHANCED], ids=["unet", "unet-plain", "enhanced"])


def network(config, seed=0):
    torch.manual_seed(seed)
    return config.build()


def lines(*size, seed=0):
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def trained(config):
    """A network that says something, with biases everywhere and batch norms that are no identity."""
    net = network(config)
    nn.init.normal_(net.last.weight, std=0.1)
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
    return net.eval()


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (UNetConfig(), 31_036_481),
        (UNetConfig(norm=False), 31_030_593),
        (EnhancedConfig(), 15_740_168),
        (EnhancedConfig(blocks=2), 19_440_207),
    ],
)
def test_sizes(config, size):
    with torch.device("meta"):
        assert sum(p.numel() for p in config.build().parameters()) == size


def test_the_unet_has_the_23_convolutions_of_the_paper():
    convs = [m for m in UNET.build().modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    assert len(convs) == 23
    assert [conv.bias is None for conv in convs].count(True) == 18  # those that batch norm follows


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_untrained_it_returns_its_image(config, dtype):
    for training in (True, False):
        net, image = network(config).train(training), lines(2, 1, 33, 50)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = net(image, torch.tensor([50, 17]))
        assert out.dtype == torch.float32
        assert_close(out, image, rtol=0, atol=1e-6)


@ALL
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 31), (5, 70), (128, 3)])
def test_any_size_works(config, size):
    image = lines(2, 1, *size)
    for net in (trained(config), trained(config).train()):
        out = net(image)
        assert out.shape == image.shape and out.isfinite().all() and out.abs().max() <= 1
        assert (out - image).abs().max() > 1e-3  # it is not the image that comes out


@ALL
def test_grey_and_colour_come_out_as_they_went_in(config):
    assert trained(replace(config, channels=3))(lines(1, 3, 8, 16)).shape == (1, 3, 8, 16)


@ALL
@pytest.mark.parametrize("width", [1, 16, 23, 47])
def test_padding_changes_nothing_inside_and_comes_out_as_it_went_in(config, width):
    net, image, widths = trained(config), lines(2, 1, 20, width), torch.tensor([width, width])
    alone = net(image)
    assert_close(net(image, widths), alone, rtol=0, atol=0)
    for bucket in (width + 1, 64, 100):
        for filling in (-1.0, 1.0):
            padded = F.pad(image, (0, bucket - width), value=filling)
            out = net(padded, widths)
            assert_close(out[..., :width], alone, rtol=1e-5, atol=1e-5)
            assert torch.equal(out[..., width:], padded[..., width:])


@ALL
def test_neighbours_in_a_batch_do_not_change_an_image(config):
    net, image, widths = trained(config), lines(3, 1, 20, 50), torch.tensor([50, 9, 33])
    together = net(image, widths)
    for i, width in enumerate(widths.tolist()):
        assert_close(together[i : i + 1, ..., :width], net(image[i : i + 1, ..., :width]), rtol=1e-5, atol=1e-5)


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_parameter_has_a_gradient_from_the_first_step_on(config, dtype):
    net, image = network(config), lines(2, 1, 32, 64)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = net(image, torch.tensor([64, 40]))
    F.l1_loss(out, lines(*out.shape, seed=1)).backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead and all(p.grad.isfinite().all() for p in net.parameters())


@ALL
def test_black_and_white_are_reached_and_can_be_left_again(config):
    net, image = trained(config), lines(1, 1, 16, 32)
    for shade in (-1.0, 1.0):
        nn.init.constant_(net.last.bias, 9 * shade)
        out = net(image)
        assert torch.equal(out, torch.full_like(out, shade))
        net.zero_grad()
        F.l1_loss(out, torch.zeros_like(out)).backward()
        assert net.last.bias.grad.item() * shade > 0  # a step goes against it


@ALL
def test_two_calls_say_the_same_and_leave_the_network_and_random_numbers_alone(config):
    net, image = trained(config), lines(2, 1, 20, 30)
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    assert torch.equal(net(image), net(image))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("config", [PLAIN, ENHANCED], ids=["unet-plain", "enhanced"])
def test_without_batch_norm_training_computes_the_same(config):
    net, image = trained(config), lines(2, 1, 20, 30)
    assert torch.equal(net(image), net.train()(image))


def test_dropout_leaves_out_features_in_training_alone():
    net, image = trained(replace(PLAIN, dropout=0.5)), lines(1, 1, 32, 32)
    assert torch.equal(net(image), trained(PLAIN)(image))
    net.train()
    assert not torch.equal(net(image), net(image))


@ALL
def test_the_order_of_channels_in_memory_changes_nothing(config):
    net, image = trained(config), lines(2, 1, 20, 30)
    there = copy.deepcopy(net).to(memory_format=torch.channels_last)
    assert_close(there(image.contiguous(memory_format=torch.channels_last)), net(image), rtol=1e-5, atol=1e-5)


@ALL
def test_it_soon_beats_its_image(config):
    net, target = network(config), lines(2, 1, 4, 8).sign().repeat_interleave(8, 2).repeat_interleave(8, 3)
    image = 0.3 * target + 0.2 * lines(2, 1, 32, 64, seed=1)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(30):
        optimizer.zero_grad()
        F.l1_loss(net(image), target).backward()
        optimizer.step()
    assert F.l1_loss(net(image), target) < 0.5 * F.l1_loss(image, target)


def test_without_any_attention_a_pixel_is_seen_across_several_characters():
    net, image = trained(UNET), lines(1, 1, 16, 160).requires_grad_()
    net(image)[..., 80].sum().backward()
    assert image.grad[..., 40].any() and image.grad[..., 120].any()


def test_a_dense_block_sees_every_layer_before():
    torch.manual_seed(0)
    block, x = DenseBlock(4, growth=2, layers=3, attention=False), lines(1, 4, 5, 6)
    assert [layer.in_channels for layer in block.dense] == [4, 6, 8] and block.fuse.in_channels == 10
    seen = x
    for layer in block.dense:
        seen = torch.cat([seen, layer(seen).relu()], dim=1)
    assert_close(block(x, WHOLE), x + block.fuse(seen))


def test_the_pyramid_reaches_four_pixels_far():
    torch.manual_seed(0)
    pyramid, x = DilatedPyramid(16), lines(1, 16, 11, 11).requires_grad_()
    pyramid(x)[..., 5, 5].sum().backward()
    reached = x.grad.abs().sum(dim=(0, 1)) > 0
    assert reached[5].tolist() == [column in (1, 3, 4, 5, 6, 7, 9) for column in range(11)]


def test_attention_is_at_all_five_scales_on_the_way_down():
    body = EnhancedConfig(width=4, growth=4, blocks=2).build().body
    assert [[block.attention is not None for block in scale.blocks] for scale in body.scales] == [[True, True]] * 5
    assert [scale.blocks[0].fuse.out_channels for scale in body.scales] == [4, 8, 16, 32, 32]


@pytest.mark.parametrize(
    ("config", "change", "says"),
    [
        (UNET, {"halvings": 0}, "a halving at least"),
        (UNET, {"dropout": 1.0}, "dropout from 0 to below 1"),
        (ENHANCED, {"blocks": 0}, "at least one of everything"),
    ],
)
def test_what_cannot_be_built_is_refused(config, change, says):
    with pytest.raises(ValueError, match=says):
        replace(config, **change)
