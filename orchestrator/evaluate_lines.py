"""How well documents are restored: what is read in restored, degraded and clean lines, and how alike they look."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from models.batch import Batch, Pair, Read, Restored
from models.decoding import greedy
from models.losses.adversarial import DiscriminatorTerm, GeneratorTerm
from models.losses.line_ctc import uniform_nats
from models.losses.text import ctc, spelled
from models.mean import Mean, mean_of
from models.metrics.collapse import frame_counts, shares
from models.metrics.image import psnr, ssim
from models.metrics.lines import Line, consistency, error_rates
from models.text import Alphabet
from orchestrator.batches import Samples, in_order
from orchestrator.plan import Term
from orchestrator.ranks import Ranks

BATCH_SIZE = 32
NATS = ("ctc", "ctc_target", "ctc_uniform")


@dataclass(frozen=True, kw_only=True)
class MeasuredLines:
    """What a task made of a set of lines, over all ranks.

    Attributes:
        lines: that have a text, in the order of their numbers.
        means: total and count of terms, image metrics and nats, over the pairs that have a target.
        shares: ``blank_share``, ``entropy`` and ``distinct`` by kind of picture, as in ``Line.texts``.
        pairs: how many have a target.
    """

    lines: Sequence[Line]
    means: Mapping[str, tuple[float, float]]
    shares: Mapping[str, Mapping[str, float]]
    pairs: int


def line_metrics(
    task: nn.Module, samples: Samples, alphabet: Alphabet, *,
    terms: Mapping[str, Term], device: torch.device, autocast: Callable[[], AbstractContextManager[Any]], ranks: Ranks,
) -> dict[str, float]:  # fmt: skip
    """Every metric of one set of lines; the same numbers on every rank.

    ``cer`` and ``wer`` are of restored lines against the transcription, ``cer_macro`` and ``wer_macro`` the averages
    over lines; with ``_degraded`` (what the task calls images before) and ``_target`` they are the start and the
    floor. ``consistency`` is how far readings of restored lines are from those of clean ones, whatever the text is.
    ``ctc``, ``ctc_target`` and ``ctc_uniform`` are nats per character of the restored and the clean line and of a
    uniform guess. ``psnr`` and ``ssim``, with ``_degraded`` too, are over valid columns. ``loss`` is the weighted sum
    of the stage's ``terms``, each as ``loss_TERM``, without those that ask the discriminator, who answers only while it
    learns, and without those that nothing here could be measured of.

    ``blank_share``, ``entropy`` and ``distinct`` say whether readings collapse; with ``_target``, of clean lines.
    ``n_compared`` says how many lines have a target where some have not. What could not be measured is left out.
    """
    found = measured_lines(task, samples, alphabet, terms=terms, device=device, autocast=autocast, ranks=ranks)
    values = averages(found.means, terms)
    for kind in kinds_of(found.lines):
        values |= {name: ratio.value for name, ratio in error_rates(found.lines, kind).items()}
    same = consistency(found.lines)
    if same.count:
        values["consistency"] = same.value
    for kind, each in found.shares.items():
        values |= {f"{name}{kind}": share for name, share in each.items()}
    if found.pairs < len(samples):
        values["n_compared"] = float(found.pairs)
    return values


def averages(means: Mapping[str, tuple[float, float]], terms: Mapping[str, Term]) -> dict[str, float]:
    """The means that have a count, and ``loss``, where one of its terms has."""
    values = {name: total / count for name, (total, count) in means.items() if count}
    there = {name: term for name, term in terms.items() if f"loss_{name}" in values}
    if there:
        values["loss"] = sum(term.weight * values[f"loss_{name}"] for name, term in there.items())
    return values


def kinds_of(lines: Iterable[Line]) -> list[str]:
    """The kinds of pictures that were read."""
    return list(dict.fromkeys(kind for line in lines for kind in line.texts))


def measurable(terms: Mapping[str, Term]) -> dict[str, Term]:
    """The terms that need no answer of the discriminator: outside of training nobody asks it."""
    return {name: t for name, t in terms.items() if not isinstance(t.loss, GeneratorTerm | DiscriminatorTerm)}


@torch.inference_mode()
def measured_lines(
    task: nn.Module, samples: Samples, alphabet: Alphabet, *,
    terms: Mapping[str, Term], device: torch.device, autocast: Callable[[], AbstractContextManager[Any]], ranks: Ranks,
) -> MeasuredLines:  # fmt: skip
    """Restore and read every line once over all ranks; rows without text are compared and not read."""
    task.eval()
    asked, before = measurable(terms), f"_{task.before}"
    kinds = ("", before, "_target")
    pictures = ("psnr", "ssim", f"psnr{before}", f"ssim{before}")
    names = [*(f"loss_{name}" for name in asked), *pictures, *NATS]
    sums = {name: torch.zeros(2, dtype=torch.float64, device=device) for name in names}
    counts = {kind: torch.zeros(3, dtype=torch.float64, device=device) for kind in kinds}  # frames, blank, nats
    own: list[Line] = []
    for step in in_order(samples, batch_size=BATCH_SIZE, ranks=ranks):
        batch = samples.batch(step, device=device)
        with autocast():
            out: Restored = task(batch)
            reads = _reads(task, batch, out) if batch.tokens.shape[1] else {}
        means = compared(task, batch, out, asked) if isinstance(batch, Pair) else {}
        for name, mean in (means | _nats(batch, reads)).items():
            sums[name] += torch.stack([mean.total.double(), mean.count.double()])
        for kind, read in reads.items():
            counts[kind] += frame_counts(read)
        own += _lines(batch, reads, samples, alphabet)
    lines = sorted((line for part in ranks.gather(own) for line in part), key=lambda line: line.number)
    totals = ranks.sum(torch.stack(list(sums.values()))).tolist()
    frames = ranks.sum(torch.stack(list(counts.values()))).tolist()
    return MeasuredLines(
        lines=lines, pairs=len(samples) - int(samples.blind.sum()),
        means={name: (total, count) for name, (total, count) in zip(names, totals, strict=True)},
        shares={kind: _collapse(lines, kind, of, alphabet) for kind, of in zip(kinds, frames, strict=True) if of[0]},
    )  # fmt: skip


def _reads(task: Any, batch: Batch, out: Restored) -> dict[str, Read]:
    """What the recogniser reads in each picture; the task has already read some. Logits in float32."""
    degraded = getattr(task, task.reader)(task.enlarged(batch), task.scale * batch.widths)
    reads = {"": out.read, f"_{task.before}": degraded, "_target": out.clean}
    return {
        kind: Read(logits=read.logits.float(), frames=read.frames) for kind, read in reads.items() if read is not None
    }


def compared(task: Any, batch: Pair, out: Restored, terms: Mapping[str, Term]) -> dict[str, Mean]:
    """The terms, and how like the target pictures are once restored and before."""
    before = replace(out, image=task.enlarged(batch))
    found: dict[str, Any] = {f"loss_{name}": term.loss(batch, out) for name, term in terms.items()}
    found |= {"psnr": psnr(batch, out), "ssim": ssim(batch, out)}
    return found | {f"psnr_{task.before}": psnr(batch, before), f"ssim_{task.before}": ssim(batch, before)}


def _nats(batch: Batch, reads: Mapping[str, Read]) -> dict[str, Mean]:
    """Nats per character, macro over the lines that can be spelled; of those with a target alone."""
    if "_target" not in reads:
        return {}
    clean = reads["_target"]
    guess = uniform_nats(batch, clean) / batch.lengths.clamp(min=1)
    return {
        "ctc": ctc(batch, reads[""]), "ctc_target": ctc(batch, clean),
        "ctc_uniform": mean_of(guess, spelled(batch, clean)),
    }  # fmt: skip


def _lines(batch: Batch, reads: Mapping[str, Read], samples: Samples, alphabet: Alphabet) -> list[Line]:
    """The readings of each line of a batch that has a text; which text it has is the data set's to say."""
    texts = {
        kind: [alphabet.normalize(alphabet.decode(label)) for label in greedy(read.logits, read.frames)]
        for kind, read in reads.items()
    }
    labels = [alphabet.normalize(samples.text(sample)) if reads else "" for sample in batch.ids]
    return [
        Line(
            group=samples.group(sample), number=sample, label=label,
            texts={kind: each[place] for kind, each in texts.items()},
        )
        for place, (sample, label) in enumerate(zip(batch.ids, labels, strict=True)) if label
    ]  # fmt: skip


def _collapse(lines: Sequence[Line], kind: str, frames: Sequence[float], alphabet: Alphabet) -> dict[str, float]:
    there = [line for line in lines if kind in line.texts]
    readings, labels = {line.texts[kind] for line in there}, {line.label for line in there}
    distinct = min(1.0, len(readings) / max(len(labels), 1))
    return {**shares(*frames, classes=alphabet.classes), "distinct": distinct}
