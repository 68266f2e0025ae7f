"""Scores made for untrained networks: SNIP, GraSP and SynFlow, summed over an index's weights."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.core.site import Site
from secateur.score.criterion import Facts, accumulator, criterion
from secateur.score.taylor import products

_SNIP = "Lee et al., SNIP: Single-shot Network Pruning, ICLR 2019"
_GRASP = "Wang et al., Picking Winning Tickets by Preserving Gradient Flow (GraSP), ICLR 2020"
_SYNFLOW = "Tanaka et al., Pruning Neural Networks without Any Data (SynFlow), NeurIPS 2020"


@criterion("snip", needs="mean_gradients", comparable=True, paper=_SNIP)
def snip(site: Site, facts: Facts) -> Tensor:
    """Sum of |g w| over the weights that consume an index, as a share of the whole model's; `[n]`.

    g is the gradient of all data together: it is averaged before the absolute value is taken. Sites
    without a consumer: as for `taylor`.
    """
    gradients = facts.get("mean_gradients")
    seen: dict[int, Tensor] = {}
    for name, gradient in gradients.items():  # a shared parameter has several names
        weight = facts.tensors[name]
        seen[weight.data_ptr()] = (accumulator(gradient) * accumulator(weight)).abs().sum()
    total = sum(seen.values(), torch.zeros(()))
    found = products(site, facts, gradients, torch.abs)
    return found / total if total > 0 else found


@criterion("grasp", needs="hessian_gradient", comparable=True, paper=_GRASP)
def grasp(site: Site, facts: Facts) -> Tensor:
    """Sum of w (H g) over the weights that consume an index; shape `[n]`; may be negative.

    The paper scores a weight by -w (H g), the rise of the gradient's norm when it goes, and removes
    the largest; here, as everywhere, the lowest go. g is the gradient and H the Hessian of all data
    together. The paper divides logits by 200; give a `loss` that does to follow it there. Sites
    without a consumer: as for `taylor`.
    """
    return products(site, facts, facts.get("hessian_gradient"))


@criterion("synflow", needs="paths", comparable=True, paper=_SYNFLOW)
def synflow(site: Site, facts: Facts) -> Tensor:
    """All paths through the weights that consume an index: sum of |w| dR/d|w|; shape `[n]`.

    R is the sum of the outputs of the network with absolute weights, on ones; float64, without
    data. The paper prunes in 100 rounds, scoring anew; this is one round. Sites without a consumer:
    as for `taylor`.
    """
    return products(site, facts, facts.get("paths"), torch.abs)
