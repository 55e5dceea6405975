"""The one evaluation loop: every sample once at any number of ranks, and sums, not averages of averages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.batch import Batch, Read
from models.decoding import confidence, greedy
from models.losses.text import ctc
from models.metrics.text import TextScores, protocols_of, text_scores
from models.text import Alphabet
from orchestrator.batches import Samples, in_order
from orchestrator.ranks import Ranks

BATCH_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the network read in one sample: its text, and the probability CTC gives to that text as a whole."""

    sample: int
    text: str
    confidence: float


def evaluate(
    task: nn.Module, sets: Mapping[str, Samples], alphabet: Alphabet, *,
    device: torch.device, autocast: Callable[[], AbstractContextManager[Any]], ranks: Ranks,
) -> dict[str, float]:  # fmt: skip
    """Every metric of every set, as ``SET/METRIC``, with ``SET/n`` words; the same numbers on every rank.

    ``SET/loss`` is CTC in nats per character over the words that can be spelled in their frames; a word that cannot
    is still read, and counts as an error in all other metrics.
    """
    metrics: dict[str, float] = {}
    for name, samples in sets.items():
        scores, loss = _sums(task, samples, alphabet, device=device, autocast=autocast, ranks=ranks)
        metrics |= {f"{name}/{metric}": value for metric, value in scores.values().items()}
        metrics |= {f"{name}/loss": float(loss[0] / loss[1].clamp(min=1)), f"{name}/n": float(len(samples))}
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


def _sums(
    task: nn.Module, samples: Samples, alphabet: Alphabet, *,
    device: torch.device, autocast: Callable[[], AbstractContextManager[Any]], ranks: Ranks,
) -> tuple[TextScores, Tensor]:  # fmt: skip
    protocols = protocols_of(alphabet)
    scores = text_scores([], [], normalize=alphabet.normalize, protocols=protocols)
    loss = torch.zeros(2, dtype=torch.float64, device=device)
    for batch, out in outputs(task, samples, device=device, autocast=autocast, ranks=ranks):
        mean = ctc(batch, out)
        loss += torch.stack([mean.total, mean.count]).double()
        texts = [alphabet.normalize(alphabet.decode(label)) for label in greedy(out.logits, out.frames)]
        truths = [samples.text(sample) for sample in batch.ids]
        scores += text_scores(texts, truths, normalize=alphabet.normalize, protocols=protocols)
    flat = ranks.sum(torch.tensor(scores.flat(), dtype=torch.float64, device=device))
    return scores.unflat(flat.tolist()), ranks.sum(loss)
