"""The `evaluate` command on plates: raw and constrained apart, intervals over tracks, parts, N of everything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plates_made_up import Brightens, Plates, Told
from small_pairs import plates_like
from small_plates import CPU, folder_of, plate_shards, small_plates, train

from datasets.plate_folder import PlateFolder
from datasets.plate_text import PlateLabels
from datasets.plates_tracks import PlateTracks
from datasets.rendered_plates import RenderedPlates
from orchestrator import commands
from orchestrator.constrained import layouts_of
from orchestrator.evaluate_plates import score_plates, table
from orchestrator.pipeline import Machine
from orchestrator.plan import PlanError
from orchestrator.ranks import Ranks
from orchestrator.reader import Reader
from orchestrator.store import Store

LABELS = ["ABC1234"] * 2 + ["XYZ9A76"] * 2 + ["KLM5555"]
KNOWN: list[dict[str, object]] = [
    *({"track": "one", "frame": number, "layout": "Brazilian", "scenario": "A"} for number in (1, 2)),
    *({"track": "two", "frame": number, "layout": "Mercosur", "scenario": "A"} for number in (1, 2)),
    {"track": "three", "frame": 1, "scenario": "B"},
]
READ = {
    "": ["ABC1Z34", "ABC1234", "XYZ9A76", "XYZ9A7", "KLM5555"],
    "_bicubic": ["", "ABC1234", "", "", "KLM5555"],
    "_target": LABELS,
}
LAYOUTS = layouts_of(PlateTracks())


def scored(texts=READ, *, labels=LABELS, layouts=LAYOUTS, monitor: Told | None = None, blind=(), sure: float = 5.0):
    machine = Machine.of(CPU, Ranks())
    task = Brightens(Told(texts, sure=sure), monitor)
    reader = Reader(recipe=plates_like(), task=task, checkpoint=Path("nowhere"), machine=machine)
    return score_plates(reader, Plates(labels, KNOWN, blind=blind), layouts)  # type: ignore[arg-type]


def test_layouts_come_from_the_settings_of_the_source():
    drawn = layouts_of(RenderedPlates(tracks=1, layouts=("Brazilian", "US")))
    assert drawn["US"].allows("7ABC123") and not drawn["US"].allows("ABC12") and set(drawn) == {"Brazilian", "US"}
    assert LAYOUTS["Mercosur"].allows("ABC1D23") and not LAYOUTS["Mercosur"].allows("ABC1234")
    loose = PlateFolder(plates=PlateLabels(layouts={"eu": (), "it": ("LLNNNXX",)}, shortest=3, longest=5))
    assert layouts_of(loose)["eu"].allows("A1B") and not layouts_of(loose)["eu"].allows("AB")
    assert layouts_of(loose)["it"].allows("AB1234C") and layouts_of(loose)["it"].allows("AB123C4")
    assert layouts_of(PlateFolder()) == {} == layouts_of(object.__new__(Store))


def test_raw_and_constrained_readings_have_their_own_names():
    found, raw = scored(), scored(layouts={})
    assert found["recognition_rate"] == 3 / 5
    # What the Brazilian layout allows instead of Z is a digit; of a plate of six symbols it makes one of seven.
    assert found["recognition_rate_constrained"] >= found["recognition_rate"]
    assert found["n_layout_known"] == 4 and found["recognition_rate_constrained_n"] == 5
    assert not [name for name in raw if "constrained" in name or "layout_known" in name]
    assert {name: found[name] for name in raw} == raw


def test_the_layout_of_the_row_decides_and_any_of_them_where_it_has_none():
    # What is read for sure is what the label says, but no plate of the layout that the row is said to have.
    labels = ["ABC1C34"] * 2 + ["XYZ9876"] * 2 + ["KLM5A55"]
    found = scored(dict.fromkeys(READ, labels), labels=labels)
    assert found["recognition_rate"] == 1
    for name, constrained in (("layout/Brazilian", 0), ("layout/Mercosur", 0), ("scenario/B", 1)):
        assert found[f"{name}/recognition_rate"] == 1
        assert found[f"{name}/recognition_rate_constrained"] == constrained


def test_every_part_has_its_own_rates_and_counts():
    found = scored()
    assert (found["layout/Brazilian/recognition_rate"], found["layout/Brazilian/recognition_rate_n"]) == (1 / 2, 2)
    assert found["scenario/A/recognition_rate_bicubic"] == 1 / 4 and found["scenario/B/recognition_rate_n"] == 1
    assert found["layout/Mercosur/recognition_rate_track_n"] == 1
    assert found["layout/Mercosur/recognition_rate_track_target"] == 1


def test_intervals_are_over_tracks_and_the_gain_is_paired():
    found = scored()
    for by in ("", "_track"):
        for image in ("", "_bicubic", "_target"):
            name = f"recognition_rate{by}{image}"
            assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]
        difference = found[f"recognition_rate{by}"] - found[f"recognition_rate{by}_bicubic"]
        assert found[f"recognition_rate{by}_gain"] == pytest.approx(difference)
        assert found[f"recognition_rate{by}_gain_low"] <= difference <= found[f"recognition_rate{by}_gain_high"]
    assert (found["recognition_rate_target_low"], found["recognition_rate_target_high"]) == (1, 1)
    assert found["n"] == 5 and found["tracks"] == found["recognition_rate_track_n"] == 3


def test_everything_that_was_measured_has_its_count():
    found = scored(monitor=Told(READ), blind=[4])
    assert found["n_compared"] == found["psnr_n"] == found["recognition_rate_target_n"] == 4
    assert found["recognition_rate_target_monitor_n"] == 4 and found["recognition_rate_monitor_n"] == 5
    rates = [name for name in found if "recognition_rate" in name and not name.endswith(("_n", "_low", "_high"))]
    assert not [name for name in rates if f"{name}_n" not in found]
    assert "loss" not in found


def test_the_table_shows_each_kind_of_image_beside_the_others():
    lines = list(table(scored(monitor=Told(READ))))
    assert lines[0].split() == ["5", "images", "of", "3", "tracks,", "5", "with", "a", "target"]
    [raw] = [line for line in lines if "plates read, per image" in line]
    assert [word for word in raw.split() if word.startswith(("0.6000", "0.4000", "1.0000"))] == [
        "0.6000", "0.4000", "1.0000",
    ]  # fmt: skip
    told = "\n".join(lines)
    for said in ("by the second reader", "allowed by layout, per track", "layout/Brazilian", "restored less bicubic"):
        assert said in told
    assert max(map(len, lines)) <= 130


def test_the_command_prints_and_keeps_what_it_measured(tmp_path, capsys):
    assert train(tmp_path, only=("pretrain",))
    common = {"shards": plate_shards(), "stage": "pretrain", "split": "test", "beam": 0}
    plan, store, both = small_plates(), Store(tmp_path), ["plates", "drawn"]
    capsys.readouterr()
    done = commands.evaluate(plan, store, CPU, **common, sources=both, lexicons=False, as_json=True)
    printed = capsys.readouterr()
    [line] = printed.out.splitlines()
    found, kept = json.loads(line), folder_of(tmp_path, "pretrain") / "evaluation-plates-test.json"
    assert done == 0 and found["source"] == "plates" and "drawn/test holds no images" in printed.err
    assert json.loads(kept.read_text()).items() <= found.items()
    assert found["n"] == 4 and found["tracks"] == 2 and found["n_layout_known"] == 4
    assert found["psnr"] == pytest.approx(found["psnr_bicubic"])  # the generator has not learned yet
    commands.evaluate(plan, store, CPU, **common, sources=["plates"], lexicons=False, as_json=False)
    assert "4 images of 2 tracks" in capsys.readouterr().out
    with pytest.raises(PlanError, match="--lexicons"):
        commands.evaluate(plan, store, CPU, **common, sources=both, lexicons=True, as_json=True)
