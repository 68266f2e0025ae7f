"""Pruning of single weights as users call it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.core.errors import InfeasibleBudget, InputError, RecipeError

FAST: dict[str, Any] = {"latency": False}


def make() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    )  # fmt: skip


@pytest.fixture
def net() -> nn.Sequential:
    return make()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(60, 3, 9, 9)


def zeros(model: nn.Module) -> int:
    return sum(int((p == 0).sum()) for p in model.parameters() if p.dim() > 1)


def test_a_copy_is_pruned_and_the_model_is_not(net: nn.Sequential, images: Tensor) -> None:
    before = {name: t.clone() for name, t in net.state_dict().items()}
    result = sc.prune(net, data=[images], unit=sc.Weight(), budget=sc.Sparsity(0.8), **FAST)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert net.training and result.model.training
    weights = 216 + 864 + 48
    assert zeros(result.model) == sum(int((~m).sum()) for m in result.masks.values())
    assert weights - zeros(result.model) == int(weights * 0.2 + 1e-9)
    assert result.after.params == result.before.params - zeros(result.model)
    assert result.repairs[0].startswith("least squares: distance")
    page = str(result)
    assert "of 1,128 weights (80.1%) in 3 tensors" in page and "not zero" in page
    assert result.to_dict()["weights"]["0.weight"]["n"] == 216


def test_in_place_is_the_same_as_a_copy(net: nn.Sequential, images: Tensor) -> None:
    how: dict[str, Any] = {"data": [images], "unit": sc.NM(2, 4), "criterion": "sparsegpt", **FAST}
    other = sc.prune(net, **how).model
    parameters = list(net.parameters())
    result = sc.prune_(net, **how)
    assert result.model is net
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
    for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_in_place_without_data_takes_no_copy(net: nn.Sequential, images: Tensor) -> None:
    result = sc.prune_(net, images[:1], unit=sc.Weight(), budget=sc.Sparsity(0.5), **FAST)
    kept = sum(int(m.sum()) for m in result.masks.values())
    assert result.repairs == () and kept == 1128 // 2
    assert all(
        bool((p[~result.masks[n]] == 0).all())
        for n, p in net.named_parameters()
        if n in result.masks
    )


@pytest.mark.parametrize("unit", [sc.Weight("row"), sc.Weight(4), sc.NM(1, 4), sc.Block(4, 1)])
def test_units_keep_their_patterns(net: nn.Sequential, images: Tensor, unit: Any) -> None:
    result = sc.prune(net, data=[images], unit=unit, **FAST)
    mask = result.masks["3.weight"]  # [12, 8, 3, 3]
    if isinstance(unit, sc.NM):
        assert (mask.reshape(12, 2, 4, 9).sum(2) == 1).all()
    elif isinstance(unit, sc.Block):
        assert set(mask.reshape(3, 4, 8, 9).float().mean(1).unique().tolist()) == {0, 1}
    elif unit.per == 4:
        assert (mask.reshape(12, 2, 4, 9).sum(2) == 2).all()
    else:
        assert (mask.flatten(1).sum(1) == 36).all()
    assert bool((result.model[3].weight[~mask] == 0).all())


def test_budgets_count_parameters_and_scopes_narrow(net: nn.Sequential, images: Tensor) -> None:
    result = sc.prune(net, images, unit=sc.Weight(), budget=sc.Params(600), **FAST)
    assert result.after.params == 600
    result = sc.prune(net, images, unit=sc.Weight(), scope=sc.skip("7"), **FAST)
    assert set(result.masks) == {"0.weight", "3.weight"}
    with pytest.raises(InfeasibleBudget, match="out of scope are too many"):
        sc.prune(net, images, unit=sc.Weight(), scope="7", budget=sc.Params(600), **FAST)


def test_a_drop_is_searched_for(net: nn.Sequential, images: Tensor) -> None:
    with torch.no_grad():
        for weight in (net[3].weight, net[7].weight):  # most weights do nothing
            weight[torch.rand(weight.shape) < 0.8] *= 1e-4
    net.eval()
    labels = net(images).argmax(1)

    def evaluate(model: nn.Module) -> Tensor:
        return (model(images).argmax(1) == labels).float()

    result = sc.prune(
        net, images[:1], unit=sc.Weight(), budget=sc.Drop(points=10), evaluate=evaluate, **FAST
    )
    assert result.quality is not None and result.attempts
    assert result.quality.worse() <= 0.1 and result.after.params < 0.6 * result.before.params


def test_cycles_end_where_the_quality_does(net: nn.Sequential, images: Tensor) -> None:
    net.eval()
    labels = net(images).argmax(1)
    result = sc.prune(
        net, images[:1], unit=sc.Weight(), budget=sc.Drop(points=20), schedule=sc.Steps(4),
        evaluate=lambda model: (model(images).argmax(1) == labels).float(), **FAST,
    )  # fmt: skip
    assert result.attempts[0].accepted
    assert result.after.params < result.before.params
    assert result.after.bytes == result.before.bytes


def test_saving_and_loading_gives_the_same_network(
    net: nn.Sequential, images: Tensor, tmp_path: Path
) -> None:
    result = sc.prune(net, data=[images], unit=sc.NM(2, 4), **FAST)
    loaded = sc.load(sc.save(result, tmp_path), into=make)
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_channels_first_and_weights_of_what_is_left(net: nn.Sequential, images: Tensor) -> None:
    first = sc.prune(net, data=[images], budget=sc.MACs("60%"), **FAST)
    second = sc.prune(first.model, data=[images], unit=sc.Weight(), **FAST)
    assert len(second.plans) == 2 and zeros(second.model) > zeros(first.model)


def test_quality_and_latency_are_measured(net: nn.Sequential, images: Tensor) -> None:
    result = sc.prune(net, images[:2], unit=sc.Weight(), evaluate=lambda model: float(zeros(model)))
    assert result.before.quality == 0 and result.after.quality == zeros(result.model)
    assert result.before.latency is not None and result.after.latency is not None


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "together": ({"unit": [sc.Weight(), sc.Channel()]}, RecipeError, "together"),
    "a class": ({"unit": sc.Weight}, RecipeError, "is a class"),
    "macs": ({"budget": sc.MACs("50%")}, RecipeError, "does not count single weights"),
    "too much for a pattern": (
        {"unit": sc.NM(2, 4), "budget": sc.Sparsity(0.9)}, InfeasibleBudget, "removes 50%, not 90%",
    ),
    "no data": ({"criterion": "wanda"}, RecipeError, "there is no data"),
    "no data to solve on": ({"criterion": "alps"}, RecipeError, "solves layers on their inputs"),
    "unknown": ({"criterion": "wandaa"}, RecipeError, "no criterion for weights called"),
    "allocate": ({"allocate": "knapsack"}, RecipeError, "no allocation of weights"),
    "scope": ({"scope": nn.BatchNorm2d}, RecipeError, "no weight of a linear"),
    "stream": ({"stream": "layers"}, RecipeError, "is unknown"),
    "folder": ({"resume": "here"}, RecipeError, "is for stream='blocks'"),
    "budget": ({"budget": 0.5}, RecipeError, "is not a budget"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(WRONG))
def test_what_makes_no_sense_is_refused(net: nn.Sequential, images: Tensor, name: str) -> None:
    given, kind, text = WRONG[name]
    for verb in (sc.prune, sc.prune_):
        with pytest.raises(kind, match=text) as raised:
            verb(net, images, **{"unit": sc.Weight(), **FAST, **given})
        assert "hint:" in str(raised.value)
    assert zeros(net) == 0


def test_more_that_is_refused(net: nn.Sequential, images: Tensor) -> None:
    with pytest.raises(RecipeError, match="rewrite"):
        sc.prune(net, images, unit=sc.Weight(), rewrite=True)
    with pytest.raises(RecipeError, match="optimizer"):
        sc.prune_(net, images, unit=sc.Weight(), optimizer=torch.optim.SGD(net.parameters(), 1))
    with pytest.raises(InputError, match="neither an example nor data"):
        sc.prune(net, unit=sc.Weight())
    with pytest.raises(RecipeError, match="for single weights"):
        sc.prune(net, images, stream="blocks")
    with torch.no_grad():
        net[3].weight[0, 0, 0, 0] = float("inf")
    with pytest.raises(InputError, match=r"3\.weight holds values that are not finite"):
        sc.prune(net, images, unit=sc.Weight(), **FAST)


def test_a_failure_leaves_the_model_as_it_was(net: nn.Sequential, images: Tensor) -> None:
    class Broken:
        def run(self, job: Any) -> None:
            raise ValueError("no")

    before = {name: t.clone() for name, t in net.state_dict().items()}
    with pytest.raises(ValueError, match="no"):
        sc.prune_(net, data=[images], unit=sc.Weight(), recover=Broken(), **FAST)
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert net.training


def test_a_criterion_that_fails_late_leaves_the_model_as_it_was(
    net: nn.Sequential, images: Tensor
) -> None:
    def late(site: Any, facts: Any) -> Tensor:
        weight = site.matrix(facts.tensors[site.name])
        return weight / 0 if site.name == "7.weight" else weight.abs()

    with pytest.raises(InputError, match=r"an entry of 7\.weight"):
        sc.prune_(net, images, unit=sc.Weight(), criterion=late, allocate="uniform", **FAST)
    assert zeros(net) == 0
