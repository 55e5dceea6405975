"""A store at a URL, and its working copy on this node: published as it grows, fetched as it is needed.

The store is what lies at the URL; the working copy, in the node's cache, may be deleted at any time. What makes a file
count is published after all that it names: shards before their manifest, a checkpoint's files before its manifest,
everything before the record.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.cache import Cache
from orchestrator.claims import RemoteClaims
from orchestrator.identity import digest
from orchestrator.manifest import MANIFEST, Manifest, ShardError, ShardFile, put
from orchestrator.remote import Found, Remote, below, in_turns, is_url
from orchestrator.sound import are_sound, files_of, is_sound
from orchestrator.store import RECORD, Store

REJECTS = "rejects.jsonl"
KEPT_S = 86_400  # how long shards that no manifest names any more stay, for runs that still fetch them
OWN = ("tracked.json", "lease.json")  # of a stage's folder: the launching process publishes the first itself


def store_at(place: str) -> Store:
    """The store at a path or a URL; of one at a URL the working copy is in this node's cache."""
    if not is_url(place):
        return Store(Path(place.removeprefix("file://")).expanduser().resolve())
    remote, cache = Remote(place.rstrip("/")), Cache.of_this_node()
    root = cache.folder / "stores" / digest(remote.identity)[:16]
    return Store(root, WorkingCopy(remote, cache, root))


@dataclass
class WorkingCopy:
    """Implements :class:`orchestrator.store.Origin` for a store at a URL."""

    remote: Remote
    cache: Cache
    root: Path
    _held: set[Path] = field(default_factory=set, repr=False)
    _sent: dict[Path, tuple[int, int]] = field(default_factory=dict, repr=False)
    _writing: set[Path] = field(default_factory=set, repr=False)

    @property
    def place(self) -> str:
        return self.remote.url

    def __str__(self) -> str:
        return str(self.remote)

    def ready(self) -> None:
        self.remote.check()

    # Shards

    def fetch_shards(self, folder: Path, *, mend: Callable[[str], None] | None = None) -> None:
        """Bring the shards of ``folder`` here, all of them and sound; nothing happens where none are published.

        Args:
            mend: who ingests next has this called for each shard that is damaged there, and it is left out; else
                :class:`ShardError` is raised.
        """
        self._hold(folder)
        name = self._name(folder)
        data = self.remote.read(f"{name}/{MANIFEST}")
        if data is None:
            return
        manifest = Manifest.of(data, folder / MANIFEST)
        missing = [shard for shard in manifest.shards if not is_sound(folder, shard)]
        with self.cache.alone(folder, "fill"):
            missing = [shard for shard in missing if not is_sound(folder, shard)]  # another process may have been first
            self._fetch_missing(folder, missing, mend)
            rejects = self.remote.read(f"{name}/{REJECTS}")
            for file, content in ((REJECTS, rejects or b""), (MANIFEST, data)):
                if not (folder / file).exists() or (folder / file).read_bytes() != content:
                    put(folder / file, content)

    def _fetch_missing(self, folder: Path, missing: list[ShardFile], mend: Callable[[str], None] | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if missing:
            self.cache.make_room(sum(shard.bytes for shard in missing), entry=folder)
        wanted = {shard.file: shard for shard in missing}

        def fetch(file: str) -> None:
            try:
                self._fetch_shard(folder, wanted[file])
            except ShardError as error:
                if mend is None:
                    raise
                self.remote.delete([f"{self._name(folder)}/{file}"])
                mend(str(error))

        in_turns(fetch, list(wanted))

    def _fetch_shard(self, folder: Path, shard: ShardFile) -> None:
        """One shard, tried twice: what arrives damaged may have been sound there."""
        name, found = f"{self._name(folder)}/{shard.file}", "no file"
        for _ in range(2):
            with suppress(FileNotFoundError):
                found = self.remote.download(name, folder / shard.file)
            if found == shard.sha256:
                return
            (folder / shard.file).unlink(missing_ok=True)
        raise ShardError(
            f"shard {self.remote}/{name} is damaged: SHA-256 {found}, expected {shard.sha256}; ingest {folder.name} "
            "again: only damaged shards are re-made"
        )

    def publish_shard(self, path: Path) -> None:
        """Publish one file of shards."""
        self.remote.upload(self._name(path), path)

    def publish_shards(self, folder: Path) -> None:
        """Publish what an ingest made, its manifest last."""
        self._hold(folder)
        name, manifest = self._name(folder), Manifest.read(folder)
        there = self.remote.list(name)
        sizes = {shard.file: shard.bytes for shard in manifest.shards}
        lacking = [file for file, size in sizes.items() if file not in there or there[file].bytes != size]
        in_turns(lambda file: self.publish_shard(folder / file), lacking)
        data = (folder / MANIFEST).read_bytes()
        if self.remote.read(f"{name}/{MANIFEST}") != data:
            self.remote.put(f"{name}/{REJECTS}", (folder / REJECTS).read_bytes())
            self.remote.put(f"{name}/{MANIFEST}", data)
        old = (time.time() - KEPT_S) * 1e9
        unnamed = set(there) - set(sizes) - {MANIFEST, REJECTS}
        self.remote.delete(f"{name}/{file}" for file in unnamed if there[file].changed_ns < old)

    def fetch_manifests(self) -> None:
        """Bring the manifest of every folder of shards here, to see what there is."""
        there = self.remote.list("shards")
        names = [name for name in there if name.endswith(f"/{MANIFEST}")]
        in_turns(lambda name: self._fetch_file(f"shards/{name}", there[name]), names)

    # Stages

    def fetch_stages(self, recipe: str | None = None) -> None:
        """Bring the plan and the record of every stage here."""
        top = f"runs/{recipe}" if recipe else "runs"
        there = self.remote.list(top)
        names = [name for name in there if name.rpartition("/")[2] in ("plan.json", RECORD)]
        in_turns(lambda name: self._fetch_file(f"{top}/{name}", there[name]), names)
        for path in (self.root / top).glob(f"{'*' if recipe else '*/*'}/plan.json"):
            if path.relative_to(self.root / top).as_posix() not in there and path.parent not in self._writing:
                self._forget(path.parent)

    def resumable(self, folder: Path) -> bool:
        """Whether a checkpoint of the stage is published."""
        return any(name.endswith(f"/{MANIFEST}") for name in self.remote.list(f"{self._name(folder)}/checkpoints"))

    def fetch_stage(self, folder: Path, *, checkpoints: Iterable[str] | None = ()) -> None:
        """Make the working copy of a stage what is published; one that is being trained on this node is left alone.

        Args:
            checkpoints: names of those wanted; all for None.
        """
        self._hold(folder)
        with ExitStack() as stack:
            if folder not in self._writing:
                if not stack.enter_context(self.cache.alone_or_not(folder, "write")):
                    return
                stack.enter_context(self.cache.alone(folder, "fill"))
            name = self._name(folder)
            there = self.remote.list(name)
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.is_file() and path.name not in there and not path.name.startswith("."):
                    path.unlink()
            small = [file for file in there if "/" not in file and file not in OWN]
            if "tracked.json" in there and not (folder / "tracked.json").exists():
                small.append("tracked.json")
            in_turns(lambda file: self._fetch_file(f"{name}/{file}", there[file]), small)
            self._fetch_checkpoints(folder, there, checkpoints)

    def _fetch_checkpoints(self, folder: Path, there: Mapping[str, Found], wanted: Iterable[str] | None) -> None:
        whole = sorted({name.split("/")[1] for name in there if name.startswith("checkpoints/") and MANIFEST in name})
        for step in whole if wanted is None else [each for each in whole if each in set(wanted)]:
            self._fetch_checkpoint(folder / "checkpoints" / step)
        for path in (folder / "checkpoints").glob("step-*"):
            if path.name not in whole:
                shutil.rmtree(path)

    def _fetch_checkpoint(self, folder: Path) -> None:
        """One checkpoint, whole, under a draft name first. Its own manifest says later whether it is sound."""
        name = self._name(folder)
        data = self.remote.read(f"{name}/{MANIFEST}")
        if data is None:
            return
        files = files_of(data)
        if (folder / MANIFEST).exists() and (folder / MANIFEST).read_bytes() == data and are_sound(folder, files):
            self._note_sent(folder / MANIFEST)
            return
        self.cache.make_room(sum(int(str(each.get("bytes", 0))) for each in files.values()), entry=folder.parent.parent)
        draft = folder.with_name(f".{folder.name}.{os.getpid()}.draft")
        shutil.rmtree(draft, ignore_errors=True)

        def fetch(file: str) -> None:
            with suppress(FileNotFoundError):  # then the checkpoint is damaged, and passed over by name
                if self.remote.download(f"{name}/{file}", below(draft, file)) != files[file].get("sha256"):
                    self.remote.download(f"{name}/{file}", below(draft, file))

        in_turns(fetch, list(files))
        draft.mkdir(parents=True, exist_ok=True)
        put(draft / MANIFEST, data)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(draft, folder)
        self._note_sent(folder / MANIFEST)

    def publish_files(self, folder: Path, names: Iterable[str]) -> None:
        """Publish those of the named files of a stage that are there."""
        present = [name for name in names if (folder / name).is_file()]
        in_turns(lambda name: self.remote.upload(self._name(folder / name), folder / name), present)

    def publish_stage(self, folder: Path) -> None:
        """Publish a stage as it is here: journals, checkpoints, then its record; forget older checkpoints."""
        files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
        small = [path for path in files if path.name not in (*OWN, RECORD)]
        self._publish(path for path in small if self._changed(path))
        top = f"{self._name(folder)}/checkpoints"
        there = self.remote.list(top)
        here = {path.name for path in (folder / "checkpoints").glob("step-*")}
        for step in sorted(here):
            manifest = folder / "checkpoints" / step / MANIFEST
            if self._changed(manifest):
                if f"{step}/{MANIFEST}" in there:  # another one of that step, which is no longer whole from here on
                    self.remote.delete([f"{top}/{step}/{MANIFEST}"])
                self._publish(path for path in manifest.parent.iterdir() if path != manifest)
                self._publish([manifest])
        self._publish(path for path in files if path.name == RECORD and self._changed(path))
        for step in sorted({name.split("/")[0] for name in there} - here):
            self.remote.delete([f"{top}/{step}/{MANIFEST}"])
            self.remote.delete_folder(f"{top}/{step}")

    def _publish(self, paths: Iterable[Path]) -> None:
        by_name = {self._name(path): path for path in paths}

        def send(name: str) -> None:
            look = by_name[name].stat()
            self.remote.upload(name, by_name[name])
            self._sent[by_name[name]] = (look.st_size, look.st_mtime_ns)

        in_turns(send, list(by_name))

    def _changed(self, path: Path) -> bool:
        look = path.stat()
        return self._sent.get(path) != (look.st_size, look.st_mtime_ns)

    @contextmanager
    def writing(self, folder: Path) -> Iterator[None]:
        """Train in the working copy of a stage: until this ends no process of this node fetches over it."""
        with self.cache.alone(folder, "write"):
            self._hold(folder)
            self._writing.add(folder)
            try:
                yield
            finally:
                self._writing.discard(folder)

    def claims(self, folder: Path) -> RemoteClaims:
        return RemoteClaims(self.remote, f"{self._name(folder)}/.lease")

    # Single files, of a launch under way

    def push(self, path: Path) -> None:
        """Publish one file if it is there and was not sent as it is."""
        if path.is_file() and self._changed(path):
            self._publish([path])

    def pull(self, path: Path) -> None:
        """Fetch one file if it is there, and another one than here."""
        name = self._name(path)
        if found := self.remote.look(name):
            self._fetch_file(name, found)

    def names(self, folder: Path) -> list[str]:
        """The files of a folder there."""
        return list(self.remote.list(self._name(folder)))

    def take_back(self, path: Path) -> None:
        """Delete a file there."""
        self._sent.pop(path, None)
        self.remote.delete([self._name(path)])

    def forget(self, folder: Path) -> None:
        """Delete a folder there."""
        self.remote.delete_folder(self._name(folder))

    def _fetch_file(self, name: str, there: Found) -> None:
        path = below(self.root, name)
        with suppress(FileNotFoundError):
            look = path.stat()
            if (look.st_size, look.st_mtime_ns) == (there.bytes, there.changed_ns):
                return
        with suppress(FileNotFoundError):  # deleted there just now
            self.remote.download(name, path, changed_ns=there.changed_ns)
            self._note_sent(path)

    def _note_sent(self, path: Path) -> None:
        look = path.stat()
        self._sent[path] = (look.st_size, look.st_mtime_ns)

    def _forget(self, folder: Path) -> None:
        with self.cache.alone_or_not(folder, "write") as free:
            if free:
                shutil.rmtree(folder, ignore_errors=True)

    def _hold(self, folder: Path) -> None:
        if folder not in self._held:
            self._held.add(folder)
            self.cache.hold(folder)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()
