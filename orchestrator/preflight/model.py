"""Preflight of the network and its training: frames, gradients, effective values.

Everything is tried on a copy, on one real batch, and leaves weights, buffers and random numbers as they were.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from models.batch import Batch
from models.layers.deform import used_backends
from models.mean import Mean
from orchestrator.plan import Stage
from orchestrator.players import Player, players_of, set_learning
from orchestrator.preflight import SHOWN, Found, PreflightError
from orchestrator.progress import Progress, stops_early
from orchestrator.ranks import Ranks
from orchestrator.update import learning_rate, trainee_of, update

CLOSE = 0.02  # relative: what measured and planned values may differ by, since sums round


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One real batch, and what is needed to take a step with it.

    Attributes:
        task: as it would start; never changed.
        steps: updates of the whole stage.
    """

    stage: Stage
    task: nn.Module
    batch: Batch
    autocast: Callable[[], AbstractContextManager[Any]]
    ranks: Ranks
    steps: int


def check_gradients(trial: Trial) -> Found:
    """Each term sends a finite gradient into each part it should train, none goes into frozen parts, none is missing.

    A loss that is constant, clipped flat or detached has no gradient, however sensible its value looks.
    """
    with _untouched(trial) as (task, gradients_of):
        learning = {name: p for name, p in task.named_parameters() if p.requires_grad}
        alive: set[str] = set()
        says = []
        for player in players_of(trial.stage, learning):
            for term in player.terms:
                gradients = gradients_of([term], player.reached(term))
                norms = _norms_by_part(gradients)
                _check_reaches(trial.stage, term, player.trained_by(term), norms)
                alive |= {name for name, gradient in gradients.items() if bool(gradient.abs().max() > 0)}
                says.append(f"{term} into {', '.join(f'{part} {norm:.3g}' for part, norm in norms.items())}")
        touched = [name for name, p in task.named_parameters() if not _learns(name, trial.stage) and p.requires_grad]
        if touched:
            raise PreflightError(
                f"stage {trial.stage.name!r}: frozen parameters ask for a gradient: {', '.join(touched[:SHOWN])}; "
                f"only {list(trial.stage.moves)} learn"
            )
        if dead := [name for name in learning if name not in alive]:
            raise PreflightError(
                f"stage {trial.stage.name!r}: {len(dead)} of {len(learning)} parameters that should learn get no "
                f"gradient from any term: {', '.join(dead[:SHOWN])}; take them out of the network, or freeze their part"
            )
    return Found(says=f"gradient norms: {'; '.join(says)}; none of {len(learning)} parameters without")


def _check_reaches(stage: Stage, term: str, wanted: Sequence[str], norms: Mapping[str, float]) -> None:
    for part in wanted:
        norm = norms.get(part, 0.0)
        if not norm > 0 or norm == float("inf"):
            raise PreflightError(
                f"stage {stage.name!r}: the gradient of term {term!r} into part {part!r} is {norm:g} on "
                f"a real batch; it must be finite and above 0. Look for a weight of 0, a clip below every "
                "value, a detach or an argmax on the way, or name the parts it does train in Term.trains"
            )


def _learns(name: str, stage: Stage) -> bool:
    return any(name.startswith(f"{part}.") for part in stage.moves)


@contextmanager
def _untouched(trial: Trial) -> Iterator[tuple[nn.Module, Callable[..., dict[str, Tensor]]]]:
    """A copy of the task with the stage's parts learning, and the gradient of weighted terms together, by parameter."""
    task = copy.deepcopy(trial.task)
    set_learning(task, trial.stage)
    with _random_numbers_kept(trial.batch.image.device):
        torch.manual_seed(0)
        with trial.autocast():
            outputs = task(trial.batch)

        def gradients_of(terms: Sequence[str], learning: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
            objective = torch.stack([_weighted(trial, term, outputs) for term in terms]).sum()
            found = torch.autograd.grad(objective, list(learning.values()), retain_graph=True, allow_unused=True)
            each = [torch.zeros_like(p) if g is None else g for p, g in zip(learning.values(), found, strict=True)]
            flat = torch.cat([gradient.reshape(-1) for gradient in each])
            # every rank has the same batch, but batch norm over ranks mixes their gradients on the way back
            parts = trial.ranks.sum(flat).split([gradient.numel() for gradient in each])
            return {name: part.view(each[i].shape) for i, (name, part) in enumerate(zip(learning, parts, strict=True))}

        yield task, gradients_of


def _weighted(trial: Trial, term: str, outputs: Any) -> Tensor:
    """``()`` a term's share in the objective. Raises :class:`PreflightError` where it cannot teach anything."""
    settings, where = trial.stage.all_terms[term], f"stage {trial.stage.name!r}: term {term!r}"
    mean = settings.loss(trial.batch, outputs)
    if not isinstance(mean, Mean):
        raise PreflightError(
            f"{where} returns {type(mean).__name__}; a term returns a Mean (total and count), so that losses of "
            "different reductions are never added or compared"
        )
    if not bool(mean.count > 0):
        raise PreflightError(f"{where} counted none of {len(trial.batch.ids)} real samples")
    share = settings.weight * mean.total / trial.ranks.sum(mean.count.detach().clone())
    if not share.requires_grad:
        raise PreflightError(
            f"{where} is a constant ({float(share):g}) as far as the network is concerned: no gradient leads from it "
            "to any weight"
        )
    return share


def _norms_by_part(gradients: Mapping[str, Tensor]) -> dict[str, float]:
    squares: dict[str, float] = {}
    for name, gradient in gradients.items():
        part = name.split(".")[0]
        squares[part] = squares.get(part, 0.0) + float(gradient.double().square().sum())
    return {part: total**0.5 if total == total else float("nan") for part, total in squares.items()}


def check_effective(trial: Trial) -> Found:
    """A real first update on a copy has the plan's rate and gradient; steps, stopping and patience are the plan's.

    The update is compared with the one that the plan's numbers predict: AdamW's first moments must be those of the
    weighted, clipped sum of the terms' gradients, and every weight must move by the learning rate at most. Both in
    float32: where terms nearly cancel, rounding to bfloat16 would be most of what is left.
    """
    trial = replace(trial, autocast=nullcontext)
    stage = trial.stage
    rates = [learning_rate(stage, step, trial.steps) for step in range(trial.steps)] or [stage.optim.lr]
    with _untouched(trial) as (task, gradients_of):
        learning = {name: p for name, p in task.named_parameters() if p.requires_grad}
        planned = {name: torch.zeros_like(p) for name, p in learning.items()}
        players = players_of(stage, learning)
        for terms, parts in (leg for player in players for leg in player.legs()):
            own = {name: p for name, p in learning.items() if name.split(".")[0] in parts}
            # All at once: what is cut to the range of an image lets gradients pass by the sign of their sum.
            planned |= gradients_of(list(terms), own)
        before = {name: p.detach().clone() for name, p in learning.items()}
    fresh = copy.deepcopy(trial.task)
    with _random_numbers_kept(trial.batch.image.device):
        torch.manual_seed(0)
        trainee = trainee_of(stage, fresh)
        update(
            trainee, stage, [trial.batch], lr=rates[0], forward=fresh, autocast=trial.autocast, ranks=trial.ranks
        )  # fmt: skip
    in_optimizer = {trainee.names[p] for group in trainee.optimizer.param_groups for p in group["params"]}
    if in_optimizer != set(learning):
        odd = sorted(in_optimizer ^ set(learning))
        raise PreflightError(f"stage {stage.name!r}: optimised and learning parameters differ: {odd[:SHOWN]}")
    _compare_rate(stage, players, trainee.optimizer, rates[0], before, dict(fresh.named_parameters()))
    for player in players:
        _compare_moments(stage, player, trainee.optimizer, trainee.names, planned)
    validations, patience = _stopping(stage)
    facts = {
        "lr": {"first": rates[0], "highest": max(rates), "last": rates[-1]},
        **({"lr_factors": factors} if (factors := _factors(players)) else {}),
        "epochs": stage.epochs, "steps": trial.steps, "steps_per_epoch": trial.steps // stage.epochs,
        "batch_size": stage.batch_size, "validations": validations, "early_stop_after": patience,
        "weights": {name: term.weight for name, term in stage.all_terms.items()},
        "learning_parameters": _sizes(learning), "clip_norm": stage.optim.clip_norm, "ema": stage.ema,
        **({"deformable_backends": backends} if (backends := _backends(fresh)) else {}),
    }  # fmt: skip
    stop = f"stops after {patience} validations without a gain" if patience else "no early stopping"
    return Found(
        says=f"learning rate {rates[0]:g} at step 0, {max(rates):g} at most, {rates[-1]:g} at the end; {trial.steps} "
        f"steps in {stage.epochs} epochs; {stop}; the first update is the one that weights and clip predict"
        + (f"; deformable convolutions run by {', '.join(backends)}" if backends else ""),
        facts={"effective": facts},
    )


def _backends(task: nn.Module) -> list[str]:
    """What deformable convolutions ran on."""
    return sorted({str(used) for used in used_backends(task).values() if used is not None})


def _factors(players: Sequence[Player]) -> dict[str, float]:
    """Parts whose rate is not the stage's own, and what it is multiplied by."""
    return {part: factor for player in players for part, factor in player.factors.items() if factor != 1}


def _compare_rate(
    stage: Stage, players: Sequence[Player], optimizer: torch.optim.Optimizer, rate: float,
    before: Mapping[str, Tensor], after: Mapping[str, Tensor],
) -> None:  # fmt: skip
    """AdamW's first update moves a weight by the rate times a sign, besides weight decay."""
    wanted = {rate * factor for player in players for factor in player.factors.values()}
    found = {float(group["lr"]) for group in optimizer.param_groups}
    if found != wanted:
        raise PreflightError(
            f"stage {stage.name!r}: the optimiser's learning rate is {sorted(found)}, planned {sorted(wanted)}"
        )
    for player in players:
        for part, factor in player.factors.items():
            own = {name: before[name] for name in player.parameters if name.startswith(f"{part}.")}
            _compare_moved(stage, rate * factor, player.optim.weight_decay, own, after)


def _compare_moved(
    stage: Stage, rate: float, weight_decay: float, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> None:
    moved = 0.0
    for name, old in before.items():
        decay = weight_decay if old.ndim > 1 else 0.0
        moved = max(moved, float((after[name].detach() - old * (1 - rate * decay)).abs().max()))
    if not rate * (1 - CLOSE) - 1e-7 <= moved <= rate * (1 + CLOSE) + 1e-7:
        raise PreflightError(
            f"stage {stage.name!r}: the first update moved weights by up to {moved:g}, the plan's learning rate at "
            f"step 0 is {rate:g}; what is configured is not what happens"
        )


def _compare_moments(
    stage: Stage, player: Player, optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str],
    planned: Mapping[str, Tensor],
) -> None:  # fmt: skip
    """AdamW's first moments are a share of the gradient it was given: the plan's weighted sum, clipped as planned."""
    norm = sum(float(planned[name].double().square().sum()) for name in player.parameters) ** 0.5
    shrunk = min(1.0, player.optim.clip_norm / (norm + 1e-6)) * (1 - player.optim.betas[0])
    gap = 0.0
    for parameter, state in optimizer.state.items():
        if names[parameter] in player.parameters:
            wanted = planned[names[parameter]] * shrunk
            gap += float((state["exp_avg"] - wanted).double().square().sum())
    if gap**0.5 > CLOSE * norm * shrunk:
        raise PreflightError(
            f"stage {stage.name!r}: the optimiser was given another gradient than the plan's weighted terms "
            f"({', '.join(f'{name} x {term.weight:g}' for name, term in player.terms.items())}, clipped at "
            f"{player.optim.clip_norm:g}): they differ by {gap**0.5 / (norm * shrunk):.1%}"
        )


def _stopping(stage: Stage) -> tuple[int, int]:
    """Validations of the stage, and after how many without a gain it stops when that is tried; 0 for never."""
    validations = -(-stage.epochs // stage.validate_every)
    if stage.early_stop is None:
        return validations, 0
    progress = Progress(latest={stage.early_stop.metric: 0.5})
    stops_early(stage, progress)  # the first one is the value to beat
    tried = 0
    while not progress.finished and tried <= stage.early_stop.patience:
        stops_early(stage, progress)
        tried += 1
    if tried != stage.early_stop.patience or not progress.finished:
        raise PreflightError(
            f"stage {stage.name!r}: early stopping ended after {tried} validations without a gain when tried, "
            f"planned is a patience of {stage.early_stop.patience}"
        )
    return validations, tried


def _sizes(parameters: Mapping[str, Tensor]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, parameter in parameters.items():
        part = name.split(".")[0]
        sizes[part] = sizes.get(part, 0) + parameter.numel()
    return sizes


@contextmanager
def _random_numbers_kept(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
