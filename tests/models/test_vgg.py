"""VGG19 on made weights: equal to the plain network, indifferent to padding; files that are refused; the loss on it."""

import hashlib
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from models.layers.vgg import TAPS, VGG19, WeightsError, read_weights, standardised
from models.losses.perceptual import VGGPerceptual
from tests.models.pairs import images, pair_of, restored

LAYERS = (64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512, 512, 512, "M")
AFTER = (3, 8, 17, 26, 35)  # of the plain network: the ReLU after the last convolution of each block


def plain_network():
    """As torchvision lays it out: a row of layers, numbered."""
    row, inputs = [], 3
    for layer in LAYERS:
        if layer == "M":
            row.append(nn.MaxPool2d(2))
        else:
            row += [nn.Conv2d(inputs, layer, 3, padding=1), nn.ReLU()]
            inputs = layer
    return nn.Sequential(*row)


@pytest.fixture(scope="module")
def made():
    """A plain network with random weights, and a state dict of it in half precision."""
    network, generator = plain_network().requires_grad_(False), torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        wide = (2 / (9 * parameter.shape[1])) ** 0.5 if name.endswith("weight") else 0.1
        parameter.copy_((torch.randn(parameter.shape, generator=generator) * wide).half())
    return network, {f"features.{name}": each.half() for name, each in network.state_dict().items()}


@pytest.fixture(scope="module")
def weights(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "vgg19.safetensors"
    save_file(made[1] | {"classifier.0.bias": torch.zeros(4096)}, path)
    return path


@pytest.fixture(scope="module")
def term(weights):
    return VGGPerceptual(weights=str(weights), sha256=hashlib.sha256(weights.read_bytes()).hexdigest())


def features_of(network, image):
    found = []
    for number, layer in enumerate(network):
        image = layer(image)
        if number in AFTER:
            found.append(image)
    return found


def test_it_is_the_plain_network(made, weights):
    image, network = images(2, 3, 32, 50), VGG19.load(str(weights))
    found, columns = network(image, torch.tensor([50, 50]))
    assert [each.tolist() for each in columns] == [[wide, wide] for wide in (50, 25, 12, 6, 3)]
    assert len(found) == len(TAPS)
    for ours, theirs in zip(found, features_of(made[0], standardised(image)), strict=True):
        assert theirs.abs().max() > 0.1
        assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_it_sees_what_it_was_trained_to_see():
    # White, black and middle grey: (1 - 0.485) / 0.229 and so on; grey is three equal channels.
    for value, level in ((1.0, 1.0), (-1.0, 0.0), (0.0, 0.5)):
        seen = standardised(torch.full((1, 1, 2, 2), value))
        expected = torch.tensor([(level - 0.485) / 0.229, (level - 0.456) / 0.224, (level - 0.406) / 0.225])
        assert_close(seen, expected[None, :, None, None].expand(1, 3, 2, 2))
        assert_close(seen, standardised(torch.full((1, 3, 2, 2), value)))


def test_an_image_has_the_features_it_has_alone(weights):
    network, image = VGG19.load(str(weights)), images(2, 1, 32, 64)
    found, columns = network(image, torch.tensor([64, 39]))
    alone, _ = network(image[1:, :, :, :39], torch.tensor([39]))
    for padded, narrow, valid in zip(found, alone, columns, strict=True):
        assert narrow.shape[3] == valid[1]
        assert_close(padded[1:, ..., : valid[1]], narrow, rtol=1e-4, atol=1e-5)
        assert not padded[1, ..., valid[1] :].any()


def test_loading_draws_nothing_and_nothing_of_it_learns(weights):
    before = torch.get_rng_state()
    network = VGG19.load(str(weights))
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_a_file_of_torch_holds_the_same(made, weights, tmp_path):
    torch.save(made[1], tmp_path / "vgg19.pth")
    ours, theirs = (VGG19.load(str(path)).state_dict() for path in (weights, tmp_path / "vgg19.pth"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"features.34.bias": None}, r"lacks \['features\.34\.bias'\] \(1 of 32\)"),
        ({"features.1.running_mean": torch.zeros(64)}, r"has \['features\.1\.running_mean'\] besides"),
        ({"features.0.weight": torch.zeros(64, 1, 3, 3)}, r"features\.0\.weight is \(64, 1, 3, 3\), must be"),
    ],
)
def test_other_weights_are_one_clear_error(made, tmp_path, changes, says):
    save_file({key: each for key, each in (made[1] | changes).items() if each is not None}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=f"not torchvision's vgg19: {says}"):
        VGG19.load(str(tmp_path / "w.safetensors"))


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("it was run",))


def test_a_file_that_is_none_is_one_clear_error_and_nothing_in_it_runs(tmp_path):
    with pytest.raises(WeightsError, match="nothing is downloaded, put it there"):
        read_weights(str(tmp_path / "none.pth"))
    for name in ("w.pth", "w.safetensors"):
        for raw in (b"", b"weights", pickle.dumps(Bomb(), protocol=2)):
            (tmp_path / name).write_bytes(raw)
            with pytest.raises(WeightsError, match="neither safetensors nor a state dict"):
                read_weights(str(tmp_path / name))
    torch.save([torch.zeros(1)], tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no state dict"):
        read_weights(str(tmp_path / "w.pth"))


def test_another_file_than_the_pinned_one_is_refused(weights):
    with pytest.raises(WeightsError, match=f"the plan says {'0' * 64}"):
        VGG19.load(str(weights), "0" * 64)


@pytest.mark.parametrize("shape", [(1, 2, 32, 32), (1, 1, 15, 32), (1, 3, 32, 15)])
def test_images_it_cannot_see_are_refused(shape):
    with torch.device("meta"):
        network = VGG19()
    with pytest.raises(ValueError, match="1 or 3 channels of at least 16 x 16"):
        network(torch.zeros(shape), torch.tensor([shape[3]]))


def test_the_loss_is_the_mean_over_layers_and_images(made, term):
    target, image = images(2, 1, 32, 48), images(2, 1, 32, 48, seed=1)
    pair = zip(*(features_of(made[0], standardised(each)) for each in (image, target)), strict=True)
    expected = torch.stack([(ours - clean).abs().mean() for ours, clean in pair]).mean()
    mean = term(pair_of(["A", "B"], target, scale=1), restored(image))
    assert mean.count == 2 and expected > 0.1
    assert_close(mean.value, expected, rtol=1e-4, atol=0)


def test_the_loss_of_a_perfect_image_is_nothing(term):
    target = images(2, 1, 32, 48)
    assert term(pair_of(["A", "B"], target, scale=1), restored(target.clone())).value == 0


def test_padding_counts_for_nothing_and_images_too_narrow_are_left_out(term):
    target, image = images(3, 1, 32, 48), images(3, 1, 32, 48, seed=1).requires_grad_()
    batch = pair_of(["A", "B", "C"], target, scale=1, widths=[48, 33, 15])
    mean = term(batch, restored(image))
    alone = [
        term(pair_of(["A"], target[i : i + 1, ..., :w], scale=1), restored(image[i : i + 1, ..., :w]))
        for i, w in ((0, 48), (1, 33))
    ]
    assert mean.count == 2
    assert_close(mean.total, (alone[0] + alone[1]).total, rtol=1e-4, atol=0)
    (gradient,) = torch.autograd.grad(mean.total, image)
    assert gradient[0].any() and gradient[1, ..., :32].any()
    assert not gradient[1, ..., 33:].any() and not gradient[2].any()


def test_the_gradient_is_the_numerical_one(made, term, monkeypatch):
    network = VGG19.load(term.weights).double()
    monkeypatch.setattr(VGGPerceptual, "network", lambda self, device: network)
    target, image = (images(1, 1, 16, 17, seed=seed, dtype=torch.float64) for seed in (0, 1))
    batch, image = pair_of(["A"], target, scale=1), image.requires_grad_()
    (gradient,) = torch.autograd.grad(term(batch, restored(image)).total, image)
    way = torch.randn(image.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        ahead, behind = (term(batch, restored(image + side * 1e-7 * way)).total for side in (1, -1))
    assert_close((ahead - behind) / 2e-7, (gradient * way).sum(), rtol=1e-4, atol=0)


def test_the_network_is_read_once_and_not_in_a_plan(term):
    cpu = torch.device("cpu")
    assert term.network(cpu) is term.network(cpu) is replace(term).network(cpu)


@pytest.mark.parametrize("wrong", ["", "abc", "X" * 64])
def test_weights_without_a_hash_are_refused(wrong):
    with pytest.raises(ValueError, match="not 64 hex digits; sha256sum there"):
        VGGPerceptual(weights="there", sha256=wrong)
