"""Rendered words: the same everywhere, labelled truly, apart between splits, and legible."""

from __future__ import annotations

import hashlib
import itertools
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datasets import fonts, vocabulary
from datasets.image import ImageSpec
from datasets.rendered import BLOCK, RenderedWords
from datasets.row import SourceError
from datasets.vocabulary import ALPHANUMERIC, Cases

STYLES = ("plain", "scene")


def texts(source: RenderedWords, root: Path | None = None) -> list[str]:
    return [row.text for row in source.rows(root)]


def fingerprint(style: str) -> str:
    total = hashlib.sha256()
    for row in RenderedWords(count=40, seed=3, style=style, unread=0.2, colour=True).rows(None):
        total.update(f"{row.text} {row.image.stamp()}".encode() + row.image.load().tobytes())
    return total.hexdigest()


@pytest.mark.parametrize("style", STYLES)
def test_another_process_draws_the_same_bytes(style):
    code = f"from tests.datasets.test_rendered import fingerprint; print(fingerprint({style!r}))"
    other = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, check=True)
    assert other.stdout.decode().strip() == fingerprint(style)


@pytest.mark.parametrize("style", STYLES)
def test_a_picture_depends_on_its_own_fields_alone(style):
    rows = list(RenderedWords(count=60, style=style).rows(None))
    forwards = [row.image.load() for row in rows]
    random.seed(1)
    np.random.seed(1)
    backwards = [pickle.loads(pickle.dumps(row.image)).load() for row in reversed(rows)]
    assert all(np.array_equal(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))


@pytest.mark.parametrize("style", STYLES)
def test_other_seeds_draw_the_same_word_otherwise(style):
    image = next(RenderedWords(count=1, style=style).rows(None)).image
    drawn = {type(image)(image.text, image.font, seed, style, False).load().tobytes() for seed in range(30)}
    assert len(drawn) == 30


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("colour", [False, True])
def test_words_stand_out_from_what_is_behind_them(style, colour):
    source, spec = RenderedWords(count=400, style=style, colour=colour), ImageSpec()
    images = [row.image.load() for row in source.rows(None)]
    assert all(image.dtype == np.uint8 and image.ndim == (3 if colour else 2) for image in images)
    assert all(14 <= image.shape[0] <= 56 for image in images)
    spread = np.array([spec.prepare(image).std() for image in images])
    assert spread.min() > 4 and np.median(spread) > 35


def test_the_first_rows_stay_when_their_number_grows():
    few, many = RenderedWords(count=50, valid=20), RenderedWords(count=BLOCK + 10, valid=BLOCK + 1)
    few_rows, many_rows = list(few.rows(None)), list(many.rows(None))
    assert few_rows[:50] == many_rows[:50]
    assert few_rows[50:] == many_rows[BLOCK + 10 : BLOCK + 30]
    assert len(many_rows) == 2 * BLOCK + 11 == len({row.id for row in many_rows})


def test_no_longer_text_and_no_group_is_in_two_splits():
    sources = [RenderedWords(count=20_000, valid=4000, test=4000, seed=seed, random=0.2) for seed in (0, 1)]
    rows = [row for source in sources for row in source.rows(None)]
    for key in (lambda row: row.group if len(row.text) > 2 else "", lambda row: row.text.lower() * (len(row.text) > 2)):
        seen = {split: {key(row) for row in rows if row.split == split} - {""} for split in ("train", "valid", "test")}
        assert all(len(found) > 500 for found in seen.values())
        assert all(not seen[a] & seen[b] for a, b in itertools.combinations(seen, 2))
    groups = [(row.group, row.split) for row in sources[0].rows(None)]
    assert len(set(groups)) == len({group for group, _ in groups})


@pytest.mark.parametrize(
    "symbols", [ALPHANUMERIC, "0123456789abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIKLMNOPRSTUV7", "a1"]
)
def test_labels_hold_declared_symbols_only(symbols):
    found = texts(RenderedWords(count=5000, symbols=symbols, random=0.1))
    assert all(found) and set("".join(found)) == set(symbols)


def test_lengths_and_cases_are_those_of_scene_words():
    found = texts(RenderedWords(count=20_000, numbers=0, random=0, cases=Cases(lower=1, upper=1, title=2, mixed=0)))
    lengths = np.array([len(text) for text in found])
    assert 4 < lengths.mean() < 6 and lengths.min() == 1 and 12 <= lengths.max() <= vocabulary.LONGEST
    longer = [text for text in found if len(text) > 2 and text.isalpha()]
    assert abs(np.mean([text.isupper() for text in longer]) - 0.25) < 0.02
    assert abs(np.mean([text.istitle() for text in longer]) - 0.5) < 0.02


def test_shares_of_kinds_are_kept():
    found = texts(RenderedWords(count=10_000, numbers=0.3, random=0, common=0))
    assert abs(np.mean([any(c.isdigit() for c in text) for text in found]) - 0.3) < 0.02
    assert texts(RenderedWords(count=50, numbers=0, random=1, symbols="γδ")) != []


def test_unread_marks_are_drawn_and_not_labelled():
    rows = list(RenderedWords(count=4000, unread=0.25).rows(None))
    marked = [row for row in rows if row.image.text != row.text]
    assert 0.2 < len(marked) / len(rows) < 0.3
    assert all("".join(c for c in row.image.text if c.isalnum()) == row.text for row in marked)
    assert all(row.image.text == row.text for row in RenderedWords(count=500).rows(None))


def test_held_out_fonts_draw_no_training_row():
    source = RenderedWords(count=3000, valid=3000, held_out_fonts=0.3)
    rows = list(source.rows(None))
    train, valid = ({row.image.font for row in rows if row.split == split} for split in ("train", "valid"))
    assert train and valid and not train & valid
    assert source.describe(None)["fonts"]["count"] == len(train | valid)


def test_a_list_of_ones_own_words_is_used(tmp_path):
    own = ["Straße", "naïve", *(f"word{chr(97 + i)}{chr(97 + j)}" for i in range(26) for j in range(26)), "x" * 40]
    (tmp_path / "words.txt").write_text("\n".join(own), encoding="utf-8")
    source = RenderedWords(count=500, valid=50, words="system", numbers=0, random=0, common=0, cases=Cases(title=0))
    assert {text.lower() for text in texts(source, tmp_path)} <= set(own[2:-1])
    assert source.describe(tmp_path)["words"] == {"from": str(tmp_path / "words.txt"), "count": len(own) - 1}


def test_a_missing_dictionary_names_the_package(monkeypatch):
    monkeypatch.setattr(vocabulary, "DICTIONARIES", (Path("/nowhere/words"),))
    with pytest.raises(SourceError, match="wamerican"):
        next(RenderedWords(count=1, words="system").rows(None))


def test_a_capital_of_two_letters_leaves_the_word_as_it_is():
    assert [vocabulary.cased("weiß", case, 0.5) for case in ("lower", "upper", "title", "mixed")] == [
        "weiß",
        "weiß",
        "Weiß",
        "weIß",
    ]


def test_only_fonts_of_letters_are_usable():
    names = {Path(face.path).name for face in fonts.usable_faces(fonts.font_paths("shipped", None), ALPHANUMERIC)}
    assert {"DejaVuSans.ttf", "DejaVuSerif-Bold.ttf", "STIXGeneral.ttf", "cmr10.ttf"} <= names
    assert not names & {
        "LastResortHE-Regular.ttf",
        "STIXNonUni.ttf",
        "STIXSizOneSymReg.ttf",
        "cmsy10.ttf",
        "cmex10.ttf",
    }


def test_small_capitals_are_noticed():
    face = fonts.opened(str(next(path for path in fonts.shipped_paths() if path.name == "DejaVuSans.ttf")))
    letters = {c: fonts.glyph(face, c) for c in "abdeghnqrABDEGHNQR"}
    assert not fonts.capitals_only(letters)
    assert fonts.capitals_only({c: letters[c.upper()] for c in letters})


def test_no_usable_font_is_an_error_that_names_the_symbols():
    with pytest.raises(SourceError, match=r"draws all 2 symbols 'a漢'.*root/fonts"):
        next(RenderedWords(count=1, symbols="a漢", numbers=0).rows(None))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": -1}, "count is -1"),
        ({"count": 1, "valid": -2}, "valid is -2"),
        ({"count": 1, "numbers": 1.5}, "numbers is 1.5; a share"),
        ({"count": 1, "held_out_fonts": -0.1}, "held_out_fonts is -0.1"),
        ({"count": 1, "numbers": 0.7, "random": 0.5}, "together 1.2"),
        ({"count": 1, "symbols": ""}, "at least one character"),
        ({"count": 1, "symbols": "aa"}, "none twice"),
        ({"count": 1, "symbols": "abc"}, "set numbers=0"),
        ({"count": 1, "style": "photo"}, "allowed: plain, scene"),
        ({"count": 1, "fonts": "mine"}, "allowed: shipped, system"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RenderedWords(**settings)


def test_cases_without_a_share_are_refused():
    with pytest.raises(ValueError, match="one of them positive"):
        Cases(lower=0, upper=0, title=0, mixed=0)


def test_held_out_fonts_need_families_on_both_sides():
    with pytest.raises(SourceError, match=r"held_out_fonts=0.01 of \d+ font families is 0"):
        next(RenderedWords(count=1, held_out_fonts=0.01).rows(None))


def test_the_stamp_changes_with_the_words_and_fonts_that_are_read_and_with_nothing_else(tmp_path):
    shipped, system = RenderedWords(count=1), RenderedWords(count=1, words="system", fonts="system")
    (tmp_path / "fonts").mkdir()
    (tmp_path / "words.txt").write_text("one two")
    before = shipped.stamp(tmp_path), system.stamp(tmp_path)
    (tmp_path / "other.txt").write_text("never read")
    assert (shipped.stamp(tmp_path), system.stamp(tmp_path)) == before
    (tmp_path / "fonts" / "new.ttf").write_bytes(b"")
    with_font = system.stamp(tmp_path)
    (tmp_path / "words.txt").write_text("one two three")
    assert len({before[1], with_font, system.stamp(tmp_path)}) == 3
    assert shipped.stamp(tmp_path) == before[0]
