"""The one evaluation loop: every sample once at any number of ranks, and sums, not averages of averages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from models.batch import Batch, Read
from models.decoding import confidence, greedy
from models.losses.text import ctc
from models.metrics.collapse import frame_counts, shares
from models.metrics.text import TextScores, protocols_of, text_scores
from models.text import Alphabet
from orchestrator.batches import Samples, in_order
from orchestrator.evaluate_lines import line_metrics
from orchestrator.evaluate_pages import page_metrics
from orchestrator.evaluate_restored import restored_metrics
from orchestrator.plan import Term
from orchestrator.ranks import Ranks

BATCH_SIZE = 256
NO_TERMS: Mapping[str, Term] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the network read in one sample: its text, and the probability CTC gives to that text as a whole."""

    sample: int
    text: str
    confidence: float


def evaluate(
    task: nn.Module, sets: Mapping[str, Samples], alphabet: Alphabet, *,
    device: torch.device, autocast: Callable[[], AbstractContextManager[Any]], ranks: Ranks,
    terms: Mapping[str, Term] = NO_TERMS,
) -> dict[str, float]:  # fmt: skip
    """Every metric of every set, as ``SET/METRIC``, with ``SET/n`` words; the same numbers on every rank.

    ``SET/loss`` is CTC in nats per character over the words that can be spelled in their frames; a word that cannot
    is still read, and counts as an error in all other metrics. Three say whether predictions collapse:
    ``SET/blank_share`` of valid frames are blank, ``SET/entropy`` is that of a frame's posterior as a share of the most
    it can be, and ``SET/distinct`` different readings there are per word.

    A task whose ``measures`` are ``"restoration"`` is measured by :func:`restored_metrics` instead, one whose are
    ``"documents"`` by :func:`line_metrics`, or :func:`page_metrics` where a set has no text; these want the stage's
    ``terms``.
    """
    metrics: dict[str, float] = {}
    how: Any = {"device": device, "autocast": autocast, "ranks": ranks}
    for name, samples in sets.items():
        kind = getattr(task, "measures", "reading")
        if kind == "restoration":
            values = restored_metrics(task, samples, alphabet, terms=terms, **how)
        elif kind == "documents" and samples.textless.all():
            values = page_metrics(task, samples, terms=terms, **how)
        elif kind == "documents":
            values = line_metrics(task, samples, alphabet, terms=terms, **how)
        else:
            found = _sums(task, samples, alphabet, **how)
            values = found.scores.values() | found.shares()
        metrics |= {f"{name}/{metric}": value for metric, value in (values | {"n": float(len(samples))}).items()}
    return metrics


@torch.inference_mode()
def outputs(
    task: nn.Module, samples: Samples, *,
    device: torch.device, autocast: Callable[[], AbstractContextManager[Any]], ranks: Ranks,
) -> Iterator[tuple[Batch, Read]]:  # fmt: skip
    """This rank's batches and what the task, in eval mode, makes of them; logits in float32."""
    task.eval()
    for step in in_order(samples, batch_size=BATCH_SIZE, ranks=ranks):
        batch = samples.batch(step, device=device)
        with autocast():
            out: Read = task(batch)
        yield batch, Read(logits=out.logits.float(), frames=out.frames)


def read_of(batch: Batch, out: Read, alphabet: Alphabet) -> list[Reading]:
    """The greedy reading of each image of a batch."""
    labels = greedy(out.logits, out.frames)
    sure = confidence(out.logits, out.frames, labels).tolist()
    return [
        Reading(sample=sample, text=alphabet.normalize(alphabet.decode(label)), confidence=probability)
        for sample, label, probability in zip(batch.ids, labels, sure, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the network made of a set, over all ranks.

    Attributes:
        loss: CTC's total and count.
        frames: valid ones: how many, how many of them blank, and the sum of their entropies in nats.
        distinct: different readings.
        words: how many were read.
        classes: of the network, blank included.
    """

    scores: TextScores
    loss: tuple[float, float]
    frames: tuple[float, float, float]
    distinct: int
    words: int
    classes: int

    def shares(self) -> dict[str, float]:
        (total, count), (frames, blank, nats) = self.loss, self.frames
        return {
            "loss": total / max(count, 1),
            **shares(frames, blank, nats, classes=self.classes),
            "distinct": self.distinct / max(self.words, 1),
        }


def _sums(
    task: nn.Module, samples: Samples, alphabet: Alphabet, *,
    device: torch.device, autocast: Callable[[], AbstractContextManager[Any]], ranks: Ranks,
) -> Found:  # fmt: skip
    protocols = protocols_of(alphabet)
    scores = text_scores([], [], normalize=alphabet.normalize, protocols=protocols)
    sums = torch.zeros(5, dtype=torch.float64, device=device)
    readings: set[str] = set()
    for batch, out in outputs(task, samples, device=device, autocast=autocast, ranks=ranks):
        mean = ctc(batch, out)
        sums += torch.cat([torch.stack([mean.total, mean.count]).double(), frame_counts(out)])
        texts = [alphabet.normalize(alphabet.decode(label)) for label in greedy(out.logits, out.frames)]
        readings.update(texts)
        truths = [samples.text(sample) for sample in batch.ids]
        scores += text_scores(texts, truths, normalize=alphabet.normalize, protocols=protocols)
    flat = ranks.sum(torch.tensor(scores.flat(), dtype=torch.float64, device=device))
    total, count, frames, blank, nats = ranks.sum(sums).tolist()
    return Found(
        scores=scores.unflat(flat.tolist()), loss=(total, count), frames=(frames, blank, nats),
        distinct=len(set().union(*ranks.gather(readings))), words=len(samples), classes=alphabet.classes,
    )  # fmt: skip
