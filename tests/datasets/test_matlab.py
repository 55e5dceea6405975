"""The reader of MATLAB 5 files, against what scipy writes and reads."""

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

from datasets.matlab import nested, text_of, texts_of, variable
from datasets.row import SourceError


def saved(path: Path, *, compress: bool = False, **values: object) -> Path:
    scipy.io.savemat(path, values, do_compression=compress)
    return path


SAMPLE = structs(name=["a/1.png", "é", ""], words=[cells("A", "LONGER", "x" * 500), cells("B"), cells("C", "")])


def bytes_of(*, compress: bool) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, {"sample": SAMPLE}, do_compression=compress)
    return file.getvalue()


FILES = [bytes_of(compress=False), bytes_of(compress=True)]


@pytest.mark.parametrize("data", FILES, ids=["plain", "compressed"])
def test_strings_come_back_whatever_their_length_and_letters(tmp_path: Path, data: bytes):
    (tmp_path / "x.mat").write_bytes(data)
    rows = list(nested(tmp_path / "x.mat", "sample", fields=["name", "words"], entries=3).structs())
    assert [text_of(name, where="") for name, _ in rows] == ["a/1.png", "é", ""]
    assert [texts_of(words, where="") for _, words in rows] == [["A", "LONGER", "x" * 500], ["B"], ["C", ""]]


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i4", "u1", "i2", "u4"])
def test_numbers_keep_their_shape_and_values(tmp_path: Path, dtype: str, compress: bool):
    numbers = np.arange(24).reshape(2, 4, 3).astype(dtype)
    found = variable(saved(tmp_path / "x.mat", numbers=numbers, compress=compress), "numbers")
    assert isinstance(found, np.ndarray) and found.dtype == dtype
    np.testing.assert_array_equal(found, numbers)


def test_several_rows_of_text_are_a_list(tmp_path: Path):
    path = saved(tmp_path / "x.mat", text=np.array(["one two ", "three"]))
    assert variable(path, "text") == ["one two ", "three   "]


def test_a_file_of_the_other_byte_order_is_read(tmp_path: Path):
    def element(kind: int, data: bytes) -> bytes:
        return kind.to_bytes(4) + len(data).to_bytes(4) + data + b"\0" * (-len(data) % 8)

    shape, name = b"\0\0\0\1\0\0\0\3", b"word"
    array = (
        element(6, b"\0\0\0\4\0\0\0\0") + element(5, shape) + element(1, name) + element(4, "Äbc".encode("utf-16-be"))
    )
    (tmp_path / "x.mat").write_bytes(b" " * 124 + b"\x01\x00MI" + element(14, array))
    assert variable(tmp_path / "x.mat", "word") == "Äbc"


def test_cells_in_cells_are_unwrapped_to_their_string(tmp_path: Path):
    path = saved(tmp_path / "x.mat", deep=cells(cells(cells("word "))))
    assert text_of(variable(path, "deep"), where="") == "word"


def test_cells_nested_deeper_than_any_set_are_refused_not_followed(tmp_path: Path):
    deep: object = "word"
    for _ in range(30):
        deep = cells(deep)
    with pytest.raises(SourceError, match="levels deep"):
        text_of(variable(saved(tmp_path / "x.mat", deep=deep), "deep"), where="")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a MATLAB 5 file: its first 0 bytes"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 200, "save it again with '-v7'"),
        (b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF", "save it again with '-v7'"),
        (FILES[0][:-9], "damaged or cut short"),
        (FILES[1][:-9], "damaged or cut short"),
        (FILES[0][:128], "no variable 'sample'"),
    ],
)
def test_what_is_no_whole_matlab_5_file_says_so(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "x.mat").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        variable(tmp_path / "x.mat", "sample")


def test_another_layout_says_what_was_found(tmp_path: Path):
    path = saved(tmp_path / "x.mat", sample=SAMPLE, other=np.eye(2))
    with pytest.raises(SourceError, match=r"no variable 'train'; it holds \['sample', 'other'\]"):
        variable(path, "train")
    with pytest.raises(SourceError, match=r"fields \['words', 'name'\], found .*\['name', 'words'\]"):
        nested(path, "sample", fields=["words", "name"])
    with pytest.raises(SourceError, match="must have 4 entries, found 3"):
        nested(path, "sample", fields=["name", "words"], entries=4)
    with pytest.raises(SourceError, match="must be a cell array, found float64 numbers"):
        nested(path, "other")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.sampled_from(FILES),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
    keep=st.floats(0.05, 2),
)
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, data: bytes, flips: list[tuple[float, int]], keep: float):
    damaged = bytearray(data)
    for where, value in flips:
        damaged[128 + int(where * (len(damaged) - 129))] = value
    path = tmp_path / "x.mat"
    path.write_bytes(damaged[: int(keep * len(damaged))])
    with suppress(SourceError):
        for name, words in nested(path, "sample", fields=["name", "words"], entries=3).structs():
            text_of(name, where=""), texts_of(words, where="")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200), magic=st.sampled_from([b"\x00\x01IM", b"\x01\x00MI", b"abcd"]))
def test_random_bytes_behind_any_header_are_refused(tmp_path: Path, body: bytes, magic: bytes):
    (tmp_path / "x.mat").write_bytes(b" " * 124 + magic + body)
    with pytest.raises(SourceError):
        variable(tmp_path / "x.mat", "sample")
