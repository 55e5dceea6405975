"""What every source that reads a folder does the same way: refuse it, read its text, and say why a row is no row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from datasets.image import ImageFile, inside
from datasets.row import BadImage, ImageRef, Reject, Row, SourceError

UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def existing_folder(root: Path | None, *, source: str) -> Path:
    """``root`` as an absolute path without links. Raises :class:`SourceError` where it is no folder."""
    if root is None:
        raise SourceError(f"{source}: no root given; pass the folder the data were unpacked to")
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise SourceError(f"{source}: {root} must be a folder, found {found}; check the path and whether it is mounted")
    return root.resolve()


def file_bytes(path: Path) -> bytes:
    """The whole file. Raises :class:`SourceError` where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); the source needs this file") from error


def utf8_text(data: bytes, *, name: str) -> str:
    """``data`` without its byte order mark. Raises :class:`SourceError` with the line where it is not UTF-8."""
    if data.startswith(UTF16_MARKS):
        raise SourceError(f"{name}:1: UTF-16 text; only UTF-8 is read: convert it with iconv -f UTF-16 -t UTF-8")
    body = data.removeprefix(UTF8_MARK)
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise SourceError(
            f"{name}:{line}: byte 0x{body[error.start]:02x} is not UTF-8; convert the file, "
            "for example with iconv -f LATIN1 -t UTF-8"
        ) from error


def labelled(
    image: ImageRef, text: str, *, id: str, group: str, split: str, extras: Mapping[str, object] | None = None
) -> Row | Reject:
    """The row, or a :class:`Reject`: ``unlabelled`` for blank text, ``bad_text`` for what UTF-8 cannot store."""
    if not text.strip():
        return Reject(id=storable(id), reason="unlabelled", detail="its label is empty")
    if storable(id) != id or storable(text) != text:
        detail = f"{id!r} or its label {text!r} holds half a surrogate pair"
        return Reject(id=storable(id), reason="bad_text", detail=storable(detail))
    return Row(id=id, image=image, text=text, group=group, split=split, extras=extras or {})


def labelled_file(
    root: Path, path: str, text: str, *, id: str, group: str, split: str, extras: Mapping[str, object] | None = None
) -> Row | Reject:
    """Like :func:`labelled` for the image file ``path`` below ``root``; ``outside_root`` where it leads out of it."""
    try:
        image = ImageFile(str(inside(root, path)))
    except BadImage as error:
        return rejected(id, error)
    return labelled(image, text, id=id, group=group, split=split, extras=extras)


def rejected(id: str, error: BadImage) -> Reject:
    return Reject(id=storable(id), reason=error.reason, detail=storable(error.detail))


def first_of_each(rows: Iterable[Row | Reject]) -> Iterator[Row | Reject]:
    """``rows`` with every row whose id an earlier one had turned into a :class:`Reject` (``duplicate_id``)."""
    seen: set[str] = set()
    for row in rows:
        if isinstance(row, Row) and row.id in seen:
            yield Reject(
                id=row.id, reason="duplicate_id", detail=f"{row.id!r} is listed more than once; the first counts"
            )
            continue
        seen.add(row.id)
        yield row


def storable(text: str) -> str:
    """``text`` with lone surrogates, which no UTF-8 file can hold, written as ``\\udc80``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
