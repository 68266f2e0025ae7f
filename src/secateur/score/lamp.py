"""LAMP for indices: squared norms, each divided by what is left when it is the next to go."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.core.site import Site
from secateur.score.criterion import Facts, accumulator, criterion
from secateur.score.magnitude import producers


@criterion(
    "lamp",
    comparable=True,
    paper="Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning (LAMP), ICLR 2021",
)
def lamp(site: Site, facts: Facts) -> Tensor:
    """Squared `l2` norm of an index over the sum of those that are at least as large; shape `[n]`.

    The paper's score of weights, with the producing weights of an index together as one. The
    largest index of a site (and a block) scores 1, so that no site is emptied by a threshold. Equal
    indices go from first to last.

    Example:
        >>> from secateur.core.layout import Leaf
        >>> from secateur.core.site import Slice
        >>> site = Site("fc", "channel", 3, (Slice("fc.weight", 0, Leaf("fc", 3), "out"),))
        >>> lamp(site, Facts({"fc.weight": torch.tensor([[1.0], [2.0], [1.0]])}))
        tensor([0.1667, 1.0000, 0.2000], dtype=torch.float64)
    """
    return lamp_of(producers(site, facts, lambda _, w: accumulator(w).double().square()))


def lamp_of(squares: Tensor) -> Tensor:
    """Every entry over the sum of those that are at least as large."""
    flat = squares.reshape(-1)
    ascending = flat.argsort(stable=True)
    left = flat[ascending].flip(0).cumsum(0).flip(0)
    scores = torch.zeros_like(flat)
    scores[ascending] = torch.where(left > 0, flat[ascending] / left, left)
    return scores.reshape(squares.shape)
