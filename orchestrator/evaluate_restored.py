"""How well plates are restored: read in what was restored, in bicubic (the floor) and in the target (the ceiling)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from models.alignment import symbol_confidences
from models.batch import Pair, Read, Restored
from models.decoding import greedy
from models.mean import Mean
from models.metrics.image import psnr, ssim
from models.metrics.plates import Frame, mean_character_accuracy, recognition_rate, track_recognition_rate
from models.metrics.text import cer
from models.text import Alphabet
from orchestrator.batches import Samples, in_order
from orchestrator.plan import Term
from orchestrator.ranks import Ranks

BATCH_SIZE = 128
IMAGES: Mapping[str, str] = {"": "restored", "_bicubic": "bicubic", "_target": "target"}


@torch.inference_mode()
def restored_metrics(
    task: nn.Module, samples: Samples, alphabet: Alphabet, *,
    terms: Mapping[str, Term], device: torch.device, autocast: Callable[[], AbstractContextManager[Any]], ranks: Ranks,
) -> dict[str, float]:  # fmt: skip
    """Every metric of one set; the same numbers on every rank.

    ``recognition_rate`` (whole plates), ``character_accuracy`` and ``cer`` of what is restored, and with ``_bicubic``
    and ``_target`` after them of the floor and the ceiling; ``recognition_rate_track`` by a vote over each track's
    frames, where there are any; ``psnr`` and ``ssim``, with ``_bicubic`` too; ``distinct`` readings per plate; and
    ``loss``, the weighted sum of the stage's ``terms``, each of them as ``loss_TERM``.
    """
    task.eval()
    means: dict[str, Tensor] = {}  # (2,) float64 total and count
    frames: dict[str, list[Frame]] = {name: [] for name in IMAGES}
    names = [*(f"loss_{term}" for term in terms), "psnr", "ssim", "psnr_bicubic", "ssim_bicubic"]
    means = {name: torch.zeros(2, dtype=torch.float64, device=device) for name in names}
    for step in in_order(samples, batch_size=BATCH_SIZE, ranks=ranks):
        batch = samples.batch(step, device=device)
        if not isinstance(batch, Pair):
            raise ValueError("restoration is measured against high resolutions, and some samples have none")
        with autocast():
            out: Restored = task(batch)
            floor = task.enlarged(batch)  # type: ignore[operator]
            low = task.ocr(floor, task.scale * batch.widths)  # type: ignore[operator]
        bicubic = Restored(image=floor, read=low, clean=out.clean)
        found = {f"loss_{name}": term.loss(batch, out) for name, term in terms.items()}
        found |= {"psnr": psnr(batch, out), "ssim": ssim(batch, out)}
        found |= {"psnr_bicubic": psnr(batch, bicubic), "ssim_bicubic": ssim(batch, bicubic)}
        for name, mean in found.items():
            assert isinstance(mean, Mean)
            means[name] += torch.stack([mean.total.double(), mean.count.double()])
        for name, read in (("", out.read), ("_bicubic", low), ("_target", out.clean)):
            frames[name] += frames_of(batch, read, samples, alphabet)
    sums = ranks.sum(torch.stack(list(means.values()))).tolist()
    values = {name: total / max(count, 1) for name, (total, count) in zip(means, sums, strict=True)}
    values["loss"] = sum(term.weight * values[f"loss_{name}"] for name, term in terms.items())
    for name in IMAGES:
        together = sorted(
            (frame for own in ranks.gather(frames[name]) for frame in own), key=lambda each: (each.track, each.number)
        )
        values |= _read(together, name)
    return values


def _read(frames: list[Frame], name: str) -> dict[str, float]:
    texts, labels = [frame.text for frame in frames], [frame.label for frame in frames]
    values = {
        f"recognition_rate{name}": recognition_rate(frames).value,
        f"character_accuracy{name}": mean_character_accuracy(frames).value,
        f"cer{name}": cer(texts, labels).value,
    }
    if len({frame.track for frame in frames}) < len(frames):
        values[f"recognition_rate_track{name}"] = track_recognition_rate(frames).value
    if not name:
        values["distinct"] = len(set(texts)) / max(len(texts), 1)
    return values


def frames_of(batch: Pair, read: Read | None, samples: Samples, alphabet: Alphabet) -> list[Frame]:
    """What was read in each image of a batch, and on which track it lies; one without a track is its own."""
    assert read is not None
    labels = greedy(read.logits, read.frames)
    log_probs = read.logits.float().log_softmax(dim=2).cpu().numpy()
    frames = []
    for sample, label, rows, long in zip(batch.ids, labels, log_probs, read.frames.tolist(), strict=True):
        extras, text = samples.extras(sample), alphabet.normalize(alphabet.decode(label))
        sure = tuple(symbol_confidences(rows[:long], label))
        frames.append(
            Frame(
                track=str(extras.get("track", f"#{sample}")), number=int(str(extras.get("frame", 0))),
                label=alphabet.normalize(samples.text(sample)), text=text, confidences=sure,
                layout=str(extras.get("layout", "")), scenario=str(extras.get("scenario", "")),
            )
        )  # fmt: skip
    return frames
