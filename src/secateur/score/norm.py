"""The scale of the normalisation behind an index."""

from __future__ import annotations

from torch import Tensor

from secateur.core.site import Site
from secateur.score.criterion import Facts, accumulator, criterion
from secateur.score.magnitude import block, l1


@criterion("bn_scale", paper="Liu et al., Learning Efficient Networks (Slimming), ICCV 2017")
def bn_scale(site: Site, facts: Facts) -> Tensor:
    """Sum of |gamma| over the normalisations that scale an index; shape `[n]`.

    Made for networks trained with an L1 penalty on the scales; without it a poor score. A site
    without a scale is scored by `l1`, and `facts.notes` says so.
    """
    if site.module is not None:
        return block(site, facts, lambda _, w: accumulator(w).abs())
    if not any(part.role == "scale" and part.tensor in facts.tensors for part in site.slices):
        facts.notes.append(f"bn_scale: {site.name} has no normalisation, scored by l1 instead")
        return l1(site, facts)
    return site.pool(facts.tensors, lambda _, w: accumulator(w).abs(), {"scale"})
