"""A recogniser that is shown lines in another orientation than it learned: the run ends before the stage begins.

Through the whole pipeline: lines are ingested, a recogniser learns to read them, and then the next stage is given the
same lines, or the recogniser its input, turned in the ways that earlier systems turned theirs.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from small import Listed, Quiet, shards_of

from datasets.line_image import LineSpec
from datasets.line_pairs import LinePairs
from datasets.row import ImageRef, Row
from models.batch import Read
from models.discriminators.patch import PatchConfig
from models.losses.clean import ctc_on_target
from models.losses.image import l1
from models.recognizers.simple import SimpleCRNN, SimpleCRNNConfig
from models.restorers.documents import UNetConfig
from models.tasks.document import DocumentTask
from models.text import Alphabet
from orchestrator.execution import Execution
from orchestrator.identity import plain
from orchestrator.pipeline import Machine, train_recipe
from orchestrator.plan import Best, Imported, Mix, Optim, PlanError, Recipe, Stage, StartFrom, Term
from orchestrator.preflight import PreflightError
from orchestrator.ranks import Ranks
from orchestrator.store import Store
from orchestrator.trained import find_trained

GLYPHS = np.random.default_rng(2).integers(0, 2, (4, 8, 4)).astype(np.uint8)  # of 32 x 16 pixels once enlarged
ALPHABET = Alphabet(symbols="abcd", case="keep")
MACHINE = Machine(ranks=Ranks(), device=torch.device("cpu"), precision="fp32")
Turn = Literal["", "swapped", "reshaped", "inverted"]


@dataclass(frozen=True)
class Written:
    """A text in made-up letters on white, its ink paler and noisy where it is ``worn``."""

    text: str
    worn: int = 0
    turn: Turn = ""

    def load(self) -> np.ndarray:
        letters = [np.kron(GLYPHS["abcd".index(char)], np.ones((4, 4), np.uint8)) for char in self.text]
        image = 255 - 255 * np.concatenate(letters, axis=1)
        if self.worn:
            noise = np.random.default_rng(self.worn).normal(0, 60, image.shape)
            image = np.clip(200 - 0.25 * (255.0 - image) + noise, 0, 255).astype(np.uint8)
        return turned(image, self.turn)

    def stamp(self) -> str:
        return f"{self}"


def turned(image: np.ndarray, turn: Turn) -> np.ndarray:
    if turn == "swapped":
        return np.ascontiguousarray(image.T)
    if turn == "reshaped":  # where an axis should have been swapped, the numbers were only read in another order
        return np.ascontiguousarray(image.reshape(image.shape[1], image.shape[0]).T)
    return 255 - image if turn == "inverted" else image


def lines(turn: Turn = "") -> Listed:
    """64 lines of four letters to learn from, and 16 others."""
    texts, rows = ["".join(each) for each in product("abcd", repeat=4)], []
    for number, place in enumerate(np.random.default_rng(0).permutation(len(texts))[:80].tolist()):
        text = texts[place]
        image, target = (Written(text, worn, turn) for worn in (number + 1, 0))
        rows.append(line(number, text, image, target))
    return Listed(items=tuple(rows))


def line(number: int, text: str, image: ImageRef, target: ImageRef) -> Row:
    split = "valid" if number % 5 == 0 else "train"
    return Row(id=f"{number}", image=image, target=target, text=text, group=f"{number}", split=split)


def a_recipe(turn: Turn = "") -> Recipe:
    """A recogniser learns from ``sound`` lines; the generator is to learn from ``turned`` ones."""
    reader = SimpleCRNNConfig(classes=5, channels=1, width=0.25, hidden=16)
    task = DocumentTask(
        generator=UNetConfig(width=4, halvings=2), discriminator=PatchConfig(width=4), recognizer=reader
    )
    common = {"batch_size": 16, "best": (), "epochs": 1}
    first = Stage(
        **common | {"epochs": 25, "best": (Best(metric="sound/loss", mode="min"),)}, name="recognizer",
        learn=("recognizer",), terms={"ctc": Term(loss=ctc_on_target)}, optim=Optim(lr=1e-2), validate_every=25,
        data=Mix(shares={"sound": 1.0}), validate={"sound": "valid"},
    )  # fmt: skip
    second = Stage(
        **common | {"best": (Best(metric="turned/psnr"),)}, name="warmup", learn=("generator",),
        terms={"pixel": Term(loss=l1)}, optim=Optim(lr=1e-3), data=Mix(shares={"turned": 1.0}),
        validate={"turned": "valid"},
        start_from=StartFrom(stage="recognizer", parts=("generator", "discriminator", "recognizer")),
    )  # fmt: skip
    return Recipe(
        name="turned", task=task, image=LineSpec(height=32, min_width=16, max_width=96), alphabet=ALPHABET,
        sources={"sound": lines(), "turned": lines(turn)}, stages=(first, second),
    )  # fmt: skip


def run(recipe: Recipe, store: Path) -> bool:
    shards = shards_of(recipe, store)
    execution = Execution(device="cpu", precision="fp32", workers=0, threads=1)
    return train_recipe(recipe, Store(store / "runs"), shards, execution, machine=MACHINE, watch=Quiet())


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Where both stages were trained with lines the right way round: nothing is refused."""
    folder = tmp_path_factory.mktemp("store")
    assert run(a_recipe(), folder)
    [warmup] = (folder / "runs").rglob("warmup-*/record.json")
    assert json.loads(warmup.read_text())["before"]["turned/cer_target"] < 0.2
    return folder


@pytest.mark.parametrize("turn", ["swapped", "reshaped", "inverted"])
def test_lines_that_the_recogniser_cannot_read_as_they_are_now_are_refused(store, turn):
    with pytest.raises(
        PreflightError, match=r"stage 'warmup', turned: .*range, polarity and orientation|uniform guess"
    ):
        run(a_recipe(turn), store)
    assert len(list((store / "runs").rglob("warmup-*/record.json"))) == 1  # that of the lines the right way round


def go_on(store: Path) -> None:
    """The second stage anew: with another rate it is one that was not trained yet."""
    recipe = a_recipe()
    later = replace(recipe.stages[1], optim=Optim(lr=2e-3))
    run(replace(recipe, stages=(recipe.stages[0], later)), store)


def test_a_recogniser_whose_input_is_transposed_is_refused(store, monkeypatch):
    features = SimpleCRNN.features
    monkeypatch.setattr(
        SimpleCRNN, "features", lambda self, image, widths: features(self, image.transpose(2, 3), widths)
    )
    with pytest.raises(PreflightError, match="frames"):
        go_on(store)


def test_a_recogniser_whose_blank_is_another_class_is_refused(store, monkeypatch):
    read = SimpleCRNN.read

    def blank_last(self: SimpleCRNN, features: torch.Tensor, frames: torch.Tensor) -> Read:
        found = read(self, features, frames)
        return replace(found, logits=found.logits.roll(-1, 2))

    monkeypatch.setattr(SimpleCRNN, "read", blank_last)
    with pytest.raises(
        PreflightError, match=r"stage 'warmup', turned: .*(it is no guide|a floor that no generator can)"
    ):
        go_on(store)


@pytest.fixture(scope="module")
def reader(store, tmp_path_factory) -> Path:
    """The first stage's folder as a store elsewhere has it; its plan names a source that can be found again."""
    [folder] = (store / "runs").rglob("recognizer-*")
    elsewhere = shutil.copytree(folder, tmp_path_factory.mktemp("elsewhere") / folder.name)
    plan = replace(a_recipe(), sources={"sound": LinePairs(), "turned": LinePairs()})
    (elsewhere / "plan.json").write_text(json.dumps(plain(plan)))
    return elsewhere


def importing(reader: Path, **changes: object) -> Recipe:
    """The second stage alone, with the first one's recogniser from elsewhere and networks that may be others."""
    start = Imported(
        place=str(reader), sha256=find_trained(reader).sha256, parts=("recognizer",), floor={"turned/psnr": 1.0}
    )
    recipe = a_recipe()
    stage = replace(recipe.stages[1], start_from=start)
    return replace(recipe, task=replace(recipe.task, **changes), stages=(stage,))  # type: ignore[type-var]


def test_a_recogniser_is_imported_beside_other_networks_than_it_was_trained_with(reader, tmp_path):
    assert run(
        importing(reader, generator=UNetConfig(width=8, halvings=1), discriminator=PatchConfig(width=8)), tmp_path
    )
    [record] = tmp_path.rglob("warmup-*/record.json")
    assert json.loads(record.read_text())["before"]["turned/cer_target"] < 0.2


def test_an_imported_recogniser_has_to_be_the_one_of_the_plan(reader, tmp_path):
    other = SimpleCRNNConfig(classes=5, channels=1, width=0.25, hidden=8)
    with pytest.raises(PreflightError, match=r"the weights are of .*, this recipe's network is"):
        run(importing(reader, recognizer=other), tmp_path)


def test_an_earlier_stage_brings_all_that_it_trained():
    recipe = a_recipe()
    only = replace(recipe.stages[1], start_from=StartFrom(stage="recognizer", parts=("recognizer",)))
    with pytest.raises(PlanError, match=r"neither loads nor trains \['discriminator'\]"):
        replace(recipe, stages=(recipe.stages[0], only))
