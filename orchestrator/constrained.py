"""The likeliest reading that the layouts of a plan allow: beside the raw one, never in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datasets.plate_text import PlateLabels
from datasets.rendered_plates import PATTERNS, RenderedPlates
from models.batch import Read
from models.layout_decoding import Paths, PlateReading, constrained_readings
from models.text import Alphabet
from models.text_layout import Layouts
from orchestrator.evaluate_restored import Extras
from orchestrator.plan import Recipe

BEAM = 16


def layouts_of(source: object) -> dict[str, Layouts]:
    """Name -> what a plate of that layout may say, from the settings of the source itself; empty where it tells none.

    A layout without patterns allows any text of its lengths.
    """
    if isinstance(source, RenderedPlates):
        return {name: Layouts.of(*_patterns(PATTERNS[name])) for name in source.layouts}
    labels = next((each for each in vars(source).values() if isinstance(each, PlateLabels)), None)
    if labels is None:
        return {}
    anything = f"A{{{labels.shortest},{labels.longest}}}"
    return {name: Layouts.of(*(_patterns(each) or (anything,))) for name, each in labels.layouts.items()}


def layouts_of_plan(recipe: Recipe) -> dict[str, Layouts]:
    """Those of the sources that the last stage validates on: the plates that the recipe is for."""
    return {
        name: layouts
        for source in recipe.stages[-1].validate
        for name, layouts in layouts_of(recipe.sources[source]).items()
    }


def _patterns(patterns: Sequence[str]) -> tuple[str, ...]:
    return tuple(pattern.replace("X", "A") for pattern in patterns)  # two languages; here A is either


@dataclass(frozen=True)
class Constrained:
    """The likeliest reading that the image's own layout allows, or any of them where its layout is not known."""

    alphabet: Alphabet
    own: Mapping[str, Paths]
    any: Paths
    beam: int

    @staticmethod
    def by(layouts: Mapping[str, Layouts], alphabet: Alphabet, *, beam: int) -> Constrained:
        own = {name: Paths(each, alphabet) for name, each in layouts.items()}
        together = Layouts(tuple(layout for each in layouts.values() for layout in each.each))
        return Constrained(alphabet, own, Paths(together, alphabet), beam)

    def __call__(self, read: Read, extras: Sequence[Extras]) -> list[tuple[str, tuple[float, ...]]]:
        return [(reading.text, reading.confidences) for reading in self.readings(read, extras)]

    def readings(self, read: Read, extras: Sequence[Extras]) -> list[PlateReading]:
        paths = [self.own.get(str(known.get("layout", "")), self.any) for known in extras]
        return constrained_readings(read.logits, read.frames, self.alphabet, paths, beam=self.beam)
