"""A report of a real small run: its numbers are the record's, its words the network's, and nothing in it is foreign."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from nasty import BROKEN, EVIL, NAMES, folder_of, rewritten, trained_store
from PIL import Image
from rapidfuzz.distance import Levenshtein
from seen import Page

from models.text import PRINTABLE94
from orchestrator.batches import samples_of
from orchestrator.commands import runs
from orchestrator.evaluate import outputs, read_of
from orchestrator.execution import Execution
from orchestrator.pipeline import Machine
from orchestrator.ranks import Ranks
from orchestrator.reader import open_reader
from orchestrator.report import write_report
from orchestrator.report.blocks import flattened, number
from orchestrator.report.facts import gather
from orchestrator.report.readings import readings_of
from orchestrator.shards import Shards
from orchestrator.store import Store

CPU = Execution(device="cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Store:
    return trained_store(tmp_path_factory.mktemp("report"))


@pytest.fixture
def store(trained, tmp_path) -> Store:
    """A copy that a test may damage."""
    shutil.copytree(trained.root, tmp_path / "store")
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def written(trained) -> tuple[str, str]:
    page, text = write_report(folder_of(trained, "second"), trained)
    return page.read_text(), text.read_text()


@pytest.fixture(scope="module")
def page(written) -> Page:
    return Page(written[0])


def test_the_numbers_of_the_page_are_those_of_the_record(trained, page, written):
    record = trained.read(folder_of(trained, "second"))
    for name, value in record.metrics.items():
        if not name.endswith("/n"):
            shown = [number(value), number(record.before[name]), f"{value - record.before[name]:+.4f}"]
            assert page.row(name)[1:4] == shown and page.row(name)[-1] == "50"
            assert f"| {name} | {shown[0]} | {shown[1]} |" in written[1]
    assert page.row("updates")[1] == f"{record.steps} in {record.epochs} epochs"
    assert page.row("alphabet")[1] == f"PRINTABLE94: 94 symbols, case is kept, SHA-256 {PRINTABLE94.sha256[:12]}"
    assert page.row("torch")[1] == record.versions["torch"]
    for check in record.preflight:
        assert page.row(check["check"])[1] == check["found"]
    assert dict(flattened(record.effective)).items() <= {row[0]: row[1] for row in page.rows if len(row) == 2}.items()
    assert page.row("mine")[2:6] == ["50", "50", "0", "1"]


def test_stages_stand_newest_first_with_the_way_to_them(page):
    headings = [text for text in page.texts if re.fullmatch(r"Stage \d: \w+", text)]
    assert headings == ["Stage 1: second", "Stage 0: first"] * 2  # the contents, then the sections
    lineage = [row for row in page.rows if row and row[0] in ("first", "second") and len(row) == 9]
    assert [row[0] for row in lineage] == ["first", "second"]
    assert lineage[1][3] == "best of first: cnn, rnn" and lineage[1][7] == "mine/ned at least 0.9900: not passed"
    assert "Stage second is below its gate" in page.text


def test_the_words_shown_are_those_an_independent_count_finds(trained, page):
    folder = folder_of(trained, "second")
    reader = open_reader(folder, Machine.of(CPU, Ranks()))
    shards = Shards.open(next((trained.root / "shards").iterdir()), verify=True)
    samples = samples_of({"mine": shards}, {"mine": "valid"}, reader.alphabet, reader.frames)
    found = []
    for batch, out in outputs(
        reader.task, samples, device=reader.machine.device, autocast=reader.machine.autocast, ranks=Ranks()
    ):
        for each in read_of(batch, out, reader.alphabet):
            truth = samples.text(each.sample)
            wrong = Levenshtein.distance(each.text, truth)
            pixels = shards.pixels(samples.located(each.sample)[1])
            found.append((wrong, each.confidence, truth, each.text, pixels.tobytes()))
    assert all(wrong for wrong, *_ in found)  # this network reads nothing right: all shown are wrong
    by_edits = sorted(found, key=lambda each: (-each[0], -each[1]))[:12]
    by_confidence = sorted(found, key=lambda each: -each[1])[:12]
    for word, (_, _, truth, text, pixels) in zip(page.words[:24], by_edits + by_confidence, strict=True):
        image = Image.open(io.BytesIO(base64.b64decode(word["image"].removeprefix("data:image/png;base64,"))))
        assert word["dd"].split("\n")[1:] == [truth, text]
        assert np.asarray(image).tobytes() == pixels


def test_readings_add_up_to_what_the_record_says(trained):
    facts = gather(folder_of(trained, "second"), trained)[0]
    [readings] = readings_of(facts, Machine.of(CPU, Ranks()))
    assert readings.metrics["cer"] == pytest.approx(facts.record.metrics["mine/cer"])
    assert readings.confusions.edits / readings.confusions.characters == pytest.approx(readings.metrics["cer"])
    assert sum(row["n"] for row in readings.lengths.values()) == readings.words == 50
    assert {"4", "more than 12"} <= set(readings.lengths)


def test_readings_that_are_not_the_records_are_a_warning(store, page):
    assert "reading again gives" not in page.text
    path = folder_of(store, "first") / "record.json"
    record = json.loads(path.read_text())
    record["metrics"]["mine/ned"] += 0.01
    path.write_text(json.dumps(record))
    assert "reading again gives" in rewritten(store, "first").text


def test_words_are_read_in_the_precision_they_were_validated_in(store):
    path = folder_of(store, "first") / "record.json"
    record = json.loads(path.read_text())
    record["execution"]["precision_used"] = "bf16"
    path.write_text(json.dumps(record))
    [readings] = readings_of(gather(path.parent, store)[0], None)
    assert readings.how.endswith("in bf16")


def test_the_page_needs_nothing_from_anywhere_and_runs_nothing(page, written):
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base", "form", "image"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert str(attributes.get(name, "#")).startswith(("#", "data:image/png;base64,")), (tag, attributes)
    assert set(re.findall(r"url\((.)", written[0])) == {"#"} and "@import" not in written[0]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert ("meta", {"http-equiv": "Content-Security-Policy", "content": policy}) in page.tags
    assert len(written[0]) < 3_000_000


def test_pictures_have_words_and_ids_are_their_own(page):
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")
    titles = {attributes["id"] for tag, attributes in page.tags if tag == "title" and "id" in attributes}
    drawn = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert drawn and all(attributes["aria-labelledby"] in titles for attributes in drawn)
    ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert [name for name, times in ids.items() if times > 1] == []
    used = {attributes["href"][1:] for tag, attributes in page.tags if "href" in attributes}
    assert used <= set(ids)


def test_labels_and_file_names_are_only_ever_text(page, written):
    assert [word["dd"].split("\n")[1] for word in page.words].count(EVIL) >= 1
    assert f"valid-{NAMES[EVIL]}" in page.texts and f"valid-{NAMES[BROKEN]}" in page.texts
    assert page.row("gone|`<b>.png")[1] == "unreadable"
    assert "<" not in re.sub(r"(?s)(```+).*?\1", "", written[1])


def test_tables_of_the_markdown_keep_their_columns(written):
    lines = re.sub(r"(?s)(```+).*?\1", "", written[1]).splitlines()
    bars = [len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) if line.startswith("|") else 0 for line in lines]
    tables = [(first, second) for first, second in pairwise(bars) if first and second]
    assert len(tables) > 100 and all(first == second for first, second in tables)
    assert any("a\\|b\\`c\\\\" in line for line in lines)


def test_the_same_store_gives_the_same_page(trained, written):
    again = write_report(folder_of(trained, "second"), trained)
    assert tuple(path.read_text() for path in again) == written


def test_weights_from_elsewhere_are_named_by_their_hash(store):
    path = folder_of(store, "second") / "record.json"
    record = json.loads(path.read_text())
    start = {"is": "orchestrator.start.Imported", "place": "/old", "sha256": "ab" * 32, "parts": ["cnn"], "remap": True}
    record["plan"]["stages"][1]["start_from"], record["parent"] = start, ""
    path.write_text(json.dumps(record))
    page = rewritten(store)
    assert (
        page.row("second")[3] == "weights from elsewhere, SHA-256 abababababab: cnn, last layer carried over by symbol"
    )
    assert "Stage 0: first" not in page.texts and "is not in this store" not in page.text


def test_a_stage_that_is_a_trial_of_a_sweep_says_of_which_and_what_it_changed(store, page, capsys):
    assert "Stages that are trials of a sweep." not in page.text
    path = folder_of(store, "first") / "record.json"
    record = json.loads(path.read_text())
    changes = {"stages.first.optim.lr": 0.001, "stages.first.schedule": {"is": "Cosine", "warmup": 0.1}}
    record["trial"] = {"sweep": "mine-0123", "number": 7, "changes": changes}
    path.write_text(json.dumps(record))
    told = "stages.first.optim.lr 0.001, stages.first.schedule Cosine(warmup 0.1)"
    assert ["first", "mine-0123", "7", told] in rewritten(store).rows
    runs(store, None)
    assert ", trial 7 of mine-0123: stages.first.optim.lr=0.001, stages.first.schedule={" in capsys.readouterr().out


def add_lines(folder: Path, *lines: dict) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


def test_spikes_and_updates_that_were_not_finite_are_marked_and_explained(store):
    folder = folder_of(store, "first")
    add_lines(
        folder,
        {"kind": "step", "step": 99, "epoch": 2, "lr": 0.1, "loss/ctc": None, "grad_norm": None},
        {"kind": "event", "event": "gradient_spike", "epoch": 2, "step": 5, "says": "gradient norm 90 <b>",
         "cause": "too fast", "change": "lower stages.first.optim.lr", "evidence": {"times": 31.5, "ids": ["a|b"] * 7}},
    )  # fmt: skip
    page = rewritten(store, "first")
    assert "1 spike and 1 update that were not finite are marked." in page.text
    assert page.texts.count("spike") == page.texts.count("not finite") == 1  # the legends
    row = next(row for row in page.rows if len(row) == 6 and row[1] == "gradient_spike")
    assert row[2:5] == ["gradient norm 90 <b>", "too fast", "lower stages.first.optim.lr"]
    assert row[5] == "times 31.5; ids a|b, a|b, a|b, a|b, a|b, and 2 more"
    assert re.search(r"Stage first: events while training: .*gradient_spike \(1\)", page.text)


def test_a_healthy_run_has_no_marks(page):
    assert "spike" not in page.texts and "No spike and no update that was not finite." in page.text


def test_lines_of_older_versions_are_told_as_events(store):
    folder = folder_of(store, "first")
    add_lines(
        folder,
        {"kind": "nonfinite", "step": 3, "terms": {"ctc": None}, "samples": [4, 5]},
        {"kind": "red_line", "step": 7, "crossed": {"mine/ned": 0.5}},
    )
    with (folder / "speed.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "resumed", "time": 1.0, "step": 6}) + "\n")
    events = gather(folder, store)[0].events
    told = [(event.name, event.step) for event in events if event.name in ("nonfinite", "resumed", "red_line")]
    assert told == [("nonfinite", 3), ("resumed", 6), ("red_line", 7)]
    assert next(event for event in events if event.name == "nonfinite").evidence["samples"] == [4, 5]
