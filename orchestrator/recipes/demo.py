"""The demo: the stages of `words` on words rendered here, small enough for two CPU cores and a coffee.

    python -m orchestrator.run

A quarter-width CRNN learns clean words, then the same kind of words as a camera might see them. It takes under four
minutes and ends at 0.86 word accuracy on held-out words of the second kind.
"""

from __future__ import annotations

from datasets.rendered import RenderedWords
from orchestrator.override import override
from orchestrator.plan import Augment, Cosine, Recipe
from orchestrator.recipes.words import three_stages

WORN = "worn"


def recipe() -> Recipe:
    words = three_stages(
        name="demo",
        rendered=RenderedWords(count=20_000, valid=500, numbers=0.0, random=0.0, style="plain"),
        real_name=WORN,
        real=RenderedWords(count=24_000, valid=500, numbers=0.0, random=0.0, seed=1, style="scene"),
        floor=0.1,
    )
    return override(
        words,
        {
            "task.recognizer.width": 0.25,
            "task.recognizer.hidden": 96,
            "image.max_width": 192,
            "stages.pretrain.optim.lr": 4e-3,
            "stages.pretrain.schedule": Cosine(warmup=0.05),
            "stages.pretrain.batch_size": 32,
            "stages.pretrain.epochs": 3,
            "stages.pretrain.gate": {"rendered/word_accuracy_36": 0.3},
            "stages.finetune_frozen.epochs": 1,
            "stages.finetune_frozen.optim.lr": 1e-3,
            "stages.finetune_frozen.data.epoch_samples": 5_000,
            "stages.finetune_frozen.augment": Augment(),
            "stages.finetune.epochs": 4,
            "stages.finetune.optim.lr": 3e-3,
            "stages.finetune.schedule": Cosine(warmup=0.05),
            "stages.finetune.data.epoch_samples": 24_000,
            "stages.finetune.augment": Augment(),
            "stages.finetune.early_stop": None,
        },
    )
