"""Who learns towards what in an update: the stage's own parts, and an adversary's where it has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.layers.norm import RankBatchNorm2d
from models.mean import Mean
from orchestrator.plan import Optim, Stage, Term
from orchestrator.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class Player:
    """Parts that learn towards terms of their own.

    Attributes:
        factors: part -> what its rate is multiplied by, of the stage's own rate.
        parameters: by name.
    """

    learn: tuple[str, ...]
    terms: Mapping[str, Term]
    optim: Optim
    factors: Mapping[str, float]
    parameters: Mapping[str, Tensor]

    def trained_by(self, term: str) -> tuple[str, ...]:
        """The parts that a term sends gradient into."""
        return self.terms[term].trains or self.learn

    def reached(self, term: str) -> dict[str, Tensor]:
        """The parameters that a term sends gradient into, by name."""
        parts = self.trained_by(term)
        return {name: p for name, p in self.parameters.items() if name.split(".")[0] in parts}

    def legs(self) -> list[tuple[Mapping[str, Term], tuple[str, ...]]]:
        """Terms, and the parts that get the gradient of them all: one leg, where every term trains every part."""
        if all(set(self.trained_by(term)) == set(self.learn) for term in self.terms):
            return [(self.terms, self.learn)]
        return [
            ({name: term for name, term in self.terms.items() if part in self.trained_by(name)}, (part,))
            for part in self.learn
        ]

    def within(self, parts: Sequence[str]) -> list[Tensor]:
        """The parameters of some parts."""
        return [p for name, p in self.parameters.items() if name.split(".")[0] in parts]


def players_of(stage: Stage, parameters: Mapping[str, Tensor]) -> list[Player]:
    """The stage's own player, then the adversary; ``parameters`` are all that learn, by name."""

    def player(learn: tuple[str, ...], terms: Mapping[str, Term], optim: Optim, rate: float) -> Player:
        own = {name: p for name, p in parameters.items() if name.split(".")[0] in learn}
        factors = {part: rate * optim.factors.get(part, 1.0) for part in learn}
        return Player(learn=learn, terms=terms, optim=optim, factors=factors, parameters=own)

    players = [player(stage.learn, stage.terms, stage.optim, 1.0)]
    if stage.adversary is not None:
        against = stage.adversary
        players.append(player(against.learn, against.terms, against.optim, against.optim.lr / stage.optim.lr))
    return players


def groups_of(players: Sequence[Player]) -> list[dict[str, Any]]:
    """The optimiser's groups: matrices and vectors of the parts at the stage's rate, then of each other part."""
    groups: list[dict[str, Any]] = []
    for number, player in enumerate(players):
        apart = [part for part in player.learn if number or part in player.optim.factors]
        for part in ("", *apart):
            own = [p for name, p in player.parameters.items() if _group_of(name, apart) == part]
            told: dict[str, Any] = {"part": part, "factor": player.factors[part]} if part else {"factor": 1.0}
            told["betas"] = (player.optim.betas[0], player.optim.betas[1])
            decay = player.optim.weight_decay
            groups.append({"params": [p for p in own if p.ndim > 1], "weight_decay": decay, **told})
            groups.append({"params": [p for p in own if p.ndim <= 1], "weight_decay": 0.0, **told})
    return [group for group in groups if group["params"]]


def _group_of(name: str, apart: Sequence[str]) -> str:
    part = name.split(".")[0]
    return part if part in apart else ""


def set_learning(task: nn.Module, stage: Stage) -> dict[str, nn.Parameter]:
    """Put what ``stage`` trains in training mode and freeze all else; what learns, by name."""
    learning = freeze_all_but(task, stage.moves)
    if stage.freeze_norm:
        for module in task.modules():
            if isinstance(module, RankBatchNorm2d):
                module.eval()
    return learning


def freeze_all_but(task: nn.Module, parts: Sequence[str]) -> dict[str, nn.Parameter]:
    """Put ``parts`` in training mode and all else in eval mode without gradient; what learns, by name."""
    task.requires_grad_(False).eval()
    for part in parts:
        task.get_submodule(part).requires_grad_(True).train()
    return {name: parameter for name, parameter in task.named_parameters() if parameter.requires_grad}


def objective(terms: Mapping[str, Term], means: Mapping[str, Mean], counts: Mapping[str, Tensor]) -> Tensor:
    """``()`` objective whose gradient, summed over ranks, is that of the mean over all of them.

    Args:
        counts: of each term over all ranks.
    """
    shares = [
        term.weight * means[name].total / counts[name].clamp(min=1).to(means[name].total.dtype)
        for name, term in terms.items()
    ]
    return torch.stack(shares).sum()


def backward(players: Sequence[Player], means: Mapping[str, Mean], counts: Mapping[str, Tensor]) -> None:
    """Each player's gradient, of its own terms by the parameters that they train, all at the same weights.

    Args:
        counts: of each term over all ranks.
    """
    legs = [(player, *leg) for player in players for leg in player.legs() if leg[0]]
    if len(legs) == 1:
        objective(legs[0][1], means, counts).backward()
        return
    for number, (player, terms, parts) in enumerate(legs, start=1):
        objective(terms, means, counts).backward(inputs=player.within(parts), retain_graph=number < len(legs))


def clip(players: Sequence[Player], norms: Mapping[str, Tensor]) -> Tensor:
    """Hold each player's gradient below its own ceiling; ``(players,)`` its norm before.

    Args:
        norms: of each parameter's gradient, by its name.
    """
    found = []
    for player in players:
        norm = torch.linalg.vector_norm(torch.stack([norms[name] for name in player.parameters]))
        nn.utils.clip_grads_with_norm_(list(player.parameters.values()), player.optim.clip_norm, norm)
        found.append(norm)
    return torch.stack(found)


def norms_at_image(means: Mapping[str, Mean], counts: Mapping[str, Tensor], image: Tensor, ranks: Ranks) -> Tensor:
    """``(terms,)`` float64 norm of each term's own gradient, without its weight, by the restored image, over all ranks.

    The graph is kept for the step's own backward pass.
    """
    squares = []
    for name, mean in means.items():
        found = None
        if mean.total.requires_grad:
            value = mean.total / counts[name].clamp(min=1).to(mean.total.dtype)
            (found,) = torch.autograd.grad(value, image, retain_graph=True, allow_unused=True)
        squares.append(image.new_zeros((), dtype=torch.float64) if found is None else found.double().square().sum())
    return ranks.sum(torch.stack(squares)).sqrt()
