from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from models.batch import Batch
from models.losses.text import ctc
from models.recognizers.crnn import BothWays, CRNNConfig, reverse_within
from models.tasks.read import ReadTask

NARROW = CRNNConfig(classes=5, width=1 / 16, hidden=8)


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


def padded(image, width):
    return nn.functional.pad(image, (0, width - image.shape[3]), value=-1)


def test_the_frames_formula_is_what_the_network_makes_of_every_width():
    net = network().eval()
    for width in range(4, 200):
        out = net(torch.zeros(1, 1, 32, width), torch.tensor([width]))
        assert out.logits.shape[1] == out.frames.item() == NARROW.frames.of(width)


def test_valid_frames_follow_the_valid_width_and_never_exceed_the_rest():
    out = network()(torch.zeros(4, 1, 32, 64), torch.tensor([1, 30, 64, 70]))
    assert out.frames.tolist() == [1, 8, 17, 17]
    assert out.logits.shape == (4, 17, 5)


@pytest.mark.parametrize("width", [13, 32, 50, 63])
def test_a_reading_does_not_depend_on_how_far_the_image_is_padded(width):
    net, image, widths = lively(), torch.rand(2, 1, 32, width) * 2 - 1, torch.tensor([width, width])
    alone = net(image, widths)
    for bucket in (width + 1, 64, 128):
        out = net(padded(image, bucket), widths)
        assert_close(out.logits[:, : alone.logits.shape[1]], alone.logits, rtol=1e-5, atol=1e-6)
        assert_close(out.frames, alone.frames)


def test_what_lies_in_the_padding_is_never_read():
    net, image, widths = lively(), torch.rand(1, 1, 32, 64), torch.tensor([41])
    other = image.clone()
    other[..., 41:] = 1
    frames = NARROW.frames.of(41)
    assert_close(net(image, widths).logits[:, :frames], net(other, widths).logits[:, :frames])


def test_neighbours_in_a_batch_do_not_change_a_reading():
    net, widths = lively(), torch.tensor([20, 64, 37])
    image = torch.rand(3, 1, 32, 64)
    together = net(image, widths)
    for i, width in enumerate(widths.tolist()):
        alone = net(image[i : i + 1, :, :, :width], widths[i : i + 1])
        assert_close(together.logits[i : i + 1, : alone.logits.shape[1]], alone.logits, rtol=1e-5, atol=1e-6)


def test_padding_does_not_change_the_gradient():
    grads = []
    for bucket in (40, 96):
        net = lively()
        batch = words([[1, 2], [3]], width=40)
        ctc(batch, net(padded(batch.image, bucket), batch.widths)).value.backward()
        grads.append([p.grad for p in net.parameters()])
    assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-6)


def test_padding_is_not_read_in_bfloat16_either():
    net, image, widths = lively(), torch.rand(1, 1, 32, 41), torch.tensor([41])
    with torch.autocast("cpu", torch.bfloat16):
        alone, far = net(image, widths).logits, net(padded(image, 128), widths).logits
    assert_close(far[:, : alone.shape[1]], alone, rtol=0.02, atol=0.02)


def test_an_image_of_another_height_is_refused():
    with pytest.raises(ValueError, match=r"48 high.*resize to height 32"):
        network()(torch.zeros(1, 1, 48, 64), torch.tensor([64]))


def test_an_alphabet_of_the_blank_alone_is_refused():
    with pytest.raises(ValueError, match="classes=1"):
        CRNNConfig(classes=1)


def test_full_width_is_the_size_of_the_paper():
    assert sum(p.numel() for p in CRNNConfig(classes=37).build().parameters()) == 8_330_021


def test_without_padding_the_features_are_those_of_the_plain_network():
    net, x = lively().cnn, torch.rand(2, 1, 32, 50)
    features, _ = net(x, torch.tensor([50, 50]))
    pools = [nn.MaxPool2d(2), nn.MaxPool2d(2), None, nn.MaxPool2d(2, (2, 1), (0, 1)), None]
    for block, pool in zip(net.blocks, [*pools, pools[3], None], strict=True):
        x = block.norm(block.conv(x)).relu()
        x = x if pool is None else pool(x)
    assert_close(features, x[:, :, 0].transpose(1, 2))


def test_batch_norm_follows_convolutions_three_five_and_seven_which_have_no_bias():
    convs = network().cnn.blocks
    assert [isinstance(b.norm, nn.BatchNorm2d) for b in convs] == [False, False, True, False, True, False, True]
    assert [b.conv.bias is None for b in convs] == [False, False, True, False, True, False, True]


def test_sequences_reverse_within_their_length():
    x = torch.arange(8.0).reshape(2, 4, 1)
    assert reverse_within(x, torch.tensor([3, 1])).flatten().tolist() == [2, 1, 0, 3, 4, 5, 6, 7]


def test_both_ways_is_a_packed_bidirectional_lstm():
    torch.manual_seed(0)
    ours, theirs = BothWays(3, 4), nn.LSTM(3, 4, batch_first=True, bidirectional=True)
    for name, values in ours.forwards.named_parameters():
        theirs.get_parameter(name).data.copy_(values.data)
        theirs.get_parameter(f"{name}_reverse").data.copy_(ours.backwards.get_parameter(name).data)
    x, frames = torch.randn(3, 6, 3), torch.tensor([6, 2, 4])
    packed = nn.utils.rnn.pack_padded_sequence(x, frames, batch_first=True, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)
    valid = torch.arange(6) < frames[:, None]
    assert_close(ours(x, frames)[valid], expected[valid])


def test_the_parts_are_all_of_the_reader_and_its_weights_are_those_of_the_recogniser():
    task = ReadTask(recognizer=NARROW)
    torch.manual_seed(0)
    reader, alone = task.build().eval(), network().eval()
    assert tuple(name for name, _ in reader.named_children()) == task.parts
    reader.load_state_dict(alone.state_dict(), strict=True)
    batch = words([[1, 2], [3]])
    assert_close(reader(batch).logits, alone(batch.image, batch.widths).logits)
    assert_close(reader(batch).frames, alone(batch.image, batch.widths).frames)


def test_every_parameter_has_a_gradient():
    net, batch = network(), words([[1, 2], [3]])
    ctc(batch, net(batch.image, batch.widths)).value.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


def test_it_learns_to_tell_words_apart():
    batch = words([[1, 2], [3], [4, 4], [2, 1, 3]])
    net = network(replace(NARROW, width=1 / 8, hidden=16))
    optim = torch.optim.AdamW(net.parameters(), 5e-3)
    for _ in range(150):
        loss = ctc(batch, net(batch.image, batch.widths)).value
        optim.zero_grad()
        loss.backward()
        optim.step()
    assert loss < 0.1


def words(labels, width=48):
    """Each symbol is a bright bar, four times its class from the top, twelve columns after the one before."""
    image = torch.full((len(labels), 1, 32, width), -1.0)
    for i, label in enumerate(labels):
        for place, symbol in enumerate(label):
            image[i, 0, 4 * symbol : 4 * symbol + 6, 12 * place + 2 : 12 * place + 9] = 1
    longest = max(map(len, labels))
    return Batch(
        image=image,
        widths=torch.tensor([max(12 * len(label), 16) for label in labels]),
        tokens=torch.tensor([label + [0] * (longest - len(label)) for label in labels]),
        lengths=torch.tensor([len(label) for label in labels]),
        counted=torch.ones(len(labels), dtype=torch.bool),
        ids=tuple(range(len(labels))),
    )
