"""Group norm: everything that leaves together with an index."""

from __future__ import annotations

from torch import Tensor

from secateur.core.site import Site
from secateur.score.criterion import Facts, accumulator, criterion
from secateur.score.magnitude import block


@criterion("group_l2", paper="Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023")
def group_l2(site: Site, facts: Facts) -> Tensor:
    """Sum of w² over producers, consumers and norm scales, divided by the site's mean; `[n]`.

    Biases and norm shifts do not count. The division makes sites comparable: without it wide
    consumers dominate. A block has one index, so it is left undivided.

    Example:
        >>> import torch
        >>> from secateur.core.layout import Leaf
        >>> from secateur.core.site import Slice
        >>> leaf = Leaf("a", 2)
        >>> slices = (Slice("a.weight", 0, leaf, "out"), Slice("b.weight", 1, leaf, "in"))
        >>> weights = {"a.weight": torch.tensor([[2.0], [0.0]]), "b.weight": torch.ones(1, 2)}
        >>> group_l2(Site("a", "channel", 2, slices), Facts(weights))
        tensor([1.6667, 0.3333])
    """
    if site.module is not None:
        return block(site, facts, lambda _, w: accumulator(w).square())
    weights = {
        part.tensor: facts.tensors[part.tensor]
        for part in site.slices
        if part.tensor in facts.tensors
        and (part.role != "out" or facts.tensors[part.tensor].dim() > 1)
    }
    total = site.pool(weights, lambda _, w: accumulator(w).square(), {"out", "in", "scale"})
    mean = total.mean()
    return total / mean if mean > 0 else total
