"""Clean lines of documents with their text, and their worn twins: what a restorer of documents learns from.

The root holds the lines at any depth and a UTF-8 file ``lines.tsv`` whose first line names its columns: ``file``,
``text``, ``group`` (the page) and, where there are official splits, ``split``. Pages of old paper may lie below it, as
:mod:`datasets.paper_pages` has them. The licence is yours to know.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from datasets.clean_line import Flattened
from datasets.folder import LabelledFolder
from datasets.on_disk import existing_folder
from datasets.paper_pages import Paper, papers
from datasets.row import ImageRef, Reject, Row, SourceError
from datasets.splits import check_shares, split_by_share
from datasets.worn_line import Worn
from datasets.worn_paper import PaperChain


@dataclass(frozen=True, kw_only=True)
class DocumentLines:
    """Every line as a pair: ``image`` is worn, ``target`` clean, ``group`` its page.

    The damage of a line is frozen: a function of ``seed`` and the line's id, never of its place in the file. More of it
    comes from ``versions``, each a pair of its own in train.

    Attributes:
        labels: the file of labels below the root.
        folders: keep only lines whose path starts with one of these folders; all where empty.
        symbols: the characters a text may have; a line with another is rejected (``outside_alphabet``). Empty: any.
        clean: ``"flattened"`` evens a scan out to black on white, ``"as_is"`` takes it as it is.
        chain: what wears the lines.
        pages: folder of page pairs below the root whose paper is written on; empty for made paper.
        paper_valid_share: share of those pages whose paper is for validation alone.
        paper_test_share: likewise for test.
        versions: pairs of each line in train, each worn in another way; valid and test have one.
        splits: ``"listed"`` takes the labels' column, ``"hashed"`` holds pages out.
        valid_share: share of the lines held out for validation where splits are hashed.
        test_share: likewise for test.
        seed: of damage, paper and hashed splits.
    """

    labels: str = "lines.tsv"
    folders: tuple[str, ...] = ()
    symbols: str = ""
    clean: Literal["flattened", "as_is"] = "flattened"
    chain: PaperChain = field(default_factory=PaperChain)
    pages: str = ""
    paper_valid_share: float = 0.15
    paper_test_share: float = 0.15
    versions: int = 1
    splits: Literal["listed", "hashed"] = "listed"
    valid_share: float = 0.1
    test_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_shares("DocumentLines", valid_share=self.valid_share, test_share=self.test_share)
        check_shares("DocumentLines (paper)", valid_share=self.paper_valid_share, test_share=self.paper_test_share)
        for name, allowed in (("clean", ("flattened", "as_is")), ("splits", ("listed", "hashed"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"DocumentLines: {name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        if self.versions < 1:
            raise ValueError(f"DocumentLines: versions is {self.versions}; it must be at least 1")

    def rows(self, root: Path | None) -> Iterator[Row | Reject]:
        """Raises :class:`SourceError` without the file of labels, without splits or without paper."""
        folder = existing_folder(root, source="DocumentLines")
        found = [self._judged(row) for row in self._folder().rows(folder) if self._asked(row)]
        found = self._split(folder, found)
        lines = [row for row in found if isinstance(row, Row)]
        paper = self._papers(folder)
        backs = backs_of(lines, self.seed)
        for row in found:
            if isinstance(row, Row):
                yield from self._worn(row, paper.get(row.split), backs.get(row.id))
            else:
                yield row

    def describe(self, root: Path | None) -> Mapping[str, object]:
        folder = existing_folder(root, source="DocumentLines")
        paper = {split: [pair.name for pair in of.pages] for split, of in self._papers(folder).items()}
        return {**self._folder().describe(folder), "name": "lines of documents", "splits": self.splits, "paper": paper}

    def _folder(self) -> LabelledFolder:
        return LabelledFolder(labels=self.labels, valid_share=0, test_share=0)

    def _asked(self, row: Row | Reject) -> bool:
        folders = tuple(name.rstrip("/") + "/" for name in self.folders)
        return not folders or row.id.startswith(folders) or row.id.startswith(f"{self.labels}:")

    def _judged(self, row: Row | Reject) -> Row | Reject:
        if isinstance(row, Reject) or not self.symbols:
            return row
        strange = sorted(set(normal_text(row.text)) - set(self.symbols))
        if strange:
            return Reject(
                id=row.id, reason="outside_alphabet", detail=f"{row.text!r} has {', '.join(map(repr, strange))}"
            )
        return row

    def _split(self, folder: Path, found: list[Row | Reject]) -> list[Row | Reject]:
        rows = [row for row in found if isinstance(row, Row)]
        if self.splits == "listed":
            if rows and {row.split for row in rows} == {"train"}:
                raise SourceError(
                    f"{folder / self.labels}: no line is of split valid or test; add a column 'split', or set "
                    "splits='hashed' to hold pages out"
                )
            return found
        groups = [row.group for row in rows]
        splits = split_by_share(groups, valid_share=self.valid_share, test_share=self.test_share, seed=self.seed)
        return [replace(row, split=splits[row.group]) if isinstance(row, Row) else row for row in found]

    def _papers(self, folder: Path) -> dict[str, Paper]:
        if not self.pages:
            return {}
        shares = {"valid_share": self.paper_valid_share, "test_share": self.paper_test_share}
        return papers(folder, self.pages, **shares, seed=self.seed)

    def _worn(self, row: Row, paper: Paper | None, back: Row | None) -> Iterator[Row]:
        clean = self._clean(row.image)
        behind = (back.id, self._clean(back.image)) if back else None
        for number in range(1, (self.versions if row.split == "train" else 1) + 1):
            id = row.id if number == 1 else f"{row.id}#{number}"
            yield replace(row, id=id, image=Worn(clean, self.chain, self.seed, id, paper, behind), target=clean)

    def _clean(self, image: ImageRef) -> ImageRef:
        return Flattened(image) if self.clean == "flattened" else image


def backs_of(lines: Sequence[Row], seed: int) -> dict[str, Row]:
    """The line on the back of each: another of its page, or of its split where the page has no other.

    Which one depends on ids alone, not on the order of ``lines``; a line that is alone in its split has none.
    """
    ordered = sorted(lines, key=lambda row: row.id)
    by_page: dict[str, list[Row]] = {}
    by_split: dict[str, list[Row]] = {}
    for row in ordered:
        by_page.setdefault(row.group, []).append(row)
        by_split.setdefault(row.split, []).append(row)
    backs = {}
    for row in ordered:
        near = by_page[row.group] if len(by_page[row.group]) > 1 else by_split[row.split]
        others = [other for other in near if other.id != row.id]
        if others:
            lot = hashlib.sha256(f"{seed}\0{row.id}".encode("utf-8", "surrogatepass")).digest()
            backs[row.id] = others[int.from_bytes(lot[:8]) % len(others)]
    return backs


def normal_text(text: str) -> str:
    """``text`` in NFC, every run of whitespace one space and none at its ends: what an alphabet compares."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def symbols_of(rows: Iterable[Row | Reject], *, least: int = 1) -> str:
    """The characters of the training lines' normal texts that occur ``least`` times, by code point: an alphabet.

    What only validation or test have is left out, as nothing could learn it.
    """
    texts = (normal_text(row.text) for row in rows if isinstance(row, Row) and row.split == "train")
    counts = Counter(symbol for text in texts for symbol in text)
    return "".join(sorted(symbol for symbol, count in counts.items() if count >= least))
