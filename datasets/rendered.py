"""Words drawn with fonts instead of photographed: endless, labelled without error, free of any download.

``style="plain"`` is quickly learnt, for a demo; ``style="scene"`` imitates signs, posters and screens closely enough to
train a reader before it meets photographs. Every picture is a function of its row's fields, drawn when it is loaded.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from datasets import vocabulary
from datasets.drawing import VERSION, Drawn, Style
from datasets.fonts import Face, font_paths, held_out, licence, sha256_of, usable_faces, weights
from datasets.image import ImageFile
from datasets.row import Row, SourceError
from datasets.vocabulary import ALPHANUMERIC, LENGTHS, SHARED_LENGTH, Case, Cases

BLOCK = 4096  # rows drawn by lot together; whole blocks, so the first rows stay when their number grows
SPLITS = ("train", "valid", "test")
CASES: tuple[Case, ...] = get_args(Case)
# Where a label of letters and digits leaves something out: behind the word mostly, before it, around it, inside it.
BEHIND = (".", ".", ".", ".", ",", ",", ",", ":", "!", "?", "-", "'", ")", "!!", "...")
AROUND = (("'", ""), ('"', ""), ("-", ""), ("&", ""), ("(", ")"), ('"', '"'))
INSIDE = ("'", "'", "-", ".", "/")
PUNCTUATION = frozenset("".join((*BEHIND, *INSIDE)) + '"&(')


@dataclass(frozen=True, kw_only=True)
class RenderedWords:
    """A source of drawn words.

    A text of three or more characters belongs to one split by itself (:func:`~datasets.vocabulary.split_of`), whatever
    the seed, and is its own group: what valid and test show was never a training label. Texts of one or two characters
    are too few to divide; each such row is a group of its own and may occur in every split.

    Attributes:
        count: rows of split ``"train"``.
        valid: rows of split ``"valid"``.
        test: rows of split ``"test"``.
        seed: of everything; another seed gives other rows.
        words: ``"invented"`` needs nothing; ``"system"`` takes ``root/words.txt``, else ``/usr/share/dict``.
        numbers: share of numbers, prices, years, times and codes.
        random: share of random strings of one to eight symbols.
        common: share of the words that is taken from the few hundred that signs are full of.
        cases: how often words are lower, UPPER, Title or mIxed case.
        symbols: the only characters a label may hold.
        unread: share of words drawn with a punctuation mark that the label leaves out. Counted by eye, 26 of 200
            IIIT-5K training images show one; 0 draws the label and nothing else.
        fonts: ``"shipped"`` are matplotlib's; ``"system"`` adds the machine's and those in ``root/fonts``.
        held_out_fonts: share of font families that only valid and test use; 0 uses all everywhere.
        style: ``"plain"`` or ``"scene"``.
        colour: RGB pictures instead of grey ones, about a third slower.
    """

    count: int
    valid: int = 0
    test: int = 0
    seed: int = 0
    words: Literal["invented", "system"] = "invented"
    numbers: float = 0.1
    random: float = 0.03
    common: float = 0.2
    cases: Cases = field(default_factory=Cases)
    symbols: str = ALPHANUMERIC
    unread: float = 0.0
    fonts: Literal["shipped", "system"] = "shipped"
    held_out_fonts: float = 0.0
    style: Style = "plain"
    colour: bool = False

    def __post_init__(self) -> None:
        for name in ("count", "valid", "test", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"RenderedWords: {name} is {getattr(self, name)}; it must be at least 0")
        for name in ("numbers", "random", "common", "unread", "held_out_fonts"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"RenderedWords: {name} is {getattr(self, name)}; a share lies between 0 and 1")
        if self.numbers + self.random > 1:
            raise ValueError(
                f"RenderedWords: numbers {self.numbers} and random {self.random} are together "
                f"{self.numbers + self.random:g}; the rest, the share of words, cannot be negative"
            )
        self.check_choices()
        self.check_symbols()

    def check_choices(self) -> None:
        for name, allowed in (
            ("words", ("invented", "system")),
            ("fonts", ("shipped", "system")),
            ("style", get_args(Style)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"RenderedWords: {name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")

    def check_symbols(self) -> None:
        if not self.symbols or len(set(self.symbols)) < len(self.symbols) or any(c.isspace() for c in self.symbols):
            raise ValueError(
                f"RenderedWords: symbols is {self.symbols!r}; it needs at least one character, none twice and no space"
            )
        if self.numbers > 0 and not set("0123456789") & set(self.symbols):
            raise ValueError(f"RenderedWords: numbers is {self.numbers} but symbols has no digit; set numbers=0")

    def rows(self, root: Path | None) -> Iterator[Row]:
        """Train, valid, then test. Raises :class:`~datasets.row.SourceError` without usable fonts or words."""
        for split, rows in zip(SPLITS, (self.count, self.valid, self.test), strict=True):
            if rows:
                yield from self.rows_of(split, rows, root)

    def rows_of(self, split: str, rows: int, root: Path | None) -> Iterator[Row]:
        """The first ``rows`` of the endless rows of one split."""
        words: Mapping[int, Sequence[str]] = {}
        if self.numbers + self.random < 1:
            words = vocabulary.by_length(self.word_list(root), symbols=self.symbols, split=split)
        faces = self.faces(split, root)
        for block in range(-(-rows // BLOCK)):
            yield from self.block(block, split, words, faces)[: rows - block * BLOCK]

    def block(self, block: int, split: str, words: Mapping[int, Sequence[str]], faces: Sequence[Face]) -> list[Row]:
        """``BLOCK`` rows, from the seed, the split and the number of the block alone."""
        rng = np.random.default_rng((self.seed, SPLITS.index(split), block))
        texts = self.texts(rng, split, words)
        marked = (rng.random(BLOCK) < self.unread).tolist()
        marks = rng.random(BLOCK).tolist()
        first = rng.choice(len(faces), size=BLOCK, p=weights(faces)).tolist()
        full = [face for face in faces if not face.capitals_only]
        second = rng.choice(len(full), size=BLOCK, p=weights(full)).tolist()
        seeds = rng.integers(2**62, size=BLOCK).tolist()
        rows = []
        for place, text in enumerate(texts):
            row_id = f"{split}-{block * BLOCK + place:08d}"
            face = faces[first[place]]
            if face.capitals_only and text != text.upper():
                face = full[second[place]]
            drawn = with_mark(text, marks[place]) if marked[place] else text
            image = Drawn(drawn, face.path, seeds[place], self.style, self.colour)
            group = text.lower() if len(text) > SHARED_LENGTH else row_id
            rows.append(Row(id=row_id, image=image, text=text, group=group, split=split))
        return rows

    def texts(self, rng: np.random.Generator, split: str, words: Mapping[int, Sequence[str]]) -> list[str]:
        """``BLOCK`` labels that belong to ``split``."""
        spelt, symbols = vocabulary.spelling(self.symbols), frozenset(self.symbols)
        common = [word for word in vocabulary.COMMON if spelt(word) is not None and vocabulary.belongs(word, split)]
        buckets = [words[vocabulary.nearest(words, length)] for length in range(1, len(LENGTHS) + 1) if words]
        spare = random.Random(int(rng.integers(2**62)))
        kinds, picks, places = rng.random((3, BLOCK)).tolist()
        lengths = rng.choice(len(LENGTHS), size=BLOCK, p=np.array(LENGTHS) / sum(LENGTHS)).tolist()
        cases = rng.choice(len(CASES), size=BLOCK, p=np.array(self.cases.shares) / sum(self.cases.shares)).tolist()
        is_common = (rng.random(BLOCK) < (self.common if common else 0)).tolist()
        texts = []
        for row, kind in enumerate(kinds):
            if kind < self.numbers:
                texts.append(self.drawn_until(split, lambda: vocabulary.number(spare, symbols)))
            elif kind < self.numbers + self.random:
                texts.append(self.drawn_until(split, lambda: vocabulary.jumble(spare, self.symbols)))
            else:
                bucket = common if is_common[row] else buckets[lengths[row]]
                word = vocabulary.cased(bucket[int(picks[row] * len(bucket))], CASES[cases[row]], places[row])
                texts.append(spelt(word) or word)
        return texts

    def drawn_until(self, split: str, draw: Callable[[], str]) -> str:
        """A text from ``draw`` that belongs to ``split``; shortened to what every split may have when none comes."""
        for _ in range(200):
            text = draw()
            if vocabulary.belongs(text, split):
                return text
        return text[:SHARED_LENGTH]

    def word_list(self, root: Path | None) -> tuple[str, ...]:
        """All words, of every split. Raises :class:`~datasets.row.SourceError`."""
        if self.words == "invented":
            return vocabulary.invented_words(self.seed)
        return vocabulary.dictionary_words(vocabulary.dictionary_path(root))

    def faces(self, split: str, root: Path | None) -> list[Face]:
        """The faces that draw a split. Raises :class:`~datasets.row.SourceError`."""
        needed = "".join(sorted({*self.symbols, *(PUNCTUATION if self.unread else "")}))
        faces = usable_faces(font_paths(self.fonts, root), needed)
        families = held_out(faces, self.held_out_fonts)
        chosen = [face for face in faces if not families or (face.family in families) == (split != "train")]
        if all(face.capitals_only for face in chosen):
            raise SourceError(
                f"held_out_fonts={self.held_out_fonts} leaves split {split!r} with {len(chosen)} fonts, none of them "
                "with small letters; use another share or more fonts"
            )
        return chosen

    def stamp(self, root: Path | None) -> str:
        """Changes with the fonts and the list of words that are there: nothing else is read."""
        words = () if self.words == "invented" else (vocabulary.dictionary_path(root),)
        return "\n".join(f"{path} {ImageFile(str(path)).stamp()}" for path in (*font_paths(self.fonts, root), *words))

    def describe(self, root: Path | None) -> Mapping[str, object]:
        """Which fonts and words the rows come from, and on what terms, as JSON data."""
        train, held = self.faces("train", root), self.faces("valid", root)
        paths = tuple(sorted({face.path for face in (*train, *held)}))
        words = self.word_list(root)
        origin = "invented" if self.words == "invented" else str(vocabulary.dictionary_path(root))
        return {
            "parameters": asdict(self),
            "drawing_version": VERSION,
            "fonts": {
                "count": len(paths),
                "names": [Path(path).name for path in paths],
                "capitals_only": sorted({Path(face.path).name for face in (*train, *held) if face.capitals_only}),
                "held_out_families": sorted(held_out([*train, *held], self.held_out_fonts)),
                "sha256": sha256_of(paths),
            },
            "words": {"from": origin, "count": len(words)},
            "licence": licence(paths),
        }


def with_mark(text: str, lot: float) -> str:
    """``text`` as it is drawn with an unread mark; ``lot`` in ``[0, 1)`` says which and where."""
    behind, inside = 0.65, 0.2
    if lot < behind or (lot < behind + inside and len(text) < 3):
        return text + BEHIND[int(lot * 1000) % len(BEHIND)]
    if lot < behind + inside:
        place = 1 + int(lot * 10_000) % (len(text) - 1)
        return text[:place] + INSIDE[int(lot * 1000) % len(INSIDE)] + text[place:]
    before, after = AROUND[int(lot * 1000) % len(AROUND)]
    return before + text + after
