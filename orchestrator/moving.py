"""What moves while a stage trains: weights of terms and symbols, and how hard each sample is.

All of it follows from checkpointed progress and from the raw readings of training, gathered from all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.losses.symbol_weights import SymbolErrors
from models.metrics.confusions import confusions
from models.metrics.plates import character_accuracy
from orchestrator.balance import Balanced, shares_of, untouched
from orchestrator.events import MOST_IDS
from orchestrator.heard import Heard, symbols_of
from orchestrator.mining import begun, chances, epoch_list, hardest, suspects, visited
from orchestrator.plan import Stage
from orchestrator.progress import Progress
from orchestrator.ranks import Ranks
from orchestrator.update import Trainee

Counts = dict[str, list[float]]
MOST_SHOWN = 10  # symbols and samples that an epoch's line names
HARD_PART = 0.1  # share of the samples that is called the hard part


def stage_now(stage: Stage, progress: Progress) -> Stage:
    """``stage`` with the weights that its terms, and the symbols in them, have in the epoch that begins."""
    weighed = set(stage.weigh.terms) if stage.weigh and progress.symbols else set()
    terms = {}
    for name, term in stage.terms.items():
        loss: Any = term.loss
        if stage.weigh and name in weighed:
            weights = _errors(progress.symbols).weights(most=loss.most, prior=stage.weigh.prior)
            loss = replace(loss, weights=weights)
        factor = progress.balance.get("factors", {}).get(name, 1.0)
        terms[name] = replace(term, loss=loss, weight=factor * term.weight_at(progress.epoch), ramp=0)
    return replace(stage, terms=terms)


def balances(stage: Stage, epoch: int, step: int) -> bool:
    """Whether update ``step`` of the stage, in ``epoch``, is one that the balance of terms looks at."""
    rule = stage.balance
    return rule is not None and epoch >= rule.warmup and step % rule.every == 0


def note_balance(stage: Stage, progress: Progress, *, norms: Mapping[str, float], losses: Mapping[str, float]) -> None:
    """Take in what an update measured of each term, without its weight, and move the balance."""
    rule = stage.balance
    assert rule is not None
    known = Balanced.of(progress.balance, rule) if progress.balance else untouched(rule)
    measured = losses
    if rule.measures == "gradients":
        measured = {name: abs(term.weight_at(progress.epoch)) * norms[name] for name, term in stage.terms.items()}
    progress.balance = rule.after(known, measured, epoch=progress.epoch).plain()


def drawn_now(stage: Stage, trainee: Trainee, *, count: int, seed: int) -> NDArray[np.int64] | None:
    """The ``count`` samples of the epoch that begins, or goes on; none where nothing is mined."""
    if stage.mining is None or trainee.difficulty is None:
        return None
    epoch = trainee.progress.epoch
    rule = stage.mining.over(stage.epochs)
    trainee.difficulty = begun(trainee.difficulty, rule, epoch)
    return epoch_list(trainee.difficulty, rule, epoch=epoch, count=count, seed=(seed,))


def note_heard(stage: Stage, trainee: Trainee, steps: Sequence[Sequence[Heard]], ranks: Ranks) -> None:
    """Take in what all ranks read in some steps; all ranks have to call it with as many steps."""
    own = [[told for heard in step for told in heard.texts() if told[2]] for step in steps]
    classes = next((heard.classes for step in steps for heard in step), 0)
    every = ranks.gather(own)
    for number in range(len(steps)):
        told = sorted(each for of_rank in every for each in of_rank[number])
        if trainee.difficulty is not None:
            accuracies = [character_accuracy(read, label) for _, read, label in told]
            trainee.difficulty = visited(trainee.difficulty, [sample for sample, _, _ in told], accuracies)
        if stage.weigh is not None:
            found = confusions([read for _, read, _ in told], [label for _, _, label in told])
            _add(trainee.progress.symbols_now, SymbolErrors.of(found, symbols_of(classes)))


def close_epoch(stage: Stage, progress: Progress) -> None:
    """Let the epoch's confusions into the moving average, the first epoch's as they are."""
    if stage.weigh is None or not progress.symbols_now:
        return
    newest = _errors(progress.symbols_now)
    mixed = _errors(progress.symbols).after(newest, keep=stage.weigh.keep) if progress.symbols else newest
    progress.symbols = {"seen": list(mixed.seen), "wrong": list(mixed.wrong)}
    progress.symbols_now = {}


def told_of(stage: Stage, now: Stage, trainee: Trainee) -> dict[str, float]:
    """What an epoch's line says of what moved in it; ``now`` is the stage as it was in that epoch."""
    moved = set(stage.balance.shares) if stage.balance else set()
    line = {
        f"weight/{name}": now.terms[name].weight for name, term in stage.terms.items() if term.ramp or name in moved
    }
    if stage.balance and trainee.progress.balance:
        balanced = Balanced.of(trainee.progress.balance, stage.balance)
        line |= {"balance/updates": float(balanced.updates), "balance/movement": balanced.movement}
        line |= {f"balance/share/{name}": share for name, share in shares_of(balanced).items()}
    if stage.weigh is not None:
        for name in stage.weigh.terms:
            weights = getattr(now.terms[name].loss, "weights", ()) or (1.0,)
            line |= {f"symbol_weight/{name}/most": max(weights), f"symbol_weight/{name}/least": min(weights)}
    if stage.mining is not None and trainee.difficulty is not None:
        known, rule = trainee.difficulty, stage.mining.over(stage.epochs)
        chance = chances(known, rule, trainee.progress.epoch)
        hard = np.sort(chance)[-max(1, round(HARD_PART * len(known))) :]
        line |= {
            "mining/share": rule.curriculum.share(trainee.progress.epoch),
            "mining/hard_part_drawn": float(hard.sum()),
            "mining/most_drawn": float(len(known) * hard[-1]),
            "mining/accuracy": float(known.accuracy[known.visits > 0].mean()) if known.visits.any() else 0.0,
            "mining/never_seen": float((known.visits == 0).mean()),
            "mining/suspects": float(len(suspects(known, rule))),
        }
    return line


def shown_of(
    stage: Stage, now: Stage, trainee: Trainee, *, symbols: str, named: Callable[[Sequence[int]], list[str]]
) -> dict[str, Any]:
    """Which symbols weighed most in an epoch, by term, and which samples were read worst or are suspected by its end.

    Args:
        symbols: of the alphabet, in order.
        named: samples -> what they are called where they come from.
    """
    line: dict[str, Any] = {}
    for name in stage.weigh.terms if stage.weigh else ():
        weights, counts = getattr(now.terms[name].loss, "weights", ()), trainee.progress.symbols
        most = sorted(range(len(weights)), key=lambda k: (-weights[k], k))[:MOST_SHOWN]
        line.setdefault("symbols", {})[name] = [
            {
                "symbol": symbols[k : k + 1] or str(k + 1),
                "weight": weights[k],
                "seen": counts["seen"][k],
                "wrong": counts["wrong"][k],
            }
            for k in most
        ]
    if stage.mining is not None and trainee.difficulty is not None:
        known, rule = trainee.difficulty, stage.mining.over(stage.epochs)
        worst, chance = hardest(known, rule, MOST_SHOWN), chances(known, rule, trainee.progress.epoch)
        line["hardest"] = [
            {"id": id, "accuracy": float(known.accuracy[k]), "visits": int(known.visits[k]),
             "drawn": float(len(known) * chance[k])}
            for id, k in zip(named(worst), worst, strict=True)
        ]  # fmt: skip
        line["suspects"] = named(suspects(known, rule)[:MOST_IDS])
    return line


def _errors(counts: Counts) -> SymbolErrors:
    return SymbolErrors(seen=tuple(counts["seen"]), wrong=tuple(counts["wrong"]))


def _add(counts: Counts, found: SymbolErrors) -> None:
    for key, more in (("seen", found.seen), ("wrong", found.wrong)):
        counts[key] = [a + b for a, b in zip(counts.get(key, [0.0] * len(more)), more, strict=True)]
