"""Which fonts can draw a set of symbols so that a label can be trusted, and which of them are held out."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.row import SourceError

EM = 48  # pixels; every face is opened once, at this size, and the drawing is scaled afterwards
FOLDERS = (
    Path("/usr/share/fonts"),
    Path("/usr/local/share/fonts"),
    Path("~/.local/share/fonts").expanduser(),
    Path("~/.fonts").expanduser(),
    Path("/Library/Fonts"),
    Path("/System/Library/Fonts"),
)
ENDINGS = (".ttf", ".otf", ".ttc")
UNMAPPED = "\U000f5a5a"  # a private code that no text font maps, so what it draws is the missing glyph
NOT_TEXT = re.compile(r"symbol|dingbat|emoji|icon|ornament|braille|barcode|\bmath|^cm(sy|mi|ex)\d", re.IGNORECASE)
ALIKE = 0.4  # least mean likeness to DejaVu's letters; pictures stay below 0.4, scripts and black letter above
RAISED = 0.9  # likeness of a small letter to its capital from which it is a small capital
UNLIKE_PAIRS = "abdeghnqr"  # letters whose small form has another shape than the capital in every ordinary font


@dataclass(frozen=True, kw_only=True)
class Face:
    """One font file that draws every symbol.

    Attributes:
        family: what its maker calls the family; faces of one family are never on both sides of a split.
        capitals_only: its small letters look like capitals, so it draws only texts without small letters.
    """

    path: str
    family: str
    capitals_only: bool


def shipped_paths() -> tuple[Path, ...]:
    """The fonts that come with matplotlib, which is found but not imported."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise SourceError("the shipped fonts are those of matplotlib, which is not installed; pip install matplotlib")
    return tuple(sorted((Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf").glob("*.ttf")))


def font_paths(fonts: Literal["shipped", "system"], root: Path | None) -> tuple[Path, ...]:
    """Every font file to try, by name wherever it lies; ``"system"`` adds the machine's and those of ``root/fonts``."""
    folders = () if fonts == "shipped" else (*FOLDERS, *(() if root is None else (root / "fonts",)))
    found = {
        path for folder in folders if folder.is_dir() for path in folder.rglob("*") if path.suffix.lower() in ENDINGS
    }
    return tuple(sorted(found | set(shipped_paths()), key=lambda path: (path.name, str(path))))


@functools.lru_cache(maxsize=4096)
def opened(path: str) -> ImageFont.FreeTypeFont:
    """The face at ``EM`` pixels. Raises ``OSError`` when it is no font."""
    # The basic layout is compiled into Pillow; Raqm may or may not be there and would change the pixels.
    return ImageFont.truetype(path, EM, layout_engine=ImageFont.Layout.BASIC)


@functools.lru_cache(maxsize=16)
def usable_faces(paths: tuple[Path, ...], symbols: str) -> tuple[Face, ...]:
    """The faces that truly draw each of ``symbols``, in the order of ``paths``. Raises :class:`SourceError`."""
    faces = tuple(face for path in paths if (face := usable_face(path, symbols)) is not None)
    if not faces:
        raise SourceError(
            f"none of {len(paths)} fonts draws all {len(symbols)} symbols {symbols[:70]!r}; "
            "take symbols out, use fonts='system', or put fonts that have them into the source's root/fonts"
        )
    return faces


def usable_face(path: Path, symbols: str) -> Face | None:
    """The face, or None when it lacks a symbol, draws two alike, or draws something else than letters."""
    if NOT_TEXT.search(path.stem):
        return None  # Greek in the places of Latin letters looks too much like text to be seen by shape
    try:
        font = opened(str(path))
        family = font.getname()[0] or path.stem
        missing = glyph(font, UNMAPPED).tobytes()
        drawn = {symbol: glyph(font, symbol) for symbol in symbols}
    except (OSError, ValueError):
        return None
    shapes = {picture.tobytes() for picture in drawn.values()}
    if missing in shapes or any(not drawn[symbol].any() for symbol in symbols.replace(" ", "")):
        return None
    small_capitals = capitals_only(drawn)
    # A font of capitals draws a and A alike; that is no fault as long as it never draws an a.
    texts = [symbol for symbol in symbols if not (small_capitals and symbol.islower())]
    if len({drawn[symbol].tobytes() for symbol in texts}) < len(texts) or likeness_to_text(drawn) < ALIKE:
        return None
    return Face(path=str(path), family=family, capitals_only=small_capitals)


def glyph(font: ImageFont.FreeTypeFont, symbol: str) -> np.ndarray:
    """``(2 EM, 2 EM)`` uint8 picture of one symbol on its line."""
    image = Image.new("L", (2 * EM, 2 * EM))
    ImageDraw.Draw(image).text((EM // 2, EM // 4), symbol, fill=255, font=font)
    return np.asarray(image)


def normal(picture: np.ndarray) -> np.ndarray:
    """``(256,)`` the ink of a glyph stretched to 16 x 16, with zero mean and length one."""
    x, y, width, height = cv2.boundingRect(picture)
    if width == 0:
        return np.zeros(256, np.float32)
    small = cv2.resize(picture[y : y + height, x : x + width], (16, 16), interpolation=cv2.INTER_AREA)
    vector = cv2.GaussianBlur(small, (3, 3), 0).astype(np.float32).ravel()
    vector -= vector.mean()
    return vector / max(float(np.linalg.norm(vector)), 1e-6)


def capitals_only(drawn: dict[str, np.ndarray]) -> bool:
    """Whether small letters are drawn as capitals, whatever their size."""
    pairs = [(drawn[c], drawn[c.upper()]) for c in UNLIKE_PAIRS if c in drawn and c.upper() in drawn]
    alike = [float(normal(small) @ normal(capital)) > RAISED for small, capital in pairs]
    return sum(alike) > len(alike) / 2


@functools.lru_cache(maxsize=512)
def reference(symbol: str) -> tuple[np.ndarray, ...]:
    """The symbol as DejaVu's sans and serif faces draw it."""
    named = {path.name: path for path in shipped_paths()}
    faces = (named["DejaVuSans-Bold.ttf"], named["DejaVuSerif.ttf"], named["DejaVuSerif-Italic.ttf"])
    return tuple(normal(glyph(opened(str(path)), symbol)) for path in faces)


def likeness_to_text(drawn: dict[str, np.ndarray]) -> float:
    """Mean over letters and digits of the best correlation with a reference face; 1 when there are none."""
    likeness = [max(float(normal(drawn[c]) @ other) for other in reference(c)) for c in drawn if c.isalnum()]
    return float(np.mean(likeness)) if likeness else 1.0


def held_out(faces: Sequence[Face], share: float) -> frozenset[str]:
    """The families of valid and test: a share of all, chosen by their name only. Raises :class:`SourceError`."""
    families = sorted({face.family for face in faces}, key=lambda name: (zlib.crc32(name.encode()), name))
    num_held = round(share * len(families))
    if share > 0 and not 0 < num_held < len(families):
        raise SourceError(
            f"held_out_fonts={share} of {len(families)} font families is {num_held}; "
            "both sides need one at least: use another share or fonts='system'"
        )
    return frozenset(families[:num_held])


def weights(faces: Sequence[Face]) -> np.ndarray:
    """``(faces,)`` how often each is drawn: a family of n faces counts as the square root of n."""
    sizes = Counter(face.family for face in faces)
    weight = np.array([sizes[face.family] ** -0.5 for face in faces])
    return weight / weight.sum()


@functools.lru_cache(maxsize=16)
def sha256_of(paths: tuple[str, ...]) -> str:
    """One sum over the names and bytes of font files."""
    total = hashlib.sha256()
    for path in paths:
        total.update(f"{Path(path).name}\0{hashlib.sha256(Path(path).read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


@functools.lru_cache(maxsize=4096)
def name_and_size(path: str) -> str:
    """What tells a font file from another version of it, wherever it lies: its name and how many bytes it has."""
    return f"{Path(path).name}:{Path(path).stat().st_size}"


def licence(paths: Iterable[str]) -> str:
    """What may be done with images drawn from these fonts."""
    others = sum("mpl-data" not in path for path in paths)
    shipped = "matplotlib's DejaVu, STIX and Computer Modern fonts: free licences, see its mpl-data/fonts"
    own = f"; {others} fonts of this machine: each under its own licence, see its package" if others else ""
    return f"rendered by Plumbline, free of rights of photographs; {shipped}{own}"
