"""Second-order scores from the diagonal of the Fisher information, one sample at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.core.site import Site
from secateur.score.criterion import Facts, criterion
from secateur.score.taylor import products

_OBD = "LeCun et al., Optimal Brain Damage, NeurIPS 1990 (Fisher: Theis et al. 2018)"
_THEIS = "Theis et al., Faster Gaze Prediction with Dense Networks and Fisher Pruning, 2018"


@criterion("fisher", "obd", needs="sample_gradients", comparable=True, paper=_OBD)
def fisher(site: Site, facts: Facts) -> Tensor:
    """½ sum of F w² over the weights that consume an index, F the mean of g² over samples; `[n]`.

    The expected rise of the loss at a minimum, with the curvature of every weight by itself. g are
    gradients of single samples: squares of a batch's mean gradient are another, far smaller
    quantity. One backward pass a sample. Sites without a consumer: as for `taylor`.
    """
    return 0.5 * products(site, facts, facts.get("sample_gradients"), torch.square)


@criterion("fisher_unit", needs="sample_gradients", comparable=True, paper=_THEIS)
def fisher_unit(site: Site, facts: Facts) -> Tensor:
    """½ (sum of g w)², averaged over samples; shape `[n]`; as `fisher` otherwise.

    The Fisher information of a gate on the index: unlike `fisher` it knows how an index's weights
    act together.
    """
    return 0.5 * products(site, facts, facts.get("sample_gradients")).square()
