"""First-order Taylor scores: how much the loss is expected to change."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.core.errors import RecipeError
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
    return signed(site, facts).abs()


@criterion("taylor_squared", needs="gradients", comparable=True, paper=_PAPER)
def taylor_squared(site: Site, facts: Facts) -> Tensor:
    """(sum of g w)², averaged over batches; shape `[n]`; as `taylor` otherwise."""
    return signed(site, facts).square()


def signed(site: Site, facts: Facts) -> Tensor:
    """The first-order change of one batch's loss if an index vanished, up to sign; shape `[n]`."""
    gradients = facts.gradients
    if gradients is None:
        raise RecipeError(
            "this criterion needs gradients", hint="give data (and a loss), or use 'l1'"
        )

    def product(name: str, weight: Tensor) -> Tensor:
        if name not in gradients:
            return torch.zeros_like(accumulator(weight))
        return accumulator(gradients[name]) * accumulator(weight)

    if site.module is not None:
        return block(site, facts, product)
    present = {part.role for part in site.slices if part.tensor in facts.tensors}
    wanted = (frozenset({"in"}), frozenset({"scale", "shift"}))
    roles = next((each for each in wanted if each & present), frozenset({"out"}))
    return site.pool(facts.tensors, product, roles)
