"""Which columns of a padded batch belong to its images, at every scale of a network that halves its sides."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Columns:
    """Columns a network may see; whatever else its batch holds is zero before every convolution that would reach it.

    What comes out for an image then does not depend on how far it is padded.

    Attributes:
        inside: ``(B, W)`` bool, or None where all columns belong to their images.
    """

    inside: Tensor | None = None

    def clear(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` with zeros in the columns that are not inside."""
        return x if self.inside is None else x * self.inside.to(x.dtype)[:, None, None, :]

    def halved(self) -> Columns:
        """The columns at half the width; each image has an even number of them here."""
        return self if self.inside is None else Columns(self.inside[:, ::2])

    def mean(self, x: Tensor) -> Tensor:
        """``(B, C, 1, 1)`` the mean over the columns inside, of ``x`` that is clear."""
        mean = x.mean((2, 3), keepdim=True)
        if self.inside is None:
            return mean
        share = self.inside.float().mean(dim=1)[:, None, None, None]
        return (mean / share).to(x.dtype)

    def max(self, x: Tensor) -> Tensor:
        """``(B, C, 1, 1)`` the maximum over the columns inside."""
        if self.inside is not None:
            x = x.masked_fill(~self.inside[:, None, None, :], -torch.inf)
        return x.amax((2, 3), keepdim=True)


def columns_of(widths: Tensor | None, width: int) -> Columns:
    """The first ``widths`` ``(B,)`` columns of ``width``; all of them when omitted."""
    if widths is None or _full(widths, width):
        return Columns()
    return Columns(torch.arange(width, device=widths.device) < widths[:, None])


def fitted(image: Tensor, widths: Tensor | None, divisor: int) -> tuple[Tensor, Columns]:
    """Images whose sides can be halved: the last row, and each image's last column, repeated up to the next multiple.

    Args:
        image: ``(B, C, H, W)`` of any size.
        widths: ``(B,)`` valid columns of each image, at least 1; all when omitted.
        divisor: what both sides, and the columns of each image, become multiples of.

    Returns:
        ``(B, C, H', W')``, zero past each image's repeated column, and the columns up to there.
    """
    full = widths is None or _full(widths, image.shape[3])
    image = _filled(_filled(image, divisor, dim=2), divisor, dim=3)
    if widths is None or full:
        return image, Columns()
    width = image.shape[3]
    last = torch.arange(width, device=image.device) == (widths - 1)[:, None]
    # Not gathered: the gradient of gathering is added up in any order on CUDA.
    repeated = (image * last.to(image.dtype)[:, None, None, :]).sum(dim=3, keepdim=True)
    own = torch.arange(width, device=widths.device) < widths[:, None]
    columns = columns_of((widths + divisor - 1) // divisor * divisor, width)
    return columns.clear(torch.where(own[:, None, None, :], image, repeated)), columns


def _full(widths: Tensor, width: int) -> bool:
    """Whether no image is padded, so that nothing has to be cleared; looked at where that does not wait for a GPU."""
    if widths.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return bool((widths >= width).all())


def _filled(image: Tensor, divisor: int, *, dim: int) -> Tensor:
    """The last row or column repeated until there is a multiple of ``divisor``."""
    missing = -image.shape[dim] % divisor
    if not missing:
        return image
    last = image.narrow(dim, image.shape[dim] - 1, 1)
    return torch.cat([image, *[last] * missing], dim=dim)
