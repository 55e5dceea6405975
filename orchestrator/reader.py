"""A trained recogniser with all that reading needs: the same from a record, a checkpoint or an export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from datasets.image import ImageFile
from datasets.pair_image import PairSpec
from datasets.row import BadImage
from models.batch import Batch, Read, Restored
from models.decoding import lexicon_log_likelihoods, prefix_beam
from models.metrics.text import protocols_of, text_scores
from models.text import Alphabet, Frames, LabelError
from orchestrator.batches import Samples
from orchestrator.evaluate import Reading, outputs, read_of
from orchestrator.pipeline import Machine
from orchestrator.plan import Recipe
from orchestrator.ranks import Ranks
from orchestrator.trained import Trained, find_trained

LEXICONS = {"lexicon_50": "lexicon_small", "lexicon_1k": "lexicon_medium"}


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A recipe, its task with the weights of ``checkpoint``, and the machine it runs on."""

    recipe: Recipe
    task: nn.Module
    checkpoint: Path
    machine: Machine

    @property
    def restores(self) -> bool:
        """Whether images come out of it, too."""
        return isinstance(self.recipe.image, PairSpec)

    @property
    def alphabet(self) -> Alphabet:
        return self.recipe.alphabet  # type: ignore[return-value]

    @property
    def frames(self) -> Frames:
        return self.recipe.task.frames  # type: ignore[return-value]


def open_reader(place: Path, machine: Machine) -> Reader:
    """The reader at ``place``: a stage's folder, its record.json, one of its checkpoints, or an export anywhere.

    Raises :class:`orchestrator.store.StoreError` or :class:`orchestrator.checkpoint.CheckpointError`.
    """
    return reader_of(find_trained(place), machine)


def reader_of(trained: Trained, machine: Machine) -> Reader:
    task = machine.place(trained.task()).eval()
    return Reader(recipe=trained.recipe, task=task, checkpoint=trained.place, machine=machine)


def read_images(reader: Reader, paths: Sequence[Path]) -> Iterator[tuple[Path, Reading | BadImage]]:
    """What is read in each image file, or why it cannot be; prepared as at ingest."""
    for path in paths:
        try:
            batch, out = look_at(reader, path)
        except BadImage as error:
            yield path, error
        else:
            yield path, read_of(batch, out, reader.alphabet)[0]


@dataclass(frozen=True, kw_only=True)
class Restoration:
    """What a restoring task made of one image.

    Attributes:
        picture: ``(h, w, 3)`` RGB uint8, without what was padding.
    """

    picture: np.ndarray
    reading: Reading


def restore_images(reader: Reader, paths: Sequence[Path]) -> Iterator[tuple[Path, Restoration | BadImage]]:
    """Each image file in high resolution, and what is read in it, or why it cannot be used."""
    for path in paths:
        try:
            original = ImageFile(str(path)).load()
            batch, out = _answer(reader, original)
        except BadImage as error:
            yield path, error
        else:
            yield path, restoration_of(reader, original, batch, out)


def restoration_of(reader: Reader, original: np.ndarray, batch: Batch, out: Restored) -> Restoration:
    """The first restored picture of ``out``, which ``original`` came from, and its reading."""
    array = out.image[0].float().add(1).mul(127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    spec: PairSpec = reader.recipe.image  # type: ignore[assignment]
    picture = np.ascontiguousarray(spec.cut(array, *original.shape[:2]))
    return Restoration(picture=picture, reading=read_of(batch, _read(out), reader.alphabet)[0])


def look_at(reader: Reader, path: Path) -> tuple[Batch, Read]:
    """One image file as a batch, and what the task reads in it. Raises :class:`datasets.row.BadImage`."""
    batch, out = _answer(reader, ImageFile(str(path)).load())
    return batch, _read(out)


def _answer(reader: Reader, original: np.ndarray) -> tuple[Batch, Any]:
    """One picture as a batch, and what the task makes of it. Raises :class:`datasets.row.BadImage`."""
    image: Any = reader.recipe.image
    pixels = image.prepare(original, None)[0] if reader.restores else image.prepare(original)
    batch = _batch_of(pixels, reader.machine.device, multiple=1 if reader.restores else 4)
    with torch.inference_mode(), reader.machine.autocast():
        return batch, reader.task(batch)


def _read(out: Read | Restored) -> Read:
    read = out.read if isinstance(out, Restored) else out
    return Read(logits=read.logits.float(), frames=read.frames)


def score(reader: Reader, samples: Samples, *, lexicons: bool, beam: int) -> dict[str, float]:
    """Every text metric over ``samples``, with how many words each is over.

    Args:
        lexicons: also the accuracy when the reading is the likeliest word, by exact CTC likelihood, of the 50 or the
            1,000 words that come with each sample (36-class, over the samples that bring them).
        beam: also the metrics of prefix-beam readings of this width, as ``beam_NAME``; 0 for none.
    """
    alphabet = reader.alphabet
    texts: dict[str, list[str]] = {"": [], "beam_": []}
    truths: list[str] = []
    right = {name: [0, 0] for name in LEXICONS}
    for batch, out in outputs(
        reader.task, samples, device=reader.machine.device, autocast=reader.machine.autocast, ranks=Ranks()
    ):
        truths += [samples.text(sample) for sample in batch.ids]
        texts[""] += [reading.text for reading in read_of(batch, out, alphabet)]
        if beam:
            texts["beam_"] += _beam_texts(out, alphabet, beam)
        if lexicons:
            _count_lexicons(right, samples, batch, out, alphabet)
    metrics: dict[str, float] = {"n": len(truths)}
    for prefix, read in texts.items():
        if read:
            scores = text_scores(read, truths, normalize=alphabet.normalize, protocols=protocols_of(alphabet))
            values = scores.values() | (scores.counts() if not prefix else {})
            metrics |= {f"{prefix}{name}": value for name, value in values.items()}
    for name, (hits, words) in right.items():
        if words:
            metrics |= {f"{name}_accuracy_36": hits / words, f"{name}_n": words}
    return metrics


def _batch_of(pixels: np.ndarray, device: torch.device, *, multiple: int) -> Batch:
    """One prepared image ``(H, w)`` or ``(H, w, C)``, padded to a multiple of so many columns."""
    shaped = pixels if pixels.ndim == 3 else pixels[:, :, None]
    width = shaped.shape[1]
    padded = np.pad(shaped, ((0, 0), (0, -width % multiple), (0, 0)))
    one = torch.ones(1, dtype=torch.long, device=device)
    image = torch.from_numpy(padded)[None].to(device).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)
    return Batch(image=image, widths=one * width, tokens=one[None], lengths=one, counted=one.bool(), ids=(0,))


def _beam_texts(out: Read, alphabet: Alphabet, beam: int) -> list[str]:
    log_probs = out.logits.log_softmax(2).cpu().numpy()
    found = [prefix_beam(log_probs[i, :frames], beam=beam)[0][0] for i, frames in enumerate(out.frames.tolist())]
    return [alphabet.normalize(alphabet.decode(labels)) for labels in found]


def _count_lexicons(
    right: dict[str, list[int]], samples: Samples, batch: Batch, out: Read, alphabet: Alphabet
) -> None:  # fmt: skip
    """Count, for each lexicon, the samples whose likeliest word is the true one, case folded.

    A lexicon's words are upper-case whatever the image shows, so each is scored as written, in lower case and with a
    capital, and its best spelling counts.
    """
    for name, key in LEXICONS.items():
        words = [samples.words(sample, key) for sample in batch.ids]
        spelled = [[_spellings(word, alphabet) for word in each] for each in words]
        flat = [[labels for spellings in each for labels in spellings] for each in spelled]
        scores = lexicon_log_likelihoods(out.logits, out.frames, flat)
        for i, sample in enumerate(batch.ids):
            if not words[i]:
                continue
            owner = [word for word, spellings in zip(words[i], spelled[i], strict=True) for _ in spellings]
            guess = owner[int(scores[i].argmax())] if owner else ""
            right[name][0] += guess.lower() == samples.text(sample).lower()
            right[name][1] += 1


def _spellings(word: str, alphabet: Alphabet) -> list[list[int]]:
    spellings = []
    for cased in dict.fromkeys((word, word.lower(), word.capitalize())):
        try:
            spellings.append(alphabet.encode(cased))
        except LabelError:
            continue
    return spellings
