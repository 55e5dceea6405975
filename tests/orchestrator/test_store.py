"""Records: written last, in one piece, and named where they cannot be read."""

import json
import os
from dataclasses import replace

import pytest

from orchestrator.files import sha256_of, write_json
from orchestrator.store import Record, Store, StoreError

METRICS = {"iiit5k/word_accuracy_36": 0.83, "iiit5k/cer": float("nan")}
RECORD = Record(
    recipe="words", stage="finetune", fingerprint="0123456789ab", checkpoint="checkpoints/step-00000010",
    best={"iiit5k/ned": {"value": 0.9, "step": 10, "metrics": {"iiit5k/ned": 0.9}}}, last="checkpoints/step-00000012",
    metrics={"iiit5k/ned": 0.9, "iiit5k/n": 200.0}, before={}, steps=12, epochs=3, skipped=0,
    finished="all epochs done",
    parent="ba9876543210", plan={"is": "orchestrator.plan.Recipe"}, data={"iiit5k": {"content": "a" * 64}},
    execution={"workers": 1}, versions={"torch": "2"}, warnings=("é cannot be spelled",),
)  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def begun(store, *, stage="finetune", at=1.0):
    """A stage's folder as training leaves it before there is a record."""
    folder = store.folder("words", stage, "0123456789ab")
    folder.mkdir(parents=True)
    write_json(folder / "plan.json", {})
    os.utime(folder / "plan.json", (at, at))
    return folder


def test_a_record_reads_back_as_written(store):
    folder = begun(store)
    assert folder == store.root / "runs" / "words" / "finetune-0123456789ab"
    store.write(folder, RECORD)
    assert store.read(folder) == RECORD


def test_metrics_say_their_n_and_a_score_is_of_no_single_set():
    assert replace(RECORD, metrics={**RECORD.metrics, "score": 12.5}).metrics["score"] == 12.5
    with pytest.raises(StoreError, match="metrics of rendered do not say their N"):
        replace(RECORD, metrics={**RECORD.metrics, "rendered/ned": 0.5})


def test_without_a_record_there_is_no_result(store):
    assert store.read(begun(store)) is None
    assert store.read(store.root / "nowhere") is None


def test_a_draft_that_a_crash_left_is_not_a_record(store):
    folder = begun(store)
    (folder / ".record.json.4711.draft").write_text(json.dumps({"recipe": "words"}))
    assert store.read(folder) is None
    store.write(folder, RECORD)
    assert store.read(folder) == RECORD


def test_a_write_that_fails_leaves_the_old_text(tmp_path):
    path = tmp_path / "record.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    write_json(path, {"a": "é"})
    assert path.read_text(encoding="utf-8") == '{\n  "a": "é"\n}\n'
    assert sha256_of(path) == "".join(
        f"{byte:02x}" for byte in __import__("hashlib").sha256(path.read_bytes()).digest()
    )


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"recipe": "words"}', '{"colour": 1}', "\udcff"],
    ids=["empty", "half", "list", "null", "fields missing", "fields unknown", "not UTF-8"],
)
def test_a_record_that_cannot_be_read_is_named_with_the_cure(store, text):
    folder = begun(store)
    (folder / "record.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(StoreError, match=r"finetune-0123456789ab/record\.json: not a record of this version .* again"):
        store.read(folder)


def test_a_record_of_another_schema_is_refused(store):
    folder = begun(store)
    store.write(folder, replace(RECORD, schema=2))
    with pytest.raises(StoreError, match="schema 2, this version reads 1"):
        store.read(folder)


def test_stages_are_listed_oldest_first_finished_or_not(store):
    later, earlier = begun(store, stage="finetune", at=2.0), begun(store, stage="pretrain", at=1.0)
    store.write(later, RECORD)
    (store.root / "runs" / "words" / "no-plan").mkdir()
    assert list(store.stages()) == list(store.stages("words")) == [(earlier, None), (later, RECORD)]
    assert list(store.stages("demo")) == []


def test_an_empty_or_missing_store_lists_nothing(store):
    assert list(store.stages()) == []
    store.ready()
    assert list(store.stages()) == [] and not list(store.root.iterdir())


def test_a_store_that_cannot_be_written_says_where_and_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file: cannot be written .* give another place with --store"):
        Store(tmp_path / "file").ready()
    with pytest.raises(StoreError, match="cannot be written"):
        Store(tmp_path / "file" / "below").ready()
