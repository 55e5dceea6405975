"""The worn twin of a clean line, made when it is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from datasets.degrade_ops import VERSION as COMMON_VERSION
from datasets.paper_ops import VERSION, Around, BleedThrough, no_page, plain_paper_ops, worn
from datasets.paper_pages import Paper
from datasets.row import ImageRef
from datasets.worn_paper import PaperChain


@dataclass(frozen=True)
class Worn:
    """``image`` made old by a chain: the same pixels from the same fields in every process.

    Attributes:
        image: a clean line, dark ink on white.
        id: with ``seed`` all that the chain draws from.
        paper: the pages of the line's own split; none for made paper.
        back: what shows through, and its id.
    """

    image: ImageRef
    chain: PaperChain
    seed: int
    id: str
    paper: Paper | None = None
    back: tuple[str, ImageRef] | None = None

    def load(self) -> np.ndarray:
        return self.load_told()[0]

    def load_told(self) -> tuple[np.ndarray, Mapping[str, object]]:
        """``(h, w)`` uint8 and what was done. Raises :class:`~datasets.row.BadImage`."""
        ops = self.chain.ops(self.seed, self.id, tuple(pair.name for pair in self.paper.pages) if self.paper else ())
        shows = self.back is not None and any(isinstance(op, BleedThrough) for op in ops)
        back = line_grey(self.back[1].load()) if shows and self.back is not None else None
        around = Around(page=self.paper.page if self.paper else no_page, back=back)
        facts = {"seed": self.seed, "id": self.id, "back": self.back[0] if shows and self.back is not None else ""}
        pixels = worn(ops, line_grey(self.image.load()), around)
        return pixels, {"degraded": {**facts, "ops": plain_paper_ops(ops)}}

    def stamp(self) -> str:
        back = f"{self.back[0]} {self.back[1].stamp()}" if self.back else ""
        how = f"{VERSION}.{COMMON_VERSION}\0{self.chain!r}\0{self.seed}\0{self.id}\0{self.paper!r}\0{back}"
        return f"{self.image.stamp()} worn {hashlib.sha256(how.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def line_grey(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
