"""Criteria for single weights that look at activations or at gradients of several kinds."""

from __future__ import annotations

from torch import Tensor

from secateur.core.weight_site import WeightSite
from secateur.measure.stats_columns import ColumnFacts
from secateur.score.criterion import Facts
from secateur.score.dsnot import dsnot as refine_rows
from secateur.score.weight import gradient_of, weight_criterion, weight_of


def columns_of(site: WeightSite, facts: Facts) -> ColumnFacts | None:
    """What is known of the columns; None, with a note, where no linear operation used the weight.

    A name without facts belongs to an expert that no token reached, or to a computed product.
    """
    found: ColumnFacts | None = facts.get("columns").get(site.name)
    if found is None:
        facts.notes.append(
            f"{site.name}: no linear operation on the data used it, so it is scored by magnitude"
        )
    return found


def norms_of(site: WeightSite, facts: Facts) -> Tensor | float:
    """L2 norms of the columns, `[out, k]` or `[1, k]`; 1 where they are not known."""
    found = columns_of(site, facts)
    return 1.0 if found is None else found.squared(site).sqrt().to(weight_of(site, facts).dtype)


@weight_criterion(
    "wanda",
    needs="columns",
    paper="Sun et al., A Simple and Effective Pruning Approach for LLMs (Wanda), ICLR 2024",
)
def wanda(site: WeightSite, facts: Facts) -> Tensor:
    """|w| times the norm of what it is multiplied with, over all data.

    The paper compares the weights of one output (`unit=Weight(per="row")`).

    Example:
        >>> from secateur.measure.stats import Gather
        >>> net = nn.Linear(2, 1, bias=False)
        >>> facts = Facts.of(net)
        >>> given = Gather(net, None, [torch.tensor([[3.0, 1.0], [4.0, 0.0]])])
        >>> columns = given.once({"columns"}, {"weight"})["columns"]
        >>> found = wanda(WeightSite("weight", (1, 2)), Facts(facts.tensors, columns=columns))
        >>> torch.allclose(found, net.weight.abs() * torch.tensor([5.0, 1.0]))
        True
    """
    return weight_of(site, facts).abs() * norms_of(site, facts)


@weight_criterion(
    "ria",
    needs="columns",
    paper="Zhang et al., Plug-and-Play: Relative Importance and Activations (RIA), ICLR 2024",
)
def ria(site: WeightSite, facts: Facts) -> Tensor:
    """|w| as a share of its row plus as a share of its column, times the root of the input's norm.

    No row or column of a weight is emptied, as its shares are relative.
    """
    weight = weight_of(site, facts).abs()
    row, column = weight.sum(1, keepdim=True), weight.sum(0, keepdim=True)
    relative = weight / row.clamp(min=1e-30) + weight / column.clamp(min=1e-30)
    norms = norms_of(site, facts)
    return relative * (norms.sqrt() if isinstance(norms, Tensor) else norms)


def _dsnot(site: WeightSite, facts: Facts, keep: Tensor) -> Tensor:
    found = columns_of(site, facts)
    if found is None:
        return keep
    return refine_rows(
        weight_of(site, facts), keep, found.mean(site), found.variance(site), wanda(site, facts)
    )


@weight_criterion(
    "dsnot",
    needs="columns",
    refine=_dsnot,
    paper="Zhang et al., Dynamic Sparse No Training (DSnoT), ICLR 2024",
)
def dsnot(site: WeightSite, facts: Facts) -> Tensor:
    """As `wanda`; then pairs of weights of one output are exchanged while its mean error falls."""
    return wanda.function(site, facts)


@weight_criterion(
    "snip",
    needs="mean_gradients",
    paper="Lee et al., SNIP: Single-shot Network Pruning, ICLR 2019",
)
def snip(site: WeightSite, facts: Facts) -> Tensor:
    """|g w|, with the gradient of all data together: averaged before the absolute value is taken.

    The paper divides by the sum over the network, which changes no order.
    """
    return (gradient_of(site, facts, "mean_gradients") * weight_of(site, facts)).abs()


@weight_criterion(
    "grasp",
    needs="hessian_gradient",
    each=True,
    paper="Wang et al., Picking Winning Tickets by Preserving Gradient Flow (GraSP), ICLR 2020",
)
def grasp(site: WeightSite, facts: Facts) -> Tensor:
    """The product w (H g); may be negative. The paper scores -w (H g) and removes the largest.

    g is the gradient and H the Hessian of all data. The paper divides logits by 200; give a `loss`
    that does to follow it there.
    """
    return gradient_of(site, facts, "hessian_gradient") * weight_of(site, facts)


@weight_criterion(
    "synflow",
    needs="paths",
    rounds=100,
    paper="Tanaka et al., Pruning Neural Networks without Any Data (SynFlow), NeurIPS 2020",
)
def synflow(site: WeightSite, facts: Facts) -> Tensor:
    """All paths through a weight: |w| dR/d|w|, R the sum of outputs of absolute weights on ones.

    Float64, without data, in 100 rounds: few weights go in each, then paths are counted anew.
    """
    return gradient_of(site, facts, "paths").abs() * weight_of(site, facts).double().abs()


@weight_criterion(
    "fisher",
    "obd",
    needs="sample_gradients",
    each=True,
    paper="LeCun et al., Optimal Brain Damage, NeurIPS 1989; Theis et al., Faster Gaze Prediction "
    "with Dense Networks and Fisher Pruning, 2018",
)
def fisher(site: WeightSite, facts: Facts) -> Tensor:
    """w² F / 2 for the diagonal of the Fisher information: gradients of single samples, squared."""
    gradient = gradient_of(site, facts, "sample_gradients")
    return (gradient * weight_of(site, facts)).square() / 2


__all__ = [
    "columns_of", "dsnot", "fisher", "grasp", "norms_of", "ria", "snip", "synflow", "wanda",
]  # fmt: skip
