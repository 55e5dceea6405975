from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from models.layers.character_attention import CharacterAttentionConfig, level_size
from models.restorers.plates import PlateRestorerConfig

CONFIG = CharacterAttentionConfig(prototypes=6)


def attention(config=CONFIG, features=8, seed=0):
    torch.manual_seed(seed)
    return config.build(features)


def features(*size, seed=1):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def test_size_is_that_of_the_published_module_less_its_dead_weights():
    # 403 331 with two sets of 36 prototypes of 3x3 at each of three scales, neither of which fed anything; here one
    # set feeds one more input to a 3x3 convolution of 64.
    set_of_prototypes, input_of_look = 36 * 64 * 9, 64 * 9
    assert sum(p.numel() for p in CharacterAttentionConfig().build(64).parameters()) == 403_331 - 3 * (
        2 * set_of_prototypes - set_of_prototypes - input_of_look
    )


def test_a_level_is_the_rounded_share_and_never_empty():
    assert [level_size((34, 62), scale) for scale in (1.0, 0.5, 0.25)] == [(34, 62), (17, 31), (8, 16)]
    assert level_size((1, 3), 0.25) == (1, 1)


@pytest.mark.parametrize("size", [(4, 8), (17, 31), (1, 1), (2, 3)])
def test_any_size_keeps_its_size(size):
    out = attention()(features(2, 8, *size))
    assert out.shape == (2, 8, *size) and out.isfinite().all()


def test_prototypes_take_part_in_every_level():
    layer, x = attention(), features(2, 8, 16, 24)
    before = layer(x).detach()
    for level in layer.levels:
        with torch.no_grad():
            level.prototypes.weight.mul_(10)
        after = layer(x).detach()
        assert (after - before).abs().max() > 1e-4
        before = after


def test_every_prototype_and_every_other_parameter_has_a_gradient():
    layer = attention()
    layer(features(2, 8, 16, 24)).pow(2).sum().backward()
    assert not [name for name, p in layer.named_parameters() if not p.grad.any()]
    for level in layer.levels:
        assert level.prototypes.weight.grad.flatten(1).any(dim=1).all()


def test_fit_is_one_where_one_prototype_matches_alone_and_even_where_none_does():
    level = attention().levels[0]
    pattern = features(1, 8, 3, 3)
    with torch.no_grad():
        level.prototypes.weight.zero_()
        level.prototypes.weight[2] = pattern[0]
    fit = level.fit(F.pad(pattern, (4, 4, 4, 4)))[0, 0]
    assert fit[5, 5] > 0.99
    assert_close(fit[0, 0], torch.tensor(1 / 6))


def test_a_level_is_its_formula():
    level, x = attention().levels[1], features(2, 8, 5, 7)
    fit = level.prototypes(x).softmax(1).max(1, keepdim=True).values
    hidden = level.look(torch.cat([x, level.region(x).sigmoid(), fit], dim=1)).relu()
    assert_close(level(x), x * level.attend(hidden).sigmoid())


def test_the_whole_adds_to_what_came_in():
    layer, x = attention(), features(1, 8, 8, 12)
    with torch.no_grad():
        layer.smooth.bias.fill_(-1e3)  # nothing gets past the last ReLU
    assert torch.equal(layer(x), x)


def test_it_can_be_switched_off_and_costs_nothing_then():
    off = PlateRestorerConfig(features=16, blocks=1, growth=8, deformable="none")
    on = replace(off, characters=CONFIG)
    more = {name for name, _ in on.build().named_parameters()} - {name for name, _ in off.build().named_parameters()}
    assert more == {f"characters.{name}" for name, _ in CONFIG.build(16).named_parameters()}


@pytest.mark.parametrize(
    "wrong", [{"scales": ()}, {"scales": (1.0, 0.0)}, {"scales": (2.0,)}, {"prototypes": 1}], ids=str
)
def test_what_cannot_attend_is_refused(wrong):
    with pytest.raises(ValueError, match="character attention"):
        CharacterAttentionConfig(**wrong)
