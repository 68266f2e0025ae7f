"""Trials with zeros."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.core.batches import Call
from secateur.core.budget import MACs, Params, Sparsity
from secateur.core.errors import InfeasibleBudget, RecipeError
from secateur.measure.calibration import calibration
from secateur.recover import Reconstruct
from secateur.search.weights import WeightShop, check_pattern, needed
from secateur.units import Pattern, weight_sites


def shop(model: nn.Module, x: Tensor, criterion: Any = "magnitude", **more: Any) -> WeightShop:
    given: dict[str, Any] = {"calls": calibration(model, [x]), "batches": [x], **more}
    how, pattern = given.pop("how", "global"), given.pop("pattern", Pattern())
    return WeightShop(
        model, Call((x[:1],), {}), weight_sites(model), pattern, criterion, how, **given
    )


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 3)).eval()


def test_budgets_as_sparsity() -> None:
    assert needed(Sparsity(0.5), 1000, 900) == 0.5
    assert needed(Params("40%"), 1000, 900) == pytest.approx(600 / 900)
    assert needed(Sparsity(0.9) & Params(400), 1000, 900) == 0.9
    with pytest.raises(InfeasibleBudget, match="100 parameters out of scope"):
        needed(Params(99), 1000, 900)
    with pytest.raises(RecipeError, match="does not count single weights"):
        needed(MACs("50%"), 1000, 900)


def test_patterns_remove_what_they_do() -> None:
    check_pattern(Pattern(), 0.99)
    check_pattern(Pattern(group=4, keep=2), 0.5)
    with pytest.raises(InfeasibleBudget, match="a 2:4 pattern removes 50%, not 60%"):
        check_pattern(Pattern(group=4, keep=2), 0.6)


def test_one_shop_makes_many_trials_and_scores_once() -> None:
    scored = []

    def counted(site: Any, facts: Any) -> Tensor:
        scored.append(site.name)
        return site.matrix(facts.tensors[site.name]).abs()

    model, x = net(), torch.randn(50, 8)
    given = shop(model, x, counted)
    first, second = given.build(Sparsity(0.5)), given.build(Sparsity(0.8))
    kept = [sum(int(m.sum()) for m in trial.masks.values()) for trial in (first, second)]
    assert kept == [110, 44]
    for name, mask in second.masks.items():
        assert bool((first.masks[name] | ~mask).all())  # what stays later stayed before
    assert first.amounts.params == first.before.params - 110 and first.left("params") < 1
    assert not any(bool((p == 0).any()) for p in model.parameters())


def test_zeros_hold_whatever_a_repair_does() -> None:
    class Fills:
        def run(self, job: Any) -> None:
            with torch.no_grad():
                for parameter in job.small.parameters():
                    parameter.fill_(1.0)

    trial = shop(net(), torch.randn(50, 8), steps=[Fills()]).build(Sparsity(0.5))
    for name, mask in trial.masks.items():
        weight = trial.model.get_parameter(name)
        assert torch.equal(weight, mask.float())


def test_a_reference_is_what_repairs_aim_at() -> None:
    model, other, x = net(), net(), torch.randn(200, 8)
    before = {name: t.clone() for name, t in other.state_dict().items()}
    trial = shop(
        model, x, steps=[Reconstruct()], reference=other, in_place=True, how="uniform"
    ).build(Sparsity(0.1))
    assert trial.model is model
    with torch.no_grad():
        apart = (model(x) - other(x)).square().mean() / other(x).var()
    assert apart < 0.5 and all(torch.equal(t, before[n]) for n, t in other.state_dict().items())


def test_a_criterion_in_rounds_meets_the_budget() -> None:
    trial = shop(net(), torch.randn(50, 8), "synflow").build(Sparsity(0.9))
    assert sum(int(m.sum()) for m in trial.masks.values()) == 22


def test_a_solver_needs_calls() -> None:
    with pytest.raises(RecipeError, match="'alps' solves layers on their inputs"):
        shop(net(), torch.randn(5, 8), "alps", calls=None)
