"""Documents: degraded lines of print and handwriting restored so that they can be read, guided by a recogniser.

    python -m orchestrator.run train documents --preset tiny --data lines=DIR --data pages=DIR

`recognizer` (it learns to read clean lines) -> `warmup` (the generator learns pixels and how clean lines look to the
recogniser) -> `adversarial` (it also has to be read, and to be taken for clean by a discriminator that learns against
it) -> `joint` (the recogniser learns along, at a tenth of the rate, anchored on clean lines) -> `pixel_finetune`
(pages without text, pixels alone, normalisation frozen). Pixels are in [-1, 1], so a weight of 100 is what 200 is in
[0, 1]. The preset `tiny` is for two CPU cores; `fresh` wears the training lines anew in every epoch, where they else
keep the damage that they were ingested with.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

from datasets.document_lines import DocumentLines
from datasets.document_pages import DocumentPages
from datasets.line_image import LineSpec
from datasets.worn_paper import PaperChain
from models.discriminators.patch import PatchConfig
from models.losses.adversarial import DiscriminatorTerm, GeneratorTerm
from models.losses.clean import ctc_on_target
from models.losses.feature import feature_distance, feature_perceptual
from models.losses.image import l1
from models.losses.line_ctc import Ceiling, LineCTC
from models.recognizers.simple import SimpleCRNNConfig
from models.recognizers.transformer import TransformerReaderConfig
from models.restorers.documents import EnhancedConfig, UNetConfig
from models.tasks.document import DocumentTask
from models.text import Alphabet
from orchestrator.plan import (
    Adversary,
    Augment,
    Best,
    Cosine,
    Expression,
    Mix,
    Optim,
    Recipe,
    Stage,
    StartFrom,
    Term,
    Wear,
)

LINES, PAGES = "lines", "pages"
ACCENTED = "ÀÂÇÈÉÊËÎÏÔÙÛÜàáâäçèéêëîïôöùûüÿœŒæÆćĈĉĜĝĤĥĴĵŜŝŬŭ"
SIGNS = "¬°«»–—‘’“”…→⋎"  # noqa: RUF001 - the dashes and quotes of print are symbols of their own
LATIN = Alphabet(symbols=" " + string.digits + string.ascii_letters + string.punctuation + SIGNS + ACCENTED)
ALL = ("generator", "discriminator", "recognizer")
SCANNED = Augment(rotate=0.5, shear=0.1, stretch=0.05, contrast=0.2, brightness=0.1)
LOOKS = {
    "pixel": Term(loss=l1, weight=100.0, trains=("generator",)),
    "perceptual": Term(loss=feature_perceptual, weight=0.2, trains=("generator",)),
}
GUIDED = {
    **LOOKS,
    "adversarial": Term(loss=GeneratorTerm(), weight=1.5, trains=("generator",)),
    "feature": Term(loss=feature_distance, weight=5.0, trains=("generator",)),
    "ctc": Term(loss=LineCTC(ceiling=Ceiling(mode="log_tail", value=4.0)), trains=("generator",), ramp=2),
}
AGAINST = Adversary(
    learn=("discriminator",), terms={"discriminator": Term(loss=DiscriminatorTerm())},
    optim=Optim(lr=2e-4, betas=(0.5, 0.999)),
)  # fmt: skip
READ: Mapping[str, Any] = {
    "scores": (Expression(name="score", text=f"{{{LINES}/psnr}} - 50 * {{{LINES}/cer}}"),),
    "best": (
        Best(metric="score"), Best(metric=f"{LINES}/cer", mode="min"), Best(metric=f"{LINES}/psnr"),
    ),
}  # fmt: skip


def recipe() -> Recipe:
    return Recipe(
        name="documents",
        task=DocumentTask(
            generator=EnhancedConfig(), discriminator=PatchConfig(),
            recognizer=TransformerReaderConfig(classes=LATIN.classes),
        ),
        image=LineSpec(height=128, max_width=2048),
        alphabet=LATIN,
        sources={
            LINES: DocumentLines(symbols=LATIN.symbols, pages="pairs", versions=4),
            PAGES: DocumentPages(),
        },
        stages=(
            Stage(
                name="recognizer", learn=("recognizer",), terms={"ctc": Term(loss=ctc_on_target)},
                optim=Optim(lr=5e-4), schedule=Cosine(warmup=0.05), epochs=60, batch_size=16, augment=SCANNED,
                data=Mix(shares={LINES: 1.0}), validate={LINES: "valid"},
                best=(Best(metric=f"{LINES}/loss", mode="min"),),
            ),
            _restoring("warmup", after="recognizer", terms=LOOKS, epochs=10, lr=2e-4,
                       best=(Best(metric=f"{LINES}/loss", mode="min"),)),
            _restoring("adversarial", after="warmup", terms=GUIDED, epochs=60, lr=2e-4, adversary=AGAINST, **READ),
            _restoring("joint", after="adversarial", terms=GUIDED | {
                "anchor": Term(loss=ctc_on_target, trains=("recognizer",))}, epochs=30, lr=1e-4, adversary=AGAINST,
                learn=("generator", "recognizer"), factors={"recognizer": 0.1}, **READ),
            _restoring("pixel_finetune", after="joint", terms={"pixel": LOOKS["pixel"]}, epochs=10, lr=5e-5,
                       source=PAGES, freeze_norm=True,
                       best=(Best(metric=f"{PAGES}/psnr"), Best(metric=f"{PAGES}/f_measure"))),
        ),
    )  # fmt: skip


def _restoring(
    name: str, *, after: str, terms: Mapping[str, Term], epochs: int, lr: float, source: str = LINES,
    learn: tuple[str, ...] = ("generator",), factors: Mapping[str, float] | None = None, **rest: Any,
) -> Stage:  # fmt: skip
    """What all stages have in common that restore."""
    return Stage(
        name=name, learn=learn, terms=terms, epochs=epochs, batch_size=16, schedule=Cosine(warmup=0.05),
        optim=Optim(lr=lr, betas=(0.5, 0.999), clip_norm=500.0, factors=factors or {}),
        data=Mix(shares={source: 1.0}), validate={source: "valid"}, start_from=StartFrom(stage=after, parts=ALL),
        **rest,
    )  # fmt: skip


FRESH = Wear(lines=LINES, chain=PaperChain(), paper=PAGES)
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {
        "task.generator": UNetConfig(width=8, halvings=3),
        "task.discriminator.width": 16,
        "task.recognizer": SimpleCRNNConfig(classes=LATIN.classes, channels=1, width=0.5),
        "image.height": 40,
        "image.max_width": 1280,
        "sources.lines.versions": 1,
        "sources.pages.height": 40,  # of the image, so that pages keep their size and are put together again whole
        "sources.pages.width": 320,
        "sources.pages.stride_down": 32,
        "sources.pages.stride_across": 304,
        "stages.recognizer.epochs": 20,
        "stages.recognizer.optim.lr": 2e-3,
        "stages.warmup.epochs": 3,
        "stages.warmup.optim.lr": 2e-3,
        "stages.adversarial.epochs": 6,
        "stages.adversarial.optim.lr": 1e-3,
        "stages.joint.epochs": 4,
        "stages.joint.optim.lr": 5e-4,
        "stages.pixel_finetune.epochs": 10,
        "stages.pixel_finetune.optim.lr": 1e-3,
    },
    "fresh": {
        "sources.lines.versions": 1,
        **{f"stages.{name}.wear": FRESH for name in ("warmup", "adversarial", "joint")},
    },
}
