"""Lottery tickets: train, prune a part, rewind what is left, and train again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, log
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.core.budget import Sparsity
from secateur.core.errors import RecipeError
from secateur.core.recipe import Recipe
from secateur.core.schedule import OneShot
from secateur.train.attach import attach
from secateur.train.session import Session

Hold = Callable[[Optimizer], Session]
Train = Callable[[nn.Module, Hold], Any]


@dataclass(frozen=True)
class Ticket:
    """What `lottery` found: masks and, for each training, its sparsity and what `train` returned.

    The model holds the trained weights of the last round; `start` is where they began.
    """

    masks: Mapping[str, Tensor]
    start: Mapping[str, Tensor]
    rounds: tuple[tuple[float, Any], ...]


def lottery(
    model: nn.Module,
    train: Train,
    *,
    sparsity: float = 0.9,
    rate: float = 0.2,
    rewind: Mapping[str, Tensor] | None = None,
    scope: Any = None,
    allocate: str = "global",
) -> Ticket:
    """Iterative magnitude pruning with rewinding, in place; the last training is at `sparsity`.

    Args:
        model: A new model, or one that has been trained for a little.
        train: `(model, hold) -> anything`: makes an optimizer, calls `hold(optimizer)`, and trains
            fully. It is called once more than there are prunings.
        sparsity: Of the last training.
        rate: The part of the remaining weights that goes after each training.
        rewind: The state to which kept weights return, with everything else; by default what the
            model has now (Frankle et al. 2020: that after a few steps, for larger networks). With
            an empty mapping the weights stay, and only the schedule in `train` is run again
            (learning-rate rewinding: Renda et al., ICLR 2020).
        scope: Which weights, as in `sc.attach`.
        allocate: "global", "uniform", "erk" or "lamp".

    Papers: Frankle and Carbin, The Lottery Ticket Hypothesis, ICLR 2019.

    Example:
        >>> def train(model, hold):
        ...     optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        ...     hold(optimizer)
        ...     model(torch.randn(4, 50)).square().mean().backward()
        ...     optimizer.step()
        >>> ticket = lottery(nn.Linear(50, 20), train, sparsity=0.5)
        >>> [round(sparsity, 2) for sparsity, _ in ticket.rounds]
        [0.0, 0.2, 0.36, 0.49, 0.5]

    Raises:
        RecipeError: A fraction makes no sense, or `train` did not call `hold`.
    """
    if not 0 < rate < 1 or not 0 < sparsity < 1:
        raise RecipeError(
            f"lottery(sparsity={sparsity!r}, rate={rate!r}): expected fractions in (0, 1)"
        )
    start = _state(model) if rewind is None else dict(rewind)
    masks: dict[str, Tensor] = {}
    rounds: list[tuple[float, Any]] = []
    last = ceil(log(1 - sparsity) / log(1 - rate) - 1e-9)
    for number in range(last + 1):
        session = _Once(model, masks, scope)
        found = train(model, session.hold)
        if session.made is None:
            raise RecipeError("train did not call hold(optimizer)", hint="do so before training")
        session.made.finish()
        masks = {name: mask.clone() for name, mask in session.made.masks.items()}
        rounds.append((session.made.sparsity, found))
        if number < last:
            target = min(sparsity, 1 - (1 - rate) ** (number + 1))
            masks = _pruned(model, masks, target, scope, allocate)
            if start:
                model.load_state_dict(start, strict=False)
    return Ticket(masks, start, tuple(rounds))


@dataclass
class _Once:
    """Attaches fixed masks to whatever optimizer it is given."""

    model: nn.Module
    masks: Mapping[str, Tensor]
    scope: Any
    made: Session | None = None

    def hold(self, optimizer: Optimizer) -> Session:
        self.made = attach(self.model, optimizer, scope=self.scope, masks=self.masks)
        return self.made


def _pruned(
    model: nn.Module, masks: Mapping[str, Tensor], sparsity: float, scope: Any, allocate: str
) -> dict[str, Tensor]:
    """Masks at a higher sparsity, by the magnitudes that the model has now; zeros stay zeros."""
    never = torch.optim.SGD(model.parameters(), lr=0.0)
    recipe = Recipe(budget=Sparsity(sparsity), schedule=OneShot(), allocate=allocate)
    session = attach(model, never, recipe, scope=scope)
    session.finish()
    return {name: mask & masks[name] for name, mask in session.masks.items()}


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
