"""The parts of a report on stages that restore: which plates are shown, what each stage moved, what was mined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from models.metrics.confusions import aligned
from models.metrics.plates import Frame
from orchestrator import checkpoint
from orchestrator.mining import Difficulty
from orchestrator.report.blocks import Plate, PlateRows, Section, Table, Text, View
from orchestrator.report.facts import StageFacts
from orchestrator.report.mined import mined
from orchestrator.report.page import html, markdown
from orchestrator.report.plates import Seen, chosen
from orchestrator.report.restored import moved

TERM = {"weight": 1.0, "trains": []}


def seen(sample: int, bicubic: str, restored: str, sure: float) -> Seen:
    frame = Frame(track="t", number=sample, label="ABC", text=restored, confidences=(sure,) * len(restored))
    return Seen(sample=sample, frame=frame, texts=("A", bicubic, restored, "ABC"), confidence=sure)


def facts(folder: Path, name: str, *, stage=None, **lines) -> StageFacts:
    plan = {
        "name": name,
        "validate": {"plates": "valid"},
        "terms": {"l1": TERM, "ssim": TERM},
        "learn": ["generator"],
        "epochs": 2,
        "best": [{"metric": "plates/psnr"}],
        "data": {"shares": {"plates": 1.0}},
        **(stage or {}),
    }
    return StageFacts(
        folder=folder, recipe={"image": {"is": "datasets.pair_image.PairSpec"}}, stage=plan, number=0, record=None,
        lines=lines, clock={}, shards={}, manifests={}, unread={}, evaluations={}, parent=None,
    )  # fmt: skip


def tables(blocks) -> list[Table]:
    return [block for block in blocks if isinstance(block, Table)]


def test_plates_are_chosen_by_what_restoring_did_to_them():
    every = [
        seen(0, "ABC", "ABC", 0.5), seen(1, "AB", "ABC", 0.9), seen(2, "ABC", "AB", 0.8), seen(3, "", "", 0.1),
        seen(4, "A", "A", 0.7),
    ]  # fmt: skip
    rows = {title: [each.sample for each in some] for title, _, some in chosen(every, most=2)}
    assert rows.pop("At random") == np.random.default_rng(0).permutation(5)[:2].tolist()
    assert rows == {"Best": [1, 0], "Worst": [3, 4], "Gained": [1], "Lost": [2]}


def test_each_stage_stands_between_its_floor_and_its_ceiling(tmp_path):
    def line(step, psnr, rate):
        return {"step": step, "plates/psnr": psnr, "plates/psnr_bicubic": 20.0, "plates/recognition_rate": rate,
                "plates/recognition_rate_bicubic": 0.1, "plates/recognition_rate_target": 0.9}  # fmt: skip

    epochs = [
        {"epoch": n, "gradient_share/l1": share, "gradient_share/ssim": 1 - share} for n, share in ((1, 0.75), (2, 0.5))
    ]
    first = facts(tmp_path / "warmup-1", "warmup", validation=[line(0, 20.0, 0.1), line(5, 22.0, 0.25)], epoch=epochs)
    last = facts(tmp_path / "lcofl-2", "lcofl", validation=[line(0, 22.0, 0.25), line(5, 23.0, 0.5)])
    [section] = moved([last, first]).sections
    metrics, pulls = tables(section.blocks)
    assert list(metrics.rows) == [
        ("recognition rate", "warmup", "0.1000", "0.1000", "0.2500", "0.9000", "+0.1500"),
        ("recognition rate", "lcofl", "0.1000", "0.2500", "0.5000", "0.9000", "+0.4000"),
        ("PSNR, dB", "warmup", "20", "20", "22", "-", "+2.0000"),
        ("PSNR, dB", "lcofl", "20", "22", "23", "-", "+3.0000"),
    ]  # fmt: skip
    assert pulls.rows[0] == ("warmup", "l1", "1.0000", "generator", "75.0\u00a0%", "50.0\u00a0%")


def test_hard_samples_and_suspects_are_told_from_the_newest_checkpoint(tmp_path):
    accuracy = np.linspace(0, 1, 20)
    known = Difficulty(
        accuracy=accuracy, visits=np.full(20, 9), misses=np.where(accuracy == 0, 9, 0), weighed=0,
        weights=(1.1 - accuracy) ** 2 / ((1.1 - accuracy) ** 2).sum(),
    )  # fmt: skip
    tensors = {"mining": {name: torch.from_numpy(each) for name, each in known.arrays().items()}}
    place = checkpoint.folder_of(tmp_path / "checkpoints", 3)
    checkpoint.write(place, checkpoint.Contents(tensors=tensors, progress={}, fits={}))
    rule = {"least_visits": 1, "suspect_after": 9, "curriculum": {"start": 1.0, "end": 1.0, "epochs": 1}}
    section = mined(facts(tmp_path, "hard_mining", stage={"mining": rule}))
    assert section is not None
    tenths, hardest, suspects = tables(section.blocks)
    expected = known.weights[:2].mean() * 20
    assert tenths.rows[0][-1] == f"{expected:.2f}" and float(tenths.rows[-1][-1]) < 0.1
    assert [row[0] for row in hardest.rows][:2] == ["#1", "#2"]  # sample 0 is suspected
    assert [row[0] for row in suspects.rows] == ["#0"]


def test_a_stage_without_mining_has_no_such_part_and_one_without_checkpoints_says_so(tmp_path):
    assert mined(facts(tmp_path, "lcofl")) is None
    section = mined(facts(tmp_path, "hard_mining", stage={"mining": {"least_visits": 1}}))
    assert section is not None
    [block] = section.blocks
    assert isinstance(block, Text) and "no checkpoint yet" in block.says


def test_right_and_wrong_readings_are_marked_and_what_is_foreign_is_escaped():
    views = [
        View(name=name, image="data:,", reading=text, pairs=aligned(text, "A<1"))
        for name, text in (("bicubic", "A1"), ("restored", "A<1"))
    ]
    plates = [Plate(sample="<b>", truth="A<1", views=views, facts="right")]
    section = Section(title="t", anchor="t", blocks=[PlateRows(title="Best", caption="c", plates=plates)])
    page, text = html("t", [section]), markdown("t", [section], html="report.html")
    assert page.count('class="right"') == 1 and page.count('class="wrong"') == 1
    assert "<b>" not in page.replace("<b><bdi>", "") and "A<1" not in page
    assert "| &lt;b&gt; | A&lt;1 | A1 | A&lt;1 (right) | right |" in text
