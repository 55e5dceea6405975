import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from models.batch import Batch
from models.losses.text import ctc
from models.recognizers.crnn import CRNNConfig
from models.recognizers.simple import SimpleCRNNConfig
from models.recognizers.transformer import TransformerReaderConfig, averaged_rows

NARROW = TransformerReaderConfig(classes=5, width=1 / 16, features=16, layers=2, heads=2, inner=32, dropout=0.0)


def network(config=NARROW, seed=0):
    torch.manual_seed(seed)
    return config.build()


def lively(config=NARROW):
    """A network whose batch norms are no identity in ``eval()``, as after training."""
    net = network(config)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(values, 0.5)
    return net.eval()


def all_of(image):
    return torch.full((len(image),), image.shape[3])


def words(labels, image):
    longest = max(map(len, labels))
    return Batch(
        image=image,
        widths=all_of(image),
        tokens=torch.tensor([label + [0] * (longest - len(label)) for label in labels]),
        lengths=torch.tensor([len(label) for label in labels]),
        counted=torch.ones(len(labels), dtype=torch.bool),
        ids=tuple(range(len(labels))),
    )


def test_a_line_of_1024_columns_makes_128_frames():
    image = torch.zeros(1, 1, 128, 1024)
    out = network()(image, all_of(image))
    assert out.logits.shape == (1, 128, 5) and out.frames.tolist() == [128]


def test_size_by_default():
    with torch.device("meta"):
        assert sum(p.numel() for p in TransformerReaderConfig(classes=109).build().parameters()) == 27_844_013


def test_the_frames_formula_is_what_the_network_makes_of_every_width():
    net = network().eval()
    for width in range(8, 140):
        out = net(torch.zeros(1, 1, 16, width), torch.tensor([width]))
        assert out.logits.shape[1] == out.frames.item() == NARROW.frames.of(width)


@pytest.mark.parametrize("height", [8, 15, 32, 64, 100, 128, 200])
def test_any_height_from_eight_up_is_read(height):
    image = torch.rand(2, 1, height, 48) * 2 - 1
    assert lively()(image, all_of(image)).logits.shape == (2, 6, 5)


@pytest.mark.parametrize("size", [(7, 48), (16, 7)])
def test_smaller_images_are_refused(size):
    with pytest.raises(ValueError, match="at least 8 high and 8 wide: enlarge or pad"):
        network()(torch.zeros(1, 1, *size), torch.tensor([size[1]]))


@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 8, 12, 25])
def test_rows_are_averaged_as_torch_does(height):
    x = torch.rand(2, 3, height, 5)
    assert_close(averaged_rows(x, 4), F.adaptive_avg_pool2d(x, (4, 5)))


@pytest.mark.parametrize("width", [13, 32, 50, 63])
def test_a_reading_does_not_depend_on_how_far_the_image_is_padded_nor_with_what(width):
    net, image, widths = lively(), torch.rand(2, 1, 32, width) * 2 - 1, torch.tensor([width, width])
    alone, features = net(image, widths), net.features(image, widths)[0]
    for bucket in (width + 1, 64, 128):
        for filling in (-1.0, 1.0):
            padded = F.pad(image, (0, bucket - width), value=filling)
            out = net(padded, widths)
            assert_close(out.logits[:, : alone.logits.shape[1]], alone.logits, rtol=1e-5, atol=1e-5)
            assert_close(out.frames, alone.frames)
            assert_close(net.features(padded, widths)[0][:, : features.shape[1]], features, rtol=1e-5, atol=1e-5)


def test_an_image_too_narrow_for_a_frame_is_finite_and_no_trouble_to_its_neighbours():
    net, image = lively(), (torch.rand(2, 1, 32, 40) * 2 - 1).requires_grad_()
    out = net(image, torch.tensor([3, 40]))
    assert out.frames.tolist() == [0, 5] and out.logits.isfinite().all()
    out.logits.square().sum().backward()
    assert image.grad.isfinite().all()
    assert_close(out.logits[1:], net(image[1:], torch.tensor([40])).logits, rtol=1e-5, atol=1e-5)


def test_a_frame_knows_where_it_is_and_what_is_elsewhere():
    net, image = lively(), torch.zeros(1, 1, 32, 160)
    blank = net(image, all_of(image)).logits
    assert (blank[0, 7] - blank[0, 12]).abs().max() > 1e-3  # the same pixels, at two places
    image[..., 150:] = 1
    assert (net(image, all_of(image)).logits - blank)[0, 0].abs().max() > 1e-4


def test_every_parameter_has_a_gradient_from_the_first_step_on():
    for dtype in (torch.float32, torch.bfloat16):
        net, image = network(), torch.rand(2, 1, 32, 64) * 2 - 1
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = net(image, torch.tensor([64, 40]))
        ctc(words([[1, 2], [3]], image), out).value.backward()
        dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
        assert not dead and all(p.grad.isfinite().all() for p in net.parameters())


def test_a_frozen_reader_sends_gradient_to_the_image_and_stays_as_it_is():
    net = lively(replace(NARROW, dropout=0.2)).requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    image = (torch.rand(2, 1, 32, 64) * 2 - 1).requires_grad_()
    out = net(image, torch.tensor([64, 40]))
    assert torch.equal(out.logits, net(image, torch.tensor([64, 40])).logits)
    ctc(words([[1, 2], [3]], image), out).value.backward()
    assert image.grad[0].any() and image.grad[1, ..., :40].any() and not image.grad[1, ..., 40:].any()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_dropout_is_for_training_only():
    net, image = network(replace(NARROW, dropout=0.5)).eval(), torch.rand(1, 1, 32, 64)
    assert torch.equal(net(image, all_of(image)).logits, network().eval()(image, all_of(image)).logits)
    net.encoder.train()
    assert not torch.equal(net(image, all_of(image)).logits, net(image, all_of(image)).logits)


def test_it_learns_two_lines():
    net = network(replace(NARROW, width=1 / 8))
    torch.manual_seed(1)
    batch = words([[1, 2, 3], [4, 4]], torch.rand(2, 1, 16, 64) * 2 - 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        loss = ctc(batch, net(batch.image, batch.widths)).value
        loss.backward()
        optimizer.step()
    assert loss < 0.3


@pytest.mark.parametrize(
    ("config", "features"),
    [
        (NARROW, 16),
        (SimpleCRNNConfig(classes=5, channels=1, width=1 / 8, hidden=8), 32),
        (CRNNConfig(classes=5, width=1 / 16, hidden=8), 32),
    ],
    ids=["transformer", "simple", "crnn"],
)
def test_all_readers_read_what_their_features_say(config, features):
    net, image, widths = lively(config), (torch.rand(2, 1, 32, 64) * 2 - 1).requires_grad_(), torch.tensor([64, 40])
    whole = net(image, widths)
    tapped, frames = net.features(image, widths)
    assert tapped.shape == (*whole.logits.shape[:2], features)
    again = net.read(tapped, frames)
    assert torch.equal(again.logits, whole.logits) and torch.equal(again.frames, whole.frames)
    silent = net.read(torch.zeros_like(tapped), frames).logits
    assert (silent - whole.logits).abs().max() > 1e-3  # nothing goes past them
    tapped.square().sum().backward()
    assert image.grad.isfinite().all() and image.grad.flatten(1).any(dim=1).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"classes": 1}, "a symbol beside the blank"),
        ({"width": 0.001}, "at least one of everything"),
        ({"features": 15}, "divisible by the 2 heads"),
        ({"dropout": 1.0}, "below 1"),
    ],
)
def test_what_cannot_read_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        replace(NARROW, **change)
