"""Reads images of text lines with the model in this folder. Needs numpy, onnxruntime and opencv-python-headless.

python read.py word.png line.jpg     one line each: file, reading, probability of the reading as a whole
python read.py --json word.png

from read import Reader
print(Reader().read("word.png").text)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_PIXELS = 64_000_000  # a 64-megapixel photo decodes to 192 MB; more is refused before decoding
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))  # OpenCV looks once, when it is imported

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402

PNG = b"\x89PNG\r\n\x1a\n"
STARTS = (  # how the files begin that are read: PNG, JPEG, BMP, TIFF, GIF, PNM and PFM, JPEG 2000
    PNG, b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"GIF87a", b"GIF89a",
    *(b"P" + kind for kind in (b"1", b"2", b"3", b"4", b"5", b"6", b"f")), b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51",
)  # fmt: skip
INSIDE = (b"WEBP", b"ftypavif", b"ftypavis")  # within the first 16 bytes


class Refused(ValueError):
    """An image that cannot be read; ``reason`` is short and machine-readable."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


@dataclass(frozen=True)
class Reading:
    """What was read, and the probability that CTC gives to that text as a whole."""

    text: str
    confidence: float


class Reader:
    """The model in ``folder`` with its alphabet and its way of preparing images; each file is checked by its hash."""

    def __init__(self, folder: str | Path | None = None) -> None:
        folder = Path(folder) if folder else Path(__file__).resolve().parent
        self.config = checked_config(folder / "config.json")
        self.image, self.alphabet = self.config["image"], self.config["alphabet"]
        model = (folder / "model.onnx").read_bytes()
        if hashlib.sha256(model).hexdigest() != self.config["files"]["model.onnx"]:
            raise ValueError(f"{folder / 'model.onnx'}: its SHA-256 is not the one in config.json; export again")
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def read(self, path: str | Path) -> Reading:
        """The reading of one image file. Raises :class:`Refused`."""
        return self.reading_of(self.logits(self.prepare(load(path))))

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """``(h, w)`` or ``(h, w, 3)`` RGB uint8 in, ``(height, w')`` or ``(height, w', 3)`` uint8 out."""
        spec = self.image
        height, width = image.shape[:2]
        if min(height, width) < spec["min_side"]:
            raise Refused("too_small", f"{height}x{width} pixels; each side needs {spec['min_side']}")
        natural = math.ceil(spec["height"] * width / height)
        if natural > spec["max_width"] and spec["wider"] == "reject":
            raise Refused("too_wide", f"{natural} columns at height {spec['height']}; at most {spec['max_width']}")
        columns = min(max(natural, spec["min_width"]), spec["max_width"])
        if image.ndim == 3 and spec["channels"] == 1:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        elif image.ndim == 2 and spec["channels"] == 3:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        shrinks = height > spec["height"] or width > columns
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return cv2.resize(image, (columns, spec["height"]), interpolation=how)

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """``(T, K)`` scores per frame of one prepared image; class 0 is the CTC blank."""
        shaped = pixels if pixels.ndim == 3 else pixels[:, :, None]
        width = shaped.shape[1]
        padded = np.pad(shaped, ((0, 0), (0, -width % self.config["width_multiple"]), (0, 0)))
        batch = padded.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(127.5) - np.float32(1.0)
        logits, frames = self.session.run(
            ["logits", "frames"], {"image": np.ascontiguousarray(batch), "widths": np.array([width], np.int64)}
        )
        return logits[0, : frames[0]]

    def reading_of(self, logits: np.ndarray) -> Reading:
        """The most probable path, its repeats collapsed and its blanks dropped, as normalised text."""
        best = logits.argmax(axis=1)
        label = [int(symbol) for i, symbol in enumerate(best) if symbol and (i == 0 or symbol != best[i - 1])]
        text = "".join(self.alphabet["symbols"][symbol - 1] for symbol in label)
        return Reading(normalized(text, self.alphabet), probability(logits, label))


def checked_config(path: Path) -> dict[str, Any]:
    """The export's config, if nothing in it was changed. Raises :class:`ValueError`."""
    config = json.loads(path.read_text(encoding="utf-8"))
    if _digest({key: value for key, value in config.items() if key != "sha256"}) != config.get("sha256"):
        raise ValueError(f"{path}: its SHA-256 is not the one it states; it was changed: export again")
    for name, key in (("image", "ImageSpec"), ("alphabet", "alphabet")):
        if _digest(config[name]) != config["fits"][key]:
            raise ValueError(f"{path}: {name} is not the one that the weights were trained with; export again")
    return config


def load(path: str | Path) -> np.ndarray:
    """``(h, w, 3)`` RGB uint8 of an image file. Raises :class:`Refused` (missing, unreadable, too_large).

    A BMP, PNM or WebP with a damaged header may still be read here, where Plumbline, which looks twice, refuses it.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise Refused("missing", f"{path}: {error.strerror}") from error
    if not data.startswith(STARTS) and not any(mark in data[:16] for mark in INSIDE):
        raise Refused("unreadable", f"{path}: not an image ({len(data)} bytes)")
    if data.startswith(PNG) and not _chunks_fit(data):
        raise Refused("unreadable", f"{path}: a PNG cut short or damaged: a chunk is longer than the file")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        if "MAX_IMAGE_PIXELS" in str(error):
            raise Refused("too_large", f"{path}: at most {MAX_PIXELS:,} pixels are decoded") from error
        raise Refused("unreadable", f"{path}: {error}") from error
    if image is None:
        raise Refused("unreadable", f"{path}: the pixels cannot be decoded")
    return image


def normalized(text: str, alphabet: dict[str, Any]) -> str:
    """Unicode form, whitespace and case as the alphabet has them."""
    text = unicodedata.normalize(alphabet["unicode"], text)
    if alphabet["whitespace"] == "strip":
        text = " ".join(text.split())
    return {"keep": text, "lower": text.lower(), "upper": text.upper()}[alphabet["case"]]


def probability(logits: np.ndarray, label: Sequence[int]) -> float:
    """The sum of the probabilities of all paths through ``(T, K)`` logits that spell ``label``."""
    wide = logits.astype(np.float64)
    top = wide.max(axis=1, keepdims=True)
    log_probs = wide - top - np.log(np.exp(wide - top).sum(axis=1, keepdims=True))
    states = np.array([0, *(state for symbol in label for state in (symbol, 0))])
    leaps = np.zeros(len(states), bool)  # from one symbol over the blank to another one
    leaps[2:] = (states[2:] != 0) & (states[2:] != states[:-2])
    paths = np.full(len(states), -np.inf)
    paths[:2] = log_probs[0, states[:2]]
    for frame in log_probs[1:]:
        before = np.concatenate([[-np.inf, -np.inf], paths])
        both = np.logaddexp(paths, before[1:-1])
        paths = np.logaddexp(both, np.where(leaps, before[:-2], -np.inf)) + frame[states]
    return float(np.exp(np.logaddexp.reduce(paths[-2:])))


def _chunks_fit(png: bytes) -> bool:
    """Whether every chunk lies inside the file. OpenCV 5 allocates the length a chunk claims, up to 2 GB, unchecked."""
    start = len(PNG)
    while start < len(png):
        length, kind = int.from_bytes(png[start : start + 4], "big"), png[start + 4 : start + 8]
        start += 12 + length  # length, kind and checksum take 4 bytes each
        if kind == b"IEND":
            return start <= len(png)
    return False


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Read images of text lines.")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--json", action="store_true", help="one JSON object for each image")
    asked = parser.parse_args(arguments)
    reader, failed = Reader(), False
    for path in asked.images:
        try:
            found = reader.read(path)
        except Refused as error:
            failed = True
            print(f"{path}: {error}", file=sys.stderr)
            continue
        if asked.json:
            print(json.dumps({"image": path, "text": found.text, "confidence": round(found.confidence, 6)}))
        else:
            print(f"{path}\t{found.text}\t{found.confidence:.3f}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
