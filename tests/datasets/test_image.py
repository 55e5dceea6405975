"""Decoding and preparing images, and refusing what is none."""

from __future__ import annotations

import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import NOISE, encoded

from datasets.image import ImageFile, ImageSpec, decode, inside
from datasets.row import BadImage


def chunk(kind: bytes, data: bytes, *, length: int | None = None) -> bytes:
    size = len(data) if length is None else length
    return struct.pack(">I", size) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_that_claims(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


ENCODED = [encoded(NOISE, ending) for ending in (".png", ".jpg", ".bmp", ".webp", ".tiff")]


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tiff"])
def test_a_lossless_image_comes_back_as_it_was_in_rgb(ending: str):
    np.testing.assert_array_equal(decode(encoded(NOISE, ending), name="x"), NOISE)


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    start = time.monotonic()
    with pytest.raises(BadImage) as refusal:
        decode(png_that_claims(60_000, 60_000), name="bomb.png")
    # Pillow's own limit may speak first; both stand before any pixel is decoded.
    assert refusal.value.reason in ("too_large", "unreadable") and time.monotonic() - start < 1


def test_an_image_just_over_the_limit_is_too_large():
    with pytest.raises(BadImage, match=r"too_large.*9000x8000"):
        decode(png_that_claims(9_000, 8_000), name="x")


def test_a_png_chunk_longer_than_the_file_is_refused_without_reserving_its_length():
    damaged = encoded(NOISE)[:33] + struct.pack(">I", 0x69000727) + encoded(NOISE)[37:]
    with pytest.raises(BadImage, match="a chunk is longer than the file"):
        decode(damaged, name="x")


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0", b"\x89PNG\r\n\x1a\n"])
def test_bytes_that_are_no_image_are_unreadable(data: bytes):
    with pytest.raises(BadImage, match="unreadable"):
        decode(data, name="x")


@settings(max_examples=150, deadline=None)
@given(
    data=st.sampled_from(ENCODED),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=5),
    keep=st.floats(0, 1),
)
def test_a_damaged_image_is_an_image_or_a_bad_image(data: bytes, flips: list[tuple[float, int]], keep: float):
    damaged = bytearray(data)
    for where, value in flips:
        damaged[int(where * (len(damaged) - 1))] = value
    with suppress(BadImage):
        assert decode(bytes(damaged[: int(keep * 1.5 * len(damaged))]), name="x").dtype == np.uint8


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=300))
def test_random_bytes_are_a_bad_image(data: bytes):
    with pytest.raises(BadImage):
        decode(data, name="x")


def test_the_height_is_fixed_and_the_aspect_ratio_kept():
    assert ImageSpec().prepare(np.zeros((64, 200), np.uint8)).shape == (32, 100)
    assert ImageSpec(channels=3).prepare(np.zeros((64, 200), np.uint8)).shape == (32, 100, 3)


def test_a_wide_image_is_squeezed_or_rejected_as_the_spec_says():
    line = np.zeros((10, 900), np.uint8)
    assert ImageSpec(wider="squeeze").prepare(line).shape == (32, 256)
    with pytest.raises(BadImage, match="too_wide"):
        ImageSpec(wider="reject").prepare(line)


def test_a_tiny_image_is_too_small():
    with pytest.raises(BadImage, match="too_small"):
        ImageSpec().prepare(np.zeros((2, 50), np.uint8))


def test_another_spec_has_another_hash():
    assert ImageSpec().sha256 != ImageSpec(height=48).sha256


@pytest.mark.parametrize("path", ["../x.png", "/etc/passwd", "a/../../x.png"])
def test_a_path_that_leaves_the_root_is_refused(tmp_path: Path, path: str):
    with pytest.raises(BadImage, match="outside_root"):
        inside(tmp_path, path)


@pytest.mark.parametrize("path", ["a\0b.png", "\ud800.png", "loop"])
def test_a_name_no_file_can_have_is_a_bad_path(tmp_path: Path, path: str):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(BadImage, match=r"bad_path|missing"):
        ImageFile(str(inside(tmp_path, path))).load()  # from Python 3.13 on a loop is found only when it is read


def test_a_link_out_of_the_root_is_refused_and_one_inside_is_followed(tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "out.png").write_bytes(encoded(NOISE))
    (root / "in.png").write_bytes(encoded(NOISE))
    (root / "bad.png").symlink_to(tmp_path / "out.png")
    (root / "good.png").symlink_to(root / "in.png")
    assert inside(root, "good.png") == (root / "in.png").resolve()
    with pytest.raises(BadImage, match="outside_root"):
        inside(root, "bad.png")


def test_a_missing_file_is_missing_and_a_changed_file_has_another_stamp(tmp_path: Path):
    image = ImageFile(str(tmp_path / "x.png"))
    with pytest.raises(BadImage, match="missing"):
        image.load()
    assert image.stamp() == "missing"
    Path(image.path).write_bytes(encoded(NOISE))
    first = image.stamp()
    Path(image.path).write_bytes(encoded(NOISE) + b"more")
    assert image.stamp() != first
