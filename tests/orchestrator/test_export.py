"""An export reads as what it was made of: by the project, by its own read.py alone, on odd files, or it is not made."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small import Quiet, small_recipe
from test_trained import a_stage, some_weights

from datasets.rendered import RenderedWords
from orchestrator.checkpoint import CheckpointError
from orchestrator.commands import predict
from orchestrator.execution import Execution
from orchestrator.export import ExportError, _without_nan, export, refuse_occupied
from orchestrator.export import onnx as export_onnx
from orchestrator.export import read as export_read
from orchestrator.export.card import card
from orchestrator.export.proof import answers_afresh, answers_of, compared, cpu
from orchestrator.files import sha256_of, write_json
from orchestrator.ingest import ingest, make_here
from orchestrator.pipeline import Machine, train_recipe
from orchestrator.ranks import Ranks
from orchestrator.reader import open_reader
from orchestrator.store import Store
from orchestrator.trained import find_trained, read_config, sealed

CPU = Execution(device="cpu")


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Path:
    """The last of three small stages, trained for a few steps, with an average of its weights and a test result."""
    root, recipe = tmp_path_factory.mktemp("store"), small_recipe()
    shards = {
        name: ingest(source, None, name=name, image=recipe.image, alphabet=recipe.alphabet, frames=recipe.task.frames,
                     store=root, make=make_here)
        for name, source in recipe.sources.items()
    }  # fmt: skip
    machine = Machine.of(CPU, Ranks())
    assert train_recipe(recipe, Store(root), shards, CPU, machine=machine, watch=Quiet())
    (folder,) = (root / "runs" / "small").glob("finetune-*")
    write_json(folder / "evaluation-worn-test.json", {"n": 24, "cer": 0.8125, "cer_n": 23, "ned": float("nan")})
    return folder


@pytest.fixture(scope="module")
def exported(stage, tmp_path_factory):
    return export(stage, tmp_path_factory.mktemp("exports") / "deep" / "reader")


@pytest.fixture
def copy(exported, tmp_path) -> Path:
    """An export to spoil, moved to where no store is."""
    return Path(shutil.copytree(exported.folder, tmp_path / "copy"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> dict[str, Path]:
    """Image files of all kinds, and by the names of their refusals those that must not be read."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, row in enumerate(RenderedWords(count=6, style="scene", colour=True, seed=5).rows(None)):
        picture = cv2.cvtColor(row.image.load(), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"word{number}{('.png', '.jpg', '.bmp')[number % 3]}"), picture)
    draw = np.random.default_rng(0)
    grey = draw.integers(0, 256, (40, 90), dtype=np.uint8)
    cv2.imwrite(str(folder / "grey.png"), grey)
    cv2.imwrite(str(folder / "deep.png"), grey.astype(np.uint16) * 200)
    cv2.imwrite(str(folder / "clear.png"), draw.integers(0, 256, (40, 90, 4), dtype=np.uint8))
    cv2.imwrite(str(folder / "wide.png"), draw.integers(0, 256, (20, 900), dtype=np.uint8))
    cv2.imwrite(str(folder / "tall.jpg"), draw.integers(0, 256, (300, 5), dtype=np.uint8))
    cv2.imwrite(str(folder / "small.png"), draw.integers(0, 256, (3, 3, 3), dtype=np.uint8))
    Image.fromarray(grey).convert("P").save(folder / "palette.gif")
    cv2.imwrite(str(folder / "too_small.png"), grey[:1, :1])
    (folder / "unreadable.png").write_text("not a picture")
    (folder / "unreadable_too.png").write_bytes((folder / "grey.png").read_bytes()[:200])
    paths = {path.name: path for path in sorted(folder.iterdir())}
    return paths | {"missing.png": folder / "missing.png"}


def test_record_checkpoint_and_export_read_the_same_with_the_project_and_read_py_alone(
    stage, exported, pictures, tmp_path
):
    paths = list(pictures.values())
    result = stage / json.loads((stage / "record.json").read_text())["checkpoint"]
    wanted = answers_of(open_reader(stage / "record.json", cpu()), paths)
    for place in (result, exported.folder, exported.folder / "config.json"):
        assert compared(paths, wanted, answers_of(open_reader(place, cpu()), paths), "x")["largest_difference"] == 0
    alone = answers_afresh(exported.folder, paths, tmp_path, alone=True)
    assert compared(paths, wanted, alone, "read.py")["equal"] == len(paths) == 17
    reasons = {path.name: answer.reason for path, answer in zip(paths, alone, strict=True) if answer.reason}
    assert reasons == {
        "missing.png": "missing", "too_small.png": "too_small", "unreadable.png": "unreadable",
        "unreadable_too.png": "unreadable",
    }  # fmt: skip
    assert {len(answer.logits) for answer in alone} >= {0, 96 // 4 + 1, 8 // 4 + 1}  # widest, narrowest


def test_read_py_says_what_predict_says(exported, pictures, capsys):
    paths = [pictures[name] for name in ("word1.jpg", "clear.png", "too_small.png")]
    for flag in ([], ["--json"]):
        assert predict(paths, exported.folder, CPU, as_json=bool(flag)) == 1
        wanted = capsys.readouterr()
        script = [sys.executable, "-I", "-B", str(exported.folder / "read.py"), *flag, *map(str, paths)]
        done = subprocess.run(script, capture_output=True, text=True, check=False)
        assert (done.returncode, len(done.stdout.splitlines())) == (1, 2)
        if flag:
            found, told = ([json.loads(line) for line in text.splitlines()] for text in (done.stdout, wanted.out))
            assert [{**each, "confidence": pytest.approx(each["confidence"], abs=1e-4)} for each in told] == found
        else:
            assert [line.rpartition("\t")[0] for line in done.stdout.splitlines()] == [
                line.rpartition("\t")[0] for line in wanted.out.splitlines()
            ]
        assert "too_small" in done.stderr and "too_small" in wanted.err


def test_read_py_imports_nothing_but_what_it_says():
    tree = ast.parse(Path(export_read.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} - sys.stdlib_module_names == {"cv2", "numpy", "onnxruntime"}


def test_averaged_weights_are_what_is_exported(tmp_path, pictures):
    stage = a_stage(tmp_path / "pretrain-abc", averaged=True)
    found = export(stage, tmp_path / "out", onnx=False, images=[pictures["grey.png"]])
    flat = load_file(found.folder / "model.safetensors")
    wanted = {f"{part}.{name}": each for part, of in some_weights(2).items() for name, each in of.items()}
    assert wanted.keys() == flat.keys() and all(torch.equal(flat[name], each) for name, each in wanted.items())
    assert found.config["averaged"] and found.config["weights_sha256"] == find_trained(stage).sha256
    assert "averaged over training" in (found.folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "reads"), [("model.safetensors", "project"), ("plan.json", "project"), ("config.json", "both"),
                        ("model.onnx", "alone")],
)  # fmt: skip
def test_a_changed_file_is_refused_by_name(copy, name, reads):
    data = bytearray((copy / name).read_bytes())
    place = data.index(b"small") if name.endswith(".json") else len(data) - 3
    data[place] ^= 1
    (copy / name).write_bytes(data)
    if reads in ("project", "both"):
        with pytest.raises(CheckpointError, match=rf"{name}: .*SHA-256"):
            open_reader(copy, cpu())
    if reads in ("alone", "both"):
        with pytest.raises(ValueError, match=rf"{name}: .*SHA-256"):
            export_read.Reader(copy)


def test_a_missing_file_is_named(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: No such file.*export again"):
        open_reader(copy, cpu())


@pytest.mark.parametrize(("what", "key", "value"), [("image", "min_width", 9), ("alphabet", "case", "lower")])
def test_images_cannot_be_prepared_nor_texts_spelled_in_another_way(copy, what, key, value):
    config = read_config(copy)
    config[what][key] = value
    write_json(copy / "config.json", sealed(config))
    with pytest.raises(ValueError, match=f"{what} is not the one that the weights were trained with"):
        export_read.Reader(copy)
    plan = json.loads((copy / "plan.json").read_text())
    plan["image"]["min_width"] = 9
    write_json(copy / "plan.json", plan)
    config["files"]["plan.json"] = sha256_of(copy / "plan.json")
    write_json(copy / "config.json", sealed(config))
    with pytest.raises(CheckpointError, match="its ImageSpec is"):
        open_reader(copy, cpu())


def test_an_export_of_another_kind_or_version_is_refused(copy):
    config = read_config(copy)
    write_json(copy / "config.json", sealed(config | {"schema": 99}))
    with pytest.raises(CheckpointError, match="schema 99; this version reads"):
        open_reader(copy, cpu())
    (copy / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not the config of an export"):
        open_reader(copy, cpu())


def test_the_model_card_tells_what_the_records_tell(stage, exported):
    text = (exported.folder / "README.md").read_text()
    record = json.loads((stage / "record.json").read_text())
    for name, value in record["metrics"].items():
        source, _, metric = name.rpartition("/")
        if metric != "n":
            section = text.partition(f"On {source}/valid")[2].partition("\nOn ")[0]
            assert f"| {metric} | {value:.4f} | 24 |" in section, name
    assert "| cer | 0.8125 | 23 |" in text and "| ned | not measured | 24 |" in text
    for folder in stage.parent.iterdir():
        name, _, fingerprint = folder.name.rpartition("-")
        told = json.loads((folder / "record.json").read_text())
        (row,) = (line for line in text.splitlines() if line.startswith(f"| {name} | {fingerprint} |"))
        assert f" {told['steps']:,} | {told['epochs']} | {told['finished']} |" in row
        assert (told["parent"] or "random weights") in row
    for source, facts in record["data"].items():
        (row,) = (line for line in text.splitlines() if line.startswith(f"| {source} |"))
        assert f"train {facts['counts']['train']}" in row and facts["content"][:12] in row
        assert f"**{source}**: licence: rendered by Plumbline" in text
    assert "finetune: 80% of training, validation on valid" in text
    assert exported.config["fits"]["ImageSpec"] in text and exported.config["alphabet"]["symbols"] in text


def test_the_proof_is_on_validation_images_and_is_written_down(exported):
    proof = exported.config["verified"]
    assert (proof["of"], proof["images"], proof["read"]) == ("worn/valid", 24, 24)
    assert proof["columns"][0] < proof["columns"][1] and proof["project"]["equal"] == proof["alone"]["equal"] == 24
    assert proof["project"]["largest_difference"] == 0 <= proof["alone"]["largest_difference"] <= 1e-4
    text = (exported.folder / "README.md").read_text()
    assert f"all 24 readings the same, logits at most {proof['alone']['largest_difference']:.1e} apart" in text
    assert {path.name for path in exported.folder.iterdir()} == {*exported.config["files"], "config.json"}
    assert all(sha256_of(exported.folder / name) == sha256 for name, sha256 in exported.config["files"].items())
    assert (
        "24 images (worn/valid) read the same in fresh processes, with the project and by read.py alone"
        in exported.summary
    )


def test_without_the_packages_it_goes_on_and_says_so(tmp_path, monkeypatch, pictures):
    monkeypatch.setattr(export_onnx, "PACKAGES", ("onnx", "no_such_package"))
    stage = a_stage(tmp_path / "pretrain-abc", record=False)
    (tmp_path / "out").mkdir()
    place = stage / "checkpoints" / "step-00000007"
    found = export(place, tmp_path / "out", images=[pictures["grey.png"], pictures["too_small.png"]])
    assert {path.name for path in found.folder.iterdir()} == {
        "model.safetensors", "config.json", "plan.json", "README.md",
    }  # fmt: skip
    says = "lacks no_such_package: pip install 'plumbline[onnx]'"
    text = (found.folder / "README.md").read_text()
    assert says in text and says in found.summary and "read.py alone" not in found.summary
    assert "No validation of exactly these weights" in text and "a checkpoint of a stage that had not ended" in text
    assert (found.config["verified"]["read"], found.config["verified"]["refused"]) == (1, 1)
    with pytest.raises(ExportError, match="lies there already; replace it with --force"):
        export(place, tmp_path / "out")
    again = export(place, tmp_path / "out", onnx=False, replace=True)  # no images: words are drawn
    assert again.config["onnx"]["why"] == "not asked for" and again.config["verified"]["of"].startswith("words drawn")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pretrain-abc"]


def test_an_export_that_reads_differently_is_not_made(stage, tmp_path, monkeypatch):
    source = Path(export_read.__file__).read_text()
    spoiled = tmp_path / "spoiled.py"
    spoiled.write_text(source.replace("np.float32(127.5) - np.float32(1.0)", "np.float32(127.5) - np.float32(0.99)"))
    assert spoiled.read_text() != source
    monkeypatch.setattr(export_read, "__file__", str(spoiled))
    with pytest.raises(ExportError, match=r"read\.py without the project .*nothing was exported"):
        export(stage, tmp_path / "out" / "reader")
    assert list((tmp_path / "out").iterdir()) == []


def test_only_an_export_is_ever_replaced(copy, tmp_path):
    refuse_occupied(tmp_path / "new", replace=False)
    refuse_occupied(copy, replace=True)
    (tmp_path / "mine").mkdir()
    refuse_occupied(tmp_path / "mine", replace=False)  # empty: nothing is lost
    (tmp_path / "mine" / "thesis.txt").write_text("all I have")
    (tmp_path / "file").write_text("")
    for occupied in (tmp_path / "mine", tmp_path / "file"):
        with pytest.raises(ExportError, match="exists and is no export of this version"):
            refuse_occupied(occupied, replace=True)


def test_an_export_is_not_exported_again(copy, tmp_path):
    with pytest.raises(ExportError, match="is an export already; copy its folder"):
        export(copy, tmp_path / "again")


def test_images_none_of_which_can_be_read_prove_nothing(tmp_path, pictures):
    stage = a_stage(tmp_path / "pretrain-abc")
    with pytest.raises(ExportError, match=r"none of 1 images .* refused as too_small"):
        export(stage, tmp_path / "out", onnx=False, images=[pictures["too_small.png"]])
    assert not (tmp_path / "out").exists()


def test_the_card_names_imported_weights_and_accepted_checks(exported):
    config = json.loads(json.dumps(exported.config))
    config["lineage"][0]["started_from"] = {"place": "/somewhere", "sha256": "0123456789abcdef", "parts": ["cnn"]}
    config["stage"]["accepted"] = {"labels": "3 too long"}
    text = card(config)
    assert "imported weights 0123456789ab |" in text and "/somewhere" not in text
    assert "accepted on purpose, labels: 3 too long" in text


def test_what_was_not_measured_is_null_not_nan():
    assert _without_nan({"a": [float("nan"), 1.5, float("inf")], "b": {"c": "nan"}}) == {
        "a": [None, 1.5, None], "b": {"c": "nan"},
    }  # fmt: skip
