"""`predict` of a recipe that restores: pictures, one list of results, a table, and a vote of each track."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_pairs import PLATES, SPEC, plates_like
from test_reader_pairs import Nearest, drawn
from torch import nn

from datasets.plate_folder import PlateFolder
from datasets.plate_text import PlateLabels
from models.batch import Batch, Read, Restored
from orchestrator import commands
from orchestrator.execution import Execution
from orchestrator.pictures import pictures_in
from orchestrator.pipeline import Machine
from orchestrator.plan import PlanError, Recipe
from orchestrator.predict import restore_pictures, say_passed
from orchestrator.ranks import Ranks
from orchestrator.reader import AT_ONCE, Reader, restore_images

CPU = Execution(device="cpu")
DARK, BRIGHT = (np.full((16, 48, 3), value, np.uint8) for value in (0, 255))


def reader_of(task: nn.Module, recipe: Recipe) -> Reader:
    return Reader(recipe=recipe, task=task, checkpoint=Path("step-1"), machine=Machine.of(CPU, Ranks()))


@pytest.fixture
def reader() -> Reader:
    return reader_of(Nearest(), plates_like())


@pytest.fixture
def folder(tmp_path) -> Path:
    """A track whose frames disagree, and beside it a picture and a file that is none."""
    track = tmp_path / "in" / "track_00001"
    track.mkdir(parents=True)
    for number, array in enumerate((BRIGHT, DARK, DARK), start=1):
        drawn(track / f"lr-{number:03d}.png", array)
    drawn(tmp_path / "in" / "alone.png", BRIGHT)
    (tmp_path / "in" / "bad.png").write_text("none")
    return tmp_path / "in"


def results(reader: Reader, folder: Path, to: Path, **options) -> dict:
    restore_pictures(reader, pictures_in([folder], leave=to), to, as_json=options.pop("as_json", False))
    return json.loads((to / "predictions.json").read_text())


def test_each_image_is_written_at_its_place_with_what_was_read(reader, folder, tmp_path):
    told = results(reader, folder, tmp_path / "to")
    assert [(each["picture"], each["text"]) for each in told["images"]] == [
        ("alone.png", "B"), ("track_00001/lr-001.png", "B"), ("track_00001/lr-002.png", "A"),
        ("track_00001/lr-003.png", "A"),
    ]  # fmt: skip
    assert cv2.imread(str(tmp_path / "to" / "track_00001" / "lr-001.png")).shape == (32, 96, 3)
    first = told["images"][0]
    assert (first["height"], first["width"], len(first["confidences"])) == (16, 48, 1)
    assert 0.5 < first["confidence"] <= 1
    [bad] = told["unreadable"]
    assert bad["source"].endswith("bad.png") and bad["reason"] == "unreadable"


def test_frames_of_a_track_vote_by_how_sure_they_are(reader, folder, tmp_path):
    """One frame reads B with 9 nats more than any A, two read A: their votes are 0.9999 and twice 0.99 or so."""
    [track] = results(reader, folder, tmp_path / "to")["tracks"]
    assert (Path(track["track"]).name, track["frames"], track["text"]) == ("track_00001", 3, "A")
    assert track["confidence"] == pytest.approx(track["confidences"][0]) and 0.5 < track["confidence"] < 0.7


def test_the_table_has_a_line_for_each_image_and_track(reader, folder, tmp_path, capsys):
    results(reader, folder, tmp_path / "to")
    out, err = capsys.readouterr()
    assert [line.split()[0].rpartition("/")[2] for line in out.splitlines() if line] == [
        "image", "alone.png", "lr-001.png", "lr-002.png", "lr-003.png", "track", "track_00001",
    ]  # fmt: skip
    assert "bad.png" in err
    results(reader, folder, tmp_path / "json", as_json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines] == ["B", "B", "A", "A", "A"]


def test_a_second_run_writes_over_its_own_pictures_and_no_others(reader, folder, tmp_path):
    to = tmp_path / "to"
    to.mkdir()
    (to / "alone.png").write_text("somebody's")
    first, second = (results(reader, folder, to) for _ in range(2))
    assert first["images"] == second["images"]
    assert first["images"][0]["picture"] == "alone-2.png" and (to / "alone.png").read_text() == "somebody's"


def test_many_images_are_restored_in_their_order(reader, tmp_path):
    paths = [drawn(tmp_path / f"{n}.png", BRIGHT if n % 3 else DARK) for n in range(AT_ONCE + 3)]
    paths[5].write_text("none")
    found = list(restore_images(reader, paths))
    assert [path for path, _ in found] == paths
    texts = [getattr(getattr(each, "reading", None), "text", None) for _, each in found]
    assert texts == [None if n == 5 else "B" if n % 3 else "A" for n in range(AT_ONCE + 3)]


def test_many_files_passed_over_are_counted_and_some_named(capsys):
    say_passed([(Path(f"{n}.txt"), "no image by its name") for n in range(7)] + [(Path("z"), "other")])
    assert capsys.readouterr().err.splitlines() == [
        "passed over 7 files (no image by its name): 0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more",
        "passed over 1 file (other): z",
    ]


def test_a_folder_without_an_image_is_a_mistake(reader, tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.reader.open_reader", lambda place, machine: reader)
    with pytest.raises(PlanError, match="none of 0 files is one to read"):
        commands.predict([tmp_path], tmp_path, CPU, as_json=False, to=tmp_path / "to")


class SeesAnO(nn.Module):
    """Reads ``ABC123O`` in every image, and where it is dark, says that the last one may as well be a nought."""

    def forward(self, batch: Batch) -> Restored:
        frames = SPEC.target_width // 4
        logits = torch.zeros(len(batch.image), frames, PLATES.classes)
        logits[:, :, 0] = 12.0
        for place, symbol in enumerate("ABC123O"):
            logits[:, 3 * place, 0] = 0.0
            logits[:, 3 * place, PLATES.encode(symbol)[0]] = 18.0
        nought = torch.where(batch.image.mean((1, 2, 3)) > 0, 12.0, 17.0)
        logits[:, 18, PLATES.encode("0")[0]] = nought
        image = F.interpolate(batch.image, scale_factor=SPEC.scale)
        return Restored(image=image, read=Read(logits=logits, frames=torch.full((len(image),), frames)))


def test_what_a_layout_allows_stands_beside_what_was_read_and_never_in_its_place(folder, tmp_path, capsys):
    source = PlateFolder(plates=PlateLabels(layouts={"Brazilian": ("LLLNNNN",)}))
    reader = reader_of(SeesAnO(), plates_like(sources={"plates": source}))
    told = results(reader, folder, tmp_path / "to")
    [track] = told["tracks"]
    for each in (*told["images"], track):
        assert (each["text"], each["text_constrained"]) == ("ABC123O", "ABC1230")
        assert len(each["confidences_constrained"]) == 7
    bright, dark = told["images"][1:3]
    # e^18 against e^12 or e^17: what is left for the nought is 0.0025 or 0.27 of the whole
    assert bright["confidence_constrained"] == pytest.approx(0.0025, rel=0.05)
    assert dark["confidence_constrained"] == pytest.approx(0.267, rel=0.05)
    assert dark["confidence"] + dark["confidence_constrained"] == pytest.approx(1, abs=0.01)
    assert track["confidences_constrained"][-1] < 0.3 < 0.7 < track["confidences"][-1]
    header, first = capsys.readouterr().out.splitlines()[:2]
    assert header.index("by layout") == first.index("ABC1230") > first.index("ABC123O")


def test_a_plan_without_layouts_gives_what_was_read_alone(folder, tmp_path, capsys):
    told = results(reader_of(SeesAnO(), plates_like(sources={"plates": PlateFolder()})), folder, tmp_path / "to")
    assert not [key for each in (*told["images"], *told["tracks"]) for key in each if "constrained" in key]
    assert "by layout" not in capsys.readouterr().out
