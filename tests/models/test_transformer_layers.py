import math

import pytest
import torch
from torch.testing import assert_close

from models.layers.transformer import Attention, EncoderLayer, positions


def noise(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def valid(*lengths, of):
    return torch.arange(of) < torch.tensor(lengths)[:, None]


def test_positions_are_those_of_the_paper():
    found = positions(torch.tensor([0.0, 1.0, 2.5]), 6)
    for row, where in zip(found.tolist(), (0.0, 1.0, 2.5), strict=True):
        angles = [where / 10_000 ** (2 * i / 6) for i in range(3)]
        assert row == pytest.approx([*map(math.sin, angles), *map(math.cos, angles)], abs=1e-6)


def test_attention_is_its_formula():
    torch.manual_seed(0)
    layer, x, over = Attention(6, heads=2).double(), noise(1, 3, 6).double(), noise(1, 4, 6, seed=1).double()
    query, key, value = layer.query(x)[0], layer.key(over)[0], layer.value(over)[0]
    heads = [slice(0, 3), slice(3, 6)]
    parts = [(query[:, h] @ key[:, h].T / math.sqrt(3)).softmax(dim=1) @ value[:, h] for h in heads]
    assert_close(layer(x, over, valid(4, of=4))[0], layer.out(torch.cat(parts, dim=1)))


def test_padding_is_not_attended_to():
    torch.manual_seed(0)
    layer, x = EncoderLayer(8, heads=2, inner=16, dropout=0.0), noise(2, 5, 8)
    other = x.clone()
    other[0, 3:] = 9.0
    seen = valid(3, 5, of=5)
    assert_close(layer(x, seen)[0, :3], layer(other, seen)[0, :3])
    assert_close(layer(x, seen)[0, :3], layer(x[:1, :3], valid(3, of=3))[0])
    assert (layer(x, valid(5, 5, of=5))[0, :3] - layer(other, valid(5, 5, of=5))[0, :3]).abs().max() > 1e-3


def test_every_weight_of_a_layer_learns():
    torch.manual_seed(0)
    layer = EncoderLayer(8, heads=2, inner=16, dropout=0.0)
    layer(noise(2, 5, 8), valid(3, 5, of=5)).square().sum().backward()
    assert not [name for name, p in layer.named_parameters() if p.grad.abs().max() < 1e-4]


def test_dropout_is_for_training_only():
    torch.manual_seed(0)
    layer, x, all_of = EncoderLayer(8, heads=2, inner=16, dropout=0.5), noise(1, 5, 8), valid(5, of=5)
    assert not torch.equal(layer(x, all_of), layer(x, all_of))
    assert torch.equal(layer.eval()(x, all_of), layer(x, all_of))
