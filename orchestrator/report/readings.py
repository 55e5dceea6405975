"""What a stage's result reads in its first validation set: the best, the worst, what it confuses, and by length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rapidfuzz.distance import Levenshtein

from models.metrics.confusions import Confusions, aligned, confusions
from models.metrics.text import protocols_of, text_scores
from models.text import Alphabet
from orchestrator.batches import Samples, samples_of
from orchestrator.checkpoint import CheckpointError
from orchestrator.evaluate import outputs, read_of
from orchestrator.execution import Execution
from orchestrator.manifest import ShardError
from orchestrator.pipeline import Machine
from orchestrator.plan import PlanError
from orchestrator.ranks import Ranks
from orchestrator.reader import Reader, open_reader
from orchestrator.report.blocks import Word
from orchestrator.report.facts import StageFacts
from orchestrator.report.pixels import picture
from orchestrator.report.plates import Plates, plates_of
from orchestrator.shards import Shards
from orchestrator.store import StoreError

SHOWN = 12
LONGEST = 12  # longer words share a row


class NoReadings(RuntimeError):
    """Readings that cannot be had any more, and why."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One validation sample, its label and what was read; both texts normalised by the alphabet."""

    sample: int
    truth: str
    reading: str
    confidence: float
    edits: int


@dataclass(frozen=True, kw_only=True)
class Readings:
    """A whole validation set, read once more.

    Attributes:
        where: ``SOURCE/SPLIT``; ``how``: with what it was read.
        metrics: by the names of the validation, without the set.
        best: right, the surest first. ``worst``: wrong, most edits first, then the surest. ``surest``: wrong, the
            surest first.
        lengths: characters of the label -> metrics of those words, ``n`` among them.
    """

    where: str
    how: str
    words: int
    metrics: Mapping[str, float]
    confusions: Confusions
    best: Sequence[Word]
    worst: Sequence[Word]
    surest: Sequence[Word]
    lengths: Mapping[str, Mapping[str, float]]


def readings_of(facts: StageFacts, machine: Machine | None) -> list[Readings | Plates]:
    """Read the first validation set of a stage with its result; restore every one. Raises :class:`NoReadings`.

    Args:
        machine: what to read with; this machine, with the precision of the record, when None.
    """
    first = next(iter(facts.stage["validate"]))
    if first not in facts.shards:
        raise NoReadings(facts.unread.get(first, f"the plan has no source {first!r}"))
    machine = machine or _machine_of(facts)
    try:
        reader = open_reader(_place(facts), machine)
        sets = {name: split for name, split in facts.stage["validate"].items() if name in facts.shards}
        return [_of_set(reader, facts, name, split) for name, split in sets.items() if reader.restores or name == first]
    except (StoreError, CheckpointError, ShardError, PlanError, OSError) as error:
        raise NoReadings(str(error)) from error


def _of_set(reader: Reader, facts: StageFacts, name: str, split: str) -> Readings | Plates:
    shards = Shards.open(facts.shards[name], verify=False)
    samples = samples_of({name: shards}, {name: split}, reader.alphabet, reader.frames)
    if reader.restores:
        return plates_of(reader, samples, where=f"{name}/{split}")
    return _told(read_all(reader, samples), samples, reader, where=f"{name}/{split}")


def read_all(reader: Reader, samples: Samples) -> list[Judged]:
    """Every sample once, in the order of the samples."""
    alphabet, machine = reader.alphabet, reader.machine
    judged = []
    for batch, out in outputs(reader.task, samples, device=machine.device, autocast=machine.autocast, ranks=Ranks()):
        for reading in read_of(batch, out, alphabet):
            truth = alphabet.normalize(samples.text(reading.sample))
            edits = Levenshtein.distance(reading.text, truth)
            judged.append(
                Judged(sample=reading.sample, truth=truth, reading=reading.text, confidence=reading.confidence,
                       edits=edits)
            )  # fmt: skip
    return sorted(judged, key=lambda each: each.sample)


def best_of(judged: Sequence[Judged], most: int = SHOWN) -> list[Judged]:
    """Right, the surest first."""
    return sorted((each for each in judged if not each.edits), key=lambda each: -each.confidence)[:most]


def worst_of(judged: Sequence[Judged], most: int = SHOWN) -> list[Judged]:
    """Wrong, most edits first, and of as many edits the surest first."""
    return sorted((each for each in judged if each.edits), key=lambda each: (-each.edits, -each.confidence))[:most]


def surest_mistakes(judged: Sequence[Judged], most: int = SHOWN) -> list[Judged]:
    return sorted((each for each in judged if each.edits), key=lambda each: -each.confidence)[:most]


def by_length(judged: Sequence[Judged], alphabet: Alphabet) -> dict[str, dict[str, float]]:
    """Characters of the label -> word accuracies and ``cer`` of the words that long, and ``n`` of them."""
    groups: dict[int, list[Judged]] = {}
    for each in judged:
        groups.setdefault(min(len(each.truth), LONGEST + 1), []).append(each)
    return {
        f"{length}" if length <= LONGEST else f"more than {LONGEST}": metrics_of(groups[length], alphabet)
        for length in sorted(groups)
    }


def metrics_of(judged: Sequence[Judged], alphabet: Alphabet) -> dict[str, float]:
    texts, truths = [each.reading for each in judged], [each.truth for each in judged]
    scores = text_scores(texts, truths, normalize=alphabet.normalize, protocols=protocols_of(alphabet))
    return scores.values() | {"n": len(judged)}


def _machine_of(facts: StageFacts) -> Machine:
    """This machine; with the precision that the stage was validated in, so that the readings are the same."""
    machine = Machine.of(Execution(), Ranks())
    used = facts.record.execution.get("precision_used") if facts.record else None
    return replace(machine, precision=used) if used in ("fp32", "bf16") else machine


def _place(facts: StageFacts) -> Path:
    """What to read with: the record's result, or the newest checkpoint of an unfinished stage."""
    if facts.record is not None:
        return facts.folder
    newest = max((facts.folder / "checkpoints").glob("step-*"), default=None)
    if newest is None:
        raise NoReadings("the stage is not finished and has no checkpoint yet")
    return newest


def _told(judged: Sequence[Judged], samples: Samples, reader: Reader, *, where: str) -> Readings:
    alphabet, machine = reader.alphabet, reader.machine

    def shown(some: Sequence[Judged]) -> list[Word]:
        return [_word(each, samples) for each in some]

    return Readings(
        where=where, how=f"{reader.checkpoint.name} on {machine.device.type} in {machine.precision}",
        words=len(judged), metrics=metrics_of(judged, alphabet),
        confusions=confusions([each.reading for each in judged], [each.truth for each in judged]),
        best=shown(best_of(judged)), worst=shown(worst_of(judged)), surest=shown(surest_mistakes(judged)),
        lengths=by_length(judged, alphabet),
    )  # fmt: skip


def _word(each: Judged, samples: Samples) -> Word:
    shards, row = samples.located(each.sample)
    edits = f"{each.edits} edit{'s' if each.edits > 1 else ''}" if each.edits else "right"
    if each.edits and each.reading.casefold() == each.truth.casefold():
        edits += " of case"
    return Word(
        sample=shards.ids[row], truth=each.truth, reading=each.reading, pairs=aligned(each.reading, each.truth),
        confidence=each.confidence, image=picture(shards.pixels(row)), facts=edits,
    )  # fmt: skip
