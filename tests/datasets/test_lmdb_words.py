"""Words in LMDB databases."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import NOISE, encoded, reasons_of, rows_of

from datasets.lmdb_words import LmdbImage, LmdbWords
from datasets.row import BadImage, ImageRef, SourceError

lmdb = pytest.importorskip("lmdb", reason="needs plumbline[lmdb]")


def write(root: Path, *words: str, count: str | None = None, without: tuple[str, ...] = ()) -> Path:
    """A database of ``words``, all with one image, less the keys in ``without``."""
    values = {"num-samples": (count or str(len(words))).encode()}
    for number, word in enumerate(words, 1):
        values |= {
            f"image-{number:09d}": encoded(NOISE),
            f"label-{number:09d}": word.encode("utf-8", "surrogateescape"),
        }
    with lmdb.open(str(root), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        for key in values.keys() - set(without):
            transaction.put(key.encode(), values[key])
    return root


def shape_of(image: ImageRef) -> tuple[int, ...]:
    return image.load().shape


def test_words_are_numbered_from_one(tmp_path: Path):
    rows = rows_of(LmdbWords(split="valid").rows(write(tmp_path, "one", "zwölf")))
    assert [(row.id, row.text, row.split) for row in rows] == [
        ("image-000000001", "one", "valid"),
        ("image-000000002", "zwölf", "valid"),
    ]
    assert rows[1].image.load().shape == (12, 30, 3)
    assert LmdbWords().describe(tmp_path)["num_samples"] == 2


def test_missing_keys_blank_and_foreign_labels_are_rejected(tmp_path: Path):
    gone = ("image-000000001", "label-000000002")
    write(tmp_path, "one", "two", " ", "\udce9", "five", without=gone)
    found = list(LmdbWords().rows(tmp_path))
    assert reasons_of(found) == {
        "image-000000001": "missing",
        "image-000000002": "missing",
        "image-000000003": "unlabelled",
        "image-000000004": "bad_text",
    }
    assert [row.text for row in rows_of(found)] == ["five"]


def test_an_image_that_is_not_there_or_no_image_is_bad(tmp_path: Path):
    write(tmp_path, "one")
    with pytest.raises(BadImage, match=r"missing.*image-000000007"):
        LmdbImage(str(tmp_path), "image-000000007").load()
    with pytest.raises(BadImage, match="unreadable"):
        LmdbImage(str(tmp_path), "label-000000001").load()
    with pytest.raises(BadImage, match="missing"):
        LmdbImage(str(tmp_path / "absent"), "image-000000001").load()


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_an_image_loads_in_another_process_while_this_one_has_the_database_open(tmp_path: Path, start: str):
    image = rows_of(LmdbWords().rows(write(tmp_path, "one")))[0].image
    assert image.load().shape == (12, 30, 3)
    with multiprocessing.get_context(start).Pool(1) as pool:
        assert pool.map(shape_of, [image, pickle.loads(pickle.dumps(image))]) == [(12, 30, 3)] * 2


def test_the_stamp_changes_with_the_database(tmp_path: Path):
    image = LmdbImage(str(write(tmp_path, "one")), "image-000000001")
    first = image.stamp()
    write(tmp_path, "one", "two", "three")
    assert image.stamp() != first


def test_a_folder_that_is_no_database_is_refused_and_left_empty(tmp_path: Path):
    with pytest.raises(SourceError, match=r"not an LMDB database with a data.mdb"):
        list(LmdbWords().rows(tmp_path))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "data.mdb").write_bytes(b"x" * 10_000)
    with pytest.raises(SourceError, match="not an LMDB database"):
        list(LmdbWords().rows(tmp_path))


def test_a_database_cut_short_is_refused_before_a_read_kills_the_process(tmp_path: Path):
    data = (write(tmp_path, "one", "two", "three") / "data.mdb").read_bytes()
    (tmp_path / "data.mdb").write_bytes(data[:8_192])
    with pytest.raises(SourceError, match=r"data.mdb has 8,192 of .* bytes; it was cut short"):
        list(LmdbWords().rows(tmp_path))


@pytest.mark.parametrize(("count", "message"), [("many", "must be a number"), ("9" * 400, "has 3 entries")])
def test_a_count_that_cannot_be_is_refused(tmp_path: Path, count: str, message: str):
    with pytest.raises(SourceError, match=message):
        list(LmdbWords().rows(write(tmp_path, "one", count=count)))


def test_without_lmdb_the_module_loads_and_the_message_names_the_extra(tmp_path: Path):
    code = (
        "import sys; sys.modules['lmdb'] = None; from pathlib import Path; from datasets.lmdb_words import LmdbWords\n"
        f"try: list(LmdbWords().rows(Path({str(tmp_path)!r})))\n"
        "except ValueError as error: print(error)"
    )
    root = Path(__file__).parents[2]
    said = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert "pip install 'plumbline[lmdb]'" in said
