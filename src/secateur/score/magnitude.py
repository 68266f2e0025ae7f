"""Magnitude of what produces an index: L1 and L2 norms of filters, rows, heads, hidden units."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from secateur.core.site import Site
from secateur.score.criterion import Facts, accumulator, criterion


@criterion("l1", "magnitude", paper="Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017")
def l1(site: Site, facts: Facts) -> Tensor:
    """Sum of |w| over the weights that produce an index; shape `[n]`.

    Biases and norms do not count. Where several layers produce the same index (a residual
    stream), their sums add up. A site without producing weights is scored by all that it has. A
    block is scored by the sum of |w| over all of its parameters.

    Example:
        >>> import torch
        >>> from secateur.core.layout import Leaf
        >>> from secateur.core.site import Slice
        >>> site = Site("fc", "channel", 2, (Slice("fc.weight", 0, Leaf("fc", 2), "out"),))
        >>> l1(site, Facts({"fc.weight": torch.tensor([[1.0, -2.0], [0.5, 0.0]])}))
        tensor([3.0000, 0.5000])
    """
    return producers(site, facts, lambda _, w: accumulator(w).abs())


@criterion("l2", paper="Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017")
def l2(site: Site, facts: Facts) -> Tensor:
    """Euclidean norm of the weights that produce an index; shape `[n]`; as `l1` otherwise."""
    return producers(site, facts, lambda _, w: accumulator(w).square()).sqrt()


def producers(site: Site, facts: Facts, element: Callable[[str, Tensor], Tensor]) -> Tensor:
    """Sum `element` over the producing weights; else over all parameters; shape `[n]`."""
    if site.module is not None:
        return block(site, facts, element)
    weights = {
        part.tensor: facts.tensors[part.tensor]
        for part in site.slices
        if part.role == "out" and part.tensor in facts.tensors
    }
    weights = {name: w for name, w in weights.items() if w.dim() > 1}
    if weights:
        return site.pool(weights, element, {"out"})
    return site.pool(facts.tensors, element, {"out", "in", "scale", "shift"})


def block(site: Site, facts: Facts, element: Callable[[str, Tensor], Tensor]) -> Tensor:
    """Sum `element` over every parameter below a block; shape `[1]`."""
    sums = [element(name, facts.tensors[name]).sum() for name in facts.owned(site)]
    return sum(sums[1:], sums[0]).reshape(1) if sums else _nothing(site, facts)


def _nothing(site: Site, facts: Facts) -> Tensor:
    facts.notes.append(f"{site.name} has no parameters: scored 0")
    return accumulator(next(iter(facts.tensors.values())).new_zeros(1))
