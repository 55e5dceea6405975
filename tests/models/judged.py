"""Restorations that a discriminator and a recogniser's inner layer looked at, with numbers of the test's choice."""

import torch

from models.batch import Judged, Read
from tests.models.pairs import images, pair_of, reader


def judged(*, fake=None, real=None, batch=2, width=32, dtype=torch.float32):
    """A pair of 12 x ``width`` and what the discriminator said of it."""
    image = images(batch, 1, 12, width, dtype=dtype)
    pair = pair_of(["AB"] * batch, images(batch, 1, 12, width, seed=1, dtype=dtype), scale=1)
    return pair, Judged(image=image, read=reader(image), fake=fake, real=real)


def featured(features, clean, frames):
    """A restoration with these features ``(B, T, D)``, of which ``frames`` are valid."""
    image = torch.zeros(len(features), 1, 12, features.shape[1])
    read = Read(logits=torch.zeros(*features.shape[:2], 37), frames=torch.tensor(frames))
    return Judged(image=image, read=read, features=features, clean_features=clean)
