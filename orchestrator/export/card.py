"""The model card of an export: its config in words and tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

METRICS = {
    "word_accuracy_36": "share of words read without a mistake, case ignored, all but letters and digits left out",
    "word_accuracy_62": "share of words read without a mistake, with case, all but letters and digits left out",
    "word_accuracy_94": "share of words read without a mistake, all printable ASCII",
    "cer": "character errors per character of the labels; lower is better",
    "ned": "average of 1 - edits / length of the longer text (ICDAR19's 1-NED)",
    "loss": "CTC, nats per character; lower is better",
    "lexicon_50_accuracy_36": "the likeliest of the 50 words that come with each image is the true one",
    "lexicon_1k_accuracy_36": "the likeliest of the 1,000 words that come with each image is the true one",
}


def card(config: Mapping[str, Any]) -> str:
    """The README.md of an export whose config is whole but for the hash of this very text."""
    alphabet, image = config["alphabet"], config["image"]
    title = f"{config['recipe']} / {config['stage']['name']} {config['stage']['fingerprint']}"
    blocks = [
        f"# {title}",
        f"{'Restores images of low resolution and reads' if 'scale' in image else 'Reads'} the text of one line or "
        f"word in an image: {len(alphabet['symbols'])} characters, "
        f"{_case(alphabet['case'])}. Weights `{config['weights_sha256'][:16]}`, after step {config['step']}"
        f"{', averaged over training' if config['averaged'] else ''}.",
        "## Use",
        *_use(config),
        "## Input",
        _input(image, config),
        "## Alphabet",
        f"```\n{alphabet['symbols']}\n```",
        f"Class 0 of the logits is the CTC blank, class k is the k-th character above. Text is put into Unicode form "
        f"{alphabet['unicode']}, {_case(alphabet['case'])}. SHA-256 `{config['fits']['alphabet']}`.",
        "## What it reached",
        *_metrics(config),
        "## Training data",
        *_data(config["data"]),
        "## How it was trained",
        *_lineage(config),
        "## Limits",
        _bullets(_limits(config)),
        "## Checked before it was called done",
        _bullets(_proof(config)),
        "## Versions",
        _bullets(f"{when}: {_listed(versions)}" for when, versions in config["versions"].items() if versions),
    ]
    return "\n\n".join(blocks) + "\n"


def _use(config: Mapping[str, Any]) -> list[str]:
    project = (
        "With Plumbline:\n\n```\npython -m orchestrator.run predict word.png --from THIS_FOLDER\n```\n\n"
        "`model.safetensors` holds the weights as PyTorch names them, `plan.json` the whole recipe."
    )
    if not config["onnx"]["made"]:
        return [f"No ONNX in this export: {config['onnx']['why']}.", project]
    restores = "restored" in config["output"]
    command = "python read.py --to restored plate.png" if restores else "python read.py word.png line.jpg"
    python = 'reading, picture = Reader().restore("plate.png")' if restores else 'print(Reader().read("word.png").text)'
    takes = "laid out as below" if restores else f"of any width that is a multiple of {config['width_multiple']}"
    return [
        "Without Plumbline: Python 3.10 or later with `numpy`, `onnxruntime` and `opencv-python-headless`.\n\n"
        f"```\n{command}\n```\n\n"
        f"```python\nfrom read import Reader\n\n{python}\n```",
        f"With any ONNX runtime, in any language: `model.onnx` takes any number of images {takes}.\n\n"
        + _table(("name", "what"), [*config["input"].items(), *config["output"].items()])
        + "\n\nA reading is the best class of each valid frame, equal neighbours made one, blanks dropped.",
        project,
    ]


def _input(image: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    if "scale" in image:
        return _bullets(_laid_out(image, config))
    wide = "squeezed to it" if image["wider"] == "squeeze" else "refused"
    return _bullets([
        f"decoded to 8 bits, {'grey by ITU-R 601 luma' if image['channels'] == 1 else 'RGB'}",
        f"resized to height {image['height']} with its aspect ratio, width rounded up: by area when shrunk, "
        "bilinearly when enlarged",
        f"at least {image['min_width']} columns (narrower is stretched), at most {image['max_width']} (wider is "
        f"{wide})",
        f"refused when a side has under {image['min_side']} pixels",
        f"values {config['input']['image'].partition(': ')[2]}; padded to a multiple of "
        f"{config['width_multiple']} columns",
        f"gives `width // {config['frames']['stride']} + {config['frames']['offset']}` frames",
        f"SHA-256 of these settings `{config['fits']['ImageSpec']}`",
    ])  # fmt: skip


def _laid_out(image: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """How a picture of low resolution becomes the array that is restored."""
    return [
        "decoded to 8 bits, RGB",
        f"fitted into {image['height']}x{image['width']} (height x width) with its aspect ratio, in the middle, with "
        f"{', '.join(map(str, image['pad']))} around it; "
        f"{image['enlarge']} when enlarged, {image['shrink']} when shrunk",
        f"refused when a side has under {image['min_side']} pixels or one is over "
        f"{image['max_aspect']:g} times the other",
        f"restored {image['scale']} times as high and wide; what was padding is cut off again",
        f"SHA-256 of these settings `{config['fits']['ImageSpec']}`",
    ]


def _metrics(config: Mapping[str, Any]) -> list[str]:
    metrics, blocks = config["metrics"], []
    sets: dict[str, dict[str, float]] = {}
    for name, value in metrics["validation"].items():
        source, _, metric = name.rpartition("/")
        of = f"{source}/{metrics['validation_splits'].get(source, '')}" if source else "all of validation by score"
        sets.setdefault(f"{of} (validation, which helped to choose these weights)", {})[metric] = value
    sets |= metrics["evaluated"]
    for name, values in sets.items():
        rows = [
            (metric, _number(value), _words(metric, values), METRICS.get(metric.removeprefix("beam_"), ""))
            for metric, value in values.items()
            if metric != "n" and not metric.endswith(("_n", "_skipped"))
        ]
        blocks += [f"On {name}:", _table(("metric", "value", "N", "what"), rows)]
    if not sets:
        return ["No validation of exactly these weights is recorded."]
    return [*blocks, "All against the ground-truth text; readings are greedy, `beam_` those of a prefix beam search."]


def _words(metric: str, values: Mapping[str, float]) -> str:
    """How many words a metric is over; nothing for a score that is made of several metrics."""
    plain = metric.removeprefix("beam_")
    own = values.get(f"{plain}_n", values.get(f"{plain.removesuffix('_accuracy_36')}_n", values.get("n")))
    return "" if own is None else str(int(own))


def _data(data: Mapping[str, Any]) -> list[str]:
    if not data:
        return ["Not recorded with these weights."]
    rows, terms = [], []
    for name, facts in data.items():
        notes = facts["notes"]
        counts = ", ".join(f"{split} {count:,}" for split, count in facts["counts"].items())
        used = "; ".join(f"{stage}: {use}" for stage, use in facts["used"].items())
        rejected = f"{sum(facts['rejects'].values()):,}"
        rows.append((name, notes.get("name", facts["kind"]), counts, rejected, used, facts["content"][:12]))
        cite = f" Cite: {notes['citation']}." if "citation" in notes else ""
        labels = f" Labels: {notes['labels']}." if "labels" in notes else ""
        terms.append(f"**{name}**: licence: {notes.get('licence', 'not known here')}.{cite}{labels}")
    head = ("source", "what", "images", "rejected", "used for", "content")
    advice = "The terms of the data may bind the weights too; it is for you to see that your use is within them."
    return [_table(head, rows), _bullets(terms), advice]


def _lineage(config: Mapping[str, Any]) -> list[str]:
    if not config["lineage"]:
        return ["These weights have no finished record: they are a checkpoint of a stage that had not ended."]
    rows = [
        (stage["stage"], stage["fingerprint"], _start(stage), ", ".join(stage["learned"]), f"{stage['steps']:,}",
         str(stage["epochs"]), stage["finished"])
        for stage in config["lineage"]
    ]  # fmt: skip
    head = ("stage", "fingerprint", "started from", "parts that learned", "updates", "epochs", "ended")
    stage = config["stage"]
    warned = [f"warning of the stage: {each}" for each in stage.get("warnings", ())]
    warned += [f"accepted on purpose, {name}: {found}" for name, found in stage.get("accepted", {}).items()]
    return [_table(head, rows), *([_bullets(warned)] if warned else [])]


def _start(stage: Mapping[str, Any]) -> str:
    start = stage["started_from"]
    if not start:
        return "random weights"
    return f"{start['stage']} {stage['parent']}" if "stage" in start else f"imported weights {start['sha256'][:12]}"


def _limits(config: Mapping[str, Any]) -> list[str]:
    image, limits = config["image"], []
    limits.append("It can say nothing but the characters of its alphabet; other characters are read as some of them.")
    limits.append("One line of text in each image, cut out and upright; it finds no text in a page and turns nothing.")
    if image.get("wider") == "squeeze":
        limits.append(
            f"Lines over {image['max_width']} columns at height {image['height']} are squeezed and read worse."
        )
    limits.append("The probability is CTC's for the whole text, lower for longer texts; it has not been calibrated.")
    tested = list(config["metrics"]["evaluated"])
    limits.append(
        f"Measured on {', '.join(tested)}; how it does on other images is not known."
        if tested
        else "Not evaluated on a test split when it was exported; validation chose these weights and flatters them."
    )
    return limits


def _proof(config: Mapping[str, Any]) -> list[str]:
    proof, onnx = config["verified"], config["onnx"]
    lines = [
        f"{proof['images']} images ({proof['of']}), {proof['read']} read and {proof['refused']} refused, "
        f"{proof['columns'][0]} to {proof['columns'][1]} columns wide; {proof['distinct']} distinct readings",
        f"the project in a fresh process: {_same(proof['project'])}",
        f"read.py in a fresh process without the project: {_same(proof['alone'])}"
        if proof["alone"]
        else "read.py: not part of this export, which has no ONNX",
    ]
    if onnx["made"]:
        compared = onnx["compared"]
        restores = "restored" in config["output"]
        widths = f"at widths {', '.join(map(str, compared['widths']))} and " if not restores else "on "
        mixed, what = ("", "images and logits") if restores else (" with mixed widths", "logits")
        lines.append(
            f"model.onnx (opset {onnx['opset']}) against PyTorch {widths}"
            f"batches of {compared['batches'][0]} to {compared['batches'][-1]}{mixed}: {what} at most "
            f"{compared['largest_difference']:.1e} apart"
        )
    return lines


def _same(found: Mapping[str, Any]) -> str:
    furthest = found["largest_difference"]
    apart = f"at most {furthest:.1e} apart" if furthest else "identical"
    levels = found.get("grey_levels")
    pictures = f", restored pictures at most {levels} of 255 levels apart" if levels is not None else ""
    return f"all {found['equal']} readings the same, logits {apart}{pictures}"


def _case(case: str) -> str:
    return {"keep": "case kept", "lower": "all lower case", "upper": "all upper case"}[case]


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"


def _listed(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
