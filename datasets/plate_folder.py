"""A plain folder of plates cut out of photographs, with a file of labels: the low resolution is made by a chain.

The licence is yours to know. The files of labels are those of :mod:`datasets.folder`, with one further column allowed:
``layout``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from datasets.degrade import Chain
from datasets.folder import LabelledFolder
from datasets.plate_pairs import check_versions, versions, without_leaks
from datasets.plate_splits import stratified_splits
from datasets.plate_text import BadLabel, PlateLabels, folded
from datasets.row import Reject, Row, SourceError
from datasets.splits import check_shares


def any_text() -> PlateLabels:
    """Labels of any layout."""
    return PlateLabels(layouts={})


@dataclass(frozen=True, kw_only=True)
class PlateFolder:
    """Good pictures and their degraded twins, held out by plate in proportion from each layout.

    Attributes:
        labels: the file of labels, or ``"auto"``, as :class:`~datasets.folder.LabelledFolder` has it.
        plates: which texts can be right.
        layout_pattern: regular expression searched in a file's path; its first parenthesis, or else the whole match, is
            the layout of a plate without a ``layout`` column.
        alike: layout -> sets of symbols that its labels do not tell apart, such as ``{"us": ("0O",)}`` where O is
            written 0. Plates that differ in nothing else are one plate to the splits; a row's extras name its sets, so
            that a metric can count the symbols as equal.
        chain: what makes the low resolution.
        versions: pairs of each picture in train, each degraded in another way.
        splits: ``"plates"`` holds plates out; ``"listed"`` takes the labels' own column, less every row whose plate a
            later split has too (``plate_held_out``).
        valid_share: share of the plates held out for validation.
        test_share: likewise for test.
        seed: of splits and degradation.
    """

    labels: str = "auto"
    plates: PlateLabels = field(default_factory=any_text)
    layout_pattern: str = ""
    alike: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    chain: Chain = field(default_factory=Chain)
    versions: int = 1
    splits: Literal["plates", "listed"] = "plates"
    valid_share: float = 0.1
    test_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_shares("PlateFolder", valid_share=self.valid_share, test_share=self.test_share)
        check_versions("PlateFolder", self.versions)
        try:
            re.compile(self.layout_pattern)
        except re.error as error:
            raise ValueError(
                f"PlateFolder: layout_pattern {self.layout_pattern!r} is no regular expression: {error}"
            ) from error

    def rows(self, root: Path | None) -> Iterator[Row | Reject]:
        found = [self._judged(row) if isinstance(row, Row) else row for row in self._folder().rows(root)]
        for row in without_leaks(found) if self.splits == "listed" else self._split(root, found):
            if isinstance(row, Row):
                yield from versions(row, self.chain, seed=self.seed, count=self.versions)
            else:
                yield row

    def describe(self, root: Path | None) -> Mapping[str, object]:
        return {**self._folder().describe(root), "name": "folder of plates", "splits": self.splits}

    def _folder(self) -> LabelledFolder:
        return LabelledFolder(labels=self.labels, extra_columns=("layout",), valid_share=0, test_share=0)

    def _judged(self, row: Row) -> Row | Reject:
        """``row`` with its plate's text, layout and group, or why that cannot be."""
        try:
            plate, layout = self.plates.read(row.text, str(row.extras.get("layout", "")) or self._layout(row.id))
        except BadLabel as error:
            return error.reject(row.id)
        alike = self.alike.get(layout, ())
        extras = {"layout": layout, **({"alike": list(alike)} if alike else {})}
        return replace(row, text=plate, group=folded(plate, self._all_alike()), extras=extras)

    def _all_alike(self) -> tuple[str, ...]:
        """The sets of every layout: one plate may be listed under two."""
        return tuple(same for sets in self.alike.values() for same in sets)

    def _layout(self, path: str) -> str:
        match = re.search(self.layout_pattern, path) if self.layout_pattern else None
        return (match[1 if match.re.groups else 0] or "") if match else ""

    def _split(self, root: Path | None, found: list[Row | Reject]) -> Iterator[Row | Reject]:
        rows = [row for row in found if isinstance(row, Row)]
        other = next((row for row in rows if row.split != "train"), None)
        if other is not None:
            raise SourceError(
                f"{root}: the labels put {other.id!r} into split {other.split!r}; set splits='listed' to take their "
                "column, or take the column out"
            )
        plates = [(row.group, str(row.extras["layout"])) for row in rows]
        splits = stratified_splits(plates, valid_share=self.valid_share, test_share=self.test_share, seed=self.seed)
        for row in found:
            yield replace(row, split=splits[row.group]) if isinstance(row, Row) else row
