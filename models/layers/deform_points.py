"""Where a deformable kernel looks when no offset moves it, and how its offsets are laid out."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Points:
    """The sampling points of one kernel, as every backend takes them.

    Point ``k`` of a pixel at column ``x`` and row ``y`` reads at ``x + scale * (at[k][0] + dx)`` and
    ``y + scale * (at[k][1] + dy)``, bilinearly, with zeros outside the image. Undisplaced points lie around
    the pixel itself, so a kernel with zero offsets is a convolution padded to keep the size: no shift.

    Attributes:
        at: the points as (x, y), in the order of the offsets.
        scale: multiplies both the points and the offsets.
        x_first: whether an offset is (dx, dy) or (dy, dx).
    """

    at: tuple[tuple[int, int], ...]
    scale: float = 1.0
    x_first: bool = True

    def only(self, k: int) -> Points:
        """Point ``k`` alone."""
        return replace(self, at=(self.at[k],))

    def __len__(self) -> int:
        return len(self.at)


def row_major(kernel: int) -> Points:
    """The points of DCNv1 and DCNv2: row by row, offsets as (dy, dx)."""
    steps = _steps(kernel)
    return Points(at=tuple((x, y) for y in steps for x in steps), x_first=False)


def column_major(kernel: int, scale: float = 1.0, *, without_centre: bool = False) -> Points:
    """The points of DCNv3 and DCNv4: column by column, offsets as (dx, dy)."""
    steps = _steps(kernel)
    at = tuple((x, y) for x in steps for y in steps if not (without_centre and x == y == 0))
    return Points(at=at, scale=scale)


def _steps(kernel: int) -> range:
    return range(-(kernel // 2), kernel // 2 + 1)
