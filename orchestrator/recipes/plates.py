"""Plates: text-guided super-resolution of licence plates in five stages.

    python -m orchestrator.run train plates --preset tiny
    python -m orchestrator.run train plates --set sources.plates=PlateFolder --data plates=DIR

`pretrain` (the OCR learns clean plates) -> `warmup` (the generator learns pixels) -> `lcofl` (it learns to be read, by
an OCR that is frozen; confused characters weigh more) -> `finetune` (both learn; the OCR slower, anchored on clean
plates) -> `hard_mining` (plates read badly come more often, and restored ones are to read like their own clean image).
The preset `tiny` is for two CPU cores; its data are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets.pair_image import PairSpec
from datasets.rendered_plates import RenderedPlates
from models.losses.clean import ctc_on_target
from models.losses.embedding import EmbeddingTerm
from models.losses.image import l1, ssim
from models.losses.plates import CharacterTerm, LayoutTerm
from models.recognizers.simple import SimpleCRNNConfig
from models.restorers.plates import PlateRestorerConfig
from models.tasks.restore import RestoreTask
from models.text import Alphabet
from orchestrator.mining import Curriculum
from orchestrator.plan import Best, Cosine, Mining, Mix, Optim, Recipe, Stage, StartFrom, Term, WeighSymbols

PLATES = "plates"
PLATES36 = Alphabet(symbols="0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", case="upper")
LCOFL = {
    "l1": Term(loss=l1),
    "characters": Term(loss=CharacterTerm(), trains=("generator",)),
    "layout": Term(loss=LayoutTerm(symbols=PLATES36.symbols), weight=0.5, trains=("generator",)),
    "ssim": Term(loss=ssim, weight=0.2, trains=("generator",)),
}
BOTH = ("generator", "ocr")


def recipe() -> Recipe:
    return Recipe(
        name="plates",
        task=RestoreTask(generator=PlateRestorerConfig(), ocr=SimpleCRNNConfig(classes=PLATES36.classes)),
        image=PairSpec(height=16, width=48, scale=2),
        alphabet=PLATES36,
        sources={PLATES: RenderedPlates(tracks=10_000, valid=500, test=500)},
        stages=(
            _stage(
                "pretrain", learn=("ocr",), epochs=50, optim=Optim(lr=1e-3, weight_decay=0.05, clip_norm=1.0),
                terms={"ctc": Term(loss=ctc_on_target)}, schedule=Cosine(warmup=0.1),
                best=Best(metric=f"{PLATES}/loss", mode="min"),
            ),
            _stage(
                "warmup", learn=("generator",), epochs=30, optim=Optim(lr=1e-4, clip_norm=1.0),
                terms={"l1": Term(loss=l1)}, best=Best(metric=f"{PLATES}/loss", mode="min"),
                start_from=StartFrom(stage="pretrain", parts=BOTH),
            ),
            _stage(
                "lcofl", learn=("generator",), epochs=300, optim=Optim(lr=1e-4, clip_norm=1.0), terms=LCOFL,
                weigh=WeighSymbols(terms=("characters",)), best=Best(metric=f"{PLATES}/recognition_rate"),
                start_from=StartFrom(stage="warmup", parts=BOTH),
            ),
            _stage(
                "finetune", learn=BOTH, epochs=150,
                optim=Optim(lr=1e-5, clip_norm=1.0, factors={"ocr": 0.1}),
                terms={**LCOFL, "l1": Term(loss=l1, trains=("generator",)),
                       "anchor": Term(loss=ctc_on_target, trains=("ocr",))},
                weigh=WeighSymbols(terms=("characters",)), best=Best(metric=f"{PLATES}/recognition_rate"),
                start_from=StartFrom(stage="lcofl", parts=BOTH),
            ),
            _stage(
                "hard_mining", learn=("generator",), epochs=50, optim=Optim(lr=5e-6, clip_norm=1.0),
                terms={**LCOFL, "embedding": Term(loss=EmbeddingTerm(), weight=0.3, ramp=10)},
                weigh=WeighSymbols(terms=("characters",)), best=Best(metric=f"{PLATES}/recognition_rate"),
                start_from=StartFrom(stage="finetune", parts=BOTH), mining=Mining(),
            ),
        ),
    )  # fmt: skip


def _stage(name: str, *, best: Best, **rest: Any) -> Stage:
    """What all stages have in common. The recognition rate is the share of plates read without a mistake."""
    return Stage(
        name=name, batch_size=32, data=Mix(shares={PLATES: 1.0}), validate={PLATES: "valid"}, best=(best,), **rest
    )


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {
        "task.generator.features": 16,
        "task.generator.blocks": 2,
        "task.generator.growth": 16,
        "task.generator.groups": 1,
        "sources.plates.tracks": 600,
        "sources.plates.valid": 60,
        "sources.plates.test": 60,
        "stages.pretrain.epochs": 12,
        "stages.pretrain.optim.lr": 2e-3,
        "stages.warmup.epochs": 3,
        "stages.warmup.optim.lr": 1e-3,
        "stages.lcofl.epochs": 6,
        "stages.lcofl.optim.lr": 1e-3,
        "stages.finetune.epochs": 4,
        "stages.finetune.optim.lr": 3e-4,
        "stages.hard_mining.epochs": 5,
        "stages.hard_mining.optim.lr": 1e-4,
        "stages.hard_mining.terms.embedding.ramp": 2,
        "stages.hard_mining.mining.least_visits": 2,
        "stages.hard_mining.mining.reweigh_every": 2,
        "stages.hard_mining.mining.curriculum": Curriculum(epochs=5),
    },
}
