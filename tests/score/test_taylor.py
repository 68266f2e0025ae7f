"""The aggregations of Taylor scores, by their formulas (`taylor` itself: test_criteria.py)."""

from __future__ import annotations

import torch
from small_net import SITES, batches, by_name, consumed, gradients, hessian, net
from torch import nn

from secateur.core.layout import Leaf
from secateur.core.site import Site, Slice
from secateur.measure.stats import Gather
from secateur.score import Facts, criteria, scores


def found(name: str) -> dict[str, torch.Tensor]:
    model = net()
    return scores(name, SITES, Facts.of(model), Gather(model, None, batches()))


def test_the_mean_gradient_comes_before_the_absolute_value() -> None:
    model = net()
    each = [gradients(model, x, y) for x, y in batches()]
    mean = {k: (each[0][k] + each[1][k]) / 2 for k in each[0]}
    products = {k: g.double() * dict(model.named_parameters())[k].detach() for k, g in mean.items()}
    for site in SITES:
        expected = consumed(site, products).abs()
        torch.testing.assert_close(found("taylor_mean")[site.name].double(), expected,
                                   rtol=1e-4, atol=1e-8)  # fmt: skip
    assert criteria.get("taylor_signed") is criteria.get("taylor_mean")


def test_weights_one_by_one_are_squared_first() -> None:
    model = net()
    weights = {k: p.detach().double() for k, p in model.named_parameters()}
    for site in SITES:
        expected = torch.zeros(site.n, dtype=torch.float64)
        for x, y in batches():
            g = gradients(model, x, y)
            expected += consumed(site, {k: (g[k].double() * weights[k]) ** 2 for k in g}) / 2
        torch.testing.assert_close(found("taylor_weight")[site.name], expected,
                                   rtol=1e-4, atol=1e-10)  # fmt: skip


def test_the_second_order_is_that_of_the_whole_hessian() -> None:
    for site in SITES:
        expected = torch.zeros(site.n, dtype=torch.float64)
        for x, y in batches():
            model = net()
            _, flat, matrix = hessian(model, x, y)
            g = gradients(model, x.double(), y)
            curvature = by_name(model, flat * (matrix @ flat))
            weights = by_name(model, flat)
            values = {k: g[k] * weights[k] - 0.5 * curvature[k] for k in g}
            expected += consumed(site, values).abs() / 2
        torch.testing.assert_close(found("taylor_second")[site.name], expected,
                                   rtol=1e-3, atol=1e-7)  # fmt: skip


def test_the_second_order_is_exact_for_a_quadratic_loss() -> None:
    """What the paper's expansion is of: the loss at zero, where all weights of one site go."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1, bias=False)
    whole = Site("all", "channel", 1, (Slice("weight", 0, Leaf("all", 1), "in"),))
    x = torch.randn(8, 3)

    def loss(m: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return (m(batch) - 1).square().mean()

    score = scores("taylor_second", [whole], Facts.of(model), Gather(model, None, [x], loss))
    change = (1 - loss(model, x)).abs().item()
    torch.testing.assert_close(float(score["all"]), change, rtol=1e-4, atol=1e-6)
