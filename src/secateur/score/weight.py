"""Criteria for single weights: functions `(site, facts) -> scores [out, k]`, higher meaning keep.

Here is the registry, and what needs nothing but weights and their gradients; what looks at
activations is in `weight_data.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor

from secateur.core.registry import Registry, wears
from secateur.core.weight_site import WeightSite
from secateur.score.criterion import Facts, accumulator
from secateur.score.lamp import lamp_of

WeightScore = Callable[[WeightSite, Facts], Tensor]
"""Scores of a weight's entries as a matrix `[out, k]`, as `WeightSite.matrix` gives it."""
Refine = Callable[[WeightSite, Facts, Tensor], Tensor]
"""From a boolean mask `[out, k]` to a mask, or to new weights, `[out, k]`."""


@dataclass(frozen=True)
class WeightCriterion:
    """A scoring function for single weights with what is known about it.

    needs: the fields of `Facts` that it wants filled. each: it is called once a batch (or sample),
    and its scores are averaged. rounds: how often it is asked anew while weights go (SynFlow).
    refine: makes a better mask of the one that the scores give. update: makes new weights for the
    final mask. paper: where it comes from.
    """

    name: str
    function: WeightScore
    needs: frozenset[str] = frozenset()
    each: bool = False
    rounds: int = 1
    refine: Refine | None = None
    update: Refine | None = None
    paper: str = ""

    def __post_init__(self) -> None:
        """Show the function's own documentation."""
        wears(self, self.function)

    def __call__(self, site: WeightSite, facts: Facts) -> Tensor:
        """Scores `[out, k]`."""
        return self.function(site, facts)


weight_criteria: Registry[WeightCriterion] = Registry("criterion for weights")


def weight_criterion(
    *names: str,
    needs: str | Iterable[str] = (),
    each: bool = False,
    rounds: int = 1,
    refine: Refine | None = None,
    update: Refine | None = None,
    paper: str = "",
) -> Callable[[WeightScore], WeightCriterion]:
    """Decorator: register a criterion for single weights under one or more names."""
    wanted = frozenset([needs] if isinstance(needs, str) else needs)

    def register(function: WeightScore) -> WeightCriterion:
        made = WeightCriterion(names[0], function, wanted, each, rounds, refine, update, paper)
        weight_criteria.add(*names)(made)
        return made

    return register


def weight_of(site: WeightSite, facts: Facts) -> Tensor:
    """The site's weight as a matrix, at least in single precision."""
    return accumulator(site.matrix(facts.tensors[site.name].detach()))


def gradient_of(site: WeightSite, facts: Facts, kind: str = "gradients") -> Tensor:
    """A gradient of the site's weight as a matrix; zero where the loss does not depend on it."""
    found = facts.get(kind).get(site.name)
    if found is None:
        return torch.zeros_like(weight_of(site, facts))
    return accumulator(site.matrix(found))


@weight_criterion("magnitude", "l1", paper="Han et al., Learning both Weights, NeurIPS 2015")
def magnitude(site: WeightSite, facts: Facts) -> Tensor:
    """|w|.

    Example:
        >>> site = WeightSite("w", (1, 2))
        >>> magnitude(site, Facts({"w": torch.tensor([[-3.0, 2.0]])}))
        tensor([[3., 2.]])
    """
    return weight_of(site, facts).abs()


@weight_criterion("random", paper="the control: Frankle et al., Pruning at Initialization, 2021")
def random(site: WeightSite, facts: Facts) -> Tensor:
    """Uniform in [0, 1), from `facts.seed` and the weight's name; data and weights do not count."""
    generator = torch.Generator().manual_seed(facts.seed * 1_000_003 + crc32(site.name.encode()))
    weight = facts.tensors[site.name]
    return site.matrix(torch.rand(site.shape, generator=generator)).to(weight.device)


@weight_criterion(
    "lamp",
    paper="Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning (LAMP), ICLR 2021",
)
def lamp(site: WeightSite, facts: Facts) -> Tensor:
    """w² over the sum of the squares that are at least as large; the largest weight scores 1.

    A global threshold on these never empties a tensor. Equal weights go from first to last.

    Example:
        >>> site = WeightSite("w", (1, 3))
        >>> lamp(site, Facts({"w": torch.tensor([[1.0, 2.0, -1.0]])}))
        tensor([[0.1667, 1.0000, 0.2000]])
    """
    weight = weight_of(site, facts)
    return lamp_of(weight.double().square()).to(weight.dtype)


@weight_criterion(
    "taylor",
    needs="gradients",
    each=True,
    paper="Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019",
)
def taylor(site: WeightSite, facts: Facts) -> Tensor:
    """(g w)², averaged over batches after squaring: at a minimum the mean gradient is nothing."""
    gradient = gradient_of(site, facts)
    return (gradient * weight_of(site, facts)).square()


__all__ = [
    "Refine", "WeightCriterion", "WeightScore", "gradient_of", "lamp", "magnitude",
    "random", "taylor", "weight_criteria", "weight_criterion", "weight_of",
]  # fmt: skip
