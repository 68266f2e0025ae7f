"""Combinations of criteria, each part gathered by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_net import SITES, batches, net

import secateur as sc
from secateur.core.errors import RecipeError
from secateur.measure.cost import Amounts
from secateur.measure.stats import Gather
from secateur.score import Facts, normalised, per_cost, scores, total
from secateur.testing import check_criterion


def test_a_sum_of_parts_that_need_different_passes() -> None:
    model = net()
    given, facts = Gather(model, None, batches()), Facts.of(model)
    both = total("taylor", "fisher", "snip", weights=[1, 10, 0.5])
    assert both.needs == {"gradients", "sample_gradients", "mean_gradients"} and both.comparable
    assert both.name == "taylor + 10 fisher + 0.5 snip"
    assert "Molchanov" in both.paper and "SNIP" in both.paper
    found = scores(both, SITES, facts, given)
    parts = [scores(name, SITES, facts, given) for name in ("taylor", "fisher", "snip")]
    for site in SITES:
        t, f, s = (part[site.name].double() for part in parts)
        torch.testing.assert_close(found[site.name], t + 10 * f + 0.5 * s)
    assert not total("taylor", "l1").comparable


def test_normalised_divides_what_was_averaged() -> None:
    model = net()
    given, facts = Gather(model, None, batches()), Facts.of(model)
    found = scores(normalised("taylor"), SITES, facts, given)
    raw = scores("taylor", SITES, facts, given)
    for site in SITES:
        expected = raw[site.name] / raw[site.name].mean()
        torch.testing.assert_close(found[site.name], expected.double())
    assert found.comparable


def test_per_cost_divides_by_what_an_index_saves() -> None:
    model = net()
    costs = {"c": Amounts(4, 100, 16), "h": Amounts(2, 0, 8)}
    facts = replace(Facts.of(model), costs=costs)
    l1 = scores(normalised("l1"), SITES, facts)
    found = scores(per_cost("l1", "params"), SITES, facts)
    torch.testing.assert_close(found["c"], l1["c"] / 4)
    torch.testing.assert_close(found["h"], l1["h"] / 2)
    assert torch.equal(scores(per_cost("l1"), SITES, facts)["h"], l1["h"])  # saves no macs
    given = Gather(model, None, batches())
    taylor = scores("taylor", SITES, facts, given)
    found = scores(per_cost("taylor", "bytes"), SITES, facts, given)
    torch.testing.assert_close(found["c"], taylor["c"].double() / 16)
    assert per_cost("taylor").needs == {"gradients", "costs"}


def test_verbs_give_costs() -> None:
    model = net()
    by_macs = sc.plan(model, batches()[0][0], criterion=per_cost("l1", "macs"))
    assert by_macs.sites


def test_costs_without_a_graph_are_refused() -> None:
    with pytest.raises(RecipeError, match="needs what an index costs"):
        scores(per_cost("l1"), SITES, Facts.of(net()))


@pytest.mark.parametrize(
    "make",
    [
        lambda: total(),
        lambda: total("l1", weights=[1, 2]),
        lambda: per_cost("l1", "euro"),  # type: ignore[arg-type]
        lambda: total("l3"),
    ],
)
def test_what_makes_no_sense_is_refused(make: object) -> None:
    with pytest.raises(RecipeError):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    "made",
    [total("l1", normalised("taylor")), per_cost(total("fisher", "vbp"))],
    ids=lambda c: c.name,
)
def test_combinations_are_criteria(made: object) -> None:
    check_criterion(made, monotone=False)
