"""Scores by what layers read: how much it varies, and what the consumers make of it."""

from __future__ import annotations

from torch import Tensor

from secateur.core.site import Site
from secateur.score.consumers import pooled, unread
from secateur.score.criterion import Facts, criterion

_VBP = "Berisha et al., Variance-Based Pruning for Accelerating Pre-trained Networks, ICCV 2025"
_FLAP = "An et al., Fluctuation-based Adaptive Structured Pruning for LLMs, AAAI 2024"
_WANDA = "Sun et al., A Simple and Effective Pruning Approach for LLMs, ICLR 2024"


@criterion("vbp", "variance", needs="inputs", paper=_VBP)
def vbp(site: Site, facts: Facts) -> Tensor:
    """Variance of an index's activations over the data, as its consumers read them; shape `[n]`.

    What hardly varies can be replaced by its mean. Summed over the channels of an index and over
    its consumers. A site that no linear operation reads is scored by `l1`, with a note.
    """
    found = pooled(site, facts, lambda inputs, _: inputs.variance)
    return unread(site, facts, "vbp") if found is None else found


@criterion("activation", needs="inputs", paper="Muralidharan et al., Minitron, NeurIPS 2024")
def activation(site: Site, facts: Facts) -> Tensor:
    """Root mean square of an index's activations, as its consumers read them; shape `[n]`.

    Summed over the channels of an index and over its consumers; otherwise as `vbp`.
    """
    found = pooled(site, facts, lambda inputs, _: (inputs.squared / inputs.count).sqrt())
    return unread(site, facts, "activation") if found is None else found


@criterion("flap", needs="inputs", comparable=True, paper=_FLAP)
def flap(site: Site, facts: Facts) -> Tensor:
    """Variance of an index's activations times ‖W_:,j‖² of its consumers; shape `[n]`.

    Standardised over the site (mean 0, deviation 1), so that sites can be ranked together, as in
    the paper. A site of one index scores 0. Where nothing is known to read it, squares of `l1`
    take the place, with a note; blocks are scored by `l1` as it is.
    """
    if site.module is not None:
        return unread(site, facts, "flap")
    found = pooled(site, facts, lambda inputs, w: inputs.variance * w.square().sum((1, 3)))
    raw = unread(site, facts, "flap").double().square() if found is None else found.double()
    deviation = raw.std(correction=0)
    if site.n < 2 or not bool(deviation > 0):
        return raw - raw  # zeros, or NaN where there was one
    return (raw - raw.mean()) / deviation


@criterion("wanda", needs="inputs", paper=_WANDA)
def wanda(site: Site, facts: Facts) -> Tensor:
    """|W_ij| times the root mean square of X_j, summed over the rows of consumers; shape `[n]`.

    The paper's norm of X_j divided by the root of the number of rows, so that consumers that see
    different numbers of rows add up. A site that nothing is known to read is scored by `l1`, with a
    note.
    """
    found = pooled(
        site,
        facts,
        lambda inputs, w: (inputs.squared / inputs.count).sqrt() * w.abs().sum((1, 3)),
    )
    return unread(site, facts, "wanda") if found is None else found
