"""Fisher scores against loops over single samples."""

from __future__ import annotations

import pytest
import torch
from small_net import SITES, batches, consumed, gradients, net

from secateur.core.errors import InputError
from secateur.measure.stats import Gather
from secateur.score import Facts, criteria, scores


@pytest.mark.parametrize("name", ["fisher", "fisher_unit"])
def test_gradients_are_those_of_single_samples(name: str) -> None:
    model = net()
    weights = {k: p.detach().double() for k, p in model.named_parameters()}
    found = scores(name, SITES, Facts.of(model), Gather(model, None, batches()))
    for site in SITES:
        expected, batched = torch.zeros(2, site.n, dtype=torch.float64)
        for x, y in batches():
            for n in range(len(x)):
                g = gradients(model, x[n : n + 1], y[n : n + 1])
                products = {k: g[k].double() * weights[k] for k in g}
                if name == "fisher":
                    expected += 0.5 * consumed(site, {k: p**2 for k, p in products.items()}) / 8
                else:
                    expected += 0.5 * consumed(site, products) ** 2 / 8
            g = gradients(model, x, y)
            batched += 0.5 * consumed(site, {k: (g[k] * weights[k]) ** 2 for k in g}) / 2
        torch.testing.assert_close(found[site.name], expected, rtol=1e-4, atol=1e-10)
        if name == "fisher":  # squares of a batch's mean gradient are far smaller
            assert bool((found[site.name] > 1.2 * batched).all())
    assert criteria.get("obd") is criteria.get("fisher")


def test_what_has_no_samples_is_refused() -> None:
    model = net()
    x, y = batches()[0]
    with pytest.raises(InputError, match="differ in their first dimension"):
        scores("fisher", SITES, Facts.of(model), Gather(model, None, [(x, y[:3])]))
