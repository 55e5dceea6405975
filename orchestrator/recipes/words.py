"""Words: a CRNN that learns to read from rendered words, then from the 1,800 photographs of IIIT-5K.

    python -m orchestrator.run train words --preset tiny --data iiit5k=DIR
    python -m orchestrator.run evaluate words --preset tiny --data iiit5k=DIR

Three stages: `pretrain` (rendered words, everything learns) -> `finetune_frozen` (IIIT-5K, the CNN frozen, so that only
the sequence half adapts) -> `finetune` (everything learns, a fifth of it still rendered words against forgetting).
The preset `tiny` took an hour on two CPU cores and reads 78.1 % of the 3,000 test words (36-class, no lexicon), up from
76.0 % before the photographs: benchmarks/README.md. The full plan wants a GPU and has not been run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets.iiit5k import IIIT5K
from datasets.image import ImageSpec
from datasets.rendered import RenderedWords
from datasets.row import Source
from models.losses.text import ctc
from models.recognizers.crnn import CRNNConfig
from models.tasks.read import ReadTask
from models.text import ALNUM62
from orchestrator.plan import Augment, Best, Constant, Cosine, EarlyStop, Mix, Optim, Recipe, Stage, StartFrom, Term

RENDERED = "rendered"
SCENE = Augment(
    rotate=4.0, shear=0.15, stretch=0.12, shift=0.06, blur=1.0, noise=0.06, contrast=0.4, brightness=0.15, invert=0.15
)


def recipe() -> Recipe:
    return three_stages(
        name="words",
        rendered=RenderedWords(
            count=1_000_000, valid=2_000, test=2_000, words="system", fonts="system", style="scene",
            held_out_fonts=0.1, unread=0.12,
        ),
        real_name="iiit5k",
        real=IIIT5K(valid_rows=200),
        floor=0.2,
    )  # fmt: skip


def three_stages(*, name: str, rendered: Source, real_name: str, real: Source, floor: float) -> Recipe:
    """Learn from ``rendered``, then adapt to ``real``: first the sequence half, then everything.

    Args:
        floor: word accuracy that the reader of rendered words must reach on ``real`` before it is adapted.
    """
    pretrain = Stage(
        name="pretrain",
        learn=("cnn", "rnn"),
        terms={"ctc": Term(loss=ctc)},
        optim=Optim(lr=5e-4),
        schedule=Constant(),
        epochs=100,
        batch_size=64,
        data=Mix(shares={RENDERED: 1.0}),
        validate={RENDERED: "valid"},
        best=(Best(metric=f"{RENDERED}/word_accuracy_36"),),
        gate={f"{RENDERED}/word_accuracy_36": 0.4},
    )
    finetune_frozen = Stage(
        name="finetune_frozen",
        learn=("rnn",),
        terms={"ctc": Term(loss=ctc)},
        optim=Optim(lr=5e-5),
        epochs=5,
        batch_size=32,
        data=Mix(shares={real_name: 1.0}),
        augment=SCENE,
        validate={real_name: "valid", RENDERED: "valid"},
        best=(Best(metric=f"{real_name}/word_accuracy_36"),),
        start_from=StartFrom(stage="pretrain", parts=("cnn", "rnn"), floor={f"{real_name}/word_accuracy_36": floor}),
    )
    finetune = Stage(
        name="finetune",
        learn=("cnn", "rnn"),
        terms={"ctc": Term(loss=ctc)},
        optim=Optim(lr=5e-5),
        epochs=40,
        batch_size=32,
        data=Mix(shares={real_name: 0.8, RENDERED: 0.2}),
        augment=SCENE,
        validate={real_name: "valid", RENDERED: "valid"},
        best=(Best(metric=f"{real_name}/word_accuracy_36"), Best(metric=f"{real_name}/cer", mode="min")),
        early_stop=EarlyStop(metric=f"{real_name}/ned", patience=12),
        red_lines={f"{RENDERED}/word_accuracy_36": 0.10},
        start_from=StartFrom(stage="finetune_frozen", parts=("cnn", "rnn")),
    )
    return Recipe(
        name=name,
        task=ReadTask(recognizer=CRNNConfig(classes=ALNUM62.classes)),
        image=ImageSpec(height=32, max_width=256),
        alphabet=ALNUM62,
        sources={RENDERED: rendered, real_name: real},
        stages=(pretrain, finetune_frozen, finetune),
    )


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {
        "task.recognizer.width": 0.5,
        "task.recognizer.hidden": 128,
        "stages.pretrain.optim.lr": 2e-3,
        "stages.pretrain.schedule": Cosine(warmup=0.03),
        "stages.pretrain.epochs": 16,
        "stages.pretrain.data.epoch_samples": 100_000,
        "stages.finetune_frozen.optim.lr": 3e-4,
        "stages.finetune.optim.lr": 3e-4,
        "stages.finetune.schedule": Cosine(warmup=0.05),
    },
}
