import json
import os
import struct
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from small import Listed

from datasets.image import ImageFile, ImageSpec
from datasets.rendered import RenderedWords
from datasets.row import Reject, Row, SourceError
from models.text import ALNUM36, Frames
from orchestrator.ingest import REJECTS, cut, ingest, listed, make_all, make_here, rows_that_fill
from orchestrator.manifest import Manifest
from orchestrator.prepare import IngestError, Preparation, ShardSpec, flaw_of, make_shard
from orchestrator.shards import Shards

SPEC = ImageSpec(height=8, min_width=8, max_width=32)
HOW = Preparation(name="words", image=SPEC, alphabet=ALNUM36, frames=Frames(stride=4, offset=0))


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Images of a folder; ``labels`` overrides (text, split), everything else is ``"ab"`` in train."""

    labels: dict[str, tuple[str, str]] = field(default_factory=dict)

    def rows(self, root):
        for path in sorted(root.iterdir()):
            text, split = self.labels.get(path.stem, ("ab", "train"))
            yield Row(id=path.stem, image=ImageFile(str(path)), text=text, group=path.stem, split=split)

    def describe(self, root):
        return {"licence": "none"}


@dataclass(frozen=True, kw_only=True)
class Once(Folder):
    """The PNGs of a folder, as long as no file ``closed`` lies beside it."""

    def rows(self, root):
        if (root.parent / "closed").exists():
            raise SourceError("listed again")
        return (row for row in super().rows(root) if row.image.path.endswith(".png"))


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(60):
        draw(tmp_path / "images" / f"{i:03}.png", seed=i)
    return tmp_path / "images"


def draw(path, *, seed, height=8, width=20):
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8))


def make(source, root, store, *, make=make_here, **changes):
    how = replace(HOW, **changes)
    settings = {"name": how.name, "image": how.image, "alphabet": how.alphabet, "frames": how.frames}
    return ingest(source, root, store=store, rows_per_shard=8, make=make, **settings)


class Maker:
    """Makes shards here and remembers of how many rows each was."""

    def __init__(self):
        self.rows = []

    def __call__(self, specs, folder):
        self.rows += [len(spec.rows) for spec in specs]
        return make_here(specs, folder)


def rejects_of(folder):
    return [json.loads(line) for line in (folder / REJECTS).read_text().splitlines()]


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def row(id, *, group="", split="train"):
    return Row(id=id, image=ImageFile("nowhere.png"), text="ab", group=group or id, split=split)


def test_ingesting_again_makes_nothing_and_changes_no_file(images, tmp_path):
    before = files_of(make(Folder(), images, tmp_path))
    maker = Maker()
    assert files_of(make(Folder(), images, tmp_path, make=maker)) == before
    assert maker.rows == []


def test_one_changed_image_re_makes_only_its_shard(images, tmp_path):
    before = Manifest.read(make(Folder(), images, tmp_path))
    draw(images / "030.png", seed=999)
    maker = Maker()
    folder = make(Folder(), images, tmp_path, make=maker)
    after = Manifest.read(folder)
    assert len(maker.rows) == 1
    assert len(set(before.shards) - set(after.shards)) == 1
    assert after.content != before.content
    assert {path.name for path in folder.glob("*.arrow")} == {shard.file for shard in after.shards}


def test_an_inserted_row_moves_only_the_cuts_beside_it(images, tmp_path):
    make(Folder(), images, tmp_path)
    draw(images / "000b.png", seed=999)
    maker = Maker()
    folder = make(Folder(), images, tmp_path, make=maker)
    assert sum(maker.rows) <= 24
    assert Shards.open(folder, verify=True).size == 61


def test_a_changed_label_is_seen_though_no_image_changed(images, tmp_path):
    first = make(Folder(), images, tmp_path)
    second = make(Folder(labels={"007": ("xy", "train")}), images, tmp_path)
    assert first != second
    assert Shards.open(second, verify=True).texts[7] == "xy"


def test_a_mapped_shard_can_still_be_read_after_it_was_replaced(images, tmp_path):
    old = Shards.open(make(Folder(), images, tmp_path), verify=False)
    before = old.gather(range(60), 32)
    for i in range(60):
        draw(images / f"{i:03}.png", seed=1000 + i)
    make(Folder(), images, tmp_path)
    assert np.array_equal(old.gather(range(60), 32), before)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_missing_or_shortened_shard_is_made_again(images, tmp_path, damage):
    folder = make(Folder(), images, tmp_path)
    before = files_of(folder)
    damage(folder / Manifest.read(folder).shards[1].file)
    maker = Maker()
    make(Folder(), images, tmp_path, make=maker)
    assert len(maker.rows) == 1
    assert files_of(folder) == before


def test_a_shard_with_other_bytes_is_made_again_whenever_rows_are_listed(images, tmp_path):
    folder = make(Folder(), images, tmp_path)
    before = files_of(folder)
    victims = [folder / shard.file for shard in Manifest.read(folder).shards[:2]]
    for victim in victims:
        victim.write_bytes(before[victim.name][:-8] + b"\0" * 8)
    victims[0].unlink()  # what the error of the reader, who compares every byte, asks for
    maker = Maker()
    make(Folder(), images, tmp_path, make=maker)
    assert len(maker.rows) == 2
    assert files_of(folder) == before


def test_an_unchanged_source_is_not_listed_again(images, tmp_path):
    folder = make(Once(), images, tmp_path)
    (tmp_path / "closed").touch()
    assert make(Once(), images, tmp_path) == folder


def without_stamp(manifest):
    manifest.write_text(
        json.dumps({key: fact for key, fact in json.loads(manifest.read_text()).items() if key != "stamp"})
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda images, folder: os.utime(images / "007.png", ns=(1, 1)),
        lambda images, folder: draw(images / "060.png", seed=60),
        lambda images, folder: (images / "007.png").unlink(),
        lambda images, folder: (images / "007.png").rename(images / "0007.png"),
        lambda images, folder: (images / "deep").mkdir() or (images / "deep/er.txt").touch(),
        lambda images, folder: (images / "more").symlink_to(folder),
        lambda images, folder: next(folder.glob("*.arrow")).unlink(),
        lambda images, folder: (folder / REJECTS).unlink(),
        lambda images, folder: without_stamp(folder / "manifest.json"),
    ],
)
def test_whatever_may_have_changed_lists_the_source_again(images, tmp_path, change):
    change(images, make(Once(), images, tmp_path))
    (tmp_path / "closed").touch()
    with pytest.raises(SourceError, match="listed again"):
        make(Once(), images, tmp_path)


def test_a_touched_file_that_no_row_shows_re_makes_nothing_and_is_then_known(images, tmp_path):
    (images / "notes.txt").write_text("no row")
    before = Manifest.read(make(Once(), images, tmp_path))
    os.utime(images / "notes.txt", ns=(1, 1))
    maker = Maker()
    after = Manifest.read(make(Once(), images, tmp_path, make=maker))
    assert maker.rows == []
    assert replace(after, stamp=before.stamp) == before != after
    (tmp_path / "closed").touch()
    make(Once(), images, tmp_path)


def test_another_list_of_words_is_read_though_its_path_is_the_same(images, tmp_path):
    source = RenderedWords(count=80, words="system", numbers=0, random=0, common=0)
    texts = []
    for words in ("apple orange", "cherry banana"):
        (images / "words.txt").write_text(words)
        texts.append(set(Shards.open(make(source, images, tmp_path), verify=True).texts))
    assert texts[0] <= {"apple", "orange"} and texts[1] <= {"cherry", "banana"}


def test_an_interrupted_ingest_goes_on_where_it_stopped(images, tmp_path):
    def stops_after_three(specs, folder):
        yield from make_here(specs[:3], folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(Folder(), images, tmp_path, make=stops_after_three)
    folder = next((tmp_path / "shards").iterdir())
    (folder / "half.arrow.7.tmp").write_bytes(b"half")
    maker = Maker()
    make(Folder(), images, tmp_path, make=maker)
    assert len(maker.rows) == len(Manifest.read(folder).shards) - 3
    assert not list(folder.glob("*.tmp"))
    assert Manifest.read(folder).content == Manifest.read(make(Folder(), images, tmp_path / "other")).content


def test_bytes_do_not_depend_on_the_order_in_which_shards_get_done(images, tmp_path):
    backwards = make(Folder(), images, tmp_path / "a", make=lambda specs, folder: make_here(specs[::-1], folder))
    assert files_of(backwards) == files_of(make(Folder(), images, tmp_path / "b"))


def test_content_does_not_depend_on_how_rows_are_cut_or_where_they_lie(images, tmp_path):
    first = Manifest.read(make(Folder(), images, tmp_path))
    moved = images.rename(tmp_path / "moved")
    os.utime(moved / "003.png")
    settings = {"name": "words", "image": SPEC, "alphabet": ALNUM36, "frames": HOW.frames}
    second = Manifest.read(ingest(Folder(), moved, store=tmp_path / "b", rows_per_shard=32, make=make_here, **settings))
    assert len(second.shards) < len(first.shards)
    assert second.content == first.content


def test_every_reason_for_a_reject_is_kept_and_counted(images, tmp_path):
    (images / "001.png").write_bytes((images / "000.png").read_bytes()[:60])  # the header is whole, the pixels are not
    (images / "002.png").write_bytes(b"no image at all")
    draw(images / "003.png", seed=3, height=2)
    (images / "004.png").write_bytes(bomb())
    labels = {"005": (" ", "test"), "006": ("naïve", "train"), "007": ("abcdef", "train"), "008": ("aab", "train")}
    source = Folder(labels=labels)
    folder = make(source, images, tmp_path, frames=Frames(stride=4, offset=-2))  # 20 columns give 3 frames
    found = {reject["id"]: reject["reason"] for reject in rejects_of(folder)}
    assert found == {
        "001": "unreadable",
        "002": "unreadable",
        "003": "too_small",
        "004": "too_large",
        "005": "unlabelled",
        "006": "unencodable",
        "007": "infeasible",
        "008": "infeasible",
    }
    details = {reject["id"]: reject["detail"] for reject in rejects_of(folder)}
    assert details["008"] == "'aab' needs 4 frames; its 20 columns give 3"
    assert "'ï'" in details["006"]
    manifest = Manifest.read(folder)
    assert manifest.rejects == {
        "unreadable": 2,
        "too_small": 1,
        "too_large": 1,
        "unlabelled": 1,
        "unencodable": 1,
        "infeasible": 2,
    }
    assert manifest.missing_symbols == {"ï": 1}
    assert manifest.rows + sum(manifest.rejects.values()) == 60


def bomb():
    """A whole PNG of 70 bytes that claims 9,000 x 9,000 pixels."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    packed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_what_the_source_rejects_is_kept_too(images, tmp_path):
    items = (*Folder().rows(images), Reject(id="x", reason="bad_line", detail="line 7"))
    folder = make(Listed(items=items), images, tmp_path)
    assert rejects_of(folder) == [{"id": "x", "reason": "bad_line", "detail": "line 7"}]


def test_untrainable_labels_outside_train_are_kept_as_flaws(images, tmp_path):
    labels = {"010": ("naïve", "test"), "011": ("abcdefgh", "valid"), "012": ("ab", "test")}
    folder = make(Folder(labels=labels), images, tmp_path)
    shards = Shards.open(folder, verify=True)
    assert shards.flaws[10:13] == ["unencodable", "infeasible", ""]
    assert shards.rows_of("test").tolist() == [10, 12]
    assert shards.manifest.flaws == {"valid": {"infeasible": 1}, "test": {"unencodable": 1}}
    assert shards.manifest.counts == {"train": 57, "valid": 1, "test": 2}
    assert shards.manifest.missing_symbols == {"ï": 1}
    assert rejects_of(folder) == []


def test_wide_images_are_squeezed_and_counted(images, tmp_path):
    draw(images / "020.png", seed=0, width=200)
    manifest = Manifest.read(make(Folder(), images, tmp_path))
    assert manifest.squeezed == 1
    assert manifest.widths == {"train": {20: 59, 32: 1}}


@pytest.mark.parametrize(
    ("text", "width", "reason"),
    [("ab", 8, ""), ("aa", 8, "infeasible"), ("aa", 12, ""), ("é", 32, "unencodable"), ("AB", 8, "unencodable")],
)
def test_a_flaw_is_judged_on_frames_and_symbols(text, width, reason):
    assert flaw_of(text, width, HOW)[0] == reason  # width // 4 frames


@dataclass(frozen=True)
class Gives:
    """An image whose ``load()`` gives or raises ``what``."""

    what: object

    def load(self):
        if isinstance(self.what, Exception):
            raise self.what
        return self.what

    def stamp(self):
        return ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": Gives(ZeroDivisionError("surprise"))}, "ZeroDivisionError: surprise"),
        ({"image": Gives(np.zeros((8, 8)))}, r"TypeError: load\(\) gave float64 of shape \(8, 8\)"),
        ({"extras": {"a": {1}}}, "extras must be JSON data"),
    ],
)
def test_any_other_failure_names_the_row_and_stops(change, message, tmp_path):
    with pytest.raises(IngestError, match=f"words: row 'r1': {message}"):
        make_shard(ShardSpec.of([replace(row("r1"), **change)], HOW), tmp_path)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([row("a"), row("a")], "1 ids occur more than once: 'a'"),
        ([row("a", split="dev")], "split 'dev' .row 'a'.; allowed: train, valid, test"),
        (
            [row(f"{i}{split}", group=f"g{i}", split=split) for i in range(7) for split in ("train", "test")],
            r"7 groups .*: 'g0' \(test, train\), .*'g4' \(test, train\) \.\.\.; what is trained on would be tested",
        ),
        ([row("a", split="test")], "no row of split 'train' is left of 1 rows; rejects: none"),
        ([Reject(id="a", reason="bad_line", detail="")], "left of 0 rows; rejects: bad_line 1"),
    ],
)
def test_rows_that_contradict_each_other_are_refused(items, message):
    with pytest.raises(SourceError, match=message):
        listed(Listed(items=tuple(items)), None, "words")


def test_nothing_left_to_train_on_is_refused_and_leaves_no_manifest(tmp_path):
    with pytest.raises(SourceError, match="no row of split 'train' is left of 0 rows; rejects: missing 1"):
        make(Listed(items=(row("a"),)), None, tmp_path)
    assert not list(tmp_path.rglob("manifest.json"))


def test_progress_ends_at_all_rows_and_counts_what_was_there(images, tmp_path):
    seen = []
    settings = {"name": "words", "image": SPEC, "alphabet": ALNUM36, "frames": HOW.frames, "store": tmp_path}
    for _ in range(2):
        ingest(Folder(), images, rows_per_shard=8, make=make_here, progress=lambda *at: seen.append(at), **settings)
        draw(images / "059.png", seed=999)
    assert seen[-1] == seen[-2] == (60, 60)  # the second time only the last shard was missing
    assert [done for done, _ in seen[:-1]] == sorted(done for done, _ in seen[:-1])


def test_cuts_cover_all_rows_in_order_within_the_limit():
    rows = [row(f"r{i}") for i in range(3000)]
    specs = cut(rows, HOW, 64)
    assert [each.id for spec in specs for each in spec.rows] == [each.id for each in rows]
    assert all(8 <= len(spec.rows) <= 64 for spec in specs[:-1])
    assert 64 / 3 < 3000 / len(specs) < 64
    assert cut([], HOW, 64) == []


@pytest.mark.parametrize(
    ("total", "rows"), [(0, 64), (100, 64), (5000, 512), (16383, 1024), (16384, 2048), (10**7, 2048)]
)
def test_small_sets_are_cut_into_enough_shards_for_every_core(total, rows):
    assert rows_that_fill(total) == rows


@pytest.mark.parametrize(
    "change",
    [
        {"alphabet": replace(ALNUM36, case="upper", symbols="AB")},
        {"image": replace(SPEC, height=9)},
        {"frames": Frames(stride=4, offset=1)},
    ],
)
def test_every_setting_changes_the_key_of_a_shard(change):
    assert ShardSpec.of([row("a")], HOW).key != ShardSpec.of([row("a")], replace(HOW, **change)).key


@pytest.mark.ray
def test_ray_data_makes_the_same_bytes_as_one_process(images, tmp_path, ray_of_two_cpus):
    (images / "002.png").write_bytes(b"no image at all")
    alone = make(Folder(), images, tmp_path / "a")
    together = make(Folder(), images, tmp_path / "b", make=make_all)
    assert files_of(together) == files_of(alone)


@pytest.mark.ray
def test_a_failure_in_a_worker_names_the_row(tmp_path, images, ray_of_two_cpus):
    items = [*Folder().rows(images)][:20]
    items[11] = replace(items[11], image=ImageFile(path=None))  # type: ignore[arg-type]
    specs = [ShardSpec(key=f"{i}" * 20, how=HOW, rows=tuple(items[i : i + 5])) for i in (0, 5, 10, 15)]
    with pytest.raises(IngestError, match=r"(?s)Traceback.*words: row '011': TypeError"):
        list(make_all(specs, tmp_path))
