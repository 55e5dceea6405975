import copy
import random
import string

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from models.batch import Batch
from models.losses.text import ctc
from models.recognizers.simple import SimpleCRNNConfig
from models.restorers.plates import PlateRestorerConfig
from models.text import ALNUM36, frames_needed

NARROW = SimpleCRNNConfig(classes=5, width=1 / 8, hidden=8)


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


def test_a_hundred_columns_make_twenty_five_frames():
    out = network()(torch.zeros(2, 3, 32, 100), torch.tensor([100, 100]))
    assert NARROW.frames.of(100) == 25 and out.logits.shape == (2, 25, 5) and out.frames.tolist() == [25, 25]


def test_the_frames_formula_is_what_the_network_makes_of_every_width():
    net = network().eval()
    for width in range(4, 140):
        out = net(torch.zeros(1, 3, 16, width), torch.tensor([width]))
        assert out.logits.shape[1] == out.frames.item() == NARROW.frames.of(width)


def test_every_column_of_a_plate_is_read():
    # The network this one replaces reads the first seven frames of 25.
    net, image = lively(), torch.zeros(1, 3, 32, 100, requires_grad=True)
    net(image, all_of(image)).logits.sum().backward()
    assert image.grad.abs().sum(dim=(0, 1, 2)).min() > 0


def test_the_last_frame_depends_on_the_last_columns():
    net, image = lively(), torch.zeros(1, 3, 32, 100)
    other = image.clone()
    other[..., 96:] = 1
    change = (net(image, all_of(image)).logits - net(other, all_of(image)).logits).abs().amax(dim=(0, 2))
    assert change[-1] > 1e-3 and change[-1] > change[0]


@pytest.mark.parametrize("height", [16, 17, 32, 34, 64, 68, 101])
def test_any_height_from_sixteen_up_is_read(height):
    net, image = lively(), torch.rand(2, 3, height, 48) * 2 - 1
    assert net(image, all_of(image)).logits.shape == (2, 12, 5)


@pytest.mark.parametrize("size", [(15, 48), (16, 3)])
def test_smaller_images_are_refused(size):
    with pytest.raises(ValueError, match=r"at least 16 high and 4 wide: enlarge or pad"):
        network()(torch.zeros(1, 3, *size), torch.tensor([size[1]]))


@pytest.mark.parametrize("width", [13, 32, 50, 63])
def test_a_reading_does_not_depend_on_how_far_the_image_is_padded(width):
    net, image, widths = lively(), torch.rand(2, 3, 32, width) * 2 - 1, torch.tensor([width, width])
    alone = net(image, widths)
    for bucket in (width + 1, 64, 128):
        out = net(nn.functional.pad(image, (0, bucket - width), value=-1), widths)
        assert_close(out.logits[:, : alone.logits.shape[1]], alone.logits, rtol=1e-5, atol=1e-6)
        assert_close(out.frames, alone.frames)


def test_full_width_is_small():
    assert sum(p.numel() for p in SimpleCRNNConfig(classes=37).build().parameters()) == 1_090_757


def test_a_frozen_reader_sends_gradient_through_a_restorer_and_gets_none():
    reader = lively().requires_grad_(False).eval()
    before = copy.deepcopy(reader.state_dict())
    torch.manual_seed(0)
    restorer = PlateRestorerConfig(features=8, blocks=1, growth=4, deformable="none").build()
    image = restorer(torch.rand(2, 3, 16, 24) * 2 - 1)
    image.retain_grad()
    ctc(words([[1, 2], [3, 3]], image), reader(image, all_of(image))).value.backward()
    assert image.grad.isfinite().all() and image.grad.flatten(1).any(dim=1).all()
    assert not [name for name, p in restorer.named_parameters() if not p.grad.any()]
    assert all(p.grad is None for p in reader.parameters())
    assert all(torch.equal(value, before[name]) for name, value in reader.state_dict().items())


def test_frozen_only_what_cudnn_needs_stays_in_training_mode_and_that_changes_no_reading():
    net, image = lively(), torch.rand(2, 3, 32, 40)
    lstms = [module for module in net.modules() if isinstance(module, nn.LSTM)]
    assert len(lstms) == 4 and all(lstm.training and lstm.dropout == 0 for lstm in lstms)
    assert not [m for m in net.modules() if m.training and not isinstance(m, nn.LSTM)]
    out = net(image, all_of(image)).logits
    for lstm in lstms:
        lstm.eval()
    assert torch.equal(net(image, all_of(image)).logits, out)
    nn.Sequential(net).eval()  # a task that holds it freezes it like that
    assert all(lstm.training for lstm in lstms)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: only cuDNN refuses this backward pass")
def test_a_frozen_reader_sends_gradient_through_cudnn():
    net = lively().requires_grad_(False).cuda().eval()
    image = (torch.rand(2, 3, 32, 64) * 2 - 1).cuda().requires_grad_()
    net(image, all_of(image).cuda()).logits.logsumexp(2).sum().backward()
    assert image.grad.isfinite().all() and image.grad.any()


def test_it_learns_two_plates():
    net = network(SimpleCRNNConfig(classes=5, width=1 / 4, hidden=16))
    torch.manual_seed(1)
    batch = words([[1, 2, 3], [4, 4]], torch.rand(2, 3, 16, 48) * 2 - 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = ctc(batch, net(batch.image, batch.widths)).value
        loss.backward()
        optimizer.step()
    assert loss < 0.3
    assert not [name for name, p in net.named_parameters() if not p.grad.any()]


def test_bfloat16_reads_and_learns_finite_numbers():
    net, image = network(), torch.rand(2, 3, 32, 64)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(image, all_of(image))
    ctc(words([[1, 2], [3]], image), out).value.backward()
    assert out.logits.isfinite().all() and all(p.grad.isfinite().all() for p in net.parameters())


def plates(layout, count):
    sources = {"L": string.ascii_lowercase, "N": string.digits}
    rng = random.Random(0)
    return ["".join(rng.choice(sources[kind]) for kind in layout) for _ in range(count)]


@pytest.mark.parametrize(("layout", "share"), [("LLLNNNN", 0.326), ("LLLNLNN", 0.170)])
def test_seven_frames_are_too_few_for_many_plates_and_thirteen_for_none(layout, share):
    needed = [frames_needed(ALNUM36.encode(plate)) for plate in plates(layout, 100_000)]
    assert sum(frames > 7 for frames in needed) / len(needed) == pytest.approx(share, abs=0.003)
    assert max(needed) <= 13
    assert NARROW.frames.of(96) >= 13


@pytest.mark.parametrize(
    "wrong", [{"classes": 1}, {"classes": 5, "hidden": 0}, {"classes": 5, "width": 0.001}], ids=str
)
def test_what_cannot_read_is_refused(wrong):
    with pytest.raises(ValueError, match="needs a symbol beside the blank"):
        SimpleCRNNConfig(**wrong)
