"""How well plates are restored: read in what was restored, in bicubic (the floor) and in the target (the ceiling)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.plate_text import folded
from models.batch import Batch, Pair, Read, Restored
from models.decoding import greedy_texts
from models.mean import Mean, OfSet
from models.metrics.collapse import frame_counts, shares
from models.metrics.image import psnr, ssim
from models.metrics.plates import Frame, mean_character_accuracy, recognition_rate, track_recognition_rate
from models.metrics.text import Ratio, cer
from models.text import Alphabet
from orchestrator.batches import Samples, in_order
from orchestrator.plan import Term
from orchestrator.ranks import Ranks

BATCH_SIZE = 128
MONITOR = "_monitor"
Extras = Mapping[str, object]
Decode = Callable[[Read, Sequence[Extras]], list[tuple[str, tuple[float, ...]]]]
NO_DECODES: Mapping[str, Decode] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a task made of a set, over all ranks.

    Attributes:
        frames: what was read, by track and number: ``""`` in the restored images, ``"_bicubic"`` and ``"_target"``;
            the same with ``"_monitor"`` after it by the second recogniser, and with the names of further decodings.
        means: total and count of terms and image metrics, over the pairs that have a target.
        shares: ``blank_share``, ``entropy`` and ``distinct`` of what is read in the restored images, and with
            ``_target`` in the targets.
        pairs: how many have a target; the others are read and not compared.
    """

    frames: Mapping[str, Sequence[Frame]]
    means: Mapping[str, tuple[float, int]]
    shares: Mapping[str, float]
    pairs: int

    def ratios(self) -> dict[str, Ratio]:
        """Every metric of texts. Of a vote over tracks only where one has several frames."""
        found = {}
        for name, frames in self.frames.items():
            found[f"recognition_rate{name}"] = recognition_rate(frames)
            if len({frame.track for frame in frames}) < len(frames):
                found[f"recognition_rate_track{name}"] = track_recognition_rate(frames)
            if name in ("", "_bicubic", "_target"):
                found[f"character_accuracy{name}"] = mean_character_accuracy(frames)
                found[f"cer{name}"] = cer([frame.text for frame in frames], [frame.label for frame in frames])
        return found


def restored_metrics(
    task: nn.Module, samples: Samples, alphabet: Alphabet, *,
    terms: Mapping[str, Term], device: torch.device, autocast: Callable[[], AbstractContextManager[Any]], ranks: Ranks,
) -> dict[str, float]:  # fmt: skip
    """Every metric of one set; the same numbers on every rank.

    ``recognition_rate`` (whole plates), ``character_accuracy`` and ``cer`` of what is restored, and with ``_bicubic``
    and ``_target`` after them of the floor and the ceiling; ``recognition_rate_track`` by a vote over each track's
    frames, where there are any; each rate with ``_monitor`` after it as the task's second recogniser reads; ``psnr``
    and ``ssim``, with ``_bicubic`` too; and ``loss``, the weighted sum of the stage's ``terms``, each as ``loss_TERM``.
    Symbols that a plate's labels do not tell apart count as equal.

    Three say whether readings collapse: ``blank_share`` of the frames, their ``entropy`` as a share of the most it can
    be, and ``distinct`` readings for each plate that there is, at most 1; with ``_target`` after them, of targets.

    Pairs without a target are restored and read; ``n_compared`` says how many have one where some have not. Where none
    has, nothing is compared and there is no loss.
    """
    found = measured(task, samples, alphabet, terms=terms, device=device, autocast=autocast, ranks=ranks)
    values = {name: total / max(count, 1) for name, (total, count) in found.means.items()}
    if found.pairs:
        values["loss"] = sum(term.weight * values[f"loss_{name}"] for name, term in terms.items())
    values |= {name: ratio.value for name, ratio in found.ratios().items()} | dict(found.shares)
    if found.pairs < len(samples):
        values["n_compared"] = float(found.pairs)
    return values


@torch.inference_mode()
def measured(
    task: nn.Module, samples: Samples, alphabet: Alphabet, *,
    terms: Mapping[str, Term], device: torch.device, autocast: Callable[[], AbstractContextManager[Any]], ranks: Ranks,
    decodes: Mapping[str, Decode] = NO_DECODES,
) -> Measured:  # fmt: skip
    """Restore and read every sample once over all ranks.

    Args:
        decodes: further readings of the first recogniser by name, beside the greedy one.
    """
    task.eval()
    names = [*(f"loss_{term}" for term in terms), "psnr", "ssim", "psnr_bicubic", "ssim_bicubic"]
    means = {name: torch.zeros(2, dtype=torch.float64, device=device) for name in names}
    counts = torch.zeros(2, 3, dtype=torch.float64, device=device)  # restored, target; frames, blank, nats
    own: dict[str, list[Frame]] = defaultdict(list)
    compared: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name, term in terms.items() if _of_set(term)}
    for step in in_order(samples, batch_size=BATCH_SIZE, ranks=ranks):
        batch = samples.batch(step, device=device)
        with autocast():
            out: Restored = task(batch)
            floor = task.enlarged(batch)  # type: ignore[operator]
            reads = _reads(task, batch, out, floor)
        if isinstance(batch, Pair):
            bicubic = Restored(image=floor, read=reads["_bicubic"], clean=out.clean)
            for name, mean in _compared(batch, out, bicubic, terms).items():
                means[name] += torch.stack([mean.total.double(), mean.count.double()])
            for name, rows in compared.items():
                told = terms[name].loss.compared(batch, out)  # type: ignore[attr-defined]
                rows.append((torch.tensor(batch.ids), *(each.cpu() for each in told)))
        for kind, count in zip(("", "_target"), counts, strict=True):
            count += frame_counts(reads[kind]) if kind in reads else 0
        extras = [samples.extras(sample) for sample in batch.ids]
        decoders = {"": _greedy(alphabet), **decodes}
        for name, read in reads.items():
            for kind, decode in decoders.items():
                if not (kind and name.endswith(MONITOR)):
                    own[name + kind] += _frames(batch, decode(read, extras), extras, samples, alphabet)
    frames = _together(ranks.gather(dict(own)))
    sums = ranks.sum(torch.stack(list(means.values()))).tolist()
    spoken = dict(zip(("", "_target"), ranks.sum(counts).tolist(), strict=True))
    pairs = len(samples) - int(samples.blind.sum())
    totals = dict(zip(means, sums, strict=True))
    totals |= {f"loss_{name}": _over_set(terms[name], rows, ranks) for name, rows in compared.items()}
    return Measured(
        frames=frames, pairs=pairs,
        means={name: (total, round(count)) for name, (total, count) in totals.items() if pairs},
        shares={
            f"{name}{kind}": share for kind, count in spoken.items() if kind in frames or not kind
            for name, share in _collapse(frames.get(kind, []), count, alphabet).items()
        },
    )  # fmt: skip


def _of_set(term: Term) -> bool:
    return isinstance(term.loss, OfSet)


def _over_set(term: Term, own: Sequence[tuple[Tensor, ...]], ranks: Ranks) -> list[float]:
    """Total and count of a term over the samples of all ranks, in the order of their ids: the same for any ranks."""
    parts = [part for each in ranks.gather(list(own)) for part in each]
    if not parts:
        return [0.0, 0.0]
    ids, *rows = (_stacked(each) for each in zip(*parts, strict=True))
    order = ids.argsort()
    mean = term.loss.of_all(*(each[order] for each in rows))  # type: ignore[attr-defined]
    return [float(mean.total), float(mean.count)]


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """Rows one below the other, shorter ones with zeros at their end."""
    most = max(part.shape[-1] for part in parts)
    padded = [F.pad(part, (0, most - part.shape[-1])) if part.ndim > 1 else part for part in parts]
    return torch.cat(padded)


def _collapse(frames: Sequence[Frame], counts: Sequence[float], alphabet: Alphabet) -> dict[str, float]:
    texts, labels = ({getattr(frame, of) for frame in frames} for of in ("text", "label"))
    distinct = min(1.0, len(texts) / max(len(labels), 1))
    return {**shares(*counts, classes=alphabet.classes), "distinct": distinct}


def _reads(task: Any, batch: Batch, out: Restored, floor: Tensor) -> dict[str, Read]:
    """What each recogniser reads in each image; the task has already read some. Logits in float32."""
    widths = task.scale * batch.widths
    reads = {"": out.read, "_bicubic": task.ocr(floor, widths), "_target": out.clean}
    if getattr(task, "monitor", None) is not None:
        reads |= {MONITOR: task.monitor(out.image, widths), f"_bicubic{MONITOR}": task.monitor(floor, widths)}
        reads[f"_target{MONITOR}"] = out.monitor
    return {
        name: Read(logits=read.logits.float(), frames=read.frames) for name, read in reads.items() if read is not None
    }


def _compared(batch: Pair, out: Restored, bicubic: Restored, terms: Mapping[str, Term]) -> dict[str, Mean]:
    found = {f"loss_{name}": term.loss(batch, out) for name, term in terms.items() if not _of_set(term)}
    found |= {"psnr": psnr(batch, out), "ssim": ssim(batch, out)}
    return found | {"psnr_bicubic": psnr(batch, bicubic), "ssim_bicubic": ssim(batch, bicubic)}  # type: ignore[return-value]


def _greedy(alphabet: Alphabet) -> Decode:
    def decode(read: Read, extras: Sequence[Extras]) -> list[tuple[str, tuple[float, ...]]]:
        return greedy_texts(read.logits, read.frames, alphabet)

    return decode


def frames_of(batch: Batch, read: Read, samples: Samples, alphabet: Alphabet) -> list[Frame]:
    """The greedy reading of each image of a batch, and which track it lies on; one without a track is its own."""
    extras = [samples.extras(sample) for sample in batch.ids]
    return _frames(batch, _greedy(alphabet)(read, extras), extras, samples, alphabet)


def _frames(
    batch: Batch, spelled: Sequence[tuple[str, tuple[float, ...]]], extras: Sequence[Extras], samples: Samples,
    alphabet: Alphabet,
) -> list[Frame]:  # fmt: skip
    frames = []
    for sample, (text, sure), known in zip(batch.ids, spelled, extras, strict=True):
        alike = _alike(known)
        frames.append(
            Frame(
                track=str(known.get("track", f"#{sample}")), number=int(str(known.get("frame", 0))),
                label=folded(alphabet.normalize(samples.text(sample)), alike), text=folded(text, alike),
                confidences=sure, layout=str(known.get("layout", "")), scenario=str(known.get("scenario", "")),
            )
        )  # fmt: skip
    return frames


def _alike(extras: Extras) -> tuple[str, ...]:
    """The sets of symbols that this row's labels do not tell apart."""
    sets = extras.get("alike", ())
    return tuple(map(str, sets)) if isinstance(sets, list | tuple) else ()


def _together(parts: Sequence[Mapping[str, list[Frame]]]) -> dict[str, list[Frame]]:
    """The readings of all ranks, in an order that does not depend on which rank made them."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {
        name: sorted(
            (frame for part in parts for frame in part.get(name, [])),
            key=lambda frame: (frame.track, frame.number, frame.label, frame.text),
        )
        for name in names
    }
