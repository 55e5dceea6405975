"""What a frozen recogniser makes of images that come again and again: computed once, and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

MOST = 2**30  # bytes that all images of a stage may take
MULTIPLE = 8  # an image is looked at alone, its width filled up to a multiple of this

Look = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


class KeptReadings:
    """Rows of numbers by sample, made with the weights that the recogniser has now.

    Each image is looked at alone, so that what is kept is a function of the image and of nothing else: not of the batch
    that it first came in, nor of the update after which a run was resumed.
    """

    def __init__(self, recognizer: nn.Module) -> None:
        self._parameters = list(recognizer.parameters())
        self._state = -1
        self._rows: dict[int, Tensor] = {}

    def of(
        self, image: Tensor, widths: Tensor, ids: Sequence[int], look: Look, *, sizes: Sequence[int], frames: int
    ) -> list[Tensor]:  # fmt: skip
        """What ``look`` makes of images ``(B, C, H, W)``: ``(B, frames, D)`` for each D of ``sizes``; no gradient.

        Args:
            widths: ``(B,)`` valid columns.
            ids: one for each image; an id always comes with the same image.
            look: ``(1, T, D)`` for each of ``sizes``, and ``(1,)`` how many of the T are valid, of an image and width.
            frames: what is past the valid ones is 0.
        """
        state = sum(each._version for each in self._parameters)
        if state != self._state:
            self._rows, self._state = {}, state
        for place, id in enumerate(ids):
            if id not in self._rows:
                self._rows[id] = self._alone(image[place : place + 1], widths[place : place + 1], look)
        rows = [self._rows[id] for id in ids]
        made = rows[0].new_zeros(len(ids), frames, rows[0].shape[1])
        for out, row in zip(made, rows, strict=True):
            out[: len(row)] = row
        return list(made.split(list(sizes), dim=2))

    @torch.no_grad()
    def _alone(self, image: Tensor, widths: Tensor, look: Look) -> Tensor:
        columns = min(-(-int(widths) // MULTIPLE) * MULTIPLE, image.shape[3])
        *found, valid = look(image[..., :columns], widths)
        return torch.cat(found, dim=2)[0, : int(valid)]


def fits(samples: int, frames: int, numbers: int, *, itemsize: int = 4) -> bool:
    """Whether so many samples, of so many frames and numbers in each at most, can be kept; not where there are none."""
    return 0 < samples * frames * numbers * itemsize <= MOST
