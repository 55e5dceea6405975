"""Adversarial terms: values of constant logits on paper, chance, which patches count, and the gradient."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from models.losses.adversarial import KINDS, DiscriminatorTerm, GeneratorTerm
from tests.models.judged import judged


def constant(value, *, height=2, width=4):
    return torch.full((2, 1, height, width), float(value))


def logit(p):
    return math.log(p / (1 - p))


def cross_entropy(label, p):
    return -(label * math.log(p) + (1 - label) * math.log(1 - p))


@pytest.mark.parametrize(
    ("kind", "real", "generator", "discriminator"),
    [
        ("lsgan", 1.0, (0.25 - 1) ** 2, (2 - 1) ** 2 + 0.25**2),
        ("lsgan", 0.9, (0.25 - 0.9) ** 2, (2 - 0.9) ** 2 + 0.25**2),
        ("bce", 1.0, math.log1p(math.exp(-0.25)), math.log1p(math.exp(-2)) + math.log1p(math.exp(0.25))),
        (
            "bce",
            0.9,
            0.9 * math.log1p(math.exp(-0.25)) + 0.1 * math.log1p(math.exp(0.25)),
            0.9 * math.log1p(math.exp(-2)) + 0.1 * math.log1p(math.exp(2)) + math.log1p(math.exp(0.25)),
        ),
        ("hinge", 1.0, -0.25, 0 + 1.25),
    ],
)
def test_constant_logits_by_hand(kind, real, generator, discriminator):
    batch, out = judged(fake=constant(0.25), real=constant(2))
    assert_close(GeneratorTerm(kind=kind, real=real)(batch, out).value.item(), generator, rtol=1e-6, atol=0)
    assert_close(DiscriminatorTerm(kind=kind, real=real)(batch, out).value.item(), discriminator, rtol=1e-6, atol=0)
    assert DiscriminatorTerm(kind=kind, real=real)(batch, out).count == 2


def test_a_discriminator_that_was_at_chance_for_a_whole_run():
    # It logged 1.363 to 1.366 of the discriminator and 0.792 of the generator: hardly better than a constant 0.45.
    batch, out = judged(fake=constant(logit(0.443)), real=constant(logit(0.449)))
    told, fooled = DiscriminatorTerm(kind="bce", real=0.9), GeneratorTerm(kind="bce", real=0.9)
    assert told.chance == pytest.approx(1.3763, abs=5e-5)
    assert told(batch, out).value.item() == pytest.approx(1.365, abs=1.5e-3)
    assert fooled(batch, out).value.item() == pytest.approx(0.792, abs=1.5e-3)


@pytest.mark.parametrize(("kind", "real"), [("lsgan", 1.0), ("lsgan", 0.9), ("bce", 1.0), ("bce", 0.9), ("hinge", 1.0)])
def test_chance_is_the_best_that_a_constant_reaches(kind, real):
    told, fooled = DiscriminatorTerm(kind=kind, real=real), GeneratorTerm(kind=kind, real=real)
    found = []
    for value in torch.linspace(-3, 3, 2401).tolist():
        batch, out = judged(fake=constant(value), real=constant(value))
        found.append((told(batch, out).value.item(), fooled(batch, out).value.item(), value))
    least = min(found)[0]
    assert least == pytest.approx(told.chance, abs=1e-5)
    reached = [generator for discriminator, generator, _ in found if discriminator < least + 1e-6]
    assert min(reached) - 2e-3 <= fooled.chance <= max(reached) + 2e-3


def test_chance_in_numbers():
    assert (GeneratorTerm().chance, DiscriminatorTerm().chance) == (0.25, 0.5)
    assert GeneratorTerm(kind="bce").chance == pytest.approx(math.log(2))
    assert DiscriminatorTerm(kind="bce").chance == pytest.approx(2 * math.log(2))
    assert (GeneratorTerm(kind="hinge").chance, DiscriminatorTerm(kind="hinge").chance) == (0, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_only_patches_that_begin_inside_an_image_count_and_each_image_counts_the_same(kind):
    # 32 columns make 4 patches of 8; the second image has 9 valid columns, so two patches.
    fake, real = (torch.randn(2, 1, 2, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    batch, out = judged(fake=fake, real=real)
    batch = replace(batch, widths=torch.tensor([32, 9]))
    for term in (GeneratorTerm(kind=kind), DiscriminatorTerm(kind=kind)):
        whole, alone = term(batch, out), []
        for number, columns in ((0, 4), (1, 2)):
            part = slice(number, number + 1)
            cut, seen = judged(
                fake=fake[part, :, :, :columns], real=real[part, :, :, :columns], batch=1, width=8 * columns
            )
            alone.append(term(cut, seen).total)
        assert_close(whole.total, sum(alone))
        assert whole.count == 2


@pytest.mark.parametrize(("width", "patches", "valid", "counted"), [(40, 3, 32, 2), (40, 3, 33, 3), (17, 2, 16, 1)])
def test_the_last_patch_may_reach_beyond_the_image(width, patches, valid, counted):
    # Strides of 16: patch number n has the logit n.
    fake = torch.arange(float(patches)).expand(2, 1, 3, patches)
    batch, out = judged(fake=fake, width=width)
    mean = GeneratorTerm(kind="hinge")(replace(batch, widths=torch.tensor([valid, 1])), out)
    assert mean.total == -sum(range(counted)) / counted


@pytest.mark.parametrize("kind", KINDS)
def test_one_logit_an_image_will_do(kind):
    fake, real = torch.tensor([[0.5], [-1.0]]), torch.tensor([[1.5], [0.0]])
    for term in (GeneratorTerm(kind=kind), DiscriminatorTerm(kind=kind)):
        flat, mapped = (
            judged(fake=f, real=r) for f, r in ((fake, real), (fake[..., None, None], real[..., None, None]))
        )
        assert_close(term(*flat).total, term(*mapped).total)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_the_numerical_one(kind):
    fake, real = (
        torch.randn(2, 1, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        for seed in (2, 3)
    )
    real_label = 1.0 if kind == "hinge" else 0.9

    def both(fake, real):
        batch, out = judged(fake=fake, real=real, dtype=torch.float64)
        batch = replace(batch, widths=torch.tensor([32, 20]))
        generator, discriminator = (each(kind=kind, real=real_label) for each in (GeneratorTerm, DiscriminatorTerm))
        return generator(batch, out).total, discriminator(batch, out).total

    assert torch.autograd.gradcheck(both, (fake, real))


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_is_told_the_opposite_of_the_discriminator(kind):
    fake = torch.zeros(2, 1, 2, 4, requires_grad=True)
    batch, out = judged(fake=fake, real=constant(0))
    (up,) = torch.autograd.grad(GeneratorTerm(kind=kind)(batch, out).total, fake)
    (down,) = torch.autograd.grad(DiscriminatorTerm(kind=kind)(batch, replace(out, fake=fake + 0.5)).total, fake)
    assert (up < 0).all() and (down > 0).all()


def test_a_generator_that_fools_nobody_still_learns():
    # The saturating form log(1 - D) would give next to nothing here.
    fake = torch.full((2, 1, 2, 4), -20.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(GeneratorTerm(kind="bce")(*judged(fake=fake)).value, fake)
    assert_close(gradient.sum(), torch.tensor(-1.0))


def test_bfloat16_logits_are_summed_in_float32():
    batch, out = judged(fake=constant(0.25).bfloat16(), real=constant(2).bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        means = [term(kind=kind)(batch, out) for kind in KINDS for term in (GeneratorTerm, DiscriminatorTerm)]
    assert {mean.total.dtype for mean in means} == {torch.float32}


def test_logits_that_were_not_made_are_asked_for():
    batch, out = judged(real=constant(0))
    with pytest.raises(ValueError, match=r"out\.fake"):
        GeneratorTerm()(batch, out)
    with pytest.raises(ValueError, match=r"out\.fake"):
        DiscriminatorTerm()(batch, out)
    with pytest.raises(ValueError, match=r"out\.real"):
        DiscriminatorTerm()(*judged(fake=constant(0)))


@pytest.mark.parametrize("term", [GeneratorTerm, DiscriminatorTerm])
@pytest.mark.parametrize("wrong", [{"kind": "wgan"}, {"real": 0.5}, {"real": 1.1}, {"kind": "hinge", "real": 0.9}])
def test_wrong_settings_are_refused(term, wrong):
    with pytest.raises(ValueError, match=term.__name__):
        term(**wrong)
