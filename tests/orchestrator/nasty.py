"""A small recipe on labels and file names that would break a careless page."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from seen import Page
from small import Quiet

from datasets.folder import LabelledFolder
from datasets.image import ImageSpec
from models.losses.text import ctc
from models.recognizers.crnn import CRNNConfig
from models.tasks.read import ReadTask
from models.text import PRINTABLE94
from orchestrator.execution import Execution
from orchestrator.ingest import ingest, make_here
from orchestrator.pipeline import GateNotMet, Machine, train_recipe
from orchestrator.plan import Best, Mix, Optim, Recipe, Stage, StartFrom, Term
from orchestrator.ranks import Ranks
from orchestrator.report import write_report
from orchestrator.store import Store

EVIL = "<script>alert(1)<!--"
BROKEN = "a|b`c\\"
LABELS = [EVIL, BROKEN, *(f"{word}{n}" for n in range(12) for word in ("cat", "Dog", "&amp;", "x_y"))]
NAMES = {EVIL: "<img src=x onerror=alert(1)>.png", BROKEN: "a|b`c.png"}


def two_stages() -> Recipe:
    common = {
        "terms": {"ctc": Term(loss=ctc)}, "optim": Optim(lr=1e-3), "epochs": 2, "batch_size": 8,
        "data": Mix(shares={"mine": 1.0}), "validate": {"mine": "valid"},
        "best": (Best(metric="mine/cer", mode="min"),),
    }  # fmt: skip
    first = Stage(name="first", learn=("cnn", "rnn"), **common)
    second = Stage(
        name="second", learn=("rnn",), start_from=StartFrom(stage="first", parts=("cnn", "rnn")),
        gate={"mine/ned": 0.99}, **common,
    )  # fmt: skip
    return Recipe(
        name="nasty", task=ReadTask(recognizer=CRNNConfig(classes=95, width=0.0625, hidden=8)),
        image=ImageSpec(max_width=96), alphabet=PRINTABLE94, sources={"mine": LabelledFolder()}, stages=(first, second),
    )  # fmt: skip


def draw(folder: Path) -> None:
    """Each label twice, in training and in validation; the odd ones under odd names."""
    rows = []
    for split in ("train", "valid"):
        for number_, label in enumerate(LABELS):
            name = f"{split}-{NAMES.get(label, f'{number_}.png')}"
            picture = np.full((32, 12 + 14 * len(label)), 230 if split == "train" else 200, np.uint8)
            cv2.putText(picture, label, (4, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 0, 2)
            (folder / name).write_bytes(cv2.imencode(".png", picture)[1].tobytes())
            rows.append({"file": name, "text": label, "split": split})
    (folder / "gone|`<b>.png").write_text("no picture")
    rows.append({"file": "gone|`<b>.png", "text": "lost", "split": "train"})
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def trained_store(root: Path) -> Store:
    """Two stages of a network far too small to read, on labels that would break a careless page."""
    recipe = two_stages()
    draw(root)
    folder = ingest(
        recipe.sources["mine"], root, name="mine", image=recipe.image, alphabet=recipe.alphabet,
        frames=recipe.task.frames, store=root / "store", make=make_here,
    )  # fmt: skip
    store, execution = Store(root / "store"), Execution(device="cpu")
    with pytest.raises(GateNotMet):
        train_recipe(recipe, store, {"mine": folder}, execution, machine=Machine.of(execution, Ranks()), watch=Quiet())
    return store


def folder_of(store: Store, stage: str) -> Path:
    return next((store.root / "runs" / "nasty").glob(f"{stage}-*"))


def rewritten(store: Store, stage: str = "second") -> Page:
    return Page(write_report(folder_of(store, stage), store)[0].read_text())
