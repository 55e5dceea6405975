"""Files at a URL: ``s3://``, ``gs://`` and the rest of pyarrow.fs, anything else through fsspec.

Every call is tried again while that may help: throttling, 5xx, broken and slow connections. What lasts longer than
``PLUMBLINE_REMOTE_PATIENCE`` seconds (120) is a :class:`RemoteError`. A file is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import random
import secrets
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from orchestrator.environment import number_from
from orchestrator.redact import redacted
from orchestrator.store import StoreError

T = TypeVar("T")

CHUNK = 8 << 20  # bytes of one request
AT_ONCE = 8  # transfers
WHOLE = ("s3", "gcs", "abfs")  # file systems where a file appears when its writer closes it, and has no folder before
HOPELESS = (
    "ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "INVALID_CLIENT_TOKEN_ID", "SIGNATURE_DOES_NOT_MATCH",
    "INVALID_SIGNATURE", "UNRECOGNIZED_CLIENT", "HTTP status 401", "HTTP status 403", "No space left", "Errno 28",
)  # fmt: skip


class RemoteError(StoreError):
    """A place at a URL that refuses, or that did not answer for as long as was waited."""


@dataclass(frozen=True)
class Found:
    """A file that is there: its size in bytes, and when it was last changed, in nanoseconds since 1970."""

    bytes: int
    changed_ns: int


@dataclass(frozen=True)
class Remote:
    """The folder at ``url``. Names of files are relative to it, with ``/`` between folders."""

    url: str

    def __str__(self) -> str:
        scheme, _, rest = self.url.partition("?")[0].partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}"

    @property
    def identity(self) -> str:
        """The same for the same place, whoever asks for it with whatever credentials."""
        return f"{_endpoint(self.url)} {self}"

    @cached_property
    def _place(self) -> tuple[pafs.FileSystem, str]:
        return opened(self.url)

    def list(self, below: str = "") -> dict[str, Found]:
        """Every file below the folder ``below``, by its name relative to that folder."""
        files, root = self._place
        folder = f"{root}/{below}".rstrip("/")
        selector = pafs.FileSelector(folder, recursive=True, allow_not_found=True)
        found = self._tried("list", below, lambda: files.get_file_info(selector))
        return {
            info.path[len(folder) :].lstrip("/"): Found(info.size, info.mtime_ns or 0)
            for info in found if info.type == pafs.FileType.File
        }  # fmt: skip

    def look(self, name: str) -> Found | None:
        """The file ``name``, or None where there is none."""
        files, root = self._place
        info = self._tried("look at", name, lambda: files.get_file_info(f"{root}/{name}"))
        return Found(info.size, info.mtime_ns or 0) if info.type == pafs.FileType.File else None

    def read(self, name: str) -> bytes | None:
        """The bytes of a small file, or None where there is none."""
        files, root = self._place

        def all_of_it() -> bytes:
            with files.open_input_file(f"{root}/{name}") as file:
                return file.read_at(file.size(), 0)

        try:
            return self._tried("read", name, all_of_it)
        except FileNotFoundError:
            return None

    def put(self, name: str, data: bytes) -> None:
        """Write a small file in one piece."""
        self._tried("write", name, lambda: self._written(name, [data]))

    def upload(self, name: str, path: Path) -> None:
        """Copy a local file there; it appears under its name when all of it is there."""
        self._tried("write", name, lambda: self._written(name, _chunks(path)))

    def download(self, name: str, path: Path, *, changed_ns: int = 0) -> str:
        """Copy the file to ``path``, which appears when all of it is there; gives its SHA-256.

        Args:
            changed_ns: when it was changed there, which the copy then says, too.

        Raises ``FileNotFoundError``.
        """
        files, root = self._place
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        total = hashlib.sha256()
        try:
            source = self._tried("open", name, lambda: files.open_input_file(f"{root}/{name}"))
            with source, draft.open("wb") as target:
                size = self._tried("read", name, source.size)
                for start in range(0, size, CHUNK):
                    count = min(CHUNK, size - start)
                    part: bytes = self._tried("read", name, partial(source.read_at, count, start))
                    total.update(part)
                    target.write(part)
            if changed_ns:
                os.utime(draft, ns=(changed_ns, changed_ns))
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        return total.hexdigest()

    def delete(self, names: Iterable[str]) -> None:
        """Delete files; one that is not there is no mistake."""
        files, root = self._place

        def gone(name: str) -> None:
            with suppress(FileNotFoundError):
                self._tried("delete", name, lambda: files.delete_file(f"{root}/{name}"))

        in_turns(gone, list(names))

    def delete_folder(self, name: str) -> None:
        """Delete a folder and all below it; one that is not there is no mistake."""
        files, root = self._place
        with suppress(FileNotFoundError):
            self._tried("delete", name, lambda: files.delete_dir(f"{root}/{name}"))

    def check(self) -> None:
        """Raise :class:`RemoteError` soon, unless files can be written there."""
        probe = f".writable-{secrets.token_hex(4)}"
        self._tried("write", probe, lambda: self._written(probe, [b"\n"]), patience_s=min(10.0, _patience_s()))
        self.delete([probe])

    def _written(self, name: str, parts: Iterable[bytes]) -> None:
        files, root = self._place
        whole = files.type_name in WHOLE
        place = f"{root}/{name}" if whole else f"{root}/{name}.{secrets.token_hex(4)}.draft"
        if not whole:
            files.create_dir(place.rpartition("/")[0], recursive=True)
        with files.open_output_stream(place) as file:
            for part in parts:
                file.write(part)
        if not whole:
            files.move(place, f"{root}/{name}")

    def _tried(self, what: str, name: str, call: Callable[[], T], *, patience_s: float | None = None) -> T:
        """What ``call`` gives, called again after failures that may pass. ``FileNotFoundError`` is an answer."""
        began, times = time.monotonic(), 0
        patience_s = _patience_s() if patience_s is None else patience_s
        while True:
            try:
                return call()
            except FileNotFoundError:
                raise
            except OSError as error:
                times += 1
                told = " ".join(redacted(str(error)).split())
                if isinstance(error, PermissionError) or any(each in told for each in HOPELESS):
                    raise RemoteError(
                        f"{self}/{name}: cannot {what} it ({told}); look at the URL and its rights"
                    ) from None
                waited = time.monotonic() - began
                if waited > patience_s:
                    raise RemoteError(
                        f"{self}/{name}: cannot {what} it, tried {times} times in {waited:.0f} s ({told}); run the "
                        "same command again when the storage answers, or wait longer with PLUMBLINE_REMOTE_PATIENCE"
                    ) from None
                time.sleep(min(0.1 * 2**times, 10.0) * random.uniform(0.5, 1.0))


def is_url(place: str) -> bool:
    """Whether ``place`` is reached by pyarrow.fs or fsspec, rather than a path of this machine."""
    return "://" in place and not place.startswith("file://")


def below(folder: Path, name: str) -> Path:
    """``folder / name``. Raises :class:`StoreError` for a name that would lead out of ``folder``."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name or "\\" in name:
        raise StoreError(f"{name!r}: a file's name there leads out of its folder; delete it there")
    return folder.joinpath(*parts)


def in_turns(work: Callable[[str], None], names: list[str]) -> None:
    """``work`` for each name, :data:`AT_ONCE` at a time. Raises what any of them raised, after all have ended."""
    if len(names) <= 1:
        for name in names:
            work(name)
        return
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done in [pool.submit(work, name) for name in names]:
            done.result()


def _patience_s() -> float:
    return number_from("PLUMBLINE_REMOTE_PATIENCE", 120.0, least=0.0)


def _chunks(path: Path) -> Iterable[bytes]:
    with path.open("rb") as file:
        while part := file.read(CHUNK):
            yield part


def opened(url: str, *, attempts: int = 1) -> tuple[pafs.FileSystem, str]:
    """The file system of a URL, and the folder in it. Raises :class:`StoreError`.

    Args:
        attempts: how often S3 itself tries a call.
    """
    try:
        if url.startswith("s3://"):
            return _s3(url, attempts)
        try:
            files, path = pafs.FileSystem.from_uri(url)
        except pa.ArrowInvalid:  # a kind that pyarrow leaves to fsspec
            from fsspec.core import url_to_fs

            found, path = url_to_fs(url)
            files = pafs.PyFileSystem(pafs.FSSpecHandler(found))
    except (pa.ArrowException, ValueError, ImportError, OSError) as error:
        raise StoreError(f"{redacted(url)}: cannot be opened ({redacted(str(error))})") from None
    return files, path.rstrip("/")


def _endpoint(url: str) -> str:
    """What answers in place of the provider's own servers, empty for those."""
    if not url.startswith("s3://"):
        return ""
    said = dict(parse_qsl(urlsplit(url).query)).get("endpoint_override", "")
    return said or os.environ.get("AWS_ENDPOINT_URL_S3", "") or os.environ.get("AWS_ENDPOINT_URL", "")


def _s3(url: str, attempts: int) -> tuple[pafs.FileSystem, str]:
    """S3 with its endpoint from the URL (``?endpoint_override=``) or ``AWS_ENDPOINT_URL``."""
    parts = urlsplit(url)
    asked = dict(parse_qsl(parts.query))
    if odd := set(asked) - {"endpoint_override", "scheme", "region"}:
        raise ValueError(f"{', '.join(sorted(odd))} in the URL; allowed: endpoint_override, scheme, region")
    endpoint = _endpoint(url)
    scheme, found, host = endpoint.partition("://")
    bucket = parts.hostname or ""
    region = asked.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not bucket:
        raise ValueError("expected s3://BUCKET/FOLDER")
    files = pafs.S3FileSystem(
        access_key=unquote(parts.username) if parts.username else None,
        secret_key=unquote(parts.password) if parts.password else None,
        endpoint_override=(host if found else endpoint) or None,
        scheme=asked.get("scheme") or (scheme if found else "https"),
        region=region or ("us-east-1" if endpoint else pafs.resolve_s3_region(bucket)),
        request_timeout=number_from("PLUMBLINE_REMOTE_TIMEOUT", 10.0, least=0.1), connect_timeout=5.0,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=attempts), allow_delayed_open=True,
    )  # fmt: skip
    return files, f"{bucket}{parts.path}"
