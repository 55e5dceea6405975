"""A run as one page to read: the stage asked for and all it came from, as report.html and report.md in its folder.

python -m orchestrator.run report PLACE
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.manifest import put
from orchestrator.pipeline import Machine
from orchestrator.report import data as report_data
from orchestrator.report import decided as report_decided
from orchestrator.report import mined as report_mined
from orchestrator.report import page as report_page
from orchestrator.report import restored as report_restored
from orchestrator.report import summary as report_summary
from orchestrator.report import training as report_training
from orchestrator.report import words as report_words
from orchestrator.report.blocks import Section, Text
from orchestrator.report.facts import StageFacts, gather
from orchestrator.report.pixels import comparison
from orchestrator.report.plates import Plates
from orchestrator.report.readings import NoReadings, Readings, readings_of
from orchestrator.store import Store, StoreError

HTML, MARKDOWN, PICTURES = "report.html", "report.md", "pictures"


def write_report(folder: Path, store: Store, machine: Machine | None = None) -> tuple[Path, Path]:
    """Write the report of the stage in ``folder``, finished or not, and return its HTML and its Markdown file.

    The result comes first, then the stages, newest first. The same store gives the same bytes.

    Args:
        machine: what to read sample words with; this machine, with the precision of the record, when None.

    Raises:
        StoreError: the folder holds no stage, or a record, plan or journal that is damaged.
    """
    stages = gather(folder, store)
    title = f"{stages[0].recipe['name']}: {stages[0].name}"
    try:
        sections = [report_summary.summary(stages), report_summary.lineage(stages)]
        if stages[0].restores:
            sections.append(report_restored.moved(stages))
        sections += [asked] if (asked := report_decided.recommendations(stages)) else []
        sections += [stage_section(facts, stages[0], machine) for facts in stages]
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{folder}: the plan, the record or a journal of this stage or of one it came from lacks what this version "
            f"reads ({type(error).__name__}: {error}); report it with the version that trained it"
        ) from error
    page, text = folder / HTML, folder / MARKDOWN
    put(page, report_page.html(title, sections).encode())
    put(text, report_page.markdown(title, sections, html=HTML).encode())
    return page, text


def stage_section(facts: StageFacts, newest: StageFacts, machine: Machine | None) -> Section:
    """All about one stage; the result of the ``newest`` stands in the summary."""
    parts: Sequence[Section] = (
        *([] if facts is newest else [report_summary.result(facts)]),
        *_there(report_restored.reached(facts)),
        report_training.course(facts),
        *_there(report_decided.bests(facts), report_decided.components(facts)),
        *_words(facts, machine),
        *_there(report_mined.weighed(facts), report_mined.mined(facts)),
        report_training.happened(facts),
        report_summary.preflight(facts),
        report_data.data(facts),
        report_training.speed(facts),
        report_summary.settings(facts, newest),
        report_summary.versions(facts),
    )
    title = f"Stage {facts.number}: {facts.name}"  # as --stage numbers them
    return Section(title=title, anchor=f"stage-{facts.name}", blocks=(), sections=parts)


def _there(*sections: Section | None) -> list[Section]:
    return [section for section in sections if section]


def _words(facts: StageFacts, machine: Machine | None) -> list[Section]:
    try:
        found = readings_of(facts, machine)
    except NoReadings as error:
        return [Section(title="Readings", blocks=[Text(says=f"Left out: {error}.", tone="quiet")])]
    return [section for readings in found for section in _read(facts, readings)]


def _read(facts: StageFacts, readings: Readings | Plates) -> list[Section]:
    if isinstance(readings, Plates):
        _keep_pictures(facts, readings)
        confused = [report_words.confused(facts, readings)] if readings.read else []
        return [report_restored.restored_plates(readings), *confused]
    return [
        report_words.read_words(facts, readings),
        report_words.confused(facts, readings),
        report_words.lengths(readings),
    ]


def _keep_pictures(facts: StageFacts, plates: Plates) -> None:
    """Leave for trackers some pictures in all views and the map of confusions; later sets' carry the set's name."""
    source = plates.where.split("/")[0]
    of_set = "" if source == next(iter(facts.stage["validate"])) else f"_{source}"
    [shown] = [some for title, _, some in plates.rows if title == "At random"]
    found = {"comparison": comparison(shown)} if shown else {}
    if plates.confusions.mistakes():
        found["confusion"] = report_words.confusion_picture(plates.confusions)
    folder = facts.folder / PICTURES
    folder.mkdir(exist_ok=True)
    for name, data in found.items():
        put(folder / f"{name}{of_set}.png", data)
