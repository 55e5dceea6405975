"""Evaluating and reading with what a stage left: the same readings from a record or a checkpoint, and honest counts."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small import Quiet, small_recipe

from datasets.folder import LabelledFolder
from datasets.image import ImageFile
from datasets.row import BadImage, Row
from models.batch import Read
from models.text import ALNUM62
from orchestrator import checkpoint
from orchestrator.batches import samples_of
from orchestrator.commands import newest
from orchestrator.evaluate import evaluate
from orchestrator.execution import Execution
from orchestrator.ingest import ingest, make_here
from orchestrator.pipeline import Machine, train_recipe
from orchestrator.ranks import Ranks
from orchestrator.reader import open_reader, read_images
from orchestrator.score import score
from orchestrator.shards import Shards
from orchestrator.store import Store, StoreError

CPU = Execution(device="cpu")
WORDS = {"CAT": "cat", "HEADING": "Heading", "NO": "no", "SEVEN": "seven", "YES": "yes"}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """One small stage, trained for a few steps: enough to read, not to read well."""
    root, recipe = tmp_path_factory.mktemp("store"), small_recipe()
    shards = {
        name: ingest(source, None, name=name, image=recipe.image, alphabet=recipe.alphabet, frames=recipe.task.frames,
                     store=root, make=make_here)
        for name, source in recipe.sources.items()
    }  # fmt: skip
    machine = Machine.of(CPU, Ranks())
    assert train_recipe(recipe, Store(root), shards, CPU, machine=machine, watch=Quiet(), only=["pretrain"])
    return Store(root)


@pytest.fixture(scope="module")
def reader(store):
    return open_reader(newest(store), Machine.of(CPU, Ranks()))


@pytest.fixture
def pictures(tmp_path) -> list[Path]:
    paths = []
    for word in WORDS:
        picture = np.full((40, 18 * len(word) + 12), 255, np.uint8)
        cv2.putText(picture, word, (4, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 0, 2)
        paths.append(tmp_path / f"{word}.png")
        cv2.imwrite(str(paths[-1]), picture)
    return paths


def texts(reader, paths) -> list[str]:
    return [reading.text for _, reading in read_images(reader, paths)]


def test_a_record_a_stage_and_a_checkpoint_read_the_same(store, reader, pictures):
    folder = newest(store)
    best = folder / json.loads((folder / "record.json").read_text())["checkpoint"]
    for place in (folder / "record.json", best):
        assert texts(open_reader(place, Machine.of(CPU, Ranks())), pictures) == texts(reader, pictures)


def test_one_picture_alone_is_read_as_among_others(reader, pictures, tmp_path):
    labels = "".join(f"{path.name}\t{WORDS[path.stem]}\n" for path in pictures)
    (tmp_path / "labels.tsv").write_text(f"{labels}")
    folder = ingest(
        LabelledFolder(valid_share=0.0, test_share=0.0), tmp_path, name="mine", image=reader.recipe.image,
        alphabet=reader.alphabet, frames=reader.frames, store=tmp_path / "store", make=make_here,
    )  # fmt: skip
    samples = samples_of({"mine": Shards.open(folder, verify=True)}, {"mine": "train"}, reader.alphabet, reader.frames)
    from orchestrator.evaluate import outputs, read_of

    together = {}
    machine = reader.machine
    for batch, out in outputs(reader.task, samples, device=machine.device, autocast=machine.autocast, ranks=Ranks()):
        together |= {samples.text(each.sample): each.text for each in read_of(batch, out, reader.alphabet)}
    assert [together[WORDS[path.stem]] for path in pictures] == texts(reader, pictures)


def test_a_file_that_is_no_image_is_named_and_the_rest_is_read(reader, pictures, tmp_path):
    bad = tmp_path / "notes.png"
    bad.write_text("not a picture")
    found = dict(read_images(reader, [bad, *pictures]))
    assert isinstance(found[bad], BadImage) and "notes.png" in str(found[bad])
    assert all(not isinstance(found[path], BadImage) for path in pictures)


def test_a_place_without_a_record_is_refused(tmp_path):
    with pytest.raises(StoreError, match="neither a stage with a record, nor a checkpoint, nor an export"):
        open_reader(tmp_path, Machine.of(CPU, Ranks()))


def test_a_damaged_checkpoint_is_refused_by_name(store, tmp_path):
    import shutil

    copy = tmp_path / "runs" / "copy"
    shutil.copytree(newest(store), copy)
    weights = next((copy / "checkpoints").glob("*/weights.rnn.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(checkpoint.CheckpointError, match=r"weights\.rnn\.safetensors: its SHA-256"):
        open_reader(weights.parent, Machine.of(CPU, Ranks()))


def lexicon_samples(reader, tmp_path, pictures):
    """Test words with their lexicons, one of which no alphabet here can spell."""
    rows = [
        {"file": path.name, "text": WORDS[path.stem], "split": "train" if path.stem == "NO" else "test"}
        for path in pictures
    ]
    rows.append({"file": pictures[0].name.replace("CAT", "CAFE"), "text": "café", "split": "test"})
    (tmp_path / rows[-1]["file"]).write_bytes(pictures[0].read_bytes())
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    folder = ingest(
        LabelledFolder(), tmp_path, name="mine", image=reader.recipe.image, alphabet=reader.alphabet,
        frames=reader.frames, store=tmp_path / "store", make=make_here,
    )  # fmt: skip
    return samples_of({"mine": Shards.open(folder, verify=True)}, {"mine": "test"}, reader.alphabet, reader.frames)


def test_a_test_word_that_cannot_be_spelled_counts_as_an_error(reader, tmp_path, pictures):
    samples = lexicon_samples(reader, tmp_path, pictures)
    metrics = score(reader, samples, lexicons=False, beam=0)
    assert metrics["n"] == metrics["word_accuracy_62_n"] == 5
    values = evaluate(
        reader.task, {"mine": samples}, ALNUM62, device=torch.device("cpu"), autocast=reader.machine.autocast,
        ranks=Ranks(),
    )  # fmt: skip
    assert values["mine/n"] == 5 and np.isfinite(values["mine/loss"])


def test_beam_readings_are_scored_beside_greedy_ones(reader, tmp_path, pictures):
    metrics = score(reader, lexicon_samples(reader, tmp_path, pictures), lexicons=False, beam=4)
    assert {"cer", "beam_cer", "word_accuracy_36", "beam_word_accuracy_36"} <= set(metrics)


def test_without_lexicons_no_lexicon_accuracy_is_claimed(reader, tmp_path, pictures):
    metrics = score(reader, lexicon_samples(reader, tmp_path, pictures), lexicons=True, beam=0)
    assert not [name for name in metrics if name.startswith("lexicon")]


class Spells(torch.nn.Module):
    """Reads "cat" as "cot", but not by much; reads anything else as "dog"."""

    def forward(self, batch):
        logits = torch.full((len(batch.ids), 8, ALNUM62.classes), -20.0)
        logits[:, :, 0] = 0.0
        for row, tokens in enumerate(batch.tokens.tolist()):
            cat = tokens[:3] == ALNUM62.encode("cat")
            for place, symbol in enumerate(ALNUM62.encode("cot" if cat else "dog")):
                logits[row, 2 * place, symbol] = 10.0
            if cat:
                logits[row, 2, ALNUM62.encode("a")[0]] = 9.5
        return Read(logits=logits, frames=torch.full((len(batch.ids),), 8))


@dataclass(frozen=True, kw_only=True)
class WithLexicons:
    """Two test words and one to train on, each with the lexicon DOG, CAT, SUN."""

    def rows(self, root):
        for text, split in (("cat", "test"), ("sun", "test"), ("no", "train")):
            lexicon = {"lexicon_small": ["DOG", "CAT", "SUN"]}
            image = ImageFile(str(root / "CAT.png"))
            yield Row(id=text, image=image, text=text, group=text, split=split, extras=lexicon)

    def describe(self, root):
        return {}


def test_a_lexicon_chooses_the_likeliest_of_its_words_whatever_their_case(reader, tmp_path, pictures):
    recipe = reader.recipe
    folder = ingest(
        WithLexicons(), tmp_path, name="mine", image=recipe.image, alphabet=reader.alphabet, frames=reader.frames,
        store=tmp_path / "store", make=make_here,
    )  # fmt: skip
    samples = samples_of({"mine": Shards.open(folder, verify=True)}, {"mine": "test"}, reader.alphabet, reader.frames)
    metrics = score(replace(reader, task=Spells()), samples, lexicons=True, beam=0)
    assert metrics["word_accuracy_36"] == 0.0  # "cot" and "dog"
    assert metrics["lexicon_50_accuracy_36"] == 0.5  # CAT is likelier than DOG and SUN; the other one is DOG
    assert metrics["lexicon_50_n"] == 2 and "lexicon_1k_n" not in metrics
