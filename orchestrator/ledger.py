"""The books of a stage: what its updates measured becomes lines of ``metrics.jsonl``, sums of an epoch, and events."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from orchestrator import events
from orchestrator.events import MOST_IDS, Epoch, Event
from orchestrator.events_adversary import events_of_terms
from orchestrator.heard import Heard, hears
from orchestrator.journal import Journal
from orchestrator.measured import Measured, Names, finite
from orchestrator.mining import suspects
from orchestrator.moving import balances, close_epoch, note_balance, note_heard, shown_of, told_of
from orchestrator.plan import Stage
from orchestrator.progress import Progress
from orchestrator.ranks import Ranks
from orchestrator.update import Trainee


class Ledger:
    """Keeps the books in ``progress`` and ``journal``; every rank keeps the same ones, the first also writes them.

    Attributes:
        untold: events that nobody was told yet.
        now: the stage with the weights of the present epoch.
    """

    def __init__(
        self, stage: Stage, trainee: Trainee, journal: Journal, *,
        ranks: Ranks, named: Callable[[Sequence[int]], list[str]], symbols: str = "",
    ) -> None:  # fmt: skip
        self.stage, self.trainee, self.journal, self.ranks, self.named = stage, trainee, journal, ranks, named
        self.symbols = symbols
        self.now = stage
        self.names = Names.of(stage, trainee)
        self.untold: list[Event] = []
        self._pending: list[tuple[Tensor, Sequence[int], dict[str, float], list[Heard]]] = []

    @property
    def progress(self) -> Progress:
        return self.trainee.progress

    @property
    def pending(self) -> int:
        """Updates that were made and not read yet."""
        return len(self._pending)

    def note(self, measured: Tensor, ids: Sequence[int]) -> None:
        """Take in an update on this rank's samples ``ids``, without reading what it ``measured``."""
        groups, trainee = self.trainee.optimizer.param_groups, self.trainee
        rates = {f"lr/{group['part']}" if "part" in group else "lr": float(group["lr"]) for group in groups}
        self.progress.lr = rates["lr"]
        self._pending.append((measured, ids, rates, trainee.heard))
        trainee.heard = []
        self.progress.step += 1
        self.progress.step_in_epoch += 1

    def read(self) -> bool:
        """Read what the noted updates measured, in one go, and enter it. True when any rank was asked to stop."""
        if not self._pending:
            return False
        numbers = iter(torch.cat([measured for measured, *_ in self._pending]).tolist())
        first, stop, heard = self.progress.step - len(self._pending), False, []
        for step, (measured, ids, rates, said) in enumerate(self._pending, start=first):
            row = [next(numbers) for _ in range(len(measured))]
            found = Measured.of(row, self.names, ids)
            self._enter(step, rates, found, ids)
            stop = stop or found.stop
            heard += [] if found.skipped else [said]
        if hears(self.stage):
            note_heard(self.stage, self.trainee, heard, self.ranks)
        self._pending.clear()
        return stop

    def _enter(self, step: int, rates: Mapping[str, float], found: Measured, ids: Sequence[int]) -> None:
        progress, by_part = self.progress, found.norms_by_part()
        line: dict[str, Any] = {"step": step, "epoch": progress.epoch, **rates}
        line |= {f"loss/{name}": mean for name, mean in found.means.items()}
        line |= {"grad_norm": finite(found.norm)} | {f"grad_norm/{name}": finite(n) for name, n in by_part.items()}
        self.journal.write("step", line)
        self._add(found)
        if not found.skipped and balances(self.stage, progress.epoch, step):
            losses = {name: mean for name, mean in found.means.items() if mean is not None}
            note_balance(self.stage, progress, norms=found.at_image, losses=losses)
        if found.skipped:
            self._skipped(step, found, ids)
        elif math.isfinite(found.norm):
            progress.clipped += found.norm > self.stage.optim.clip_norm
            events.note_norm(
                self.stage, progress.seen, step=step, norm=found.norm, by_parameter=found.norms, by_part=by_part
            )

    def _add(self, found: Measured) -> None:
        """Add an update's sums to the epoch's."""
        progress = self.progress
        progress.samples += found.samples
        for name, total in found.totals.items():
            if math.isfinite(total):
                sums = progress.sums.setdefault(name, [0.0, 0.0])
                sums[0] += total
                sums[1] += found.counts[name]
        for fact, count in found.flagged.items():
            progress.flagged[fact] = progress.flagged.get(fact, 0) + count
            if count:
                self._remember(fact, found.own_flagged[fact])
        whole = math.fsum(found.alone.values())
        if whole and math.isfinite(whole):
            progress.gradient_shares = {name: norm / whole for name, norm in found.alone.items()}

    def _remember(self, fact: str, own: Sequence[int]) -> None:
        """Note ids of flagged samples until there are enough; every rank knows the count, so all gather or none."""
        known = self.progress.seen.samples.setdefault(fact, [])
        if fact not in self.progress.seen.said and len(known) < MOST_IDS:
            together = sorted(sample for each in self.ranks.gather(list(own)) for sample in each)
            known += [sample for sample in dict.fromkeys(together) if sample not in known][: MOST_IDS - len(known)]

    def _skipped(self, step: int, found: Measured, ids: Sequence[int]) -> None:
        progress = self.progress
        progress.skipped += 1
        flagged = next((fact for fact in events.CULPRITS if found.flagged.get(fact)), "")
        own = found.own_flagged[flagged] if flagged else ids
        samples = sorted(sample for each in self.ranks.gather(list(own)) for sample in each)
        evidence = {"skipped": progress.skipped, "terms": found.means, "samples": self.named(samples)}
        self.say([events.nonfinite(self.stage, epoch=progress.epoch + 1, step=step, evidence=evidence)])
        if flagged:  # told here, and of the others no more than this is known
            progress.seen.said += [fact for fact in events.CULPRITS if fact not in progress.seen.said]

    def close_epoch(self) -> float:
        """Write the epoch's line and events, and open the next one's books. Returns the objective's mean."""
        progress, means, updates = self.progress, self.means(), self.progress.step_in_epoch
        loss = sum(
            term.weight * means[f"loss/{name}"] for name, term in self.now.terms.items() if name in progress.sums
        )
        shares = progress.gradient_shares or ({self.names.own[0]: 1.0} if len(self.names.own) == 1 else {})
        now = Epoch(
            epoch=progress.epoch + 1, step=progress.step, updates=updates, loss=loss, clipped=progress.clipped,
            samples=progress.samples, flagged=progress.flagged,
            gradient_shares={name: share for name, share in shares.items() if self.now.terms[name].weight},
            losses={name: means[f"loss/{name}"] for name in progress.sums},
            weights={name: term.weight for name, term in self.now.terms.items()}, balance=progress.balance,
        )  # fmt: skip
        line: dict[str, Any] = {"epoch": now.epoch, "step": now.step, "lr": progress.lr} | means
        line |= {f"watch/{fact}": count / max(now.samples, 1) for fact, count in now.flagged.items()}
        line |= {"watch/clipped_updates": now.clipped / max(updates, 1)} | told_of(self.stage, self.now, self.trainee)
        line |= {f"gradient_share/{name}": share for name, share in shares.items()}
        shown = shown_of(self.stage, self.now, self.trainee, symbols=self.symbols, named=self.named)
        self.journal.write("epoch", line | shown)
        samples = {fact: self.named(ids) for fact, ids in progress.seen.samples.items() if now.flagged.get(fact)}
        self.say(events.events_of_epoch(self.stage, progress.seen, now, samples=samples))
        self.say(events_of_terms(self.stage, progress.seen, now))
        self._suspect(now)
        close_epoch(self.stage, progress)
        progress.begin_epoch()
        return loss

    def _suspect(self, now: Epoch) -> None:
        if self.stage.mining is not None and self.trainee.difficulty is not None:
            found = suspects(self.trainee.difficulty, self.stage.mining)
            ids, size = self.named(found[:MOST_IDS]), len(self.trainee.difficulty)
            self.say(events.suspect_labels(self.stage, self.progress.seen, now, count=len(found), of=size, ids=ids))

    def say(self, found: Sequence[Event]) -> None:
        """Write events that are a function of plan and data, and keep them to be told."""
        for event in found:
            self.journal.write("event", event.line())
        self.untold += found

    def means(self) -> dict[str, float]:
        """Each term's mean over the epoch so far, as ``loss/TERM``."""
        return {f"loss/{name}": total / max(count, 1) for name, (total, count) in self.progress.sums.items()}

    def told(self) -> list[dict[str, Any]]:
        """The untold events, which are told now."""
        found, self.untold = [event.line() for event in self.untold], []
        return found
