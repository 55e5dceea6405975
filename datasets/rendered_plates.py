"""Number plates drawn instead of photographed: tracks of good pictures and their degraded twins, from a seed alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Literal

from datasets.degrade import Chain
from datasets.degraded import Degraded
from datasets.fonts import Face, font_paths, licence, sha256_of, usable_faces
from datasets.image import ImageFile
from datasets.plate_drawing import DRAWINGS, VERSION, DrawnPlate
from datasets.plate_text import BRAZIL, DIGITS, KINDS, LETTERS
from datasets.row import Row, SourceError
from datasets.vocabulary import belongs

SPLITS = ("train", "valid", "test")
PATTERNS: Mapping[str, tuple[str, ...]] = {
    **BRAZIL,
    "US": ("LLLNNNN", "LLLNNN", "NLLLNNN", "NNNLLL", "LLNNNNN", "NNLLNN"),
}
UPRIGHT = re.compile(r"sans|grotesk|gothic|\bdin|cmss|helvet|arial|roboto", re.IGNORECASE)
SLANTED = re.compile(r"italic|oblique|light|thin|hairline|serif", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class RenderedPlates:
    """A source of drawn tracks; a row is one frame, all frames of a track show one plate.

    A plate's text is drawn evenly from all that its pattern allows and belongs to one split by itself
    (:func:`~datasets.vocabulary.split_of`), whatever the seed: valid and test show no plate of train.

    Attributes:
        tracks: of split ``"train"``.
        valid: tracks of split ``"valid"``.
        test: tracks of split ``"test"``.
        frames: of each track.
        layouts: which there are, equally often: ``"Brazilian"``, ``"Mercosur"`` and ``"US"``.
        height: of the good pictures, in pixels.
        chain: what makes the bad ones.
        fonts: ``"shipped"`` are matplotlib's; ``"system"`` adds the machine's and those in ``root/fonts``.
        seed: of everything; another seed gives other rows.
    """

    tracks: int
    valid: int = 0
    test: int = 0
    frames: int = 5
    layouts: tuple[str, ...] = tuple(PATTERNS)
    height: int = 64
    chain: Chain = field(default_factory=Chain)
    fonts: Literal["shipped", "system"] = "shipped"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("tracks", 0), ("valid", 0), ("test", 0), ("frames", 1), ("height", 24), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"RenderedPlates: {name} is {getattr(self, name)}; it must be at least {least}")
        unknown = [name for name in self.layouts if name not in PATTERNS]
        if unknown or not self.layouts:
            raise ValueError(f"RenderedPlates: layouts are {self.layouts}; name some of {', '.join(PATTERNS)}")
        if self.fonts not in ("shipped", "system"):
            raise ValueError(f"RenderedPlates: fonts is {self.fonts!r}; allowed: shipped, system")

    def rows(self, root: Path | None) -> Iterator[Row]:
        """Train, valid, then test. Raises :class:`~datasets.row.SourceError` without usable fonts."""
        faces = self.faces(root)
        for split, tracks in zip(SPLITS, (self.tracks, self.valid, self.test), strict=True):
            for number in range(tracks):
                yield from self.track(split, number, faces)

    def track(self, split: str, number: int, faces: Sequence[Face]) -> Iterator[Row]:
        """The frames of one track: a function of seed, split and number alone."""
        rng = Random(f"{self.seed} {split} {number}")
        layout = self.layouts[number % len(self.layouts)]
        text = drawn_text(rng, layout, split)
        font, seed = rng.choice(faces).path, rng.getrandbits(48)
        track = f"{split}-{number:06d}"
        for frame in range(1, self.frames + 1):
            id = f"{track}/{frame:03d}"
            plate = DrawnPlate(text, layout, font, seed, frame, self.height)
            extras = {"track": track, "frame": frame, "scenario": "drawn", "layout": layout}
            yield Row(id=id, image=Degraded(plate, self.chain, self.seed, id), target=plate, text=text, group=text,
                      split=split, extras=extras)  # fmt: skip

    def faces(self, root: Path | None) -> tuple[Face, ...]:
        """The upright faces without serifs. Raises :class:`~datasets.row.SourceError`."""
        faces = usable_faces(font_paths(self.fonts, root), DIGITS + LETTERS)
        fit = tuple(face for face in faces if _like_a_plates(Path(face.path).stem))
        if not fit:
            raise SourceError("RenderedPlates: none of the usable fonts is upright and without serifs")
        return fit

    def stamp(self, root: Path | None) -> str:
        """Changes with the fonts that are there: nothing else is read."""
        return "\n".join(f"{path} {ImageFile(str(path)).stamp()}" for path in font_paths(self.fonts, root))

    def describe(self, root: Path | None) -> Mapping[str, object]:
        paths = tuple(face.path for face in self.faces(root))
        return {
            "parameters": {**asdict(self), "chain": repr(self.chain)},  # asdict() forgets which step is which
            "drawing_version": VERSION,
            "patterns": {layout: list(PATTERNS[layout]) for layout in self.layouts},
            "fonts": {"names": [Path(path).name for path in paths], "sha256": sha256_of(paths)},
            "licence": licence(paths),
        }


def drawn_text(rng: Random, layout: str, split: str) -> str:
    """A plate's text that belongs to ``split``: a pattern of the layout, then each character, evenly."""
    while True:
        pattern = rng.choice(PATTERNS[layout])
        text = "".join(rng.choice(KINDS[kind]) for kind in pattern)
        if belongs(text, split):
            return text


def _like_a_plates(name: str) -> bool:
    return UPRIGHT.search(name) is not None and SLANTED.search(name) is None


assert set(PATTERNS) == set(DRAWINGS)
