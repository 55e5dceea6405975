"""How an image becomes the pixels a network sees: the same code at ingest, evaluation, prediction and export."""

from __future__ import annotations

import hashlib
import io
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image

from datasets.row import BadImage

Image.init()  # registers every reader; which there are depends on how Pillow was built
FORMATS: list[str] = [
    name
    for name in ("PNG", "JPEG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")  # as OpenCV
    if name in Image.OPEN
]
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS = 64_000_000  # a 64-megapixel photo decodes to 192 MB; more is refused before decoding

cv2.setNumThreads(1)  # the workers are the parallelism; OpenCV's own threads only fight with them


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """The shape and polarity of every stored image. Part of a checkpoint's identity.

    The height is fixed and the aspect ratio kept: ``w = ceil(height * W / H)``, at least ``min_width``.

    Attributes:
        height: pixels; what the network is built for.
        min_width: narrower results are stretched to this many columns.
        max_width: wider results follow ``wider``.
        channels: 1 for luma (ITU-R 601), 3 for RGB.
        wider: ``"squeeze"`` to ``max_width`` (counted in the manifest) or ``"reject"``.
        min_side: originals with a side under this many pixels are rejected as too small.
    """

    height: int = 32
    min_width: int = 8
    max_width: int = 256
    channels: Literal[1, 3] = 1
    wider: Literal["squeeze", "reject"] = "squeeze"
    min_side: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.min_width <= self.max_width or self.height < 1:
            raise ValueError(
                f"ImageSpec: height {self.height}, min_width {self.min_width}, max_width {self.max_width}; "
                "all must be positive and min_width <= max_width"
            )

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def natural_width(self, height: int, width: int) -> int:
        """Columns of an original of ``height`` x ``width`` before the limits apply."""
        return math.ceil(self.height * width / height)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """``(h, w)`` or ``(h, w, 3)`` RGB uint8 in, ``(height, w')`` or ``(height, w', 3)`` uint8 out.

        Shrinks by area and enlarges bilinearly. Raises :class:`BadImage` (too_small, too_wide).
        """
        height, width = image.shape[:2]
        if min(height, width) < self.min_side:
            raise BadImage("too_small", f"{height}x{width} pixels; each side needs {self.min_side}")
        natural = self.natural_width(height, width)
        if natural > self.max_width and self.wider == "reject":
            raise BadImage("too_wide", f"{natural} columns at height {self.height}; at most {self.max_width}")
        columns = min(max(natural, self.min_width), self.max_width)
        if image.ndim == 3 and self.channels == 1:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        elif image.ndim == 2 and self.channels == 3:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        shrinks = height > self.height or width > columns
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return cv2.resize(image, (columns, self.height), interpolation=how)


def decode(data: bytes, *, name: str) -> np.ndarray:
    """``(h, w)`` or ``(h, w, 3)`` RGB uint8 from an encoded image (PNG, JPEG, BMP, WebP, TIFF ...).

    The size is read from the header first, so a decompression bomb is refused before it is decoded.
    Raises :class:`BadImage` (unreadable, too_large) naming ``name``.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as header:
            width, height = header.size
    except Exception as error:  # on damaged bytes Pillow's readers raise anything, AVIF's a plain RuntimeError
        raise BadImage("unreadable", f"{name}: not an image ({type(error).__name__}, {len(data)} bytes)") from error
    if width * height > MAX_PIXELS:
        raise BadImage("too_large", f"{name}: {width}x{height} pixels; at most {MAX_PIXELS:,} are decoded")
    if data.startswith(PNG_MAGIC) and not _chunks_fit(data):
        raise BadImage("unreadable", f"{name}: a PNG cut short or damaged: a chunk is longer than the file")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise BadImage("unreadable", f"{name}: {error}") from error
    if image is None:
        raise BadImage("unreadable", f"{name}: the header is an image's but the pixels cannot be decoded")
    return image


def _chunks_fit(png: bytes) -> bool:
    """Whether every chunk lies inside the file. OpenCV 5 allocates the length a chunk claims, up to 2 GB, unchecked."""
    start = len(PNG_MAGIC)
    while start < len(png):
        length, kind = int.from_bytes(png[start : start + 4]), png[start + 4 : start + 8]
        start += 12 + length  # length, kind and checksum take 4 bytes each
        if kind == b"IEND":
            return start <= len(png)
    return False


@dataclass(frozen=True)
class ImageFile:
    """An image file below a source's root."""

    path: str

    def load(self) -> np.ndarray:
        try:
            data = Path(self.path).read_bytes()
        except OSError as error:
            raise BadImage("missing", f"{self.path}: {error.strerror}") from error
        return decode(data, name=self.path)

    def stamp(self) -> str:
        try:
            status = Path(self.path).stat()
        except OSError:
            return "missing"
        return f"{status.st_size}:{status.st_mtime_ns}"


def inside(root: Path, relative: str) -> Path:
    """``root / relative``, refused if it leaves ``root`` (``..``, absolute paths, links that point out).

    Raises :class:`BadImage` with reason ``outside_root``, or ``bad_path`` where no file can have that name.
    """
    try:
        path = (root / relative).resolve()
    except (ValueError, OSError, RuntimeError) as error:  # NUL bytes, lone surrogates, links that point in a circle
        raise BadImage("bad_path", f"{relative!r} is not a usable path: {error}") from error
    if not path.is_relative_to(root.resolve()):
        raise BadImage("outside_root", f"{relative!r} points outside {root}")
    return path
