"""From a source's rows to a folder of shards, on all cores of a machine or a cluster: the only user of Ray Data.

One Ray Data row is one shard to be made. A shard's bytes depend on its rows and the settings alone, and its file is
named after them: a second ingest makes only what changed, and an interrupted one goes on where it stopped. Where the
manifest's stamp says that nothing can have changed, the source is not even listed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datasets.image import ImageSpec
from datasets.row import Reject, Row, Source, SourceError
from models.text import Alphabet, Frames
from orchestrator.cluster import start_ray
from orchestrator.fetched import Fetched, fetch_again
from orchestrator.files import sha256_of
from orchestrator.identity import digest, plain
from orchestrator.manifest import SCHEMA_VERSION, Manifest, ShardError, ShardFile, is_current, put, stamp_of
from orchestrator.prepare import IngestError, Pairs, Preparation, ShardSpec, make_shard
from orchestrator.shards import read_shard
from orchestrator.store import StoreError, told_of_disk
from orchestrator.working_copy import store_at

REJECTS = "rejects.jsonl"
SPLITS = ("train", "valid", "test")


def ingest(
    source: Source,
    root: Path | None,
    *,
    name: str,
    image: ImageSpec | Pairs,
    alphabet: Alphabet,
    frames: Frames,
    store: Path,
    rows_per_shard: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    make: Callable[[Sequence[ShardSpec], Path], Iterator[ShardFile]] | None = None,
) -> Path:
    """The folder ``<store>/shards/<name>-<8 hex of the settings>``, its shards made or found up to date.

    Args:
        name: the source's name in the recipe.
        frames: of the recogniser; labels that need more frames than their width gives are not trained on.
        rows_per_shard: upper limit; by the number of rows when omitted. Changes files, never ``Manifest.content``.
        progress: called with (rows done, rows in all) after every shard that is made.
        make: makes the shards in any order; :func:`make_all` when omitted, :func:`make_here` needs no Ray.

    Raises:
        SourceError: the rows contradict each other (ids, splits, groups) or leave nothing to train on.
        IngestError: a row failed for a reason that is not the image's.
    """
    how = Preparation(name=name, image=image, alphabet=alphabet, frames=frames)
    folder = shard_folder(source, how, store)
    stamp = digest([stamp_of(source, root), rows_per_shard])  # before listing: a change meanwhile lists again
    if is_current(folder, stamp) and (folder / REJECTS).is_file():
        return folder
    rows, rejects = listed(source, root, name)
    specs = cut(rows, how, rows_per_shard or rows_that_fill(len(rows)))
    with _alone_in(folder):
        files = _sound_files(folder, specs)
        sizes = {spec.key: len(spec.rows) for spec in specs}
        done = sum(sizes[key] for key in files)
        for made in (make or make_all)([spec for spec in specs if spec.key not in files], folder):
            files[made.key] = made
            done += sizes[made.key]
            if progress:
                progress(done, len(rows))
        ordered = [files[spec.key] for spec in specs]
        notes = source.describe(root)
        every, manifest = counted(folder, ordered, rejects, how, source=plain(source), notes=notes, stamp=stamp)
        put(folder / REJECTS, "".join(json.dumps(reject, ensure_ascii=False) + "\n" for reject in every).encode())
        manifest.write(folder)
        _sweep(folder, manifest)
    return folder


def shard_folder(source: Source, how: Preparation, store: Path) -> Path:
    """Where the shards of these settings lie, ingested or not."""
    return store / "shards" / f"{how.name}-{digest([SCHEMA_VERSION, plain(source), plain(how)])[:8]}"


def listed(source: Source, root: Path | None, name: str) -> tuple[list[Row], list[Reject]]:
    """Everything the source has, in its own order. Raises :class:`SourceError` where rows contradict each other."""
    items = list(source.rows(root))
    rows = [item for item in items if isinstance(item, Row)]
    doubled = [repr(id) for id, count in Counter(row.id for row in rows).items() if count > 1]
    if doubled:
        raise SourceError(f"{name}: {len(doubled)} ids occur more than once: {_few(doubled)}; every row needs its own")
    odd = [f"{row.split!r} (row {row.id!r})" for row in rows if row.split not in SPLITS]
    if odd:
        raise SourceError(f"{name}: split {_few(odd)}; allowed: {', '.join(SPLITS)}")
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row.group, set()).add(row.split)
    torn = [f"{group!r} ({', '.join(sorted(of))})" for group, of in splits.items() if len(of) > 1]
    if torn:
        raise SourceError(
            f"{name}: {len(torn)} groups lie in more than one split: {_few(torn)}; "
            "what is trained on would be tested on: give every group one split"
        )
    rejects = [item for item in items if isinstance(item, Reject)]
    _refuse_without_train(name, Counter(row.split for row in rows), Counter(reject.reason for reject in rejects))
    return rows, rejects


def rows_that_fill(total: int) -> int:
    """Rows per shard: 2048, fewer for a small set so that every core gets some. A power of two: it rarely changes."""
    return min(max(1 << (total // 8).bit_length() >> 1, 64), 2048)


def cut(rows: Sequence[Row], how: Preparation, limit: int) -> list[ShardSpec]:
    """``rows`` in order, cut where the hash of an id says so: a row more or less moves only the cuts beside it.

    Args:
        limit: most rows of a shard; half as many is usual, an eighth the fewest.
    """
    specs: list[ShardSpec] = []
    piece: list[Row] = []
    for row in rows:
        piece.append(row)
        mark = int.from_bytes(hashlib.sha256(row.id.encode()).digest()[:8], "big")
        if len(piece) >= limit or (len(piece) >= limit // 8 and mark % max(limit // 2, 1) == 0):
            specs.append(ShardSpec.of(piece, how))
            piece = []
    return [*specs, ShardSpec.of(piece, how)] if piece else specs


def make_here(specs: Sequence[ShardSpec], folder: Path) -> Iterator[ShardFile]:
    """Make every shard in this process, one after the other."""
    return (make_shard(spec, folder) for spec in specs)


def make_all(
    specs: Sequence[ShardSpec], folder: Path, *, place: str = "", fetched: Fetched | None = None
) -> Iterator[ShardFile]:
    """Make every shard with Ray Data, as many at once as there are CPUs; yields each as it gets done.

    Args:
        place: URL of the store, which shards made on other nodes come here by; empty where all see ``folder``.
        fetched: what the images are in, where that was fetched from a URL.
    """
    if not specs:
        return
    start_ray()
    import ray.data

    given = {"specs": [ray.put(spec) for spec in specs], "folder": folder.resolve(), "place": place, "fetched": fetched}
    with _quiet_ray_data():  # a dataset keeps the context that it was made in
        jobs = ray.data.range(len(specs), override_num_blocks=len(specs))
        for row in jobs.map(_make_job, fn_kwargs=given).iter_rows():  # type: ignore[arg-type]
            if row["error"]:
                raise IngestError(row["error"])
            made = ShardFile(**json.loads(row["made"]))
            if place and not (folder / made.file).exists():
                store_at(place).origin.pull(folder / made.file)
            yield made


def _make_job(
    row: dict[str, Any], *, specs: Sequence[Any], folder: Path, place: str, fetched: Fetched | None
) -> dict[str, str]:
    import ray

    store = store_at(place) if place else None
    folder = store.root / "shards" / folder.name if store else folder
    try:
        with told_of_disk(folder):
            if fetched:
                fetch_again(fetched)
            folder.mkdir(parents=True, exist_ok=True)
            made = make_shard(ray.get(specs[row["id"]]), folder)
            if store:
                store.origin.publish_shard(folder / made.file)
    except (IngestError, StoreError) as error:  # Ray Data would wrap it in pages of its own
        return {"made": "", "error": "".join(traceback.format_exception(error.__cause__)) + str(error)}
    return {"made": json.dumps(asdict(made)), "error": ""}


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """No progress bars, no line per execution: the caller's ``progress`` is the one voice."""
    import ray.data

    context = ray.data.DataContext.get_current()
    log = logging.getLogger("ray.data")
    before = context.enable_progress_bars, log.level
    context.enable_progress_bars = False
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars, level = before
        log.setLevel(level)


def counted(
    folder: Path,
    files: Sequence[ShardFile],
    rejects: Sequence[Reject],
    how: Preparation,
    *,
    source: Mapping[str, object],
    notes: Mapping[str, object],
    stamp: str = "",
) -> tuple[list[dict[str, str]], Manifest]:
    """All rejects and the manifest of ``files``, counted from what the files themselves hold."""
    opened = [read_shard(folder / file.file) for file in files]
    rows = pa.concat_tables([table.select(["split", "width", "text", "flaw", "digest"]) for table, _ in opened])
    facts = [fact for _, fact in opened]
    every = [asdict(reject) for reject in rejects] + [reject for fact in facts for reject in fact["rejects"]]
    counts = Counter(rows["split"].to_pylist())
    reasons = Counter(reject["reason"] for reject in every)
    _refuse_without_train(how.name, counts, reasons)
    missing = Counter(symbol for fact in facts for symbol in Counter(fact["missing"]).elements())
    flawed = rows.filter(pc.not_equal(rows["flaw"], ""))
    return every, Manifest(
        schema=SCHEMA_VERSION,
        name=how.name,
        source=source,
        image=described(how.image),
        image_sha256=how.image.sha256,
        alphabet=plain(how.alphabet),
        alphabet_sha256=how.alphabet.sha256,
        frames=plain(how.frames),
        counts={split: counts[split] for split in SPLITS},
        rejects=dict(sorted(reasons.items())),
        flaws=_per_split(flawed, "flaw"),
        missing_symbols=dict(sorted(missing.items())),
        squeezed=sum(fact["squeezed"] for fact in facts),
        widths=_per_split(rows, "width"),
        characters={split: _characters(rows, split) for split in SPLITS if counts[split]},
        shards=tuple(files),
        notes=notes,
        content=hashlib.sha256(b"".join(rows["digest"].to_pylist())).hexdigest(),
        stamp=stamp,
    )


def described(image: ImageSpec | Pairs) -> dict[str, object]:
    """A spec of images as plain data, with what its class says of all of them: how larger a target is, and channels."""
    return plain(image) | {name: getattr(image, name) for name in ("scale", "channels") if hasattr(image, name)}


def _refuse_without_train(name: str, counts: Mapping[str, int], reasons: Mapping[str, int]) -> None:
    if not counts.get("train"):
        rejects = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())) or "none"
        raise SourceError(f"{name}: no row of split 'train' is left of {sum(counts.values())} rows; rejects: {rejects}")


def _per_split(rows: pa.Table, column: str) -> dict[str, dict[Any, int]]:
    grouped = rows.group_by(["split", column]).aggregate([([], "count_all")]).to_pylist()
    found = sorted(((row["split"], row[column], row["count_all"]) for row in grouped), key=lambda each: each[:2])
    return {
        split: {value: n for of, value, n in found if of == split}
        for split in SPLITS
        if split in {each[0] for each in found}
    }


def _characters(rows: pa.Table, split: str) -> dict[str, int]:
    texts = rows.filter(pc.equal(rows["split"], split))["text"].to_pylist()
    return dict(sorted(Counter("".join(texts)).items()))


def _sound_files(folder: Path, specs: Sequence[ShardSpec]) -> dict[str, ShardFile]:
    """Key -> file of the shards that are there already and whole. What is damaged is left out, and so made again."""
    try:
        known = {shard.key: shard for shard in Manifest.read(folder).shards}
    except ShardError:
        known = {}  # the first time, or stopped before the end, or of another version
    return {spec.key: found for spec in specs if (found := _sound_file(folder, spec, known.get(spec.key)))}


def _sound_file(folder: Path, spec: ShardSpec, known: ShardFile | None) -> ShardFile | None:
    path = folder / spec.file
    try:
        if known is None:  # files come into being whole, so one that an interrupted ingest left can be used
            rows = read_shard(path)[0].num_rows
            return ShardFile(file=spec.file, sha256=sha256_of(path), bytes=path.stat().st_size, rows=rows, key=spec.key)
        known.check(folder, contents=True)
    except ShardError:
        return None
    return known


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Two ingests of one folder come one after the other; the second then finds the shards of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sweep(folder: Path, manifest: Manifest) -> None:
    """Remove the shards that the manifest no longer names, and drafts of interrupted ingests."""
    named = {shard.file for shard in manifest.shards}
    for path in [*folder.glob("*.arrow"), *folder.glob("*.tmp")]:
        if path.name not in named:
            path.unlink()


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + " ..." * (len(names) > 5)
