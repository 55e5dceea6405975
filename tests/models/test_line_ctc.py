"""CTC of lines: what a uniform guess costs, normalisation, and ceilings that keep the gradient's direction."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from models.batch import Batch, Read, Restored
from models.losses.clip import nats_of
from models.losses.line_ctc import UNITS, Ceiling, LineCTC, gradient_norms, uniform_nats, worse_than_guessing
from models.losses.text import ctc
from tests.models.pairs import images, pair_of, reader, restored, said

SOFT = ("log_tail", "root_tail", "grad_norm")


def lines(labels, frames, *, classes, steps=None):
    """Uniform logits and labels given as classes."""
    longest, steps = max(map(len, labels)), steps or max(frames)
    batch = Batch(
        image=torch.zeros(len(labels), 1, 2, 2),
        widths=torch.full((len(labels),), 2),
        tokens=torch.tensor([list(label) + [0] * (longest - len(label)) for label in labels], dtype=torch.int64),
        lengths=torch.tensor([len(label) for label in labels]),
        counted=torch.ones(len(labels), dtype=torch.bool),
        ids=tuple(range(len(labels))),
    )
    return batch, Read(logits=torch.zeros(len(labels), steps, classes), frames=torch.tensor(frames))


def spelled_by(path):
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol)


@pytest.mark.parametrize(("classes", "frames"), [(2, 5), (3, 5), (4, 4)])
def test_a_uniform_guess_costs_what_counting_all_paths_says(classes, frames):
    found = {}
    for path in itertools.product(range(classes), repeat=frames):
        found[spelled_by(path)] = found.get(spelled_by(path), 0) + 1
    assert len(found) > 3 and any(a == b for label in found for a, b in itertools.pairwise(label))
    batch, read = lines(list(found), [frames] * len(found), classes=classes, steps=frames + 2)
    expected = [-math.log(count / classes**frames) for count in found.values()]
    assert_close(uniform_nats(batch, read), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def alternating(length):
    return [1 + place % 2 for place in range(length)]


def test_a_uniform_guess_at_lines_of_a_known_recogniser():
    # 128 frames, 109 classes: 487, 481, 480, 491 nats at 40, 50, 60, 80 characters. It was at 627 to 629.
    batch, read = lines([alternating(length) for length in (40, 50, 60, 80)], [128] * 4, classes=109)
    found = uniform_nats(batch, read)
    assert found.round().tolist() == [487, 481, 480, 491]
    known = torch.tensor([487.02, 480.27, 490.85], dtype=torch.float64)
    assert_close(found[[0, 2, 3]], known, rtol=0, atol=6e-3)
    assert_close(nats_of(batch, replace(read, logits=read.logits.double())), found, rtol=1e-12, atol=0)
    assert not worse_than_guessing(batch, read).any()  # in float32


def test_equal_neighbours_and_fewer_frames_cost_more():
    batch, read = lines([[1, 1, 2], [1, 2, 1], [1, 2, 1], []], [9, 9, 7, 7], classes=5)
    found = uniform_nats(batch, read)
    assert_close(found, nats_of(batch, replace(read, logits=read.logits.double())), rtol=1e-12, atol=1e-12)
    assert found[0] > found[1] and found[3] == 7 * math.log(5)


def test_a_label_that_cannot_be_spelled_has_a_finite_guess():
    batch, read = lines([[1, 1]], [2], classes=3)
    assert uniform_nats(batch, read).item() == pytest.approx(2 * math.log(3))


def seen(**changes):
    """Three lines of 1, 3 and 7 characters with their gradient, the last one with fewer frames."""
    image = images(3, 1, 6, 24, dtype=torch.float64).requires_grad_()
    batch = pair_of(["A", "1B2", "ABC1D23"], image.detach(), **changes)
    return batch, Restored(image=image, read=reader(image, frames=[24, 24, 17])), image


@pytest.mark.parametrize("normalize", UNITS)
def test_normalisation_by_hand(normalize):
    batch, out, _ = seen()
    nats = nats_of(batch, out.read)
    parts = {"none": [1, 1, 1], "per_char": [1, 3, 7], "per_frame": [24, 24, 17]}
    parts["per_uniform"] = uniform_nats(batch, out.read).tolist()
    mean = LineCTC(normalize=normalize)(batch, out)
    assert mean.count == 3
    assert_close(mean.total, (nats / torch.tensor(parts[normalize], dtype=torch.float64)).sum())


def test_per_character_without_a_ceiling_is_the_usual_ctc():
    batch, out, _ = seen()
    assert_close(LineCTC()(batch, out).value, ctc(batch, out.read).value)
    assert_close(LineCTC()(batch, out.read).value, ctc(batch, out.read).value)


def test_a_reader_that_knows_nothing_has_the_value_one_at_any_length():
    batch, read = lines([[1], [1, 2, 3], [4, 4, 1, 2]], [3, 9, 30], classes=6)
    term = LineCTC(normalize="per_uniform")
    assert_close(term.values(batch, replace(read, logits=read.logits.double())), torch.ones(3, dtype=torch.float64))


def test_lines_that_cost_more_than_a_guess_are_told():
    batch = pair_of(["AB", "AB", "AB", "AB"], images(4, 1, 2, 8), counted=[True, True, True, False])
    read = said("AB", "12", "AB", "12")
    read = replace(read, logits=torch.cat([read.logits[:2], torch.zeros_like(read.logits[2:3]), read.logits[3:]]))
    assert worse_than_guessing(batch, read).tolist() == [False, True, False, False]
    cannot = pair_of(["ABC1D23"], images(1, 1, 2, 4))
    assert worse_than_guessing(cannot, said("12")).tolist() == [False]


def each_gradient(term, batch, out, image):
    (found,) = torch.autograd.grad(term(batch, out).total, image, retain_graph=True)
    return found.flatten(1)


@pytest.mark.parametrize("mode", SOFT)
@pytest.mark.parametrize("normalize", UNITS)
def test_what_is_above_the_ceiling_keeps_the_direction_of_its_gradient(mode, normalize):
    batch, out, image = seen()
    raw = LineCTC(normalize=normalize)
    plain, size = each_gradient(raw, batch, out, image), raw.values(batch, out.read).detach()
    limits = plain.norm(dim=1) if mode == "grad_norm" else size
    assert limits.min() * 1.05 < limits.max()
    value = float(limits.sort().values[1]) * 0.999  # the smallest one stays below
    term = replace(raw, ceiling=Ceiling(mode=mode, value=value))
    soft, above = each_gradient(term, batch, out, image), limits > value
    assert above.sum() == 2 and term.clipped(batch, out).tolist() == above.tolist()
    assert_close(soft[~above], plain[~above])
    cosine = torch.cosine_similarity(soft, plain)
    factor = soft.norm(dim=1) / plain.norm(dim=1)
    over = limits[above] / value
    expected = (2 * over - 1).rsqrt() if mode == "root_tail" else 1 / over
    assert (cosine > 1 - 1e-9).all()
    assert_close(factor[above], expected)


def test_a_gradient_ceiling_bounds_each_line_and_leaves_values_as_they_are():
    batch, out, image = seen()
    raw = each_gradient(LineCTC(), batch, out, image).norm(dim=1)
    term = LineCTC(ceiling=Ceiling(mode="grad_norm", value=float(raw.min()) / 2))
    assert_close(each_gradient(term, batch, out, image).norm(dim=1), torch.full_like(raw, term.ceiling.value))
    assert_close(term(batch, out).total, LineCTC()(batch, out).total)
    assert term.clipped(batch, out).all()


@pytest.mark.parametrize("mode", SOFT)
def test_a_line_is_cut_the_same_however_the_batch_is_divided(mode):
    batch, out, image = seen()
    term = LineCTC(ceiling=Ceiling(mode=mode, value=1.0))
    whole = each_gradient(term, batch, out, image)
    for number in range(3):
        text = ["A", "1B2", "ABC1D23"][number]
        alone = image.detach()[number : number + 1].clone().requires_grad_()
        one = Restored(image=alone, read=reader(alone, frames=[[24, 24, 17][number]]))
        assert_close(each_gradient(term, pair_of([text], alone.detach()), one, alone)[0], whole[number])


def test_gradient_norms_are_of_one_line_each_and_of_the_image_that_was_restored():
    batch, out, image = seen()
    values = nats_of(batch, out.read)
    found = gradient_norms(values, out)
    for number in range(3):
        (alone,) = torch.autograd.grad(values[number], image, retain_graph=True)
        assert_close(found[number], alone.norm())
    assert not gradient_norms(values, out.read).any()
    assert not gradient_norms(values, replace(out, image=image.detach())).any()
    assert not gradient_norms(values, replace(out, image=torch.zeros_like(image).requires_grad_())).any()


def test_a_gradient_ceiling_changes_nothing_where_nobody_learns():
    batch, out, _ = seen()
    term = LineCTC(ceiling=Ceiling(mode="grad_norm", value=1e-9))
    with torch.no_grad():
        read = reader(out.image, frames=[24, 24, 17])
        still = Restored(image=out.image, read=read)
        assert_close(term(batch, still).total, LineCTC()(batch, still).total)
    assert not term.clipped(batch, replace(still, image=out.image.detach())).any()


def test_the_step_can_go_backward_after_all_facts_were_taken():
    # Facts are taken without gradient, before the backward pass, as the loop does.
    batch, out, image = seen()
    term = LineCTC(ceiling=Ceiling(mode="grad_norm", value=1e-3))
    mean = term(batch, out)
    with torch.no_grad():
        assert term.clipped(batch, out).all()
    mean.total.backward()
    assert_close(image.grad.flatten(1).norm(dim=1), torch.full((3,), 1e-3, dtype=torch.float64))


def test_hard_takes_the_gradient_of_the_hard_line_alone_and_must_be_accepted():
    batch, out, image = seen()
    with pytest.raises(ValueError, match="take 'log_tail', or set accept_dead_gradient"):
        Ceiling(mode="hard", value=1.0)
    size = LineCTC().values(batch, out.read).detach()
    value = float(size.sort().values[1]) * 0.999
    term = LineCTC(ceiling=Ceiling(mode="hard", value=value, accept_dead_gradient=True))
    gradient, above = each_gradient(term, batch, out, image), size > value
    assert not gradient[above].any() and gradient[~above].any()
    assert term.clipped(batch, out).tolist() == above.tolist() and above.sum() == 2
    assert_close(term(batch, out).total, size.clamp(max=value).sum())


def test_the_ceiling_is_in_the_unit_of_the_normalised_loss():
    batch, out, _ = seen()
    assert LineCTC().unit == "nats per character" and LineCTC(normalize="none").unit == "nats per line"
    for normalize, unit in UNITS.items():
        term = LineCTC(normalize=normalize)
        between = sum(sorted(term.values(batch, out.read).tolist())[:2]) / 2
        term = replace(term, ceiling=Ceiling(mode="log_tail", value=between))
        assert term.unit == unit and term.clipped(batch, out).sum() == 2


@pytest.mark.parametrize("mode", ["none", *SOFT])
def test_lines_that_cannot_be_spelled_are_neither_counted_nor_clipped(mode):
    image = images(3, 1, 6, 6).requires_grad_()
    batch = pair_of(["ABC1D23", "AB", "A"], image.detach(), counted=[True, True, False])
    out, term = restored(image), LineCTC(normalize="per_uniform", ceiling=Ceiling(mode=mode, value=1e-4))
    mean = term(batch, out)
    (gradient,) = torch.autograd.grad(mean.total, image, retain_graph=True)
    assert mean.count == 1 and gradient.isfinite().all()
    assert gradient[1].any() and not gradient[0].any() and not gradient[2].any()
    assert term.clipped(batch, out).tolist() == [False, mode != "none", False]


@pytest.mark.parametrize("normalize", UNITS)
@pytest.mark.parametrize("mode", ["log_tail", "root_tail"])
def test_the_gradient_is_the_numerical_one(mode, normalize):
    batch, _, image = seen()
    term = LineCTC(normalize=normalize, ceiling=Ceiling(mode=mode, value=0.05))
    assert term.clipped(batch, restored(image)).all()
    assert torch.autograd.gradcheck(lambda image: term(batch, restored(image)).total, image)


@pytest.mark.parametrize(
    "wrong",
    [{"mode": "soft"}, {"value": 0.0}, {"value": math.inf}, {"mode": "log_tail", "accept_dead_gradient": True}],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"Ceiling\."):
        Ceiling(**wrong)
    with pytest.raises(ValueError, match=r"LineCTC\.normalize"):
        LineCTC(normalize="per_word")


@pytest.mark.parametrize("normalize", UNITS)
def test_rows_without_text_that_nobody_read_cost_nothing_and_count_for_nothing(normalize):
    image = images(2, 1, 12, 16).requires_grad_()
    batch = Batch(
        image=image, widths=torch.full((2,), 16), tokens=torch.zeros(2, 0, dtype=torch.int64),
        lengths=torch.zeros(2, dtype=torch.int64), counted=torch.zeros(2, dtype=torch.bool), ids=(0, 1),
    )  # fmt: skip
    read = Read(logits=image.new_zeros(2, 0, 5), frames=torch.zeros(2, dtype=torch.int64))
    for term in (LineCTC(normalize=normalize), LineCTC(ceiling=Ceiling(mode="log_tail")), ctc):
        mean = term(batch, read)
        assert (float(mean.total), float(mean.count)) == (0, 0)
    assert not worse_than_guessing(batch, read).any()
