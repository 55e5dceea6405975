"""Reads images of text lines with the model in this folder. Needs numpy, onnxruntime and opencv-python-headless.

python read.py word.png line.jpg     one line each: file, reading, probability of the reading as a whole
python read.py --json word.png
python read.py --to DIR plate.png    and the picture in high resolution, where the model restores

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

    @property
    def restores(self) -> bool:
        """Whether images come out of the model, too."""
        return "scale" in self.image

    def restore(self, path: str | Path) -> tuple[Reading, np.ndarray]:
        """The reading of one image file, and ``(h, w, 3)`` RGB uint8 of it restored. Raises :class:`Refused`."""
        original = load(path)
        restored, logits = self._run(self.prepare(original))
        return self.reading_of(logits), self.picture(restored, *original.shape[:2])

    def picture(self, restored: np.ndarray, height: int, width: int) -> np.ndarray:
        """``(h, w, 3)`` uint8 without padding, of the model's output for an image of ``height`` x ``width``."""
        levels = np.rint((restored.transpose(1, 2, 0) + np.float32(1.0)) * np.float32(127.5)).clip(0, 255)
        top, left, rows, columns = (self.image["scale"] * side for side in place(height, width, self.image))
        return np.ascontiguousarray(levels.astype(np.uint8)[top : top + rows, left : left + columns])

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """``(h, w)`` or ``(h, w, 3)`` RGB uint8 in, ``(height, w')`` or ``(height, w', 3)`` uint8 out."""
        spec = self.image
        if self.restores:
            return laid_out(image, spec)
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
        if self.restores:
            return self._run(pixels)[1]
        shaped = pixels if pixels.ndim == 3 else pixels[:, :, None]
        width = shaped.shape[1]
        padded = np.pad(shaped, ((0, 0), (0, -width % self.config["width_multiple"]), (0, 0)))
        batch = padded.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(127.5) - np.float32(1.0)
        logits, frames = self.session.run(
            ["logits", "frames"], {"image": np.ascontiguousarray(batch), "widths": np.array([width], np.int64)}
        )
        return logits[0, : frames[0]]

    def _run(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of one prepared image the restored one, ``(3, H, W)`` from -1 to 1, and the logits ``(T, K)``."""
        batch = pixels.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(127.5) - np.float32(1.0)
        restored, logits = self.session.run(["restored", "logits"], {"image": np.ascontiguousarray(batch)})
        return restored[0], logits[0]

    def reading_of(self, logits: np.ndarray) -> Reading:
        """The most probable path, its repeats collapsed and its blanks dropped, as normalised text."""
        best = logits.argmax(axis=1)
        label = [int(symbol) for i, symbol in enumerate(best) if symbol and (i == 0 or symbol != best[i - 1])]
        text = "".join(self.alphabet["symbols"][symbol - 1] for symbol in label)
        return Reading(normalized(text, self.alphabet), probability(logits, label))


def place(height: int, width: int, spec: dict[str, Any]) -> tuple[int, int, int, int]:
    """Where an image of ``height`` x ``width`` lies in what is restored: top, left, height, width."""
    fit = min(spec["height"] / height, spec["width"] / width)
    rows = min(max(round(height * fit), 1), spec["height"])
    columns = min(max(round(width * fit), 1), spec["width"])
    return (spec["height"] - rows) // 2, (spec["width"] - columns) // 2, rows, columns


def laid_out(image: np.ndarray, spec: dict[str, Any]) -> np.ndarray:
    """``(height, width, 3)`` uint8 with the whole of ``image`` in the middle. Raises :class:`Refused`."""
    height, width = image.shape[:2]
    if min(height, width) < spec["min_side"]:
        raise Refused("too_small", f"{height}x{width} pixels; each side needs {spec['min_side']}")
    if max(height / width, width / height) > spec["max_aspect"]:
        raise Refused("bad_aspect", f"{height}x{width} pixels; at most {spec['max_aspect']:g} to 1")
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    top, left, rows, columns = place(height, width, spec)
    ways = {"area": cv2.INTER_AREA, "bicubic": cv2.INTER_CUBIC, "bilinear": cv2.INTER_LINEAR}
    how = ways[spec["shrink"] if rows * columns < height * width else spec["enlarge"]]
    array = np.full((spec["height"], spec["width"], 3), spec["pad"], np.uint8)
    same = (height, width) == (rows, columns)
    array[top : top + rows, left : left + columns] = (
        image if same else cv2.resize(image, (columns, rows), interpolation=how)
    )
    return array


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


def write(picture: np.ndarray, path: Path) -> None:
    """``(h, w, 3)`` RGB uint8 as a PNG; what lies at ``path`` is left alone. Raises :class:`Refused`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as file:
            file.write(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes())
    except FileExistsError as error:
        raise Refused("exists", f"{path} is there already; name another folder") from error


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
    parser.add_argument("--to", type=Path, metavar="DIR", help="write restored pictures there, under the same names")
    asked = parser.parse_args(arguments)
    reader, failed = Reader(), False
    if asked.to and not reader.restores:
        parser.error("this model only reads: it has no pictures for --to")
    for path in asked.images:
        try:
            if asked.to:
                found, picture = reader.restore(path)
                write(picture, asked.to / f"{Path(path).stem}.png")
            else:
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
