"""The proof of an export: read again in fresh processes, with this project and without it, and compared.

python -m orchestrator.export.proof EXPORT IMAGES.json ANSWERS    what the project, started afresh, reads there
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from datasets.pair_image import PairSpec
from datasets.rendered import RenderedWords
from datasets.row import BadImage, SourceError
from orchestrator.evaluate import read_of
from orchestrator.execution import Execution
from orchestrator.export.onnx import TOLERANCE, allowed
from orchestrator.manifest import ShardError
from orchestrator.pipeline import Machine
from orchestrator.ranks import Ranks
from orchestrator.reader import Reader, Restoration, look_at, open_reader, restore_images
from orchestrator.shards import Shards
from orchestrator.trained import Trained

IMAGES = 32
PROJECT = ("orchestrator", "models", "datasets", "tune_spaces", "torch", "safetensors", "ray", "PIL")
ALONE = f"""
import importlib.abc, importlib.util, json, sys
import numpy as np

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {PROJECT!r}:
            raise ImportError(f"read.py must do without {{name}}")

sys.meta_path.insert(0, Refuse())
folder, images, answers = sys.argv[1:]
spec = importlib.util.spec_from_file_location("read", folder + "/read.py")
read = sys.modules["read"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(read)
reader, told, logits = read.Reader(), [], {{}}
for i, path in enumerate(json.load(open(images))):
    try:
        scores = reader.logits(reader.prepare(read.load(path)))
        if reader.restores:
            logits["picture" + str(i)] = reader.restore(path)[1]
    except read.Refused as error:
        told.append(["", error.reason, 0.0])
        continue
    found = reader.reading_of(scores)
    told.append([found.text, "", found.confidence])
    logits[str(i)] = scores
assert not [name for name in sys.modules if name.partition(".")[0] in {PROJECT!r}]
np.savez(answers + ".npz", **logits)
json.dump(told, open(answers + ".json", "w"))
"""


NOTHING = np.zeros((0, 0))


class ExportError(RuntimeError):
    """An export that cannot be made, or that does not read as what it was made of."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was read in one image: ``logits`` are ``(T, K)`` over its valid frames; or the ``reason`` of a refusal.

    ``picture`` is ``(h, w, 3)`` uint8 of the image restored, nothing where the network only reads.
    """

    text: str
    reason: str
    confidence: float
    logits: np.ndarray
    picture: np.ndarray = field(default_factory=lambda: NOTHING)


def cpu() -> Machine:
    """Proofs are made in float32 on the CPU, wherever the weights were trained."""
    return Machine.of(Execution(device="cpu", precision="fp32"), Ranks())


def answers_of(reader: Reader, images: Iterable[Path]) -> list[Answer]:
    """What ``reader`` makes of each image, in this process."""
    answers = []
    for path in images:
        try:
            batch, out = look_at(reader, path)
        except BadImage as error:
            answers.append(Answer(text="", reason=error.reason, confidence=0.0, logits=NOTHING))
            continue
        found = read_of(batch, out, reader.alphabet)[0]
        logits, picture = out.logits[0, : int(out.frames[0])].cpu().numpy(), NOTHING
        if isinstance(reader.recipe.image, PairSpec):
            [(_, restored)] = restore_images(reader, [path])
            assert isinstance(restored, Restoration)  # it was looked at a moment ago
            picture = restored.picture
        answers.append(
            Answer(text=found.text, reason="", confidence=found.confidence, logits=logits, picture=picture)
        )  # fmt: skip
    return answers


def answers_afresh(export: Path, images: Sequence[Path], scratch: Path, *, alone: bool) -> list[Answer]:
    """What a new process reads with the export: with this project, or ``alone`` with its read.py and nothing of ours.

    Raises :class:`ExportError` with what the process said.
    """
    listed, answers = scratch / "images.json", scratch / ("alone" if alone else "project")
    listed.write_text(json.dumps([str(path) for path in images]), encoding="utf-8")
    how = ["-I", "-B", "-c", ALONE] if alone else ["-m", "orchestrator.export.proof"]
    here = str(Path(__file__).parents[2])
    paths = {"PYTHONPATH": os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])}
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # the last bits of a sum depend on how it is shared out
    done = subprocess.run(
        [sys.executable, *how, str(export), str(listed), str(answers)],
        cwd=scratch, env=os.environ | threads | ({} if alone else paths), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        who = "read.py alone" if alone else "the project"
        said = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise ExportError(f"{export}: {who}, started afresh, ended with {done.returncode}: {said[0]}")
    with np.load(f"{answers}.npz", allow_pickle=False) as kept:
        arrays = dict(kept)
    return [
        Answer(text=text, reason=reason, confidence=sure, logits=arrays.get(str(i), NOTHING),
               picture=arrays.get(f"picture{i}", NOTHING))
        for i, (text, reason, sure) in enumerate(json.loads(Path(f"{answers}.json").read_text(encoding="utf-8")))
    ]  # fmt: skip


def compared(images: Sequence[Path], wanted: Sequence[Answer], found: Sequence[Answer], who: str) -> dict[str, Any]:
    """How many readings are equal and how far the logits are apart. Raises :class:`ExportError` on any that differs."""
    furthest, levels = 0.0, 0
    for path, want, have in zip(images, wanted, found, strict=True):
        if (want.text, want.reason) != (have.text, have.reason):
            raise ExportError(
                f"{path.name}: {who} reads {have.text or have.reason!r}, the weights exported read "
                f"{want.text or want.reason!r}; nothing was exported"
            )
        apart, sure = _apart(want, have), abs(want.confidence - have.confidence)
        if not (apart <= allowed(want.logits) and sure <= TOLERANCE):
            raise ExportError(
                f"{path.name}: the logits of {who} are {apart:.2g} and its probability is {sure:.2g} from those of the "
                f"weights exported; at most {allowed(want.logits):.2g} and {TOLERANCE:.2g}; nothing was exported"
            )
        furthest, levels = max(furthest, apart), max(levels, _levels(path, want, have, who))
    restored = {"grey_levels": levels} if any(want.picture.size for want in wanted) else {}
    return {"equal": len(images), "largest_difference": furthest, **restored}


def _levels(path: Path, want: Answer, have: Answer, who: str) -> int:
    """By how many of 255 levels two restored pictures differ at most: one, where rounding falls to the other side."""
    alike = want.picture.shape == have.picture.shape
    levels = int(np.abs(want.picture.astype(int) - have.picture).max(initial=0)) if alike else 256
    if levels > 1:
        apart = f"{levels} levels" if alike else f"{have.picture.shape}, not {want.picture.shape}"
        raise ExportError(
            f"{path.name}: the picture of {who} is {apart} from that of the weights exported; nothing was exported"
        )
    return levels


def images_for(trained: Trained, given: Sequence[Path], folder: Path) -> tuple[list[Path], str]:
    """Images to compare on, and where they come from: those given, else validation rows, else drawn words.

    Raises :class:`ExportError` where there are none.
    """
    if given:
        return [path.resolve() for path in given], "images given"
    folder.mkdir(parents=True, exist_ok=True)
    found = _validation_rows(trained)
    if found is not None:
        shards, rows, name = found
        return _written(folder, (_picture(shards, int(row)) for row in _spread(shards.widths, rows))), name
    return _written(folder, _drawn(trained)), "words drawn for this comparison; no validation images in the store"


def _picture(shards: Shards, row: int) -> np.ndarray:
    """What is stored of a row, without padding."""
    top, left, height, width = (int(side) for side in shards.boxes[row])
    pixels = shards.pixels(row)
    return pixels[top : top + height, left : left + width] if height else pixels


def _validation_rows(trained: Trained) -> tuple[Shards, np.ndarray, str] | None:
    """The rows of the first validation set whose shards still lie in the store and can be read."""
    if trained.record is None or trained.stage is None:
        return None
    kept = ingested(trained.stage)
    for source, split in trained.recipe.stage(trained.record.stage).validate.items():
        folder, _ = kept.get(trained.record.data[source]["content"], (None, {}))
        try:
            shards = Shards.open(folder, verify=False) if folder else None
        except ShardError:  # of another version, or half gone: the next set, or drawn words, which the card then says
            continue
        if shards is not None and len(rows := shards.rows_of(split)):
            return shards, rows, f"{source}/{split}"
    return None


def ingested(stage: Path) -> dict[str, tuple[Path, Mapping[str, Any]]]:
    """Content hash -> folder and notes of all shards in the store that a stage's folder lies in, whatever version."""
    found: dict[str, tuple[Path, Mapping[str, Any]]] = {}
    for path in sorted((stage.resolve().parent.parent.parent / "shards").glob("*/manifest.json")):
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            found[str(manifest["content"])] = (path.parent, dict(manifest["notes"]))
        except (OSError, ValueError, KeyError, TypeError):  # none of ours: not what a record speaks of
            continue
    return found


def _spread(widths: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Up to ``IMAGES`` of ``rows``, from the narrowest to the widest image."""
    ordered = rows[np.argsort(widths[rows], kind="stable")]
    return ordered[np.linspace(0, len(ordered) - 1, min(IMAGES, len(ordered))).astype(int)]


def _drawn(trained: Trained) -> Iterable[np.ndarray]:
    symbols = "".join(each for each in trained.recipe.alphabet.symbols if each.isascii() and each.isalnum())  # type: ignore[attr-defined]
    try:
        digits = 0.1 if set(symbols) & set("0123456789") else 0.0
        rows = RenderedWords(count=IMAGES, symbols=symbols, numbers=digits, style="scene").rows(None)
        return [row.image.load() for row in rows]
    except (SourceError, ValueError) as error:
        raise ExportError(
            f"{trained.place}: no validation images in its store, and no words can be drawn in its alphabet "
            f"({error}); name some images with --images"
        ) from error


def _written(folder: Path, pictures: Iterable[np.ndarray]) -> list[Path]:
    paths = []
    for number, picture in enumerate(pictures):
        paths.append(folder / f"{number:03d}.png")
        cv2.imwrite(str(paths[-1]), picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return paths


def _apart(want: Answer, have: Answer) -> float:
    if want.logits.shape != have.logits.shape:
        return float("inf")
    return float(np.abs(want.logits - have.logits).max(initial=0.0))


def main(export: str, listed: str, answers: str) -> None:
    images = [Path(path) for path in json.loads(Path(listed).read_text(encoding="utf-8"))]
    told = answers_of(open_reader(Path(export), cpu()), images)
    arrays: dict[str, Any] = {str(i): each.logits for i, each in enumerate(told) if not each.reason}
    arrays |= {f"picture{i}": each.picture for i, each in enumerate(told) if each.picture.size}
    np.savez(f"{answers}.npz", **arrays)
    texts = json.dumps([[each.text, each.reason, each.confidence] for each in told])
    Path(f"{answers}.json").write_text(texts, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
