"""How well a trained recogniser reads a set: every text metric, with lexicons and beam search where they are asked."""

from __future__ import annotations

from models.batch import Batch, Read
from models.decoding import lexicon_log_likelihoods, prefix_beam
from models.metrics.text import protocols_of, text_scores
from models.text import Alphabet, LabelError
from orchestrator.batches import Samples
from orchestrator.evaluate import outputs, read_of
from orchestrator.ranks import Ranks
from orchestrator.reader import Reader

LEXICONS = {"lexicon_50": "lexicon_small", "lexicon_1k": "lexicon_medium"}


def score(reader: Reader, samples: Samples, *, lexicons: bool, beam: int) -> dict[str, float]:
    """Every text metric over ``samples``, with how many words each is over.

    Args:
        lexicons: also the accuracy when the reading is the likeliest word, by exact CTC likelihood, of the 50 or the
            1,000 words that come with each sample (36-class, over the samples that bring them).
        beam: also the metrics of prefix-beam readings of this width, as ``beam_NAME``; 0 for none.
    """
    alphabet = reader.alphabet
    texts: dict[str, list[str]] = {"": [], "beam_": []}
    truths: list[str] = []
    right = {name: [0, 0] for name in LEXICONS}
    for batch, out in outputs(
        reader.task, samples, device=reader.machine.device, autocast=reader.machine.autocast, ranks=Ranks()
    ):
        truths += [samples.text(sample) for sample in batch.ids]
        texts[""] += [reading.text for reading in read_of(batch, out, alphabet)]
        if beam:
            texts["beam_"] += _beam_texts(out, alphabet, beam)
        if lexicons:
            _count_lexicons(right, samples, batch, out, alphabet)
    metrics: dict[str, float] = {"n": len(truths)}
    for prefix, read in texts.items():
        if read:
            scores = text_scores(read, truths, normalize=alphabet.normalize, protocols=protocols_of(alphabet))
            values = scores.values() | (scores.counts() if not prefix else {})
            metrics |= {f"{prefix}{name}": value for name, value in values.items()}
    for name, (hits, words) in right.items():
        if words:
            metrics |= {f"{name}_accuracy_36": hits / words, f"{name}_n": words}
    return metrics


def _beam_texts(out: Read, alphabet: Alphabet, beam: int) -> list[str]:
    log_probs = out.logits.log_softmax(2).cpu().numpy()
    found = [prefix_beam(log_probs[i, :frames], beam=beam)[0][0] for i, frames in enumerate(out.frames.tolist())]
    return [alphabet.normalize(alphabet.decode(labels)) for labels in found]


def _count_lexicons(
    right: dict[str, list[int]], samples: Samples, batch: Batch, out: Read, alphabet: Alphabet
) -> None:  # fmt: skip
    """Count, for each lexicon, the samples whose likeliest word is the true one, case folded.

    A lexicon's words are upper-case whatever the image shows, so each is scored as written, in lower case and with a
    capital, and its best spelling counts.
    """
    for name, key in LEXICONS.items():
        words = [samples.words(sample, key) for sample in batch.ids]
        spelled = [[_spellings(word, alphabet) for word in each] for each in words]
        flat = [[labels for spellings in each for labels in spellings] for each in spelled]
        scores = lexicon_log_likelihoods(out.logits, out.frames, flat)
        for i, sample in enumerate(batch.ids):
            if not words[i]:
                continue
            owner = [word for word, spellings in zip(words[i], spelled[i], strict=True) for _ in spellings]
            guess = owner[int(scores[i].argmax())] if owner else ""
            right[name][0] += guess.lower() == samples.text(sample).lower()
            right[name][1] += 1


def _spellings(word: str, alphabet: Alphabet) -> list[list[int]]:
    spellings = []
    for cased in dict.fromkeys((word, word.lower(), word.capitalize())):
        try:
            spellings.append(alphabet.encode(cased))
        except LabelError:
            continue
    return spellings
