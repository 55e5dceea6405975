"""MATLAB files as SciPy reads them in a child process: whatever the file does, this process lives and says so."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import cells, structs

from datasets.matlab import entries_of, text_of, texts_of
from datasets.row import SourceError

FIELDS = ["name", "words"]
SAMPLE = structs(name=["a/1.png", "é ", ""], words=[cells("A", "LONGER", "x" * 500), cells("B"), cells("C", "")])
# Found by trying 900 changes of one byte: SciPy 1.17.1 reads outside its memory, which nearly always is the end of it.
CRASHING = [(376, 96), (1057, 98), (1321, 238)]


def bytes_of(*, compress: bool) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, {"sample": SAMPLE}, do_compression=compress)
    return file.getvalue()


FILES = [bytes_of(compress=False), bytes_of(compress=True)]


def damaged(data: bytes, flips: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for at, value in flips:
        changed[at] = value
    return bytes(changed)


def saved(path: Path, **values: object) -> Path:
    scipy.io.savemat(path, values)
    return path


@pytest.mark.parametrize("data", FILES, ids=["plain", "compressed"])
def test_strings_come_back_whatever_their_length_and_letters(tmp_path: Path, data: bytes):
    (tmp_path / "x.mat").write_bytes(data)
    rows = list(entries_of(tmp_path / "x.mat", "sample", fields=FIELDS, entries=3))
    assert [text_of(name, where="") for name, _ in rows] == ["a/1.png", "é", ""]
    assert [texts_of(words, where="") for _, words in rows] == [["A", "LONGER", "x" * 500], ["B"], ["C", ""]]


def test_cells_of_several_variables_come_side_by_side_unwrapped_to_what_they_hold(tmp_path: Path):
    numbers = np.arange(24).reshape(2, 4, 3)
    path = saved(
        tmp_path / "x.mat",
        first=cells(*(numbers.astype(dtype) for dtype in ("f8", "f4", "u1", "i2"))),
        second=cells(np.array(["one two ", "three"]), cells(cells(cells("deep "))), 7.5, np.empty((0, 0))),
    )
    rows = list(entries_of(path, "first", "second"))
    assert [row[0] for row in rows] == [numbers.tolist()] * 4
    assert [row[1] for row in rows] == [["one two", "three"], "deep", 7.5, []]


def test_one_cell_alone_and_numbers_that_are_none_keep_what_they_are(tmp_path: Path):
    ((found,),) = entries_of(saved(tmp_path / "x.mat", only=cells(np.array([[np.nan, np.inf]]))), "only")
    np.testing.assert_array_equal(np.array(found), [[np.nan, np.inf]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "SciPy cannot read it .*truncated.*fetch it again"),
        (b"no matlab file, whatever its name says" * 9, "SciPy cannot read it"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + b"\x89HDF" * 99, "v7.3.*save it again with '-v7'"),
        (FILES[1][:-9], "SciPy cannot read it"),
        (FILES[0][:128], "no variable 'sample'; it holds \\[\\]"),
    ],
)
def test_what_is_no_whole_matlab_5_file_says_so(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "x.mat").write_bytes(content)
    with pytest.raises(SourceError, match=f"x.mat: .*{message}"):
        list(entries_of(tmp_path / "x.mat", "sample", fields=FIELDS))


@pytest.mark.parametrize(
    ("names", "wanted", "message"),
    [
        (["train"], {}, r"no variable 'train'; it holds \['sample', 'other', 'pair'\]"),
        (["sample"], {"fields": ["words", "name"]}, r"fields \['words', 'name'\], found .*'name'.*'words'"),
        (["sample"], {"fields": FIELDS, "entries": 4000}, r"must have 4,000 entries, found .*3.*is the set complete"),
        (["other"], {}, "must be a cell array, found float64"),
        (["pair"], {"fields": FIELDS}, "must be a struct array with the fields .*, found object"),
    ],
)
def test_another_layout_says_what_was_found(tmp_path: Path, names: list[str], wanted: dict, message: str):
    path = saved(tmp_path / "x.mat", sample=SAMPLE, other=np.eye(2), pair=cells("a", "b"))
    with pytest.raises(SourceError, match=message):
        list(entries_of(path, *names, **wanted))


def test_what_json_cannot_hold_is_named(tmp_path: Path):
    with pytest.raises(SourceError, match=r"x.mat: text, numbers and cells are expected, found complex"):
        list(entries_of(saved(tmp_path / "x.mat", odd=cells(1j, 2j)), "odd"))


def test_a_claim_of_more_memory_than_the_limit_is_refused(tmp_path: Path):
    (tmp_path / "x.mat").write_bytes(damaged(FILES[0], [(167, 0x40)]))  # 1 x 2**30 structs instead of 1 x 3
    with pytest.raises(SourceError, match="MemoryError"):
        list(entries_of(tmp_path / "x.mat", "sample", fields=FIELDS))


def test_a_file_that_takes_too_long_is_given_up(tmp_path: Path):
    with pytest.raises(SourceError, match=r"x.mat: not read after 0 s"):
        list(entries_of(saved(tmp_path / "x.mat", sample=SAMPLE), "sample", fields=FIELDS, timeout_s=0.01))


@pytest.mark.skipif(scipy.__version__ != "1.17.1", reason="another SciPy may read these bytes without crashing")
def test_a_byte_that_crashes_scipy_ends_in_a_source_error(tmp_path: Path):
    messages = []
    for flip in CRASHING:
        (tmp_path / "x.mat").write_bytes(damaged(FILES[0], [flip]))
        with pytest.raises(SourceError, match=r"x.mat: .*fetch it again") as error:
            list(entries_of(tmp_path / "x.mat", "sample", fields=FIELDS))
        messages.append(str(error.value))
    assert any("reading it crashed SciPy's MATLAB reader (SIGSEGV)" in message for message in messages)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.sampled_from(FILES),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
    keep=st.floats(0.05, 2),
)
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, data: bytes, flips: list[tuple[float, int]], keep: float):
    changed = damaged(data, [(128 + int(where * (len(data) - 129)), value) for where, value in flips])
    (tmp_path / "x.mat").write_bytes(changed[: int(keep * len(changed))])
    with suppress(SourceError):
        for name, words in entries_of(tmp_path / "x.mat", "sample", fields=FIELDS, entries=3):
            text_of(name, where=""), texts_of(words, where="")
