"""From CTC scores to readings: greedy, prefix beam search, and the best word of a lexicon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.text import Alphabet

BLANK = 0
CHUNK = 4096  # candidates scored at once: bounds the memory of a half-million-word lexicon


@torch.no_grad()
def greedy(logits: Tensor, frames: Tensor) -> list[list[int]]:
    """The label of each image's single most probable path: repeats collapsed, then blanks dropped.

    Args:
        logits: ``(B, T, K)``.
        frames: ``(B,)`` valid frames.
    """
    best = logits.argmax(dim=2)
    starts = torch.ones_like(best, dtype=torch.bool)
    starts[:, 1:] = best[:, 1:] != best[:, :-1]
    valid = torch.arange(best.shape[1], device=best.device) < frames[:, None]
    rows = best.masked_fill(~(starts & valid), BLANK).tolist()
    return [[symbol for symbol in row if symbol != BLANK] for row in rows]


@torch.no_grad()
def greedy_confidences(logits: Tensor, frames: Tensor) -> list[tuple[float, ...]]:
    """One number for each symbol of what :func:`greedy` reads: the highest probability it has in the frames of its run.

    Args:
        logits: ``(B, T, K)``.
        frames: ``(B,)`` valid frames.
    """
    sure, best = logits.softmax(dim=2).max(dim=2)  # (B, T)
    starts = torch.ones_like(best, dtype=torch.bool)
    starts[:, 1:] = best[:, 1:] != best[:, :-1]
    valid = torch.arange(best.shape[1], device=best.device) < frames[:, None]
    runs = starts.long().cumsum(dim=1) - 1
    highest = torch.zeros_like(sure).scatter_reduce(1, runs, sure.masked_fill(~valid, 0), "amax")
    symbols = starts & valid & (best != BLANK)
    kept = highest.gather(1, runs).tolist()
    return [
        tuple(number for number, keep in zip(row, keeps, strict=True) if keep)
        for row, keeps in zip(kept, symbols.tolist(), strict=True)
    ]


def greedy_texts(logits: Tensor, frames: Tensor, alphabet: Alphabet) -> list[tuple[str, tuple[float, ...]]]:
    """The normal text that :func:`greedy` reads in each image, and one confidence for each of its characters."""
    labels, sure = greedy(logits, frames), greedy_confidences(logits, frames)
    raw = [alphabet.decode(label) for label in labels]
    return [(text := alphabet.normalize(one), kept(one, text, own)) for one, own in zip(raw, sure, strict=True)]


def kept(raw: str, text: str, sure: Sequence[float]) -> tuple[float, ...]:
    """Of one confidence for each character of ``raw`` those of ``text``, which normalising made of it.

    Whitespace at the ends and all but the first of a run goes; a character that was composed of several has the
    confidence of the one at its place.
    """
    if len(raw) == len(text):
        return tuple(sure)
    found, place = [], 0
    for symbol in text:
        at = raw.find(symbol, place)
        at = min(place, len(raw) - 1) if at < 0 else at
        found.append(sure[at])
        place = at + 1
    return tuple(found)


def confidence(logits: Tensor, frames: Tensor, readings: Sequence[Sequence[int]]) -> Tensor:
    """``(B,)`` the probability CTC gives to each reading as a whole: the sum over all of its paths.

    Longer words are less probable for it; it is a probability, not a score per character.

    Args:
        logits: ``(B, T, K)``.
        frames: ``(B,)`` valid frames.
        readings: one label per image, as :func:`greedy` returns them.
    """
    return log_likelihoods(logits.float().log_softmax(dim=2), frames, readings).exp()


@torch.no_grad()
def log_likelihoods(log_probs: Tensor, frames: Tensor, labels: Sequence[Sequence[int]]) -> Tensor:
    """``(N,)`` exact ``log p(label)`` in nats, ``-inf`` where the frames do not suffice for a label.

    Args:
        log_probs: ``(N, T, K)`` normalised over ``K``; may be an expanded view.
        frames: ``(N,)`` valid frames.
        labels: one per row, without blanks.
    """
    lengths = torch.tensor([len(label) for label in labels], dtype=torch.int64)
    tokens = torch.tensor(list(chain.from_iterable(labels)), dtype=torch.int64)
    return -F.ctc_loss(
        log_probs.transpose(0, 1),
        tokens.to(log_probs.device),
        frames.cpu(),
        lengths,
        blank=BLANK,
        reduction="none",
    )


def lexicon_log_likelihoods(
    logits: Tensor, frames: Tensor, candidates: Sequence[Sequence[Sequence[int]]]
) -> list[Tensor]:
    """Exact ``log p(word)`` of every candidate of every image, ``-inf`` where it cannot be spelled.

    Equal candidates (after case folding there are many) are scored once. The image's scores are
    not copied per candidate: 3000 images with 1000 candidates each take ten seconds on two cores.

    Args:
        logits: ``(B, T, K)``.
        frames: ``(B,)`` valid frames.
        candidates: encoded words of each image's lexicon.

    Returns:
        one ``(len(candidates[i]),)`` per image.
    """
    log_probs = logits.detach().float().log_softmax(dim=2)
    frames = frames.cpu()
    scores = []
    for image, words in enumerate(candidates):
        places: dict[tuple[int, ...], int] = {}
        index = [places.setdefault(tuple(word), len(places)) for word in words]
        distinct = score_words(log_probs[image, : frames[image]], list(places))
        scores.append(distinct[torch.tensor(index, dtype=torch.int64, device=distinct.device)])
    return scores


def score_words(log_probs: Tensor, words: Sequence[Sequence[int]]) -> Tensor:
    """``(len(words),)`` exact ``log p(word)`` given the ``(T, K)`` log-probabilities of one image."""
    parts = [log_probs.new_zeros(0)]
    for start in range(0, len(words), CHUNK):
        some = words[start : start + CHUNK]
        frames = torch.full((len(some),), log_probs.shape[0], dtype=torch.int64)
        parts.append(log_likelihoods(log_probs.expand(len(some), -1, -1), frames, some))
    return torch.cat(parts)


def prefix_beam(
    log_probs: NDArray[np.floating], *, beam: int = 16,
    may: Callable[[Sequence[tuple[int, ...]], int], NDArray[np.bool_]] | None = None,
) -> list[tuple[tuple[int, ...], float]]:  # fmt: skip
    """The ``beam`` most probable labels and their ``log p`` in nats, best first.

    Sums over the paths of a label, which :func:`greedy` does not. Exact when ``beam`` is not
    reached; otherwise ``log p`` is a lower bound, for the paths through dropped prefixes are missing.

    Args:
        log_probs: ``(T, K)`` of one image's valid frames, normalised over ``K``.
        may: of ``n`` prefixes and the frames to come after this one, ``(n, K)`` whether each may stay as it is (the
            blank's column) or grow by a class; all may when omitted.
    """
    prefixes: list[tuple[int, ...]] = [()]
    blank, symbol = np.zeros(1), np.full(1, -np.inf)  # log p of ending in a blank, in the last symbol
    for number, frame in enumerate(np.asarray(log_probs, dtype=np.float64)):
        stay_blank, stay_symbol, grow = extend(prefixes, blank, symbol, frame)
        if may is not None:
            allowed = may(prefixes, len(log_probs) - number - 1)
            stay_blank, stay_symbol = (np.where(allowed[:, BLANK], stay, -np.inf) for stay in (stay_blank, stay_symbol))
            grow = np.where(allowed, grow, -np.inf)
        scores = np.concatenate([np.logaddexp(stay_blank, stay_symbol), grow.ravel()])
        order = np.argsort(-scores, kind="stable")[:beam]
        order = order[np.isfinite(scores[order])]
        if not len(order):
            return []
        stays = order < len(prefixes)
        row, added = np.divmod(order - len(prefixes), len(frame))
        prefixes = [
            prefixes[place] if stay else (*prefixes[parent], int(new))
            for place, stay, parent, new in zip(order, stays, row, added, strict=True)
        ]
        kept = np.where(stays, order, 0)
        blank = np.where(stays, stay_blank[kept], -np.inf)
        symbol = np.where(stays, stay_symbol[kept], scores[order])
    total = np.logaddexp(blank, symbol)
    return [(prefixes[place], float(total[place])) for place in np.argsort(-total, kind="stable")]


def extend(
    prefixes: Sequence[tuple[int, ...]], blank: NDArray, symbol: NDArray, frame: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    """Log-probabilities after one more frame: ``(n,)`` staying by a blank, ``(n,)`` staying by the
    last symbol, and ``(n, K)`` growing by each class, for ``n`` prefixes.

    Growth into a prefix that is in the beam already is moved to where that prefix stays.
    """
    total = np.logaddexp(blank, symbol)
    last = np.array([prefix[-1] if prefix else BLANK for prefix in prefixes])
    stay_symbol = symbol + frame[last]
    grow = total[:, None] + frame
    grow[np.arange(len(prefixes)), last] = blank + frame[last]  # a symbol only repeats across a blank
    grow[:, BLANK] = -np.inf
    places = {prefix: place for place, prefix in enumerate(prefixes)}
    for place, prefix in enumerate(prefixes):
        parent = places.get(prefix[:-1]) if prefix else None
        if parent is not None:
            stay_symbol[place] = np.logaddexp(stay_symbol[place], grow[parent, prefix[-1]])
            grow[parent, prefix[-1]] = -np.inf
    return total + frame[BLANK], stay_symbol, grow
