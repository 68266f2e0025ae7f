"""Taylor scores: how much the loss is expected to change."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from secateur.core.site import Site
from secateur.score.criterion import Facts, accumulator, criterion
from secateur.score.magnitude import block

_PAPER = "Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019"


@criterion("taylor", needs="gradients", comparable=True, paper=_PAPER)
def taylor(site: Site, facts: Facts) -> Tensor:
    """|sum of g w| over the weights that consume an index, averaged over batches; shape `[n]`.

    That sum is the first-order change of the loss when the index's activations become zero, which
    is what its removal does. It is the same as that of its norm's scale and shift, and unlike the
    sum over what produces the index it knows about bias and norm. Sites without a consumer are
    scored by scale and shift, else by what produces them; blocks by all their parameters.

    The absolute value is taken after the sum over the index and before the mean over batches: at a
    trained network the mean gradient is close to zero, so that the mean must come last.
    """
    return products(site, facts, facts.get("gradients")).abs()


@criterion("taylor_squared", needs="gradients", comparable=True, paper=_PAPER)
def taylor_squared(site: Site, facts: Facts) -> Tensor:
    """(sum of g w)², averaged over batches; shape `[n]`; as `taylor` otherwise."""
    return products(site, facts, facts.get("gradients")).square()


@criterion("taylor_mean", "taylor_signed", needs="mean_gradients", comparable=True, paper=_PAPER)
def taylor_mean(site: Site, facts: Facts) -> Tensor:
    """|sum of g w| with g the mean gradient of all data; shape `[n]`; as `taylor` otherwise.

    The absolute value comes last, so that changes that differ in sign between batches cancel. Close
    to zero, and so mostly noise, at a trained network; meant for networks that are still learning.
    """
    return products(site, facts, facts.get("mean_gradients")).abs()


@criterion("taylor_weight", needs="gradients", comparable=True, paper=_PAPER)
def taylor_weight(site: Site, facts: Facts) -> Tensor:
    """Sum of (g w)² over the single weights, averaged over batches; shape `[n]`.

    As if every weight went by itself (the paper's sum over parameters); as `taylor` otherwise.
    """
    return products(site, facts, facts.get("gradients"), torch.square)


@criterion("taylor_second", needs=("gradients", "hessian_weights"), comparable=True, paper=_PAPER)
def taylor_second(site: Site, facts: Facts) -> Tensor:
    """|sum of g w - ½ w (H w)|, averaged over batches; shape `[n]`; as `taylor` otherwise.

    The paper's second-order score, with the row of the Hessian H of every weight times all weights
    (exact, by double backward). It costs about three times as much as `taylor`.
    """
    gradients, curvature = facts.get("gradients"), facts.get("hessian_weights")
    half = {k: g - 0.5 * curvature[k] if k in curvature else g for k, g in gradients.items()}
    return products(site, facts, half).abs()


def products(
    site: Site,
    facts: Facts,
    vectors: Mapping[str, Tensor],
    element: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Sum `element(v w)` over the weights that consume an index, else its norm; shape `[n]`.

    vectors: by parameter; what is not in it counts as zero. With gradients it is the first-order
    change of the loss if the index vanished, up to sign. Sites without a consumer are summed over
    scales and shifts, else over what produces them; blocks over all of their parameters.
    """

    def product(name: str, weight: Tensor) -> Tensor:
        wide = accumulator(weight)
        if name not in vectors:
            return torch.zeros_like(wide)
        found = accumulator(vectors[name]) * wide
        return found if element is None else element(found)

    if site.module is not None:
        return block(site, facts, product)
    present = {part.role for part in site.slices if part.tensor in facts.tensors}
    wanted = (frozenset({"in"}), frozenset({"scale", "shift"}))
    roles = next((each for each in wanted if each & present), frozenset({"out"}))
    return site.pool(facts.tensors, product, roles)
