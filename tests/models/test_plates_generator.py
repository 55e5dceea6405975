import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from models.layers.character_attention import CharacterAttentionConfig
from models.layers.dense import ResidualDenseBlock
from models.layers.enhanced_attention import EnhancedAttention, ProfileAttention
from models.layers.upscale import bicubic, bounded
from models.restorers.plates import PlateRestorerConfig, even

SMALL = PlateRestorerConfig(features=16, blocks=2, growth=8, deformable="none")
WITH_CHARACTERS = replace(SMALL, characters=CharacterAttentionConfig(prototypes=5))


def network(config=SMALL, seed=0):
    torch.manual_seed(seed)
    return config.build()


def plates(*size, seed=0):
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def trained(config=SMALL):
    """A network whose last layer says something, as after training."""
    net = network(config)
    torch.nn.init.normal_(net.last.weight, std=0.3)
    return net.eval()


def parameters(config):
    return sum(p.numel() for p in config.build().parameters())


@pytest.mark.parametrize(
    ("blocks", "deformable", "published"),
    [(12, "dcnv1", 3_994_241), (16, "dcnv1", 5_257_121), (24, "dcnv1", 7_782_881), (16, "none", 4_924_769)],
)
def test_sizes_are_those_of_the_published_network_less_the_learned_weight_of_its_skip(blocks, deformable, published):
    # Its last sum is residual + w * bilinear with a learned w; here w is 1.
    config = PlateRestorerConfig(blocks=blocks, deformable=deformable, groups=1)
    assert parameters(config) == published - 1


def test_size_by_default():
    assert parameters(PlateRestorerConfig()) == 3_233_104


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("config", [SMALL, WITH_CHARACTERS], ids=["plain", "characters"])
def test_untrained_it_is_bicubic(config, scale):
    for seed in range(3):
        image = plates(2, 3, 17, 31, seed=seed)
        assert_close(network(replace(config, scale=scale), seed)(image), bicubic(image, scale), rtol=0, atol=1e-6)


def test_untrained_it_is_bicubic_in_bfloat16_too():
    image = plates(2, 3, 16, 48)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(WITH_CHARACTERS)(image)
    assert out.dtype == torch.float32
    assert_close(out, bicubic(image, 2), rtol=0, atol=1e-6)


def test_the_full_network_is_bicubic_at_the_published_size():
    net, image = (
        network(PlateRestorerConfig(deformable="none", characters=CharacterAttentionConfig())),
        plates(2, 3, 34, 62),
    )
    with torch.no_grad():
        out = net(image)
    assert out.shape == (2, 3, 68, 124)
    assert_close(out, bicubic(image, 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("size", [(4, 8), (17, 31), (5, 8), (4, 9), (16, 48), (1, 1), (1, 7), (3, 1)])
def test_any_size_works(size, scale):
    net = trained(replace(WITH_CHARACTERS, scale=scale))
    out = net(plates(2, 3, *size))
    assert out.shape == (2, 3, scale * size[0], scale * size[1]) and out.isfinite().all()


@pytest.mark.parametrize("deformable", ["dcnv1", "dcnv2", "dcnv3", "dcnv4"])
def test_with_every_deformable_convolution_it_starts_from_bicubic_and_all_of_it_learns(deformable):
    for dtype in (torch.float32, torch.bfloat16):
        net = network(replace(WITH_CHARACTERS, deformable=deformable, groups=1))
        for size in ((1, 1), (4, 8), (17, 31)):
            image = plates(2, 3, *size)
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                out = net(image)
            assert_close(out, bicubic(image, 2), rtol=0, atol=1e-6)
        F.l1_loss(out, plates(*out.shape, seed=1)).backward()
        assert not [name for name, p in net.named_parameters() if not p.grad.any() or not p.grad.isfinite().all()]


def test_deformable_convolutions_sample_in_both_places_of_every_block():
    net = replace(SMALL, deformable="dcnv4", groups=1).build()
    kinds = [layer.kind for block in net.blocks for layer in (block.attention.position, block.attention.gate)]
    assert kinds == ["dcnv4"] * 4


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour_come_out_as_they_went_in(channels):
    assert trained(replace(SMALL, channels=channels))(plates(1, channels, 8, 16)).shape == (1, channels, 16, 32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "config", [SMALL, WITH_CHARACTERS, replace(WITH_CHARACTERS, scale=4)], ids=["x2", "msca", "x4"]
)
def test_every_parameter_has_a_gradient_from_the_first_step_on(config, dtype):
    net, image = network(config), plates(2, 3, 16, 48)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = net(image)
    F.l1_loss(out, plates(*out.shape, seed=1)).backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead and all(p.grad.isfinite().all() for p in net.parameters())


def test_it_soon_beats_bicubic():
    net, target = network(), F.interpolate(plates(2, 3, 8, 16), scale_factor=4, mode="nearest")
    image = F.avg_pool2d(target, 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(40):
        optimizer.zero_grad()
        F.l1_loss(net(image), target).backward()
        optimizer.step()
    assert F.l1_loss(net(image), target) < 0.8 * F.l1_loss(bicubic(image, 2), target)


def test_two_calls_say_the_same_and_leave_the_network_and_random_numbers_alone():
    net, image = trained(WITH_CHARACTERS), plates(2, 3, 9, 15)
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    first = net(image)
    assert torch.equal(first, net(image)) and torch.equal(first, net.train()(image))
    assert torch.equal(torch.get_rng_state(), state)
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_neighbours_in_a_batch_do_not_change_an_image():
    net, image = trained(WITH_CHARACTERS), plates(3, 3, 9, 15)
    assert_close(net(image)[1:2], net(image[1:2]), rtol=1e-5, atol=1e-6)


def test_the_order_of_channels_in_memory_changes_nothing():
    net, image = trained(WITH_CHARACTERS), plates(2, 3, 9, 15)
    there = copy.deepcopy(net).to(memory_format=torch.channels_last)
    assert_close(there(image.contiguous(memory_format=torch.channels_last)), net(image), rtol=1e-5, atol=1e-6)


def test_bicubic_is_torchs_within_the_range_of_images():
    image = plates(1, 3, 6, 9)
    theirs = F.interpolate(image, scale_factor=2, mode="bicubic", align_corners=False)
    assert theirs.abs().max() > 1  # noise overshoots
    assert torch.equal(bicubic(image, 2), theirs.clamp(-1, 1))
    assert torch.equal(bicubic(image, 1), image)


def test_the_output_stays_in_range_and_only_outward_gradient_stops():
    x = torch.tensor([-1.5, -1.5, -1.0, 0.3, 1.0, 1.5, 1.5], requires_grad=True)
    grad = torch.tensor([2.0, -2.0, 2.0, 2.0, -2.0, 2.0, -2.0])  # a step goes against it
    out = bounded(x)
    assert torch.equal(out, x.clamp(-1, 1))
    out.backward(grad)
    assert x.grad.tolist() == [0.0, -2.0, 2.0, 2.0, -2.0, 2.0, 0.0]


def test_an_odd_side_repeats_its_last_pixels():
    x = plates(1, 2, 3, 5)
    assert torch.equal(even(x), F.pad(x, (0, 1, 0, 1), mode="replicate"))
    assert torch.equal(even(x[:, :, :2, :4]), x[:, :, :2, :4])


def test_both_skips_are_there():
    net, image = trained(), plates(1, 3, 6, 9)
    for conv in (net.deep, *(block.local for block in net.blocks)):
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    inner = net.last(net.enlarge(net.shallow(image)))  # the deep half is silent
    assert_close(net(image), (bicubic(image, 2) + inner).clamp(-1, 1))


def test_enhanced_attention_is_its_formula():
    torch.manual_seed(0)
    layer = EnhancedAttention(8, lambda: torch.nn.Conv2d(8, 8, 3, padding=1)).double()
    x = plates(2, 8, 5, 7).double()
    weigh = torch.nn.Sequential(layer.channels.squeeze, torch.nn.SiLU(), layer.channels.excite)
    channels = (weigh(F.adaptive_avg_pool2d(x, 1)) + weigh(F.adaptive_max_pool2d(x, 1))).sigmoid()
    rows, columns = (
        (profile.weight[:, :, 0, 0] @ x.mean(dim) + profile.bias[:, None]).sigmoid()
        for profile, dim in ((layer.profiles.rows, 3), (layer.profiles.columns, 2))
    )
    profiles = torch.einsum("bch,bcw->bchw", rows, columns)
    assert_close(layer(x), x * (1 + layer.gate(channels * layer.position(x) + profiles).sigmoid()))


def test_profiles_know_a_row_from_a_column():
    # A bright row and a bright column of a square image have the same mean, and nothing else in common.
    torch.manual_seed(0)
    layer, row = ProfileAttention(4), torch.zeros(1, 4, 6, 6)
    row[:, :, 2] = 1
    out = layer(row)
    assert (out[:, :, 2] - out[:, :, 0]).abs().min() > 1e-3  # the row stands out
    assert_close(out[:, :, :, 0], out[:, :, :, 5])
    assert (out - layer(row.transpose(2, 3))).abs().max() > 1e-3


def test_a_dense_block_sees_every_layer_before():
    torch.manual_seed(0)
    block = ResidualDenseBlock(4, growth=2, layers=3, attention=torch.nn.Identity())
    assert [layer.in_channels for layer in block.dense] == [4, 6, 8] and block.fuse.in_channels == 10
    x = plates(1, 4, 5, 6)
    seen = x
    for layer in block.dense:
        seen = torch.cat([seen, layer(seen).relu()], dim=1)
    assert_close(block(x), x + block.local(block.fuse(seen)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"features": 18}, "divisible by 4"),
        ({"blocks": 0}, "at least one"),
        ({"scale": 3}, "it is 1, 2 or 4"),
        ({"deformable": "dcnv4", "groups": 4}, "multiple of 16"),
    ],
)
def test_what_cannot_be_built_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        replace(SMALL, **change)
