"""What rendered images say: invented or dictionary words, numbers and codes, each belonging to one split."""

from __future__ import annotations

import functools
import random
import string
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from datasets.row import SourceError

DICTIONARIES = tuple(Path("/usr/share/dict") / name for name in ("american-english", "british-english", "words"))
ALPHANUMERIC = string.digits + string.ascii_lowercase + string.ascii_uppercase
LONGEST = 14
SHARED_LENGTH = 2  # texts this short are too few to be divided between splits

# How often a word of each length stands on a sign, from 1 to LONGEST letters; rounded from 2,000 scene words.
LENGTHS = (0.03, 0.12, 0.16, 0.17, 0.15, 0.11, 0.09, 0.055, 0.045, 0.03, 0.018, 0.012, 0.006, 0.004)

Case = Literal["lower", "upper", "title", "mixed"]


def apart(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


# The words that signs and pages are full of; a lexicon has each of them only once.
COMMON = apart(
    """
    a about after all an and are as at back bank bar be beauty been best big black blue book books box but buy
    by cafe can car care center centre church city class closed club coffee cold college come company day deal
    do door down drive east easy eat enjoy enter entrance every exit fast film fire first fish food for free
    fresh from full fun garden gas get gold good great green has have health help here high his home hot hotel
    hour house how i ice if in india inn international is it just king life light like live love made main man
    mart may men mobile money more movie music my national new news next night no north not now of off office
    old on one only open or our out over park parking people phone photo pizza place please police power press
    price pub real red rent restaurant right road room sale save school sea see service shop shopping show sign
    so south special sport spring star state station stop store street summer sun super take tea thank that the
    their there they this time to today town two university up us use very video view visit vote walk want was
    water way we welcome west what when where white who will wine winter with women work world year yes you your
    """
)

# English sounds as spelt, those of the front rows more often than the last.
ONSETS = (
    *apart("b c d f g h l m n p r s t w") * 4,
    *apart("br ch cl cr dr fl fr gr pl pr sh sl sp st th tr") * 2,
    *apart("bl gl j k kn ph qu sc scr shr sk sm sn spr squ str sw thr tw v v wh wr y z"),
)
NUCLEI = (
    *apart("a e i o u") * 6,
    *apart("ea ee ai oo ou") * 2,
    *apart("au aw ay ei ie oa oi ow oy ue y y"),
)
CODAS = (
    *("",) * 40,
    *apart("n r s t l d m") * 4,
    *apart("ck ll nd ng nt rd rn rt ss st") * 2,
    *apart(
        "b c ch ct f ft g ght k ld lf lk lm lt mp nce nch nk p p pt rch rf rg rk rm rp rst sh sh sk sp tch th th w x zz"
    ),
)
SUFFIXES = (
    *("",) * 30,
    *apart("ing ed er s ly") * 3,
    *apart("able age al ance ant ation ent ery est ful ible ic ies ish ism ist ity ive less ment ness or ous tion y"),
)
CONTRACTED = ("'s", "n't", "'ll", "'re")


@dataclass(frozen=True, kw_only=True)
class Cases:
    """How often words are written each way; shares of their sum.

    Attributes:
        mixed: a capital somewhere inside, such as ``eBay``.
    """

    lower: float = 0.3
    upper: float = 0.4
    title: float = 0.28
    mixed: float = 0.02

    def __post_init__(self) -> None:
        if min(self.shares) < 0 or sum(self.shares) <= 0:
            raise ValueError(f"Cases: shares {self.shares} must be at least 0, and one of them positive")

    @property
    def shares(self) -> tuple[float, float, float, float]:
        return self.lower, self.upper, self.title, self.mixed


def split_of(text: str) -> str:
    """The only split where ``text`` may occur, upper or lower case: 90 % train, 5 % valid, 5 % test.

    It depends on nothing but the text, so sources of different seeds keep each other's held-out words out of training.
    """
    bucket = zlib.crc32(text.lower().encode()) % 20
    return ("valid", "test")[bucket] if bucket < 2 else "train"


def belongs(text: str, split: str) -> bool:
    """Whether ``text`` may occur in ``split``: short texts may everywhere, longer ones in one split only."""
    return len(text) <= SHARED_LENGTH or split_of(text) == split


@functools.lru_cache(maxsize=4)
def invented_words(seed: int) -> tuple[str, ...]:
    """About 60,000 pronounceable lower-case words of 1 to ``LONGEST`` letters, sorted."""
    rng = random.Random(seed)
    words = set(string.ascii_lowercase)
    for syllables in (1, 1, 2, 2, 2, 3, 3, 4):
        words.update(invented_word(rng, syllables) for _ in range(10_000))
    return tuple(sorted(word for word in words if len(word) <= LONGEST))


def invented_word(rng: random.Random, syllables: int) -> str:
    """One word such as ``trasting``; now and then without its first consonant, or contracted."""
    parts = [rng.choice(ONSETS) + rng.choice(NUCLEI) + rng.choice(CODAS) for _ in range(syllables)]
    word = "".join(parts) + rng.choice(SUFFIXES)
    if rng.random() < 0.15:
        word = word.lstrip("bcdfghjklmnpqrstvwxz") or word
    return word + rng.choice(CONTRACTED) if rng.random() < 0.01 else word


def dictionary_words(path: Path) -> tuple[str, ...]:
    """The words of a file with one per line, sorted, at most ``LONGEST`` letters each; also each single letter."""
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: cannot be read as a list of words in UTF-8: {error}") from error
    return tuple(sorted({line for line in lines if len(line) <= LONGEST}))


def dictionary_path(root: Path | None) -> Path:
    """``root/words.txt`` when it is there, else the system's dictionary. Raises :class:`SourceError`."""
    own = () if root is None else (root / "words.txt",)
    for path in (*own, *DICTIONARIES):
        if path.is_file():
            return path
    raise SourceError(
        f"words='system' found none of {', '.join(map(str, (*own, *DICTIONARIES)))}; "
        "install the Debian package wamerican, put a words.txt into the source's root, or use words='invented'"
    )


def spelling(symbols: str) -> Callable[[str], str | None]:
    """A function that writes a text with ``symbols`` only, changing case where it must; None where it cannot."""
    allowed = frozenset(symbols)
    swap = {ord(c.swapcase()): c for c in symbols if len(c.swapcase()) == 1 and c.swapcase() not in allowed}

    def spelt(text: str) -> str | None:
        written = text.translate(swap)
        return written if allowed.issuperset(written) else None

    return spelt


def by_length(words: Iterable[str], *, symbols: str, split: str) -> Mapping[int, Sequence[str]]:
    """The words that ``symbols`` can write and that belong to ``split``, by length.

    Raises :class:`SourceError` when there are none.
    """
    spelt = spelling(symbols)
    found: dict[int, list[str]] = {}
    for word in words:
        if belongs(word, split) and spelt(word) is not None:
            found.setdefault(len(word), []).append(word)
    if not found:
        raise SourceError(
            f"no word for split {split!r} can be written with the {len(symbols)} symbols {symbols[:70]!r}; "
            "give more words, or symbols that hold letters of one case at least"
        )
    return found


def nearest(lengths: Iterable[int], wanted: int) -> int:
    """The length among ``lengths`` that is closest to ``wanted``."""
    return min(lengths, key=lambda length: (abs(length - wanted), length))


def cased(word: str, case: Case, at: float) -> str:
    """``word`` in that case; ``at`` in ``[0, 1)`` says from which letter on a mixed word is a title."""
    start = {"lower": len(word), "upper": 0, "title": 0, "mixed": int(at * len(word))}[case]
    end = len(word) if case == "upper" else start + 1
    raised = word[start:end].upper()
    # The capital of some letters, such as the German sharp s, is two letters and would be another word.
    return word[:start] + raised + word[end:] if len(raised) == len(word[start:end]) else word


def number(rng: random.Random, symbols: frozenset[str]) -> str:
    """A house number, year, price, time, date, phone number or code; what ``symbols`` lacks is left out."""
    digits = [c for c in string.digits if c in symbols]
    capitals = [c for c in string.ascii_uppercase if c in symbols] or digits
    some = "".join(rng.choice(digits) for _ in range(12))
    letters = "".join(rng.choice(capitals) for _ in range(3))
    form = rng.random()
    if form < 0.55:
        text = some[: rng.choice((1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5, 6))]
    elif form < 0.7:
        text = f"{rng.choice((18, 19, 19, 20, 20, 20))}{some[:2]}"
    elif form < 0.8:
        text = f"{rng.choice(('$', '£', '€', ''))}{some[: rng.randint(1, 4)]}.{some[4:6]}"
    elif form < 0.9:
        text = rng.choice(
            (f"{some[:2]}:{some[2:4]}", f"{some[:2]}.{some[2:4]}.{some[4:8]}", some[:3] + "-" + some[3:7])
        )
    else:
        text = rng.choice((letters[0] + some[:2], some[:2] + letters[:2], letters + some[:3], some[:2] + "%"))
    return "".join(c for c in text if c in symbols) or digits[0]


def jumble(rng: random.Random, symbols: str) -> str:
    """One to eight symbols drawn evenly, so that every one of them is seen."""
    return "".join(rng.choice(symbols) for _ in range(rng.choice((1, 1, 2, 3, 4, 5, 6, 8))))
