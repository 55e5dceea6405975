"""Preflight of the data: labels, hashes, splits, validation sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from models.text import Alphabet, LabelError, frames_needed
from orchestrator.batches import Samples
from orchestrator.identity import plain
from orchestrator.plan import Recipe, Stage
from orchestrator.preflight import SHOWN, Found, PreflightError
from orchestrator.shards import Shards

MANY_REJECTED = 0.05  # of a source's rows: worth a warning
PROBES = 64  # bytes of each picture that are compared before whole pictures are
AT_ONCE = 65_536  # rows


def check_shards_fit(recipe: Recipe, shards: Mapping[str, Shards]) -> Found:
    """Shards were made with this recipe's alphabet, ImageSpec and frame rule."""
    for name, opened in shards.items():
        frames = {key: value for key, value in plain(recipe.task.frames).items() if key != "is"}
        made_for = {key: value for key, value in opened.manifest.frames.items() if key != "is"}
        blanks = opened.manifest.alphabet.get("blank"), plain(recipe.alphabet)["blank"]
        for what, found, wanted in (
            ("alphabet", opened.manifest.alphabet_sha256[:12], recipe.alphabet.sha256[:12]),
            (type(recipe.image).__name__, opened.manifest.image_sha256[:12], recipe.image.sha256[:12]),
            ("frame rule", made_for, frames),
            ("blank", *blanks),
        ):
            if found != wanted:
                raise PreflightError(
                    f"shards of {name!r} in {opened.folder} were made with {what} {found}, the recipe has {wanted}; "
                    "ingest the source again"
                )
    return Found(
        says=f"alphabet {recipe.alphabet.sha256[:12]} and {type(recipe.image).__name__} "
        f"{recipe.image.sha256[:12]} in the shards of "
        f"{', '.join(shards)}"
    )


def check_labels(shards: Mapping[str, Shards], alphabet: Alphabet) -> Found:
    """Every training label encodes, decodes back to itself, and can be spelled by CTC in the frames of its width."""
    says, warnings = [], []
    for name, opened in shards.items():
        every = opened.rows_of("train")
        rows = every[~opened.textless[every]]
        bad = _unlearnable(opened, rows, alphabet)
        if bad or not len(every):
            named = [f"{opened.texts_raw[row]!r} ({reason}{more})" for row, (reason, more) in list(bad.items())[:SHOWN]]
            reasons = Counter(reason for reason, _ in bad.values())
            counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
            raise PreflightError(
                f"{len(bad)} of {len(rows)} training labels of {name!r} cannot be learned"
                f"{f' ({counts})' if bad else ''}{': ' if bad else ''}{', '.join(named)}; ingest again so that they "
                "are listed in rejects"
            )
        rejects = opened.manifest.rejects
        lost = sum(rejects.values())
        by_reason = f" ({', '.join(f'{reason} {count}' for reason, count in rejects.items())})" if lost else ""
        fit = [f"{len(rows)} training labels encode, decode back and fit"] if len(rows) else []
        fit += [f"{len(every) - len(rows)} training rows have no text"] if len(rows) < len(every) else []
        says.append(f"{name}: {', '.join(fit)}; {lost} rows rejected{by_reason}")
        if lost > MANY_REJECTED * (lost + opened.size):
            warnings.append(
                f"{name}: {lost} of {lost + opened.size} rows were rejected at ingest{by_reason}; "
                f"each is named in {opened.folder / 'rejects.jsonl'}"
            )
    return Found(says="; ".join(says), warnings=tuple(warnings))


def _unlearnable(shards: Shards, rows: np.ndarray, alphabet: Alphabet) -> dict[int, tuple[str, str]]:
    """Row -> why its label cannot be learned, and more about it; judged anew, and as ingest judged it."""
    manifest, needs, why = shards.manifest, {}, {}
    for text in {shards.texts[row] for row in rows.tolist()}:
        needs[text], why[text] = _spelling(text, alphabet)
    stride, offset = int(manifest.frames["stride"]), int(manifest.frames["offset"])
    bad: dict[int, tuple[str, str]] = {}
    for row, width in zip(rows.tolist(), shards.read_widths[rows].tolist(), strict=True):
        text = shards.texts[row]
        frames = max(width // stride + offset, 0)
        found = shards.flaws[row] or why[text]
        if found:
            bad[row] = found, ""
        elif needs[text] > frames:
            bad[row] = "too few frames", f": needs {needs[text]} frames, its {width} columns give {frames}"
    return bad


def _spelling(text: str, alphabet: Alphabet) -> tuple[int, str]:
    """Frames that ``text`` needs, and why it cannot be learned at all (empty when it can)."""
    try:
        classes = alphabet.encode(text)
    except LabelError:
        return 0, "symbols the alphabet lacks"
    if not classes:
        return 0, "empty"
    same = alphabet.decode(classes) == text
    return frames_needed(classes), "" if same else f"decodes to {alphabet.decode(classes)!r}"


def check_splits_disjoint(shards: Mapping[str, Shards]) -> Found:
    """No group (photo, page, writer ...) lies in two splits of a source, and no picture in two splits of any."""
    groups = 0
    for name, opened in shards.items():
        home: dict[str, str] = {}
        shared = set()
        for group, split in zip(opened.groups, opened.splits.tolist(), strict=True):
            if home.setdefault(group, split) != split:
                shared.add(group)
        if shared:
            raise PreflightError(
                f"source {name!r}: {len(shared)} groups lie in more than one split, such as "
                f"{sorted(shared)[:SHOWN]}; rows of one group must stay together"
            )
        groups += len(home)
    twins = same_pictures(shards)
    if twins:
        named = [f"{a[0]}/{shards[a[0]].ids[a[1]]} = {b[0]}/{shards[b[0]].ids[b[1]]}" for a, b in twins[:SHOWN]]
        raise PreflightError(
            f"{len(twins)} pictures for training are, pixel by pixel, also held out for validation or test under "
            f"another name, such as {'; '.join(named)}; what is measured on them was learned by heart. Take them out "
            "of one split, or give both rows one group"
        )
    return Found(says=f"{groups} groups, each in one split; no picture for training is also held out")


def same_pictures(shards: Mapping[str, Shards]) -> list[tuple[tuple[str, int], tuple[str, int]]]:
    """Pairs of (source, row): one for training, one held out, of equal width and pixels, or of equal targets.

    Pictures of one value all over say nothing and are passed over. Compares :data:`PROBES` bytes of every picture, and
    whole pictures only where those agree, so that a million rows take seconds.
    """
    twins = {pair: None for target in (False, True) for pair in _twins(shards, target=target)}  # a set in order
    return list(twins)


def _twins(shards: Mapping[str, Shards], *, target: bool) -> Iterator[tuple[tuple[str, int], tuple[str, int]]]:
    held_out: dict[bytes, list[tuple[str, int]]] = {}
    for name, opened in shards.items():
        for row, probe in _probes(opened, opened.splits != "train", target=target):
            held_out.setdefault(probe, []).append((name, row))
    for name, opened in shards.items():
        for row, probe in _probes(opened, opened.splits == "train", target=target):
            for other, twin in held_out.get(probe, ()):
                mine, theirs = _picture(opened, row, target=target), _picture(shards[other], twin, target=target)
                if np.array_equal(mine, theirs) and mine.min() < mine.max():
                    yield (name, row), (other, twin)


def _probes(shards: Shards, chosen: np.ndarray, *, target: bool) -> Iterator[tuple[int, bytes]]:
    """Each chosen row that has such a picture; its width and bytes from all over the picture, as one key."""
    rows = np.flatnonzero(chosen & shards.has_target if target else chosen)
    for start in range(0, len(rows), AT_ONCE):
        some = rows[start : start + AT_ONCE]
        keys = shards.probe(some, PROBES, target=target)
        yield from zip(some.tolist(), (key.tobytes() for key in keys), strict=True)


def _picture(shards: Shards, row: int, *, target: bool) -> np.ndarray:
    """The picture of a row without the padding around it."""
    array, times = (shards.target(row), shards.scale) if target else (shards.pixels(row), 1)
    assert array is not None
    top, left, height, width = (times * int(value) for value in shards.boxes[row])
    return array[top : top + height, left : left + width]


def check_validation(stage: Stage, sets: Mapping[str, Samples]) -> Found:
    """Validation sets hold something; warns of words in them that cannot be read right."""
    warnings = []
    for name, samples in sets.items():
        if not len(samples):
            raise PreflightError(f"stage {stage.name!r} validates on {name!r}, which has no rows in that split")
        lost = int((~samples.counted & ~samples.textless).sum())
        if lost:
            warnings.append(
                f"{name}: {lost} of {len(samples)} validation words cannot be spelled; each counts as an error"
            )
    sizes = ", ".join(f"{name} {len(samples)}" for name, samples in sets.items())
    return Found(says=f"words to validate on: {sizes}", warnings=tuple(warnings))
