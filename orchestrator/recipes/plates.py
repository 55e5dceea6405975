"""Plates: text-guided super-resolution of licence plates in five stages.

    python -m orchestrator.run train plates --preset tiny
    python -m orchestrator.run train plates --preset tiny --preset crops --data plates=DIR
    python -m orchestrator.run train plates --preset tracks --data plates=DIR

`pretrain` (two OCRs learn clean plates, each for itself) -> `warmup` (the generator learns pixels) -> `lcofl` (it
learns to be read by the first OCR, which is frozen; confused characters weigh more) -> `finetune` (both learn; the OCR
slower, anchored on clean plates) -> `hard_mining` (plates read badly come more often, and restored ones are to read
like their own clean image). The second OCR learns nothing after `pretrain`, and no generator learns from it: it tells
whether a restored plate can be read, or only pleases the reader that it was made for.

Without a preset for the data, plates are drawn. `crops` takes a folder of good pictures with labels and degrades them;
`tracks` takes pairs as LRLPR-26 and UFPR-SR-Plates have them. `tiny` is a network for two CPU cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from datasets.pair_image import PairSpec
from datasets.plate_folder import PlateFolder
from datasets.plates_tracks import PlateTracks
from datasets.rendered_plates import RenderedPlates
from models.losses.clean import ctc_of_monitor, ctc_on_target
from models.losses.embedding import EmbeddingTerm
from models.losses.image import l1, ssim
from models.losses.plates import CharacterTerm, LayoutTerm
from models.recognizers.simple import SimpleCRNNConfig
from models.restorers.plates import PlateRestorerConfig
from models.tasks.restore import RestoreTask
from models.text import Alphabet
from orchestrator.plan import (
    Augment,
    Best,
    Cosine,
    Expression,
    Mining,
    Mix,
    Optim,
    Recipe,
    Stage,
    StartFrom,
    Term,
    WeighSymbols,
)  # fmt: skip

PLATES, DRAWN = "plates", "drawn"
PLATES36 = Alphabet(symbols="0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", case="upper")
LCOFL = {  # with a weight of 1, the characters' gradient is many times that of the pixels, and PSNR falls below bicubic
    "l1": Term(loss=l1, trains=("generator",)),
    "characters": Term(loss=CharacterTerm(), weight=0.1, trains=("generator",)),
    "layout": Term(loss=LayoutTerm(symbols=PLATES36.symbols), weight=0.05, trains=("generator",)),
    "ssim": Term(loss=ssim, weight=0.2, trains=("generator",)),
}
BOTH = ("generator", "ocr")
READABLE = {name: replace(LCOFL[name], trains=BOTH) for name in ("characters", "layout")}
ALL = (*BOTH, "monitor")
MOVED = Augment(rotate=4.0, shear=0.1, stretch=0.08, shift=0.05)  # both halves of a pair alike
WORN = Augment(rotate=5.0, shear=0.15, stretch=0.1, shift=0.08)


def recipe() -> Recipe:
    return Recipe(
        name="plates",
        task=RestoreTask(
            generator=PlateRestorerConfig(),
            ocr=SimpleCRNNConfig(classes=PLATES36.classes),
            monitor=SimpleCRNNConfig(classes=PLATES36.classes, width=0.75, hidden=96),
        ),
        image=PairSpec(height=16, width=48, scale=2),
        alphabet=PLATES36,
        sources={
            PLATES: RenderedPlates(tracks=10_000, valid=500, test=500),
            DRAWN: RenderedPlates(tracks=50_000, frames=1, seed=1),
        },
        stages=(
            _stage(
                "pretrain", learn=("ocr", "monitor"), epochs=50,
                optim=Optim(lr=1e-3, weight_decay=0.05), schedule=Cosine(warmup=0.1),
                data=Mix(shares={PLATES: 0.5, DRAWN: 0.5}), augment=WORN,
                terms={"ctc": Term(loss=ctc_on_target, trains=("ocr",)),
                       "monitor": Term(loss=ctc_of_monitor, trains=("monitor",))},
                best=Best(metric=f"{PLATES}/loss", mode="min"),
            ),
            _stage(
                "warmup", learn=("generator",), epochs=30, optim=Optim(lr=1e-4), terms={"l1": Term(loss=l1)},
                best=Best(metric=f"{PLATES}/loss", mode="min"), start_from=StartFrom(stage="pretrain", parts=ALL),
            ),
            _stage(
                "lcofl", learn=("generator",), epochs=300, optim=Optim(lr=1e-4), terms=LCOFL,
                weigh=WeighSymbols(terms=("characters",)), best=Best(metric=f"{PLATES}/recognition_rate"),
                start_from=StartFrom(stage="warmup", parts=ALL),
            ),
            _stage(
                "finetune", learn=BOTH, epochs=150, optim=Optim(lr=1e-5, factors={"ocr": 0.1}),
                terms={**LCOFL, **READABLE, "anchor": Term(loss=ctc_on_target, trains=("ocr",))},
                weigh=WeighSymbols(terms=("characters",)), best=Best(metric=f"{PLATES}/recognition_rate"),
                start_from=StartFrom(stage="lcofl", parts=ALL),
            ),
            _stage(
                "hard_mining", learn=("generator",), epochs=50, optim=Optim(lr=5e-6),
                terms={**LCOFL, "embedding": Term(loss=EmbeddingTerm(), weight=0.3, ramp=10)},
                weigh=WeighSymbols(terms=("characters",)), best=Best(metric=f"{PLATES}/recognition_rate"),
                start_from=StartFrom(stage="finetune", parts=ALL), mining=Mining(),
            ),
        ),
    )  # fmt: skip


def _stage(name: str, *, best: Best, **rest: Any) -> Stage:
    """What most stages have in common. The recognition rate is the share of plates read without a mistake."""
    common = {
        "data": Mix(shares={PLATES: 1.0}), "augment": MOVED, "validate": {PLATES: "valid"},
        "schedule": Cosine(warmup=0.02),
    }  # fmt: skip
    return Stage(name=name, batch_size=32, best=(best,), **{**common, **rest})


READERS = ("lcofl", "finetune", "hard_mining")
READ = {  # a hundred plates to validate on are few: characters decide between checkpoints that read as many
    "scores": (Expression(name="read", text=f"{{{PLATES}/recognition_rate}} - {{{PLATES}/cer}}"),),
    "best": (Best(metric="read"),),
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "crops": {"sources.plates": PlateFolder(versions=4)},
    "tracks": {"sources.plates": PlateTracks()},
    "tiny": {
        "task.generator.features": 16,
        "task.generator.blocks": 2,
        "task.generator.growth": 16,
        "task.generator.groups": 1,
        "task.ocr.width": 0.5,
        "task.monitor.width": 0.5,
        "sources.drawn.tracks": 3_000,
        "stages.pretrain.epochs": 12,
        "stages.pretrain.optim.lr": 2e-3,
        "stages.warmup.epochs": 8,
        "stages.warmup.optim.lr": 1e-3,
        "stages.lcofl.epochs": 12,
        **{
            f"stages.{stage}.{key}": value
            for stage in ("lcofl", "finetune", "hard_mining")
            for key, value in READ.items()
        },
        "stages.lcofl.optim.lr": 1e-3,
        "stages.finetune.epochs": 10,
        "stages.finetune.optim.lr": 5e-4,
        "stages.hard_mining.epochs": 8,
        "stages.hard_mining.optim.lr": 2e-4,
        "stages.hard_mining.terms.embedding.ramp": 2,
        "stages.hard_mining.mining.least_visits": 2,
        "stages.hard_mining.mining.reweigh_every": 2,
    },
}
