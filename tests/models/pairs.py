"""Pairs of made-up images, and a reader of a few lines that sends gradient into the image."""

import torch

from models.batch import Pair, Read, Restored
from models.text import Alphabet

PLATES36 = Alphabet(symbols="0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", case="upper")


def images(*shape, seed=0, dtype=torch.float32):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


def pair_of(texts, target, *, widths=None, scale=2, counted=None):
    """Plates with the given texts whose clean images are ``target``."""
    labels = [PLATES36.encode(text) for text in texts]
    longest = max(map(len, labels))
    batch, channels, height, width = target.shape
    return Pair(
        image=torch.zeros(batch, channels, height // scale, width // scale),
        widths=torch.tensor(widths or [width // scale] * batch),
        tokens=torch.tensor([label + [0] * (longest - len(label)) for label in labels], dtype=torch.int64),
        lengths=torch.tensor([len(label) for label in labels]),
        counted=torch.tensor(counted or [True] * batch),
        ids=tuple(range(batch)),
        target=target,
    )


def reader(image, frames=None):
    """A linear reader: one frame each column, 37 classes from the column's pixels."""
    columns = image.flatten(1, 2).transpose(1, 2)  # (B, T, C * H)
    kernel = torch.randn(columns.shape[2], 37, generator=torch.Generator().manual_seed(9), dtype=image.dtype)
    frames = [image.shape[3]] * len(image) if frames is None else frames
    return Read(logits=columns @ kernel, frames=torch.tensor(frames))


def restored(image, *, clean=None):
    return Restored(image=image, read=reader(image), clean=None if clean is None else reader(clean))


def said(*texts, sure=20.0, dtype=torch.float32):
    """What a reader says that is ``sure`` of each text: every character followed by a blank."""
    spelled = [[each for symbol in PLATES36.encode(text) for each in (symbol, 0)] for text in texts]
    longest = max(map(len, spelled))
    rows = torch.tensor([row + [0] * (longest - len(row)) for row in spelled])
    logits = sure * torch.nn.functional.one_hot(rows, 37).to(dtype)
    return Read(logits=logits, frames=torch.full((len(texts),), longest))
